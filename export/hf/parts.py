"""What the families share: layers with a state, convolutions and recurrences that continue.

Shape letters: B batch, T items, C channels, H heads, K/V key and value width per head.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from dst.export.model.layer import rms_norm
from dst.export.model.operators import attention_operator

Foreign: TypeAlias = Any
"""A module of transformers: no type describes its attributes."""
State = TypeVar("State")
Role = Literal["memory", "window", "conv", "counter"]
Rule = Callable[..., tuple[Tensor, Tensor]]
BLOCK = 64
"""Items per block of a chunk form, at most: its work grows with the square of the block."""


class Kept(NamedTuple):
    """One tensor that a layer keeps from chunk to chunk, float32.

    ``name`` is without the layer's number, ``role`` for people and quantizers, ``shape`` without
    the batch, and ``start`` the value of every element before the first item.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    start: float = 0.0


class Layer(nn.Module):
    """One layer of a network: ``x [B, T, D]`` and its state to the same, one chunk later.

    ``rule`` is how its memory is read and written, and ``operator`` the same as an operator of
    ONNX Runtime, where that has one and is faster.
    """

    kept: tuple[Kept, ...]
    rule: Rule
    operator: Rule | None = None

    @abstractmethod
    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one chunk; ``state`` holds the tensors of ``kept``, each ``[B, *shape]``."""

    def fused(self) -> Layer:
        """The same layer, sharing its weights, with ``operator``; or itself."""
        if self.operator is None:
            return self
        other = copy.copy(self)
        other.rule = self.operator
        return other


@dataclass(frozen=True, slots=True)
class Stack:
    """A network, taken apart: token ids ``[B, T]`` to ``[B, T, D]``, layers, and a head to logits.

    The head holds the last norm, and gives ``[B, T, vocabulary]``.
    """

    embed: Callable[[Tensor], Tensor]
    layers: tuple[Layer, ...]
    head: Callable[[Tensor], Tensor]


def normed(x: Tensor, norm: Foreign) -> Tensor:
    """Divide by the root mean square as a norm of transformers does."""
    return rms_norm(x, norm.weight, norm.variance_epsilon)


def continued_conv(x: Tensor, past: Tensor, conv: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Convolve each channel over an item and those before it, as a causal depthwise ``conv`` does.

    ``x`` is the chunk ``[B, T, C]``, ``past`` the items before it ``[B, kernel - 1, C]``. Return
    ``[B, T, C]`` and the next ``past``.
    """
    items, taps = x.shape[1], conv.kernel_size[0]
    line = torch.cat([past, x], 1)
    weight = conv.weight[:, 0]
    mixed = line[:, :items] * weight[:, 0]
    for tap in range(1, taps):
        mixed = mixed + line[:, tap : tap + items] * weight[:, tap]
    if conv.bias is not None:
        mixed = mixed + conv.bias
    return mixed, line[:, items:]


def item_by_item(decay: Tensor, written: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run ``h_t = decay_t h_{t-1} + written_t`` over the items of a chunk.

    ``decay`` and ``written`` are ``[B, T, ...]``, and ``state`` is ``h`` before the chunk,
    ``[B, ...]``. Return every ``h``, ``[B, T, ...]``, and the last one.
    """
    h, states = state[:, None], []
    for a, w in zip(decay.split(1, 1), written.split(1, 1), strict=True):  # one node cuts them all
        h = a * h + w
        states.append(h)
    return torch.cat(states, 1), h[:, 0]


def decay_tables(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum log decays ``g [B, H, C]``, at most 0, between the items of a block.

    Returns:
        ``between [B, H, C, C]``: the sum over the items after column s up to row t, 0 above the
        diagonal; ``since [B, H, C, 1]``: the sum from the start of the block; ``lower [C, C]``:
        1 up to the diagonal, 0 above it.
    """
    size = g.shape[-1]
    lower = torch.ones(size, size, dtype=g.dtype).tril()
    # as a product of one-signed terms: a difference of running sums would cancel
    between = lower @ (g[..., None] * lower.tril(-1))
    return between, lower @ g[..., None], lower


def gated_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run ``S_t = e^{g_t} S_{t-1} + k_t v_t^T, o_t = S_t^T q_t`` in chunk form.

    Queries and keys are ``[B, T, H, K]``, values ``[B, T, H, V]``, log decays, at most 0,
    ``[B, T, H]``, and the state is ``[B, H, K, V]``. Return outputs ``[B, T, H, V]`` and the next
    state.
    """
    return in_blocks(_gated_block, (q, k, v, g), state)


def gated_attention(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run ``gated_rule`` as ONNX Runtime's own operator, which only the ONNX exporter can run."""
    return attention_operator("gated", (q, k, v), state, g)


def _gated_block(parts: tuple[Tensor, ...], state: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v, g = (part.transpose(1, 2) for part in parts)
    between, since, lower = decay_tables(g)
    decay, since = between.exp() * lower, since.exp()
    out = (since * q) @ state + (q @ k.transpose(-1, -2) * decay) @ v
    written = (k * decay[..., -1:, :].transpose(-1, -2)).transpose(-1, -2) @ v
    return out.transpose(1, 2), since[..., -1:, :] * state + written


def in_blocks(
    block: Callable[[tuple[Tensor, ...], State], tuple[Tensor, State]],
    parts: tuple[Tensor, ...],
    state: State,
    size: int = BLOCK,
) -> tuple[Tensor, State]:
    """Run a chunk form over blocks of at most ``size`` items, each from the state before it.

    ``parts`` have the items along axis 1, as has what is returned beside the next state. A chunk of
    one block can be traced with a free T.
    """
    items = parts[0].shape[1]
    if items <= size:
        return block(parts, state)
    outputs = []
    for start in range(0, items, size):
        out, state = block(tuple(part[:, start : start + size] for part in parts), state)
        outputs.append(out)
    return torch.cat(outputs, 1), state
