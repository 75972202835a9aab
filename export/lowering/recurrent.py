"""Trace ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` as the ONNX operators LSTM, GRU and RNN.

torch's exporter unrolls them over time as soon as their length is free, or drops the freedom.
Here each layer becomes one node whose length stays free.

Shape letters: ``B`` batch, ``T`` items per chunk, ``F`` features, ``H`` hidden width, ``N`` layers.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

GATES: dict[type[nn.Module], tuple[str, tuple[int, ...]]] = {
    nn.LSTM: ("LSTM", (0, 3, 1, 2)),  # torch: input, forget, cell, output; ONNX: i, o, f, c
    nn.GRU: ("GRU", (1, 0, 2)),  # torch: reset, update, new; ONNX: z, r, h
    nn.RNN: ("RNN", (0,)),
}
"""The ONNX operator of a module, and torch's gates in that operator's order."""
OPSET = 14
"""Since this operator set the three operators are what they are in 23."""


@contextlib.contextmanager
def as_onnx_operators(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While entered, every such part of a module answers with an ONNX operator, for the tracer.

    A part stays as it is where the operator cannot do what it does: projections, both directions,
    a subclass with a ``forward`` of its own, float64 (ONNX Runtime has no kernel for it).

    Yields:
        The weights that the operators read, by the names of the parameters that they are made of,
        such as ``lstm.weight_ih_l0``; ``bias_l0`` is made of two.
    """
    swapped = {name: part for name, part in module.named_modules() if _fits(part)}
    tables: dict[str, Tensor] = {}
    for name, part in swapped.items():
        with torch.no_grad():
            weights = [_weights(part, number) for number in range(part.num_layers)]
        vars(part)["forward"] = partial(_forward, part, weights)
        for number, layer in enumerate(weights):
            for kind, table in zip(("weight_ih", "weight_hh", "bias"), layer, strict=True):
                if table is not None:
                    tables[f"{name}.{kind}_l{number}".lstrip(".")] = table
    try:
        yield tables
    finally:
        for part in swapped.values():
            del vars(part)["forward"]


def has_recurrences(module: nn.Module) -> bool:
    """Say whether a module holds recurrences that stay as they are."""
    return any(isinstance(part, nn.RNNBase) and not _fits(part) for part in module.modules())


def _fits(part: nn.Module) -> TypeGuard[nn.RNNBase]:
    return (
        type(part) in GATES
        and isinstance(part, nn.RNNBase)
        and not part.bidirectional
        and not part.proj_size
        and all(p.dtype == torch.float32 for p in part.parameters())
    )


def _forward(
    part: nn.RNNBase,
    weights: Sequence[Sequence[Tensor | None]],
    x: Tensor,
    state: Tensor | tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
    """Do what ``part.forward`` does."""
    single = x.dim() == 2
    if single:
        x = x.unsqueeze(1)
    elif part.batch_first:
        x = x.transpose(0, 1)
    pair = isinstance(part, nn.LSTM)
    if state is None:
        zeros = x.new_zeros(part.num_layers, x.shape[1], part.hidden_size)
        starts: Sequence[Tensor] = (zeros, zeros.clone()) if pair else (zeros,)
    else:
        starts = state if isinstance(state, tuple | list) else (state,)
        if single:
            starts = [tensor.unsqueeze(1) for tensor in starts]
    ends: list[list[Tensor]] = []
    for number, tables in enumerate(weights):
        x, last = _layer(part, tables, x, [tensor[number : number + 1] for tensor in starts])
        ends.append(last)
    after = [torch.cat(tensors) for tensors in zip(*ends, strict=True)]  # (N, B, H)
    if single:
        x, after = x.squeeze(1), [tensor.squeeze(1) for tensor in after]
    elif part.batch_first:
        x = x.transpose(0, 1)
    return x, (after[0], after[1]) if pair else after[0]


def _weights(part: nn.RNNBase, number: int) -> list[Tensor | None]:
    """The operator's inputs W, R and B for one layer, its gates in the operator's order."""
    _, order = GATES[type(part)]

    def table(kind: str) -> Tensor:
        gates = getattr(part, f"{kind}_l{number}").detach().chunk(len(order))
        return torch.cat([gates[gate] for gate in order])[None]

    bias = torch.cat([table("bias_ih"), table("bias_hh")], 1) if part.bias else None
    return [table("weight_ih"), table("weight_hh"), bias]


def _layer(
    part: nn.RNNBase, weights: Sequence[Tensor | None], x: Tensor, starts: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """One layer: ``x (T, B, F)`` and states ``(1, B, H)`` give ``(T, B, H)`` and states."""
    items, batch, _ = x.shape
    width = part.hidden_size
    attributes: dict[str, Any] = {"hidden_size": width}
    if isinstance(part, nn.GRU):
        attributes["linear_before_reset"] = 1
    if isinstance(part, nn.RNN) and part.nonlinearity == "relu":
        attributes["activations"] = ["Relu"]
    all_items = None  # the operator's input for the lengths of sequences
    y, *last = torch.onnx.ops.symbolic_multi_out(
        GATES[type(part)][0],
        [x, *weights, all_items, *starts],
        attrs=attributes,
        dtypes=[x.dtype] * (1 + len(starts)),
        shapes=[(items, 1, batch, width), *((1, batch, width) for _ in starts)],
        version=OPSET,
    )
    return y.squeeze(1), last
