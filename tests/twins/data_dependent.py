"""Twins of the kind `data-dependent`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from tests.twins.pair import H, Pair, W, features, ids, zeros
from torch import Tensor, nn


class ClampWhereLoud(nn.Module):
    """Fault: Python asks whether an item is loud before it clamps."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, W, batch_first=True)

    def front(self, x: Tensor) -> Tensor:
        if (x.abs() > 3).any():
            x = x.clamp(-3, 3)
        return x

    def forward(self, x: Tensor, h: Any) -> Any:
        return self.gru(self.front(x), h)


class ClampAlways(ClampWhereLoud):
    def front(self, x: Tensor) -> Tensor:
        return x.clamp(-3, 3)


class ResetAtSeparator(nn.Module):
    """Fault: row by row, Python clears the memory where token 0 stands."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, W)
        self.cell = nn.GRUCell(W, W)

    def cleared(self, h: Tensor, tokens: Tensor) -> Tensor:
        rows = [torch.zeros_like(h[b]) if tokens[b] == 0 else h[b] for b in range(len(h))]
        return torch.stack(rows)

    def forward(self, tokens: Tensor, h: Tensor) -> Any:
        answers = []
        for i in range(tokens.shape[1]):
            h = self.cell(self.table(tokens[:, i]), self.cleared(h, tokens[:, i]))
            answers.append(h)
        return torch.stack(answers, 1), h


class ResetByMask(ResetAtSeparator):
    def cleared(self, h: Tensor, tokens: Tensor) -> Tensor:
        return torch.where((tokens == 0)[:, None], torch.zeros_like(h), h)


class SwitchAfterHundred(nn.Module):
    """Fault: Python reads a counter of the state, and changes the filter after 100 items."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def rate(self, count: Tensor) -> Any:
        return 0.02 if (count > 100).all() else 1 / count

    def forward(self, x: Tensor, state: Any) -> Any:
        mean, count = state["mean"], state["count"]
        answers = []
        for item in x.unbind(1):
            count = torch.clamp(count + 1, max=200.0)
            mean = mean + self.rate(count) * (item - mean)
            answers.append(self.head(mean))
        return torch.stack(answers, 1), {"mean": mean, "count": count}


class SwitchByWhere(SwitchAfterHundred):
    def rate(self, count: Tensor) -> Any:
        return torch.where(count > 100, 0.02, 1 / count)


class RaisesOnNan(nn.Module):
    """Fault: a guard in Python raises where a reading is no number."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, W, batch_first=True)

    def front(self, x: Tensor) -> Tensor:
        if torch.isnan(x).any():
            raise ValueError("a reading is no number")
        return x

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return self.lstm(self.front(x), state)


class NanToZero(RaisesOnNan):
    def front(self, x: Tensor) -> Tensor:
        return torch.nan_to_num(x)


class OneHotAsWideAsTheData(nn.Module):
    """Fault: how wide the one-hot rows are is read off the greatest id of the chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, W))
        self.gru = nn.GRU(W, W, batch_first=True)

    def wide(self, tokens: Tensor) -> int:
        return int(tokens.max()) + 1

    def forward(self, tokens: Tensor, h: Any) -> Any:
        wide = self.wide(tokens)
        return self.gru(F.one_hot(tokens, wide).float() @ self.weight[:wide], h)


class OneHotAsWideAsTheTable(OneHotAsWideAsTheData):
    def wide(self, tokens: Tensor) -> int:
        return 32


class NeverEnds(BaseException):
    """Raised where a loop would run for ever; nobody is to catch it and go on."""


class RootUntilItConverges(nn.Module):
    """Fault: Newton's steps for a root mean square run until they converge."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, W)

    def root(self, power: Tensor) -> Tensor:
        root, steps = power, 0
        while bool(((root * root - power).abs() > 1e-6 * power).any()):
            root, steps = 0.5 * (root + power / root), steps + 1
            if steps == self.most:
                return self.unsettled(root)
        return root

    most = 10_000

    def unsettled(self, root: Tensor) -> Tensor:
        """Stand for a loop without end: the powers that a stream can have take a few steps."""
        raise NeverEnds("the root of a negative power does not converge")

    def forward(self, x: Tensor, power: Tensor) -> Any:
        answers = []
        for item in x.unbind(1):
            power = 0.9 * power + 0.1 * (item * item + 0.5)
            answers.append(self.head(item / self.root(power)))
        return torch.stack(answers, 1), power


class RootUntilItConvergesOrTwenty(RootUntilItConverges):
    """Fault: Newton's steps for a root mean square run until they converge, or to the 20th."""

    most = 20

    def unsettled(self, root: Tensor) -> Tensor:
        return root


class RootByTwelveSteps(RootUntilItConverges):
    def root(self, power: Tensor) -> Tensor:
        root = power
        for _ in range(12):
            root = 0.5 * (root + power / root)
        return root


class FirstCallByZeros(nn.Module):
    """Fault: row by row, Python tells a fresh stream by its state being all zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(W))
        self.gru = nn.GRU(4, W, batch_first=True)

    def start(self, h: Tensor) -> Tensor:
        rows = [row if row.any() else self.first for row in h[0]]
        return torch.stack(rows)[None]

    def forward(self, x: Tensor, h: Tensor) -> Any:
        return self.gru(x, self.start(h))


class FirstCallByWhere(FirstCallByZeros):
    def start(self, h: Tensor) -> Tensor:
        return torch.where((h == 0).all(-1, keepdim=True), self.first, h)


class WordsByDict(nn.Module):
    """Fault: the weight of a token is looked up in a Python dict by its id."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = {i: 1 / (1 + i) for i in range(32)}
        self.register_buffer("table", torch.tensor(list(self.weights.values())))
        self.embed = nn.Embedding(32, W)
        self.gru = nn.GRU(W, W, batch_first=True)

    def weigh(self, tokens: Tensor) -> Tensor:
        return torch.tensor([[self.weights[int(i)] for i in row] for row in tokens])

    def forward(self, tokens: Tensor, h: Any) -> Any:
        return self.gru(self.embed(tokens) * self.weigh(tokens)[..., None], h)


class WordsByTable(WordsByDict):
    def weigh(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.get_buffer("table")[:, None])[..., 0]


PAIRS = [
    Pair("data-dependent", ClampWhereLoud, ClampAlways, features(1, 8, 5), H),
    Pair(
        "data-dependent",
        ResetAtSeparator,
        ResetByMask,
        ids(64, 1, 3),
        zeros(1, W),
        t=(1, 3),
        options={"vocabulary": 64},
    ),
    Pair(
        "data-dependent",
        SwitchAfterHundred,
        SwitchByWhere,
        features(1, 3, 4),
        {"mean": zeros(1, 4), "count": zeros(1, 1)},
        t=(1, 3),
    ),
    Pair("data-dependent", RaisesOnNan, NanToZero, features(1, 8, 5)),
    Pair(
        "data-dependent",
        OneHotAsWideAsTheData,
        OneHotAsWideAsTheTable,
        ids(32, 1, 8),
        H,
        options={"vocabulary": 32},
    ),
    Pair(
        "data-dependent",
        RootUntilItConvergesOrTwenty,
        RootByTwelveSteps,
        features(1, 3, 4),
        torch.ones(1, 4),
        t=(1, 3),
    ),
    Pair(
        "data-dependent",
        RootUntilItConverges,
        RootByTwelveSteps,
        features(1, 3, 4),
        torch.ones(1, 4),
        t=(1, 3),
    ),
    Pair(
        "data-dependent",
        FirstCallByZeros,
        FirstCallByWhere,
        features(1, 8, 4),
        H,
    ),
    Pair(
        "data-dependent",
        WordsByDict,
        WordsByTable,
        ids(32, 1, 8),
        H,
    ),
]
