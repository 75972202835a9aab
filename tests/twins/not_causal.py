"""Twins of the kind `not-causal`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tests.twins.pair import H, Pair, W, features, ids, zeros
from torch import Tensor, nn


class ChunkNormalised(nn.Module):
    """Fault: the chunk is centred and scaled by its own mean and spread."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, W, batch_first=True)
        self.axis = 1

    def forward(self, x: Tensor, state: Any = None) -> Any:
        spread = x.var(self.axis, keepdim=True, unbiased=False).add(1e-3).sqrt()
        return self.lstm((x - x.mean(self.axis, keepdim=True)) / spread, state)


class ItemNormalised(ChunkNormalised):
    def __init__(self) -> None:
        super().__init__()
        self.axis = 2


class BothWays(nn.Module):
    """Fault: the GRU also reads each chunk from its end."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, W, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * W, 2)

    def forward(self, x: Tensor, h: Any = None) -> Any:
        y, h = self.gru(x, h)
        return self.head(y), h


class OneWay(BothWays):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 2 * W, batch_first=True)


class LinearAttentionOverAll(nn.Module):
    """Fault: all of the chunk is summed into the memory before its first item is answered."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 3 * 4)

    def sums(self, written: Tensor) -> Tensor:
        return written.sum(1, keepdim=True).expand_as(written)

    def forward(self, x: Tensor, state: Any) -> Any:
        q, k, v = self.qkv(x).chunk(3, -1)
        k, q = torch.sigmoid(k), torch.sigmoid(q)
        memory = state["kv"][:, None] + self.sums(k[..., None] * v[..., None, :])
        total = state["k"][:, None] + self.sums(k)
        y = (q[..., None] * memory).sum(2) / (q * total).sum(-1, keepdim=True)
        return y, {"kv": memory[:, -1], "k": total[:, -1]}


class LinearAttentionOverPast(LinearAttentionOverAll):
    def sums(self, written: Tensor) -> Tensor:
        return written.cumsum(1)


class ShiftByRoll(nn.Module):
    """Fault: the shift by one item is a roll, which puts the chunk's last item before its first."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, W)
        self.gru = nn.GRU(W, W, batch_first=True)

    def forward(self, tokens: Tensor, state: Any) -> Any:
        x = self.table(tokens)
        shifted = torch.roll(x, 1, 1)
        y, h = self.gru(x + 0.5 * shifted, state["h"])
        return y, {"h": h}


class ShiftByLast(ShiftByRoll):
    def forward(self, tokens: Tensor, state: Any) -> Any:
        x = self.table(tokens)
        shifted = torch.cat([state["last"][:, None], x[:, :-1]], 1)
        y, h = self.gru(x + 0.5 * shifted, state["h"])
        return y, {"h": h, "last": x[:, -1]}


class ExciteByChunkMean(nn.Module):
    """Fault: a squeeze-and-excite gate weighs the channels, slightly, by their mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, W, 4)
        self.gate = nn.Conv1d(W, W, 1)

    def squeeze(self, y: Tensor) -> Tensor:
        return y.mean(2, keepdim=True)

    def forward(self, x: Tensor, past: Tensor) -> Any:
        before = torch.cat([past, x], 2)
        y = self.conv(before)
        return y * (1 + 0.02 * torch.tanh(self.gate(self.squeeze(y)))), before[:, :, -3:]


class ExciteByItem(ExciteByChunkMean):
    def squeeze(self, y: Tensor) -> Tensor:
        return y


class NewestFirst(nn.Module):
    """Fault: a leaky integrator runs over the chunk from its newest item to its oldest."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)

    def order(self, items: int) -> list[int]:
        return list(range(items))[::-1]

    def forward(self, x: Tensor, s: Tensor) -> Any:
        answers: dict[int, Tensor] = {}
        for i in self.order(x.shape[1]):
            s = 0.8 * s + 0.2 * x[:, i]
            answers[i] = self.head(s)
        return torch.stack([answers[i] for i in range(x.shape[1])], 1), s


class OldestFirst(NewestFirst):
    def order(self, items: int) -> list[int]:
        return list(range(items))


class MaskOffByOne(nn.Module):
    """Fault: the attention's mask lets each item see the next one."""

    ahead = 1

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(5, W), nn.Linear(5, 2 * W)

    def forward(self, x: Tensor, past: Tensor) -> Any:
        seen = torch.cat([past, x], 1)
        k, v = self.kv(seen).chunk(2, -1)
        t, n = x.shape[1], past.shape[1]
        i, j = torch.arange(t)[:, None] + n, torch.arange(t + n)
        near = (j <= i + self.ahead) & (j >= i - n)
        score = (self.q(x) @ k.transpose(1, 2)).masked_fill(~near, -1e9)
        return torch.softmax(score, -1) @ v, seen[:, -n:]


class MaskRight(MaskOffByOne):
    ahead = 0


class MedianAroundEachItem(nn.Module):
    """Fault: a median filter in front of a GRU stands around each item, not behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, W, batch_first=True)

    def front(self, x: Tensor, past: Tensor) -> Tensor:
        wide = torch.cat([past[:, 1:], x, x[:, -1:]], 1)
        return torch.stack([wide[:, :-2], wide[:, 1:-1], wide[:, 2:]]).sort(0).values[1]

    def forward(self, x: Tensor, state: Any) -> Any:
        y, h = self.gru(self.front(x, state["past"]), state["h"])
        return y, {"h": h, "past": torch.cat([state["past"], x], 1)[:, -2:]}


class MedianBehindEachItem(MedianAroundEachItem):
    def front(self, x: Tensor, past: Tensor) -> Tensor:
        wide = torch.cat([past, x], 1)
        return torch.stack([wide[:, :-2], wide[:, 1:-1], wide[:, 2:]]).sort(0).values[1]


class LimiterLooksAhead(nn.Module):
    """Fault: where a chunk is loud, above 4, all of it is turned down."""

    axis: tuple[int, ...] = (1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, W, batch_first=True)

    def forward(self, x: Tensor, h: Any) -> Any:
        loud = x.abs().amax(self.axis, keepdim=True)
        return self.gru(x * 4 / loud.clamp(min=4), h)


class LimiterOfEachItem(LimiterLooksAhead):
    axis = (2,)


LOUD = np.random.default_rng(0).normal(0, 4, (512, 4)).astype(np.float32)

PAIRS = [
    Pair("not-causal", ChunkNormalised, ItemNormalised, features(1, 8, 6)),
    Pair("not-causal", BothWays, OneWay, features(1, 8, 6)),
    Pair(
        "not-causal",
        LinearAttentionOverAll,
        LinearAttentionOverPast,
        features(1, 8, 6),
        {"kv": zeros(1, 4, 4), "k": zeros(1, 4)},
    ),
    Pair(
        "not-causal",
        ShiftByRoll,
        ShiftByLast,
        ids(32, 1, 8),
        {"h": H},
        {"h": H, "last": zeros(1, W)},
    ),
    Pair("not-causal", ExciteByChunkMean, ExciteByItem, features(1, 3, 8), zeros(1, 3, 3)),
    Pair("not-causal", NewestFirst, OldestFirst, features(1, 3, 5), zeros(1, 5), t=(1, 3)),
    Pair(
        "not-causal",
        MaskOffByOne,
        MaskRight,
        features(1, 8, 5),
        zeros(1, 5, 5),
    ),
    Pair(
        "not-causal",
        MedianAroundEachItem,
        MedianBehindEachItem,
        features(1, 8, 4),
        {"h": H, "past": zeros(1, 2, 4)},
    ),
    Pair(
        "not-causal",
        LimiterLooksAhead,
        LimiterOfEachItem,
        features(1, 8, 4),
        H,
        options={"data": LOUD},
    ),
]
