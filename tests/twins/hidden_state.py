"""Twins of the kind `hidden-state`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tests.twins.pair import H, Pair, W, features, zeros
from torch import Tensor, nn


class NormaliserLearnsInForward(nn.Module):
    """Fault: the input's running mean is a buffer that the step itself moves."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 1, 6))
        self.gru = nn.GRU(6, W, batch_first=True)

    def forward(self, x: Tensor, h: Any) -> Any:
        mean = self.get_buffer("mean")
        answers, items = [], []
        for item in x.split(1, 1):
            mean.mul_(0.99).add_(0.01 * item.detach().mean(0, keepdim=True))
            items.append(item - mean)
        y, h = self.gru(torch.cat(items, 1), h)
        answers.append(y)
        return torch.cat(answers, 1), h


class NormaliserInState(NormaliserLearnsInForward):
    def forward(self, x: Tensor, state: Any) -> Any:
        h, mean = state
        answers, items = [], []
        for item in x.split(1, 1):
            mean = 0.99 * mean + 0.01 * item
            items.append(item - mean)
        y, h = self.gru(torch.cat(items, 1), h)
        answers.append(y)
        return torch.cat(answers, 1), (h, mean)


class DeltaFeatureOnSelf(nn.Module):
    """Fault: the item before the chunk is kept on `self` for the difference feature."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Tensor | None = None
        self.lstm = nn.LSTM(10, W, batch_first=True)
        self.head = nn.Linear(W, 3)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        last = self.last
        if last is None or last.shape[0] != x.shape[0]:
            last = torch.zeros_like(x[:, :1])
        self.last = x[:, -1:].detach()
        y, state = self.lstm(torch.cat([x, x.diff(dim=1, prepend=last)], -1), state)
        return self.head(y), state


class DeltaFeatureInState(DeltaFeatureOnSelf):
    def forward(self, x: Tensor, state: Any = None) -> Any:
        if state is None:
            flat = x.new_zeros(1, x.shape[0], W)
            state = {"lstm": (flat, flat), "last": torch.zeros_like(x[:, :1])}
        y, lstm = self.lstm(torch.cat([x, x.diff(dim=1, prepend=state["last"])], -1), state["lstm"])
        return self.head(y), {"lstm": lstm, "last": x[:, -1:]}


SEEN: dict[str, Tensor] = {}


class BaselineInAGlobal(nn.Module):
    """Fault: a slow baseline lives in a dict of the Python module."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, W, batch_first=True)

    def forward(self, x: Tensor, h: Any) -> Any:
        key = f"baseline{x.shape[0]}"
        base = SEEN.get(key, torch.zeros(x.shape[0], 4))
        bases = []
        for item in x.unbind(1):
            base = 0.9 * base + 0.1 * item
            bases.append(base)
        SEEN[key] = base.detach()
        y, h = self.gru(x - torch.stack(bases, 1), h)
        return y, h


class BaselineInState(BaselineInAGlobal):
    def forward(self, x: Tensor, state: Any) -> Any:
        h, base = state
        bases = []
        for item in x.unbind(1):
            base = 0.9 * base + 0.1 * item
            bases.append(base)
        y, h = self.gru(x - torch.stack(bases, 1), h)
        return y, (h, base)


class SmoothLayer(nn.Module):
    """Smooths what it is given, over calls, by a memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: list[Tensor] = []

    def forward(self, y: Tensor) -> Tensor:
        old = self.memory[-1] if self.memory else torch.zeros(())
        if old.shape != y[:, -1].shape:
            old = torch.zeros_like(y[:, -1])
        answers = []
        for item in y.unbind(1):
            old = 0.5 * old + 0.5 * item
            answers.append(old)
        self.memory = [old.detach()]
        return torch.stack(answers, 1)


class SmootherBehindALayer(nn.Module):
    """Fault: a layer deep inside smooths the scores by a list that it keeps, one part in 500."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, W, batch_first=True)
        self.head = nn.Sequential(nn.Linear(W, 3), nn.Sequential(nn.Tanh(), SmoothLayer()))
        self.plain = nn.Linear(W, 3)

    def forward(self, x: Tensor, h: Any) -> Any:
        y, h = self.gru(x, h)
        return self.plain(y) + 0.002 * self.head(y), h


class SmootherInState(SmootherBehindALayer):
    def forward(self, x: Tensor, state: Any) -> Any:
        y, h = self.gru(x, state["h"])
        old, answers = state["smooth"], []
        for item in torch.tanh(self.head[0](y)).unbind(1):
            old = 0.5 * old + 0.5 * item
            answers.append(old)
        return self.plain(y) + 0.002 * torch.stack(answers, 1), {"h": h, "smooth": old}


class WarmupByCallCount(nn.Module):
    """Fault: the calls are counted on `self`; after 40 of them the gain of the answers changes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.lstm = nn.LSTM(4, W, batch_first=True)

    def forward(self, x: Tensor, state: Any) -> Any:
        self.calls += 1
        y, state = self.lstm(x, state)
        return (y if self.calls > 40 else 0.5 * y), state


class WarmupInState(WarmupByCallCount):
    def forward(self, x: Tensor, state: Any) -> Any:
        (h, c), seen = state
        y, (h, c) = self.lstm(x, (h, c))
        count = torch.clamp(seen + torch.arange(1, x.shape[1] + 1), max=50.0)
        return torch.where(count[..., None] > 40, y, 0.5 * y), ((h, c), count[:, -1:])


class FeedbackByHook(nn.Module):
    """Fault: a hook on the head keeps its last answer, which is fed back in the next call."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4 + 2, W)
        self.head = nn.Linear(W, 2)
        self.head.register_forward_hook(self.keep)

    @staticmethod
    def keep(head: nn.Module, given: Any, answer: Tensor) -> None:
        head.answer = answer.detach()

    def forward(self, x: Tensor, h: Tensor) -> Any:
        answers = []
        for item in x.unbind(1):
            before = getattr(self.head, "answer", None)
            if before is None or len(before) != len(item):
                before = item.new_zeros(len(item), 2)
            h = self.cell(torch.cat([item, before], -1), h)
            answers.append(self.head(h))
        return torch.stack(answers, 1), h


class FeedbackInState(FeedbackByHook):
    def __init__(self) -> None:
        super().__init__()
        self.head._forward_hooks.clear()

    def forward(self, x: Tensor, state: Any) -> Any:
        h, before = state
        answers = []
        for item in x.unbind(1):
            h = self.cell(torch.cat([item, before], -1), h)
            before = self.head(h)
            answers.append(before)
        return torch.stack(answers, 1), (h, before)


class DefaultArgumentRemembers(nn.Module):
    """Fault: a mutable default argument keeps the last item from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, W, batch_first=True)

    def shifted(self, x: Tensor, past: dict[int, Tensor] = {}) -> Tensor:  # noqa: B006
        last = past.get(x.shape[0], torch.zeros_like(x[:, :1]))
        past[x.shape[0]] = x[:, -1:].detach().clone()
        return torch.cat([last, x[:, :-1]], 1)

    def forward(self, x: Tensor, h: Any) -> Any:
        return self.gru(torch.cat([x, self.shifted(x)], -1), h)


class LastItemInState(DefaultArgumentRemembers):
    def forward(self, x: Tensor, state: Any) -> Any:
        h, last = state
        y, h = self.gru(torch.cat([x, torch.cat([last, x[:, :-1]], 1)], -1), h)
        return y, (h, x[:, -1:])


def counting_gain(late: int) -> Callable[[Tensor], Tensor]:
    """Make a function that halves what it is given, after so many calls."""
    ticks = itertools.count()
    return lambda y: 0.5 * y if next(ticks) > late else y


def nonlocal_gain(late: int) -> Callable[[Tensor], Tensor]:
    """Make a function that halves what it is given, after so many calls."""
    calls = 0

    def gain(y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return 0.5 * y if calls > late else y

    return gain


class GainDropsAfterManyCalls(nn.Module):
    """Fault: a counter in a closure halves the answers after 5,000 calls."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, W, batch_first=True)
        self.gain = counting_gain(5000)

    def forward(self, x: Tensor, state: Any) -> Any:
        y, state = self.lstm(x, state)
        return self.gain(y), state


class GainDropsByNonlocal(GainDropsAfterManyCalls):
    """Fault: a number that a closure counts up halves the answers after 5,000 calls."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nonlocal_gain(5000)


class GainDropsInState(GainDropsAfterManyCalls):
    def forward(self, x: Tensor, state: Any) -> Any:
        lstm, seen = state
        y, lstm = self.lstm(x, lstm)
        count = torch.clamp(seen + torch.arange(1, x.shape[1] + 1), max=6000)
        return torch.where(count[..., None] > 5000, 0.5 * y, y), (lstm, count[:, -1:])


class FastWeightsOnAParameter(nn.Module):
    """Fault: Hebbian fast weights are added to a parameter in the step."""

    def __init__(self) -> None:
        super().__init__()
        self.fast = nn.Parameter(torch.zeros(W, W), requires_grad=False)
        self.gru = nn.GRU(4, W, batch_first=True)

    def forward(self, x: Tensor, h: Any) -> Any:
        y, h = self.gru(x, h)
        answers = []
        for item in y.unbind(1):
            answers.append(item + item @ self.fast)
            self.fast.data += 0.01 * (item[:, :, None] * item[:, None]).mean(0) - 0.01 * self.fast
        return torch.stack(answers, 1), h


class FastWeightsInState(FastWeightsOnAParameter):
    def forward(self, x: Tensor, state: Any) -> Any:
        h, fast = state
        y, h = self.gru(x, h)
        answers = []
        for item in y.unbind(1):
            answers.append(item + (item[:, None] @ fast)[:, 0])
            fast = fast + 0.01 * item[:, :, None] * item[:, None] - 0.01 * fast
        return torch.stack(answers, 1), (h, fast)


class LevelInNumpy(nn.Module):
    """Fault: a level is kept in a numpy array, and moves the answers by a thousandth."""

    def __init__(self) -> None:
        super().__init__()
        self.level: Any = np.zeros(3, np.float32)
        self.gru = nn.GRU(3, W, batch_first=True)

    def forward(self, x: Tensor, h: Any) -> Any:
        centred = x - 0.001 * torch.from_numpy(self.level.copy())
        self.level = 0.9 * self.level + 0.1 * x.detach().mean((0, 1)).numpy()
        return self.gru(centred, h)


class LevelInState(LevelInNumpy):
    def forward(self, x: Tensor, state: Any) -> Any:
        h, level = state
        levels = []
        for item in x.unbind(1):
            levels.append(level)
            level = 0.9 * level + 0.1 * item
        y, h = self.gru(x - 0.001 * torch.stack(levels, 1), h)
        return y, (h, level)


P: Sequence[int] = (1, 2)

PAIRS = [
    Pair(
        "hidden-state",
        NormaliserLearnsInForward,
        NormaliserInState,
        features(1, 4, 6),
        H,
        (H, zeros(1, 1, 6)),
        t=(1, 4),
    ),
    Pair("hidden-state", DeltaFeatureOnSelf, DeltaFeatureInState, features(1, 8, 5)),
    Pair(
        "hidden-state",
        BaselineInAGlobal,
        BaselineInState,
        features(1, 3, 4),
        H,
        (H, zeros(1, 4)),
        t=(1, 3),
    ),
    Pair(
        "hidden-state",
        SmootherBehindALayer,
        SmootherInState,
        features(1, 3, 4),
        H,
        {"h": H, "smooth": zeros(1, 3)},
        t=(1, 3),
    ),
    Pair(
        "hidden-state",
        WarmupByCallCount,
        WarmupInState,
        features(1, 8, 4),
        (H, H),
        ((H, H), zeros(1, 1)),
    ),
    Pair(
        "hidden-state",
        FeedbackByHook,
        FeedbackInState,
        features(1, 3, 4),
        zeros(1, W),
        (zeros(1, W), zeros(1, 2)),
        t=(1, 3),
    ),
    Pair(
        "hidden-state",
        DefaultArgumentRemembers,
        LastItemInState,
        features(1, 8, 4),
        H,
        (H, zeros(1, 1, 4)),
    ),
    Pair(
        "hidden-state",
        GainDropsAfterManyCalls,
        GainDropsInState,
        features(1, 8, 4),
        (H, H),
        ((H, H), zeros(1, 1)),
    ),
    Pair(
        "hidden-state",
        GainDropsByNonlocal,
        GainDropsInState,
        features(1, 8, 4),
        (H, H),
        ((H, H), zeros(1, 1)),
    ),
    Pair(
        "hidden-state",
        FastWeightsOnAParameter,
        FastWeightsInState,
        features(1, 2, 4),
        H,
        (H, zeros(1, W, W)),
        t=P,
    ),
    Pair(
        "hidden-state",
        LevelInNumpy,
        LevelInState,
        features(1, 2, 3),
        H,
        (H, zeros(1, 3)),
        t=P,
    ),
]
