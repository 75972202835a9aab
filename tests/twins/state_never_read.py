"""Twins of the kind `state-never-read`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from tests.twins.pair import H, Pair, W, features, ids, zeros
from torch import Tensor, nn


class LstmCalledWithoutState(nn.Module):
    """Fault: the LSTM is called without the state that was handed in."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, W, num_layers=2, batch_first=True)
        self.head = nn.Linear(W, 3)

    def forward(self, x: Tensor, state: Any) -> Any:
        y, state = self.lstm(x)
        return self.head(y), state


class LstmCalledWithState(LstmCalledWithoutState):
    def forward(self, x: Tensor, state: Any) -> Any:
        y, state = self.lstm(x, state)
        return self.head(y), state


class SecondContextPaddedWithZeros(nn.Module):
    """Fault: the second convolution keeps a context, and is padded with zeros all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, W, 4)
        self.second = nn.Conv1d(W, 2, 4)

    def forward(self, x: Tensor, state: Any) -> Any:
        before = torch.cat([state["conv"]["first"], x], 2)
        y = torch.relu(self.first(before))
        kept = torch.cat([state["conv"]["second"], y], 2)[:, :, -3:]
        answer = self.second(F.pad(y, (3, 0)))
        return answer, {"conv": {"first": before[:, :, -3:], "second": kept}}


class SecondContextRead(SecondContextPaddedWithZeros):
    def forward(self, x: Tensor, state: Any) -> Any:
        before = torch.cat([state["conv"]["first"], x], 2)
        y = torch.relu(self.first(before))
        middle = torch.cat([state["conv"]["second"], y], 2)
        kept = middle[:, :, -3:]
        answer = self.second(middle)
        return answer, {"conv": {"first": before[:, :, -3:], "second": kept}}


class TokenShiftFromZeros(nn.Module):
    """Fault: the item before the chunk is kept, and zeros stand in its place; the GRU is sound."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, W)
        self.mix = nn.Parameter(torch.rand(W))
        self.gru = nn.GRU(W, W, batch_first=True)
        self.head = nn.Linear(W, 40)

    def front(self, x: Tensor, last: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :1])

    def forward(self, tokens: Tensor, state: Any) -> Any:
        h, last = state
        x = self.table(tokens)
        shifted = torch.cat([self.front(x, last), x[:, :-1]], 1)
        y, h = self.gru(self.mix * x + (1 - self.mix) * shifted, h)
        return {"logits": self.head(y)}, (h, x[:, -1])


class TokenShiftFromLast(TokenShiftFromZeros):
    def front(self, x: Tensor, last: Tensor) -> Tensor:
        return last[:, None]


class GatedMemoryCleared(nn.Module):
    """Fault: the matrix memory is cleared where each chunk begins."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 3 * W)
        self.gate = nn.Linear(6, 1)
        self.head = nn.Linear(W, 4)

    def start(self, memory: Tensor) -> Tensor:
        return torch.zeros_like(memory)

    def forward(self, x: Tensor, memory: Tensor) -> Any:
        memory = self.start(memory)
        answers = []
        for item in x.unbind(1):
            q, k, v = self.qkv(item).chunk(3, -1)
            keep = torch.sigmoid(self.gate(item))[..., None]
            memory = keep * memory + (1 - keep) * k[:, :, None] * v[:, None]
            answers.append(self.head((q[:, :, None] * memory).sum(1)))
        return torch.stack(answers, 1), memory


class GatedMemoryKept(GatedMemoryCleared):
    def start(self, memory: Tensor) -> Tensor:
        return memory


class RingMaskedToNow(nn.Module):
    """Fault: the attention's mask hides all of the ring but the newest item."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, W), nn.Linear(5, W), nn.Linear(5, W)
        age = torch.arange(5, -1, -1)
        self.register_buffer("hidden", self.mask(age))

    def mask(self, age: Tensor) -> Tensor:
        return age > 0

    def forward(self, x: Tensor, ring: Tensor) -> Any:
        answers = []
        for item in x.unbind(1):
            ring = torch.cat([ring[:, 1:], item[:, None]], 1)
            score = (self.k(ring) * self.q(item)[:, None]).sum(-1) / math.sqrt(W)
            score = score.masked_fill(self.get_buffer("hidden"), -1e9)
            answers.append((torch.softmax(score, 1)[..., None] * self.v(ring)).sum(1))
        return torch.stack(answers, 1), ring


class RingMaskedToWindow(RingMaskedToNow):
    def mask(self, age: Tensor) -> Tensor:
        return age > 5


class OneCellOfTwoIgnored(nn.Module):
    """Fault: the cell state of a hand-written LSTM is made anew from the input gate alone."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(4 + W, 4 * W)

    def cell(self, c: Tensor, i: Tensor, f: Tensor, g: Tensor) -> Tensor:
        return torch.sigmoid(i) * torch.tanh(g)

    def forward(self, x: Tensor, state: Any) -> Any:
        h, c = state
        answers = []
        for item in x.unbind(1):
            i, f, g, o = self.gates(torch.cat([item, h], -1)).chunk(4, -1)
            c = self.cell(c, i, f, g)
            h = torch.sigmoid(o) * torch.tanh(c)
            answers.append(h)
        return torch.stack(answers, 1), (h, c)


class BothCellsRead(OneCellOfTwoIgnored):
    def cell(self, c: Tensor, i: Tensor, f: Tensor, g: Tensor) -> Tensor:
        return torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)


class MemoryReadAsWholeNumber(nn.Module):
    """Fault: the memory, always within one, is truncated to zero where an answer reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.write = nn.Linear(5, W)
        self.read = nn.Linear(W, 3)
        self.skip = nn.Linear(5, 3)

    def seen(self, s: Tensor) -> Tensor:
        return torch.trunc(s)

    def forward(self, x: Tensor, s: Tensor) -> Any:
        answers = []
        for item in x.unbind(1):
            s = 0.9 * s + 0.1 * torch.tanh(self.write(item))
            answers.append(self.skip(item) + self.read(self.seen(s)))
        return torch.stack(answers, 1), s


class MemoryReadAsItIs(MemoryReadAsWholeNumber):
    def seen(self, s: Tensor) -> Tensor:
        return s


P: Sequence[int] = (1, 2)

PAIRS = [
    Pair(
        "state-never-read",
        LstmCalledWithoutState,
        LstmCalledWithState,
        features(1, 8, 6),
        (zeros(2, 1, W), zeros(2, 1, W)),
    ),
    Pair(
        "state-never-read",
        SecondContextPaddedWithZeros,
        SecondContextRead,
        features(1, 3, 8),
        {"conv": {"first": zeros(1, 3, 3), "second": zeros(1, W, 3)}},
    ),
    Pair(
        "state-never-read",
        TokenShiftFromZeros,
        TokenShiftFromLast,
        ids(40, 1, 8),
        (H, zeros(1, W)),
    ),
    Pair(
        "state-never-read",
        GatedMemoryCleared,
        GatedMemoryKept,
        features(1, 3, 6),
        zeros(1, W, W),
        t=(1, 3),
    ),
    Pair(
        "state-never-read",
        RingMaskedToNow,
        RingMaskedToWindow,
        features(1, 3, 5),
        zeros(1, 6, 5),
        t=(1, 3),
    ),
    Pair(
        "state-never-read",
        OneCellOfTwoIgnored,
        BothCellsRead,
        features(1, 3, 4),
        (zeros(1, W), zeros(1, W)),
        t=(1, 3),
    ),
    Pair(
        "state-never-read",
        MemoryReadAsWholeNumber,
        MemoryReadAsItIs,
        features(1, 2, 5),
        zeros(1, W),
        t=P,
    ),
]
