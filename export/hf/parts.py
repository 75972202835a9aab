"""What the families share: layers with a state, convolutions and recurrences that continue.

Shape letters: B batch, T items, C channels, H heads, K/V key and value width per head.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from dst.export.model.operators import attention_operator

Foreign: TypeAlias = Any
"""A module of transformers: no type describes its attributes."""
State = TypeVar("State")
Role = Literal["memory", "window", "conv", "counter"]
BLOCK = 64
"""Items per block of a chunk form, at most: its work grows with the square of the block."""


class Kept(NamedTuple):
    """One tensor that a layer keeps from chunk to chunk, float32.

    Attributes:
        name: What it is called, without the layer's number.
        role: What it is, for people and for quantizers.
        shape: Its sizes, without the batch.
        start: The value of every element before the first item.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    start: float = 0.0


class Layer(nn.Module):
    """One layer of a network: ``x [B, T, D]`` and its state to the same, one chunk later."""

    kept: tuple[Kept, ...]

    @abstractmethod
    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one chunk; ``state`` holds the tensors of ``kept``, each ``[B, *shape]``."""

    def fused(self) -> Layer:
        """The same layer with ONNX Runtime's own operators, where they are faster."""
        return self


@dataclass(frozen=True, slots=True)
class Stack:
    """A network, taken apart.

    Attributes:
        embed: Token ids ``[B, T]`` to ``[B, T, D]``.
        layers: What stands between.
        head: ``[B, T, D]`` to logits ``[B, T, vocabulary]``, with the last norm.
    """

    embed: Callable[[Tensor], Tensor]
    layers: tuple[Layer, ...]
    head: Callable[[Tensor], Tensor]


def continued_conv(x: Tensor, past: Tensor, conv: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Convolve each channel over an item and those before it, as a causal ``nn.Conv1d`` does.

    Args:
        x: The chunk, ``[B, T, C]``.
        past: The ``kernel - 1`` items before it, ``[B, kernel - 1, C]``.
        conv: Depthwise, one group for each channel.

    Returns:
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

    Args:
        decay: ``[B, T, ...]``.
        written: Of the same shape.
        state: ``h`` before the chunk, ``[B, ...]``.

    Returns:
        Every ``h``, ``[B, T, ...]``, and the last one.
    """
    h, states = state[:, None], []
    for a, w in zip(decay.split(1, 1), written.split(1, 1), strict=True):  # one node cuts them all
        h = a * h + w
        states.append(h)
    return torch.cat(states, 1), h[:, 0]


def decay_tables(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum log decays between the items of a block.

    Args:
        g: Log decay of each item, at most 0, ``[B, H, C]``.

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

    Args:
        q: Queries, ``[B, T, H, K]``.
        k: Keys, ``[B, T, H, K]``.
        v: Values, ``[B, T, H, V]``.
        g: Log decay, at most 0, ``[B, T, H]``.
        state: ``[B, H, K, V]``.

    Returns:
        Outputs ``[B, T, H, V]`` and the next state.
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

    Args:
        block: What runs one block.
        parts: Its inputs, each with the items along axis 1.
        state: The state before the first.
        size: Items per block. A chunk of one block can be traced with a free T.

    Returns:
        The outputs, joined along axis 1, and the next state.
    """
    items = parts[0].shape[1]
    if items <= size:
        return block(parts, state)
    outputs = []
    for start in range(0, items, size):
        out, state = block(tuple(part[:, start : start + size] for part in parts), state)
        outputs.append(out)
    return torch.cat(outputs, 1), state
