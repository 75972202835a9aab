"""The interface of a torch step: it maps ``(chunk, state)`` to ``(outputs, next state)``.

Derive from ``Step``, or give a module the same three members::

    class Counter(Step):
        def __init__(self):
            super().__init__()
            self.contract = Contract(...)      # names, shapes and dtypes, see dst.runtime

        def initial_state(self, batch):
            return {"sum": torch.zeros(batch, 4)}

        def forward(self, chunk, state):       # chunk (B, T, 4)
            total = state["sum"][:, None] + chunk.cumsum(1)
            return {"total": total}, {"sum": total[:, -1]}
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dst.export.errors import ExportError
from dst.export.infer.call import call_step, check_sizes
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Certificate, Contract, Fill, Zeros, window

TORCH_DTYPES = {
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "int8": torch.int8,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


class Step(nn.Module):
    """A torch module whose call is one step of a recurrence.

    The result of a call must depend on the chunk and the state alone. State tensors are named
    by the contract's ``state[i].input``; outputs by ``outputs[i].name``.
    """

    contract: Contract
    any_batch: bool = True
    """Whether several streams can be stepped together."""
    example: Tensor | None = None
    """Values that random items are drawn from; normal numbers where there are none."""
    notes: Sequence[str] = ()
    """What was found out about it, in sentences."""

    @property
    def half_life_items(self) -> float | None:
        """Items after which the memory has faded to a half at most; None where it need not fade."""
        return None

    @abstractmethod
    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """The state before the first item, each tensor with the contract's shape and dtype."""

    @abstractmethod
    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Take one step; see the class."""

    def fused(self) -> Step:
        """The same step written with ONNX Runtime's own operators, where it has a faster one."""
        return self

    def files(self) -> Mapping[str, bytes]:
        """Further files of the bundle, name to content: a tokenizer, for example."""
        return {}

    def own_certificates(
        self, data: npt.NDArray[np.generic], about: str, steps: int
    ) -> tuple[Certificate, ...]:
        """Hold the step against another program that runs the same model, where there is one.

        Args:
            data: Real items, ``[n]`` or ``[n, F]``; read again from the start when used up.
            about: What the data is, for the manifest.
            steps: Carried steps to run, at least.

        Raises:
            CertificateError: they differ too much.
        """
        return ()


def check_step(step: Step) -> None:
    """Run one step and hold what comes out against the contract.

    Raises:
        ExportError: `step-contract`: a tensor is missing, unknown, has another shape or dtype, or
            starts from other values; or the contract has constants.
    """
    contract = step.contract
    if contract.constants:
        raise ExportError(
            "the contract names constants; a torch step holds them as buffers of the module "
            "instead",
            code="step-contract",
        )
    t = contract.chunk.nominal_t
    state = step.initial_state(1)
    _compare("initial state", state, {s.input: (s.dtype, s.shape) for s in contract.state}, t)
    for s in contract.state:
        start = (
            0.0 if isinstance(s.init, Zeros) else s.init.value if isinstance(s.init, Fill) else None
        )
        if start is not None and not bool((state[s.input] == start).all()):
            raise ExportError(
                f"initial state `{s.input}`: the contract says {start:g} everywhere, the module "
                "starts elsewhere; give it the init `Stored`",
                code="step-contract",
            )
    chunk = example_chunk(contract, 1, t)
    outputs, after = call_step(step, chunk, state)
    check_sizes(step, chunk, state, after)
    check_answer(contract, outputs, after, t)


def check_answer(
    contract: Contract, outputs: dict[str, Tensor], after: dict[str, Tensor], t: int, batch: int = 1
) -> None:
    """Hold what a step returned against the contract.

    Raises:
        ExportError: `step-contract`: a tensor is missing, unknown or has another shape or dtype.
    """
    _compare("output", outputs, {o.name: (o.dtype, o.shape) for o in contract.outputs}, t, batch)
    states = {s.input: (s.dtype, s.shape) for s in contract.state}
    _compare("next state", after, states, t, batch)


def example_chunk(contract: Contract, batch: int, t: int) -> Tensor:
    """A chunk of zeros as the graph sees it: ``lookback + t + lookahead`` items along time."""
    chunk = contract.chunk
    return torch.zeros(sized(chunk.shape, window(chunk, t), batch), dtype=TORCH_DTYPES[chunk.dtype])


def _compare(
    what: str,
    came: dict[str, Tensor],
    expected: Mapping[str, tuple[str, tuple[int | str, ...]]],
    t: int,
    batch: int = 1,
) -> None:
    if set(came) != set(expected):
        raise ExportError(
            f"{what}: the contract names {sorted(expected)}, the module gave {sorted(came)}",
            code="step-contract",
        )
    for name, (dtype, shape) in expected.items():
        sizes = sized(shape, t, batch)
        tensor = came[name]
        if tensor.dtype != TORCH_DTYPES[dtype] or tuple(tensor.shape) != sizes:
            raise ExportError(
                f"{what} `{name}` is {str(tensor.dtype).removeprefix('torch.')} "
                f"{list(tensor.shape)}, the contract says {dtype} {list(sizes)} "
                f"for B={batch}, T={t}",
                code="step-contract",
            )
