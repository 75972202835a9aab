"""Torch steps with one fault each, and the same steps mended.

Every class takes `mended`; a step reads three features or tokens and has a small state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from msgspec.structs import replace
from tests.steps import PLAIN, Tail, chunk_of, contract_of, output_of, state_of
from torch import Tensor, nn

from dst.export import Step
from dst.runtime.manifest import Fill, State, Stored, Tokens, Zeros

Pair = tuple[Tensor, dict[str, Tensor]]
FEATURES, HIDDEN = 3, 4


def starting(**tensors: Tensor) -> Mapping[str, Tensor]:
    """Name the tensors of an initial state, B = 1."""
    return tensors


class Core(nn.Module):
    """A module under test: `forward(chunk, state)` gives one output and the next state."""

    start: Mapping[str, Tensor] = starting(h=torch.zeros(1, HIDDEN))
    shape: tuple[int | str, ...] = ("B", "T", 2)
    tokens: int | None = None

    def __init__(self, mended: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mended = mended
        self.cell = nn.GRU(FEATURES, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 2)

    def run(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """A right recurrence over `x` [B, T, 3] from `h` [B, 4]."""
        y, last = self.cell(x, h[None])
        return y, last[0]

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y), {"h": h}


class Signed(Step):
    """A core with its contract."""

    def __init__(
        self,
        core: Core,
        t: Sequence[int],
        tail: Tail = "exact",
        *,
        lookback: int = 0,
    ) -> None:
        super().__init__()
        self.core = core
        states = [_state(name, value) for name, value in core.start.items()]
        content = PLAIN if core.tokens is None else Tokens(vocabulary=core.tokens)
        self.contract = contract_of(
            chunk_of(
                content,
                t,
                FEATURES if core.tokens is None else None,
                lookback=lookback,
                lookback_fill=0.0 if lookback else None,
                tail=tail,
            ),
            [output_of("y", core.shape)],
            states,
        )

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        return {n: v.expand(batch, *v.shape[1:]).clone() for n, v in self.core.start.items()}

    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        y, after = self.core(chunk, state)
        return {"y": y}, after


def _state(name: str, value: Tensor) -> State:
    first = value.flatten()[0].item()
    init: Zeros | Fill | Stored = Stored(tensor=name)
    if bool((value == first).all()):
        init = Fill(value=float(first)) if first else Zeros()
    counter = value.dtype == torch.int64
    made = state_of(name, ("B", *value.shape[1:]), init=init, counter=counter)
    return replace(made, dtype="bool") if value.dtype == torch.bool else made


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
