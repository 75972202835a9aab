"""Twins of the kind `rows-mixed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tests.twins.pair import H, Pair, W, features, zeros
from torch import Tensor, nn


class LastHiddenReshaped(nn.Module):
    """Fault: `(layers, B, H)` is reshaped to `(B, layers * H)` without a transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, W, num_layers=2, batch_first=True)
        self.head = nn.Linear(2 * W, 3)

    def flat(self, h: Tensor) -> Tensor:
        return h.reshape(h.shape[1], -1)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        _, state = self.lstm(x, state)
        return self.head(self.flat(state[0])), state


class LastHiddenTransposed(LastHiddenReshaped):
    def flat(self, h: Tensor) -> Tensor:
        return h.transpose(0, 1).reshape(h.shape[1], -1)


class SoftmaxOverRows(nn.Module):
    """Fault: the attention over the ring takes its softmax along the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(5, W), nn.Linear(5, W)
        self.axis = 0

    def forward(self, x: Tensor, ring: Tensor) -> Any:
        answers = []
        for item in x.unbind(1):
            ring = torch.cat([ring[:, 1:], item[:, None]], 1)
            score = (self.k(ring) * self.q(item)[:, None]).sum(-1)
            answers.append((torch.softmax(score, self.axis)[..., None] * ring).sum(1))
        return torch.stack(answers, 1), ring


class SoftmaxOverRing(SoftmaxOverRows):
    def __init__(self) -> None:
        super().__init__()
        self.axis = 1


class RollAlongTheBatch(nn.Module):
    """Fault: the delay line is rolled along the batch, so a row's past comes from another row."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6 * 3, 2)
        self.axis = 0

    def forward(self, x: Tensor, line: Tensor) -> Any:
        answers = []
        for item in x.unbind(1):
            line = torch.cat([torch.roll(line[:, 1:], 1, 0), item[:, None]], 1)
            answers.append(self.head(line.flatten(1)))
        return torch.stack(answers, 1), line


class ShiftAlongTime(RollAlongTheBatch):
    def forward(self, x: Tensor, line: Tensor) -> Any:
        answers = []
        for item in x.unbind(1):
            line = torch.cat([line[:, 1:], item[:, None]], 1)
            answers.append(self.head(line.flatten(1)))
        return torch.stack(answers, 1), line


class StateScaledByTheBatch(nn.Module):
    """Fault: the memory is kept within bounds by the greatest number of all rows together."""

    def __init__(self) -> None:
        super().__init__()
        self.write = nn.Linear(5, W)

    def bound(self, s: Tensor) -> Tensor:
        return s.abs().max().clamp(min=1.0)

    def forward(self, x: Tensor, s: Tensor) -> Any:
        answers = []
        for item in x.unbind(1):
            s = s + self.write(item)
            s = s / self.bound(s)
            answers.append(s)
        return torch.stack(answers, 1), s


class StateScaledByRow(StateScaledByTheBatch):
    def bound(self, s: Tensor) -> Tensor:
        return s.abs().amax(-1, keepdim=True).clamp(min=1.0)


class CentredOverRows(nn.Module):
    """Fault: one hundredth of the mean over the batch leaks into a GRU's features, time first."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, W)
        self.head = nn.Linear(W, 2)

    def centre(self, x: Tensor) -> Tensor:
        return x - 0.01 * x.mean(1, keepdim=True)

    def forward(self, x: Tensor, h: Any) -> Any:
        y, h = self.gru(self.centre(x), h)
        return self.head(y), h


class CentredOverFeatures(CentredOverRows):
    def centre(self, x: Tensor) -> Tensor:
        return x - 0.01 * x.mean(2, keepdim=True)


class FirstRowsStateForAll(nn.Module):
    """Fault: of two states, the slow one is read from the first row by all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, W, batch_first=True)
        self.gain = nn.Linear(4, W)

    def mine(self, level: Tensor) -> Tensor:
        return level[:1].expand_as(level)

    def forward(self, x: Tensor, state: Any) -> Any:
        h, level = state["h"], state["level"]
        y, h = self.gru(x, h)
        scales = []
        for item in x.unbind(1):
            scales.append(self.gain(self.mine(level)))
            level = 0.95 * level + 0.05 * item
        return y * torch.sigmoid(torch.stack(scales, 1)), {"h": h, "level": level}


class OwnStateForEachRow(FirstRowsStateForAll):
    def mine(self, level: Tensor) -> Tensor:
        return level


class MeanMemoryLeaks(nn.Module):
    """Fault: a thousandth of the mean over rows leaks into the memory, never into an answer."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, W, batch_first=True)

    def leak(self, h: Tensor) -> Tensor:
        return h.mean(1, keepdim=True)

    def forward(self, x: Tensor, h: Any) -> Any:
        answers = []
        for item in x.split(1, 1):
            y, h = self.gru(item, h)
            h = 0.999 * h + 0.001 * self.leak(h)
            answers.append(y)
        return torch.cat(answers, 1), h


class MeanMemoryOwn(MeanMemoryLeaks):
    def leak(self, h: Tensor) -> Tensor:
        return h.mean(2, keepdim=True)


P: Sequence[int] = (1, 2)

PAIRS = [
    Pair("rows-mixed", LastHiddenReshaped, LastHiddenTransposed, features(1, 8, 6)),
    Pair(
        "rows-mixed", SoftmaxOverRows, SoftmaxOverRing, features(1, 3, 5), zeros(1, 6, 5), t=(1, 3)
    ),
    Pair(
        "rows-mixed", RollAlongTheBatch, ShiftAlongTime, features(1, 3, 3), zeros(1, 6, 3), t=(1, 3)
    ),
    Pair(
        "rows-mixed",
        StateScaledByTheBatch,
        StateScaledByRow,
        features(1, 3, 5),
        zeros(1, W),
        t=(1, 3),
    ),
    Pair("rows-mixed", CentredOverRows, CentredOverFeatures, features(8, 1, 6), H),
    Pair(
        "rows-mixed",
        FirstRowsStateForAll,
        OwnStateForEachRow,
        features(1, 3, 4),
        {"h": H, "level": zeros(1, 4)},
        t=(1, 3),
    ),
    Pair(
        "rows-mixed",
        MeanMemoryLeaks,
        MeanMemoryOwn,
        features(1, 2, 4),
        H,
        t=P,
    ),
]
