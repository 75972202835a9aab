"""Twins of the kind `state-grows`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tests.twins.pair import H, Pair, W, features, ids, zeros
from torch import Tensor, nn


class ContextNotCut(nn.Module):
    """Fault: the convolution returns all that it has read as its context."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, W, 5)

    def kept(self, before: Tensor) -> Tensor:
        return before

    def forward(self, x: Tensor, past: Tensor) -> Any:
        before = torch.cat([past, x], 2)
        y = self.conv(before[:, :, -(x.shape[2] + 4) :])
        return y, self.kept(before)


class ContextCut(ContextNotCut):
    def kept(self, before: Tensor) -> Tensor:
        return before[:, :, -4:]


class ContextCutForSingles(nn.Module):
    """Fault: the context is cut by one item a call, so it grows where a chunk has more items."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, W, 5)
        self.gru = nn.GRU(W, W, batch_first=True)

    def kept(self, before: Tensor) -> Tensor:
        return before[:, :, 1:]

    def forward(self, x: Tensor, state: Any) -> Any:
        past, h = state
        before = torch.cat([past, x], 2)
        y = self.conv(before[:, :, -(x.shape[2] + 4) :])
        y, h = self.gru(y.transpose(1, 2), h)
        return y.transpose(1, 2), (self.kept(before), h)


class ContextCutForChunks(ContextCutForSingles):
    def kept(self, before: Tensor) -> Tensor:
        return before[:, :, -4:]


class KeyCache(nn.Module):
    """Fault: attention appends its keys and values to a cache that nothing bounds."""

    window: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, W)
        self.qkv = nn.Linear(W, 3 * W)

    def forward(self, tokens: Tensor, state: Any) -> Any:
        q, k, v = self.qkv(self.table(tokens)).chunk(3, -1)
        keys, values = state["keys"], state["values"]
        answers = []
        for i in range(tokens.shape[1]):
            keys = torch.cat([keys, k[:, i : i + 1]], 1)
            values = torch.cat([values, v[:, i : i + 1]], 1)
            if self.window:
                keys, values = keys[:, -self.window :], values[:, -self.window :]
            score = (keys * q[:, i : i + 1]).sum(-1)
            answers.append((torch.softmax(score, 1)[..., None] * values).sum(1))
        return torch.stack(answers, 1), {"keys": keys, "values": values}


class KeyRing(KeyCache):
    window = 6


class WindowFillsUp(nn.Module):
    """Fault: the window starts empty and fills up to 20 items, so its size changes for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, W)

    def forward(self, x: Tensor, window: Tensor) -> Any:
        answers = []
        for item in x.split(1, 1):
            window = torch.cat([window, item], 1)[:, -20:]
            answers.append(self.head(window.sum(1) / 20))
        return torch.stack(answers, 1), window


class WindowFull(WindowFillsUp):
    """The same class, which is sound where the window starts full of zeros."""


class TokensSoFar(nn.Module):
    """Fault: beside a GRU's state, all tokens so far are kept, to damp those that repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, W)
        self.gru = nn.GRU(W, W, batch_first=True)
        self.head = nn.Linear(W, 16)

    def forward(self, tokens: Tensor, state: Any) -> Any:
        h, past = state
        y, h = self.gru(self.table(tokens), h)
        past = torch.cat([past, F.one_hot(tokens, 16).float()], 1)
        seen = past.cumsum(1)[:, -tokens.shape[1] :]
        return self.head(y) - torch.log1p(seen), (h, past)


class TokenCounts(TokensSoFar):
    def forward(self, tokens: Tensor, state: Any) -> Any:
        h, past = state
        y, h = self.gru(self.table(tokens), h)
        seen = past[:, None] + F.one_hot(tokens, 16).float().cumsum(1)
        return self.head(y) - torch.log1p(seen), (h, seen[:, -1])


class CatAlongRows(nn.Module):
    """Fault: the newest item is put into the ring along the batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def pushed(self, ring: Tensor, item: Tensor) -> Tensor:
        return torch.cat([ring, item[:, None].expand(-1, ring.shape[1], -1)], 0)

    def forward(self, x: Tensor, ring: Tensor) -> Any:
        answers = []
        for item in x.unbind(1):
            ring = self.pushed(ring, item)
            answers.append(self.head(ring[: len(x)].mean(1)))
        return torch.stack(answers, 1), ring


class CatAlongRing(CatAlongRows):
    def pushed(self, ring: Tensor, item: Tensor) -> Tensor:
        return torch.cat([ring[:, 1:], item[:, None]], 1)


class LineEaten(nn.Module):
    """Fault: the delay line of a filter gives an item for each that comes, and takes none in."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, W, batch_first=True)

    def kept(self, line: Tensor, x: Tensor) -> Tensor:
        return line[:, 1:]

    def forward(self, x: Tensor, state: Any) -> Any:
        h, line = state
        y, h = self.gru(x, h)
        first = torch.cat([line, x], 1)[:, : x.shape[1]]
        return y + first.sum(-1, keepdim=True), (h, self.kept(line, x))


class LineFilled(LineEaten):
    def kept(self, line: Tensor, x: Tensor) -> Tensor:
        return torch.cat([line, x], 1)[:, -line.shape[1] :]


P: Sequence[int] = (1, 2)

PAIRS = [
    Pair("state-grows", ContextNotCut, ContextCut, features(1, 3, 8), zeros(1, 3, 4)),
    Pair(
        "state-grows",
        ContextCutForSingles,
        ContextCutForChunks,
        features(1, 3, 8),
        (zeros(1, 3, 4), H),
    ),
    Pair(
        "state-grows",
        KeyCache,
        KeyRing,
        ids(32, 1, 3),
        {"keys": zeros(1, 6, W), "values": zeros(1, 6, W)},
        t=(1, 3),
    ),
    Pair(
        "state-grows",
        WindowFillsUp,
        WindowFull,
        features(1, 3, 4),
        zeros(1, 0, 4),
        zeros(1, 20, 4),
        t=(1, 3),
    ),
    Pair(
        "state-grows",
        TokensSoFar,
        TokenCounts,
        ids(16, 1, 8),
        (H, zeros(1, 4, 16)),
        (H, zeros(1, 16)),
    ),
    Pair(
        "state-grows",
        CatAlongRows,
        CatAlongRing,
        features(1, 2, 4),
        zeros(1, 5, 4),
        t=P,
    ),
    Pair(
        "state-grows",
        LineEaten,
        LineFilled,
        features(1, 4, 4),
        (H, zeros(1, 9, 4)),
        t=(1, 4),
    ),
]
