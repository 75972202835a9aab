"""Sliding-window attention over a chunk and the cached keys and values of the window before it.

Shape letters: B batch, T items, A heads (Ha), d head width (dh), W window, N blocks of W items.

Item i of a chunk sees the W items before it and itself. Positions exist only relative to the
window, from constant tables, so a stream has no end.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

MASKED = -1e9
"""Added to a score that must not count: exp underflows to exactly 0 after the row's maximum."""


class Frame(NamedTuple):
    """What every layer of one step shares: the angles of its keys and the mask of its scores."""

    cos: Tensor  # (W+Tmax, d/2), the cache's items first
    sin: Tensor  # (W+Tmax, d/2)
    bias: Tensor  # (B, 1, T, W+T), 0 where the score counts


class Window(nn.Module):
    """Constant tables for chunks of up to ``max_chunk`` items behind a cache of ``window`` items.

    Positions 0..W-1 are the cache, W..W+T-1 the chunk (RoPE: Su et al. 2021, base 10,000).
    """

    cos: Tensor
    sin: Tensor
    place: Tensor

    def __init__(self, window: int, max_chunk: int, head_width: int) -> None:
        super().__init__()
        self.window, self.max_chunk = window, max_chunk
        place = torch.arange(window + max_chunk, dtype=torch.float64)
        rate = 10_000.0 ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
        angle = torch.outer(place, rate)
        self.register_buffer("cos", angle.cos().float(), persistent=False)  # (W+Tmax, d/2)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        self.register_buffer("place", place.float(), persistent=False)  # (W+Tmax)

    def frame(self, ok: Tensor) -> Frame:
        """Prepare a step.

        Args:
            ok: 1 where a cached item exists, else 0; ones for the chunk; ``[B, W+T]``.

        Returns:
            The frame of the whole chunk; or, for T beyond ``max_chunk`` (training), which must be
            a multiple of W, that of each of its N blocks: T is W and the bias has an axis N
            before it.
        """
        window, length = self.window, ok.shape[1]
        if length > window + self.max_chunk:
            length = 2 * window
            ok = ok.unfold(1, length, window)[:, :, None]  # (B, N, 1, 2W)
        else:
            ok = ok[:, None]
        query, key = self.place[: length - window, None], self.place[:length]
        # how far a key lies outside of its query's window, 0 inside: (T, W+T)
        outside = torch.relu(query - key) + torch.relu(key - query - window)
        bias = (outside + (1.0 - ok)) * MASKED
        return Frame(self.cos, self.sin, bias.unsqueeze(1))


def window_attention(q: Tensor, keys: Tensor, values: Tensor, frame: Frame) -> Tensor:
    """Attend from each item of a chunk to the window before it.

    Args:
        q: Normed queries of the chunk, ``[B, A, T, d]``.
        keys: Normed keys of cache and chunk before RoPE, ``[B, A, W+T, d]``.
        values: ``[B, A, W+T, d]``.
        frame: The step's frame.

    Returns:
        ``[B, A, T, d]``.
    """
    bias = frame.bias
    queries, length = bias.shape[-2:]
    cos, sin = frame.cos[:length], frame.sin[:length]
    in_blocks = bias.ndim == 5
    if in_blocks:  # each block of W queries meets only its 2 W keys
        q = q.unflatten(2, (-1, queries))  # (B, A, N, W, d)
        keys = keys.unfold(2, length, queries).transpose(-1, -2)  # (B, A, N, 2W, d)
        values = values.unfold(2, length, queries).transpose(-1, -2)
    turned = rotate(q, cos[length - queries :], sin[length - queries :])
    scores = turned @ rotate(keys, cos, sin).transpose(-1, -2) * q.shape[-1] ** -0.5
    mixed: Tensor = (scores + bias).softmax(-1) @ values
    return mixed.flatten(2, 3) if in_blocks else mixed


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of ``x [..., T, d]`` by the angles of ``cos, sin [T, d/2]``."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
