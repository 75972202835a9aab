"""Sliding-window attention: queries, keys, values and a cache of W earlier items in, a mix of values out.

Shape letters: B batch, T items, A heads (Ha), d head width (dh), W window.

Item i of a chunk sees the W items before it and itself. Positions exist only relative to the
window, from constant tables, so a stream has no end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MASKED = -1e9
"""Added to a score that must not count: exp underflows to exactly 0 after the row's maximum."""


class WindowTables(nn.Module):
    """Constant tables for chunks of up to ``max_chunk`` items behind a cache of ``window`` items.

    Positions 0..W-1 are the cache, W..W+T-1 the chunk (RoPE: Su et al. 2021, base 10,000).
    """

    def __init__(self, window: int, max_chunk: int, head_width: int) -> None:
        super().__init__()
        self.window, self.max_chunk = window, max_chunk
        position = torch.arange(window + max_chunk, dtype=torch.float64)
        rate = 10_000.0 ** (
            -torch.arange(0, head_width, 2, dtype=torch.float64) / head_width
        )  # (d/2)
        angle = torch.outer(position, rate)
        self.register_buffer("cos", angle.cos().float(), persistent=False)  # (W+Tmax, d/2)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        ahead = torch.arange(window + max_chunk) - torch.arange(max_chunk)[:, None]
        band = ((ahead >= 0) & (ahead <= window)).float()
        self.register_buffer("bias", (1.0 - band) * MASKED, persistent=False)  # (Tmax, W+Tmax)

    cos: Tensor
    sin: Tensor
    bias: Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of ``x [..., T, d]`` by the angles of ``cos, sin [T, d/2]``."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def window_attention(
    q: Tensor, keys: Tensor, values: Tensor, ok: Tensor, tables: WindowTables
) -> Tensor:
    """Attend from each item of a chunk to the window before it.

    Args:
        q: Normed queries of the chunk, ``[B, A, T, d]``.
        keys: Normed keys of cache and chunk before RoPE, ``[B, A, W+T, d]``.
        values: ``[B, A, W+T, d]``.
        ok: 1 where a cached item exists, else 0; ones for the chunk; ``[B, W+T]``.
        tables: RoPE and mask; T beyond their ``max_chunk`` (training) must be a multiple of W.

    Returns:
        ``[B, A, T, d]``.
    """
    window, items = tables.window, q.shape[2]
    if items > tables.max_chunk:
        return _banded(q, keys, values, ok, tables)
    cos, sin = tables.cos[: window + items], tables.sin[: window + items]
    q = rotate(q, cos[window:], sin[window:])
    keys = rotate(keys, cos, sin)
    absent = (1.0 - ok)[:, None, None, :] * MASKED  # (B, 1, 1, W+T)
    bias = tables.bias[:items, : window + items] + absent
    return _attend(q, keys, values, bias)


def _banded(q: Tensor, keys: Tensor, values: Tensor, ok: Tensor, tables: WindowTables) -> Tensor:
    """The same for T = n W: each block of W queries meets only its 2 W keys."""
    window = tables.window
    cos, sin = tables.cos[: 2 * window], tables.sin[: 2 * window]
    q = rotate(q.unflatten(2, (-1, window)), cos[window:], sin[window:])  # (B, A, N, W, d)
    keys = keys.unfold(2, 2 * window, window).transpose(-1, -2)  # (B, A, N, 2W, d)
    values = values.unfold(2, 2 * window, window).transpose(-1, -2)
    absent = (1.0 - ok.unfold(1, 2 * window, window))[:, None, :, None, :] * MASKED
    bias = tables.bias[:window, : 2 * window] + absent  # (B, 1, N, W, 2W)
    return _attend(q, rotate(keys, cos, sin), values, bias).flatten(2, 3)


def _attend(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    scores = q @ keys.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
    return scores.softmax(-1) @ values
