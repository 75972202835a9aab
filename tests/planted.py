"""Torch steps with one fault each, and the same steps mended.

Every class takes `mended`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tests.planted_memory import (
    CountsCalls,
    CountsOnly,
    Dropout,
    DropsCell,
    HeadReadsInput,
    InClosure,
    InGlobal,
    KeepsCell,
    LearnedStartKept,
    Noise,
    NumpyNoise,
    OnAttribute,
    OnBuffer,
    OwnGenerator,
    RareDropout,
    ReturnsGiven,
    ReturnsZeros,
    Samples,
    StartsFromZeros,
    TimesZero,
    WritesCopy,
)
from tests.signed import FEATURES, HIDDEN, Core, Pair, starting
from torch import Tensor, nn

# --- rows-mixed -----------------------------------------------------------------------------


class BatchMean(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x if self.mended else x - 0.5 * x.mean(0, keepdim=True), s["h"])
        return self.head(y), {"h": h}


class BatchNorm(Core):
    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.norm = nn.BatchNorm1d(FEATURES, track_running_stats=mended)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(self.norm(x.transpose(1, 2)).transpose(1, 2), s["h"])
        return self.head(y), {"h": h}


class AttendsOverBatch(Core):
    """Attention with the default layout, which takes the first axis for time."""

    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.attention = nn.MultiheadAttention(HIDDEN, 1, batch_first=mended)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        mask = None
        if self.mended:  # within one item, so that the cut does not matter
            mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).fill_diagonal_(0.0)
        return self.head(self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]), {"h": h}


class StateOfFirst(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        h = s["h"] if self.mended else s["h"][:1].expand_as(s["h"]).contiguous()
        y, h = self.run(x, h)
        return self.head(y), {"h": h}


class SoftmaxOverBatch(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y).softmax(-1 if self.mended else 0) + self.head(y), {"h": h}


# --- not-causal -----------------------------------------------------------------------------


class ChunkNorm(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x if self.mended else x - x.mean(1, keepdim=True), s["h"])
        return self.head(y), {"h": h}


class GlobalScale(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x if self.mended else x / (x.abs().max() + 1e-6), s["h"])
        return self.head(y), {"h": h}


class Bidirectional(Core):
    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.both = nn.GRU(HIDDEN, HIDDEN // 2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y if self.mended else self.both(y)[0]), {"h": h}


class CentredConvolution(Core):
    """Sees one item ahead; the mended form sees two back, from a carried context."""

    start = starting(h=torch.zeros(1, HIDDEN), context=torch.zeros(1, 2, FEATURES))

    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.convolution = nn.Conv1d(FEATURES, FEATURES, 3)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        before = torch.cat([s["context"], x], 1)
        wide = before if self.mended else F.pad(before[:, 1:], (0, 0, 0, 1))
        y, h = self.run(self.convolution(wide.transpose(1, 2)).transpose(1, 2), s["h"])
        return self.head(y), {"h": h, "context": before[:, -2:]}


class Unmasked(Core):
    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.attention = nn.MultiheadAttention(HIDDEN, 1, batch_first=True)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        z = y if self.mended else self.attention(y, y, y, need_weights=False)[0]
        return self.head(z), {"h": h}


class SoftmaxOverChunk(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y).softmax(-1 if self.mended else 1), {"h": h}


class ArgmaxOfReversed(Core):
    """Whole numbers, from a recurrence that runs backwards."""

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x if self.mended else x.flip(1), s["h"])
        y = y if self.mended else y.flip(1)
        return F.one_hot(self.head(10 * y).argmax(-1), 2).float(), {"h": h}


# --- state-grows ----------------------------------------------------------------------------


class GrowingKeys(Core):
    """Attends over all keys of the past; the mended form over the last four."""

    start = starting(keys=torch.zeros(1, 4, HIDDEN), h=torch.zeros(1, HIDDEN))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        keys = torch.cat([s["keys"], y], 1)
        bias = torch.full((x.shape[1], keys.shape[1]), -torch.inf)
        for i in range(x.shape[1]):
            first = keys.shape[1] - x.shape[1] + i
            bias[i, first - 4 : first + 1] = 0.0
        z = F.scaled_dot_product_attention(y, keys, keys, attn_mask=bias)
        return self.head(z), {"keys": keys[:, -4:] if self.mended else keys, "h": h}


class GrowingHistory(Core):
    start = starting(h=torch.zeros(1, HIDDEN), past=torch.zeros(1, FEATURES, 2))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        past = torch.cat([s["past"], x.transpose(1, 2)], 2)
        y, h = self.run(x + past[:, :, -x.shape[1] - 2 : -2].transpose(1, 2), s["h"])
        return self.head(y), {"h": h, "past": past[:, :, -2:] if self.mended else past}


class GrowsByOne(Core):
    """A row for each call."""

    start = starting(h=torch.zeros(1, HIDDEN), rows=torch.zeros(1, 1, HIDDEN))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x + s["rows"][:, :1, :3] * (0.0 if self.mended else 0.1), s["h"])
        rows = s["rows"] + x.sum((1, 2))[:, None, None]
        if not self.mended:
            rows = torch.cat([s["rows"], h[:, None]], 1)
        return self.head(y), {"h": h, "rows": rows}


# --- data-dependent -------------------------------------------------------------------------


class IfMean(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        if not self.mended and x.mean() > 0:
            y = -y
        return self.head(y), {"h": h}


class IfState(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        if self.mended:
            return self.head(y) * torch.where(y.abs().sum(-1, True) > 0.5, 0.5, 1.0), {"h": h}
        return self.head(y) * (0.5 if float(s["h"].abs().sum()) > 0.5 else 1.0), {"h": h}


class LoopsByValue(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        for _ in range(0 if self.mended else int(x[0, 0].abs().sum() * 3) % 4):
            y = torch.tanh(y)
        return self.head(y), {"h": h}


class WhileLarge(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        z = self.head(y)
        while not self.mended and z.abs().max() > 0.2:
            z = z * 0.5
        return z, {"h": h}


class ThroughNumpy(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        sign = 1.0 if self.mended or x.numpy()[0, 0, 0] > 0 else -1.0
        return sign * self.head(y), {"h": h}


class MaxOfNumbers(Core):
    """A branch that torch's exporter takes without a word, as one side of it."""

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        scale = torch.ones(()) if self.mended else torch.tensor(0.5).where(x[0, 0, 0] > 0, 2.0)
        if not self.mended and bool(x[0, 0, 0] > 0.3):
            scale = scale + 1
        return scale * self.head(y), {"h": h}


# --- cut-matters ----------------------------------------------------------------------------


class NoContext(CentredConvolution):
    """A causal convolution that starts each chunk from zeros."""

    start = starting(h=torch.zeros(1, HIDDEN), context=torch.zeros(1, 2, FEATURES))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        before = torch.cat([s["context"], x], 1)
        wide = before if self.mended else F.pad(x, (0, 0, 2, 0))
        y, h = self.run(self.convolution(wide.transpose(1, 2)).transpose(1, 2), s["h"])
        # the context is read, so that nothing but the cut is wrong
        more = s["context"].sum(1)[:, None, :1] * torch.ones_like(x[..., :1])
        return self.head(y) + (0 if self.mended else 1e-3 * more), {
            "h": h,
            "context": before[:, -2:],
        }


class PositionsRestart(Core):
    start = starting(h=torch.zeros(1, HIDDEN), n=torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        places = torch.arange(x.shape[1])[None] + (s["n"][:, None] if self.mended else 0)
        y, h = self.run(x + torch.sin(places[..., None] * 0.7), s["h"])
        return self.head(y), {"h": h, "n": s["n"] + x.shape[1]}


class UpdatesByMean(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y), {"h": h if self.mended else 0.9 * s["h"] + 0.1 * y.mean(1)}


class DropsStateInLongChunks(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        kept = self.mended or x.shape[1] == min(self.sizes)
        y, h = self.run(x, s["h"] if kept else torch.zeros_like(s["h"]))
        return self.head(y), {"h": h}

    sizes: tuple[int, ...] = (1, 2)


class OneDecayForAChunk(Core):
    """Forgets once for each call, however many items it had."""

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y), {"h": h if self.mended else 0.9 * h}


# --- step-failed ----------------------------------------------------------------------------


class FailsAtOne(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        if not self.mended and x.shape[1] < 4:
            raise ValueError("too few items")
        return super().forward(x, s)


class OneRowOnly(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y if self.mended else y.view(1, x.shape[1], HIDDEN)), {"h": h}


class SmallTable(Core):
    """An embedding smaller than the vocabulary that the contract names."""

    tokens = 9

    def __init__(self, mended: bool = False) -> None:
        super().__init__(mended)
        self.table = nn.Embedding(9 if mended else 6, FEATURES)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        return super().forward(self.table(x), s)


FAULTS: dict[str, tuple[type[Core], ...]] = {
    "state-never-updated": (ReturnsGiven, ReturnsZeros, KeepsCell, LearnedStartKept, WritesCopy),
    "state-never-read": (StartsFromZeros, DropsCell, HeadReadsInput, TimesZero, CountsOnly),
    "hidden-state": (OnAttribute, OnBuffer, InClosure, InGlobal, CountsCalls),
    "random": (Dropout, RareDropout, Noise, OwnGenerator, NumpyNoise, Samples),
    "rows-mixed": (BatchMean, BatchNorm, AttendsOverBatch, StateOfFirst, SoftmaxOverBatch),
    "not-causal": (
        ChunkNorm,
        GlobalScale,
        Bidirectional,
        CentredConvolution,
        Unmasked,
        SoftmaxOverChunk,
        ArgmaxOfReversed,
    ),
    "state-grows": (GrowingKeys, GrowingHistory, GrowsByOne),
    "data-dependent": (IfMean, IfState, LoopsByValue, WhileLarge, ThroughNumpy, MaxOfNumbers),
    "cut-matters": (
        NoContext,
        PositionsRestart,
        UpdatesByMean,
        DropsStateInLongChunks,
        OneDecayForAChunk,
    ),
    "step-failed": (FailsAtOne, OneRowOnly, SmallTable),
}
"""Code -> modules that have this fault, and only this one."""
