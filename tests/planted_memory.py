"""Torch steps that fault with their memory or with chance, and the same steps mended.

Every class takes `mended`; see `tests.planted` for the list of all faults.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from tests.signed import FEATURES, HIDDEN, Core, Pair, starting
from torch import Tensor, nn

# --- state-never-updated --------------------------------------------------------------------


class ReturnsGiven(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y), {"h": h} if self.mended else s


class ReturnsZeros(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y), {"h": h if self.mended else torch.zeros_like(h)}


class KeepsCell(Core):
    """An LSTM of which only `h` goes on."""

    start = starting(h=torch.zeros(1, HIDDEN), c=torch.zeros(1, HIDDEN))

    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.lstm = nn.LSTM(FEATURES, HIDDEN, batch_first=True)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, (h, c) = self.lstm(x, (s["h"][None], s["c"][None]))
        return self.head(y), {"h": h[0], "c": c[0] if self.mended else s["c"]}


class LearnedStartKept(Core):
    """Starts from learned values and gives them back."""

    start = starting(h=torch.tensor([[0.5, -0.25, 1.0, 0.0]]))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y), {"h": h if self.mended else s["h"] + 0 * h}


class WritesCopy(Core):
    """Writes the new value into a copy that is thrown away."""

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        kept = s["h"] if self.mended else s["h"].clone()
        kept.copy_(h)
        return self.head(y), {"h": s["h"]}


# --- state-never-read -----------------------------------------------------------------------


class StartsFromZeros(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"] if self.mended else torch.zeros_like(s["h"]))
        return self.head(y), {"h": h}


class DropsCell(KeepsCell):
    """An LSTM that is given `h` alone."""

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        c = s["c"] if self.mended else torch.zeros_like(s["c"])
        y, (h, c) = self.lstm(x, (s["h"][None], c[None]))
        return self.head(y), {"h": h[0], "c": c[0]}


class HeadReadsInput(Core):
    """The recurrence runs and nobody looks at it."""

    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.direct = nn.Linear(FEATURES, 2)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.direct(x) + (self.head(y) if self.mended else 0), {"h": h}


class TimesZero(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"] if self.mended else s["h"] * 0.0)
        return self.head(y), {"h": h}


class CountsOnly(Core):
    """A context that is written and never read, beside a right recurrence."""

    start = starting(h=torch.zeros(1, HIDDEN), last=torch.zeros(1, FEATURES))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        first = s["last"] if self.mended else torch.zeros_like(s["last"])
        shifted = torch.cat([first[:, None], x[:, :-1]], 1)
        y, h = self.run(x + shifted, s["h"])
        return self.head(y), {"h": h, "last": x[:, -1]}


# --- hidden-state ---------------------------------------------------------------------------

CACHE: dict[str, Tensor] = {}


class OnAttribute(Core):
    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.memory: Tensor | None = None

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        if self.mended:
            return super().forward(x, s)
        h = s["h"] if self.memory is None or len(self.memory) != len(x) else self.memory
        y, self.memory = self.run(x, h)
        return self.head(y), {"h": self.memory + s["h"]}


class OnBuffer(Core):
    memory: Tensor

    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.register_buffer("memory", torch.zeros(FEATURES))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x if self.mended else x - self.memory, s["h"])
        if not self.mended:
            self.memory.mul_(0.9).add_(0.1 * x.mean((0, 1)))
        return self.head(y), {"h": h}


class InClosure(Core):
    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.remember = _remembering()

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        more = 0.0 if self.mended else self.remember(x)
        return self.head(y) + more, {"h": h}


def _remembering() -> Callable[[Tensor], float]:
    seen = [0.0]

    def remember(x: Tensor) -> float:
        seen[0] = 0.5 * seen[0] + x.detach().numpy().mean()
        return seen[0]

    return remember


class InGlobal(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        if self.mended:
            return super().forward(x, s)
        h = CACHE.get("h", s["h"])
        y, h = self.run(x, h if len(h) == len(x) else s["h"])
        CACHE["h"] = h
        return self.head(y), {"h": h + s["h"]}


class CountsCalls(Core):
    """Position by the number of calls."""

    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.calls = 0

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        self.calls += 1
        return self.head(y) + (0.0 if self.mended else self.calls % 7), {"h": h}


# --- random ---------------------------------------------------------------------------------


class Dropout(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(F.dropout(y, 0.3, training=not self.mended)), {"h": h}


class RareDropout(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(F.dropout(y, 0.05, training=not self.mended)), {"h": h}


class Noise(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y), {"h": h if self.mended else h + 0.01 * torch.randn_like(h)}


class OwnGenerator(Core):
    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.source = torch.Generator().manual_seed(5)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        y = self.head(y)
        return y if self.mended else y + torch.rand(2, generator=self.source), {"h": h}


class NumpyNoise(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        scale = 1.0 if self.mended else 1.0 + 0.1 * np.random.rand() + 0.1 * random.random()
        return self.head(y) * scale, {"h": h}


class Samples(Core):
    """Draws a class instead of giving the logits."""

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        chances = self.head(y).softmax(-1)
        if self.mended:
            return chances, {"h": h}
        drawn = torch.multinomial(chances.flatten(0, 1), 1).reshape(x.shape[:2])
        return F.one_hot(drawn, 2).float(), {"h": h}
