"""Torch steps that look odd and are right: no check may refuse them.

They keep state in every way that a stream allows: counters, masks, rings, latches, long and short
memories, saturated or silent outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tests.signed import FEATURES, HIDDEN, Core, Pair, starting
from torch import Tensor, nn


class Gru(Core):
    pass


class TwoLayers(Core):
    """An LSTM of two layers with a projection; layers stand first in torch, here second."""

    start = starting(h=torch.zeros(1, 2, 3), c=torch.zeros(1, 2, HIDDEN))

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, HIDDEN, 2, proj_size=3, batch_first=True, dropout=0.5)
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        h, c = (s[n].transpose(0, 1).contiguous() for n in ("h", "c"))
        y, (h, c) = self.lstm(x, (h, c))
        return self.out(y), {"h": h.transpose(0, 1), "c": c.transpose(0, 1)}


class Cells(Core):
    """A loop over time with a cell."""

    start = starting(h=torch.zeros(1, HIDDEN), c=torch.zeros(1, HIDDEN))

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.LSTMCell(FEATURES, HIDDEN)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        h, c, ys = s["h"], s["c"], []
        for i in range(x.shape[1]):
            h, c = self.one(x[:, i], (h, c))
            ys.append(self.head(h))
        return torch.stack(ys, 1), {"h": h, "c": c}


class InPlace(Core):
    """Writes into the state it was given and gives it back."""

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        s["h"].copy_(h)
        return self.head(y), s


class LastItem(Core):
    """The state is a view of the chunk."""

    start = starting(last=torch.zeros(1, FEATURES))

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * FEATURES, 2)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        before = torch.cat([s["last"][:, None], x[:, :-1]], 1)
        return self.mix(torch.cat([x, before], -1)), {"last": x[:, -1]}


class Bookkeeping(Core):
    """Counts the items for whoever wants to know; no output reads it."""

    start = starting(h=torch.zeros(1, HIDDEN), n=torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y), {"h": h, "n": s["n"] + x.shape[1]}


class OnlyPositions(Core):
    """Nothing but a position is carried."""

    start = starting(n=torch.zeros(1, dtype=torch.int64))

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(FEATURES, 2)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        places = s["n"][:, None] + torch.arange(x.shape[1])
        wave = torch.stack([(0.1 * places).sin(), (0.1 * places).cos()], -1)
        return self.mix(x) + wave, {"n": s["n"] + x.shape[1]}


class Saturated(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return torch.sigmoid(1000 * self.head(y)), {"h": h}


class Chosen(Core):
    """Gives the number of the likeliest class."""

    shape = ("B", "T")

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y).argmax(-1).float(), {"h": h}


class Tiny(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return 1e-12 * self.head(y), {"h": h}


class Large(Core):
    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return 1e9 * self.head(y) + 1e9, {"h": h}


class Silent(Core):
    """A head that was not trained yet: all zeros."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class ClosedGate(Core):
    """A residual branch that starts at zero, as many do."""

    def __init__(self) -> None:
        super().__init__()
        self.direct = nn.Linear(FEATURES, 2)
        self.gate = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.direct(x) + self.gate * self.head(y), {"h": h}


class Rare(Core):
    """A count that moves only where a feature is far out."""

    start = starting(hits=torch.zeros(1, 1))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        hits = s["hits"] + (x[..., 0] > 2.2).float().cumsum(1)
        return torch.stack([hits, x[..., 1]], -1), {"hits": hits[:, -1:]}


class Latch(Core):
    """Remembers the largest value of each feature."""

    start = starting(peak=torch.full((1, FEATURES), -1e30))
    shape = ("B", "T", FEATURES)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        peaks = torch.cat([s["peak"][:, None], x], 1).cummax(1).values[:, 1:]
        return peaks, {"peak": peaks[:, -1]}


class WeightedSum(Core):
    """Like RWKV: a sum of exponentials, kept with its largest exponent, which starts at -1e30."""

    start = starting(
        a=torch.zeros(1, FEATURES), b=torch.zeros(1, FEATURES), p=torch.full((1, FEATURES), -1e30)
    )
    shape = ("B", "T", FEATURES)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        a, b, p, ys = s["a"], s["b"], s["p"], []
        for i in range(x.shape[1]):
            k = v = x[:, i]
            q = torch.maximum(p - 0.1, k)
            a, b = ((p - 0.1 - q).exp() * z + (k - q).exp() * w for z, w in ((a, v), (b, 1.0)))
            p = q
            ys.append(a / b)
        return torch.stack(ys, 1), {"a": a, "b": b, "p": p}


class LongMemory(Core):
    """A sum over the whole stream that moves an output by next to nothing."""

    start = starting(sum=torch.zeros(1, 2))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        sums = s["sum"][:, None] + 1e-4 * x[..., :2].cumsum(1)
        return x[..., 1:] + 1e-3 * sums, {"sum": sums[:, -1]}


class EveryFourth(Core):
    """Reads and writes its memory at every fourth item only."""

    start = starting(h=torch.zeros(1, HIDDEN), n=torch.zeros(1, dtype=torch.int64))

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.GRUCell(FEATURES, HIDDEN)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        h, n, ys = s["h"], s["n"], []
        for i in range(x.shape[1]):
            turn = (n % 4 == 3)[:, None]
            new = self.one(x[:, i], h)
            ys.append(torch.where(turn, self.head(new), x[:, i, :2]))
            h, n = torch.where(turn, new, h), n + 1
        return torch.stack(ys, 1), {"h": h, "n": n}


class Ring(Core):
    """A ring of the last items with an index; a moving mean reads it."""

    start = starting(ring=torch.zeros(1, 5, FEATURES), at=torch.zeros(1, dtype=torch.int64))
    shape = ("B", "T", FEATURES)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        ring, at, ys = s["ring"], s["at"], []
        for i in range(x.shape[1]):
            here = F.one_hot(at, 5)[..., None].float()
            ring = ring * (1 - here) + here * x[:, i, None]
            at = (at + 1) % 5
            ys.append(ring.mean(1))
        return torch.stack(ys, 1), {"ring": ring, "at": at}


class Window(Core):
    """Attention over the last four keys, with a mask of those that are there."""

    start = starting(keys=torch.zeros(1, 4, HIDDEN), ok=torch.zeros(1, 4, dtype=torch.bool))

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, HIDDEN)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        q, t = self.embed(x), x.shape[1]
        keys = torch.cat([s["keys"], q], 1)
        ok = torch.cat([s["ok"], torch.ones_like(x[..., 0], dtype=torch.bool)], 1)
        near = torch.ones(t, t + 4, dtype=torch.bool).tril(4).triu(0)
        z = F.scaled_dot_product_attention(q, keys, keys, attn_mask=near & ok[:, None])
        return self.head(z), {"keys": keys[:, -4:], "ok": ok[:, -4:]}


class TrainedNorm(Core):
    """A batch normalisation and dropout, both in `eval`."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(FEATURES), nn.Dropout(0.5)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(self.norm(x.transpose(1, 2)).transpose(1, 2), s["h"])
        return self.head(self.drop(y)), {"h": h}


class Speaker(Core):
    """Keeps an embedding in the state that never moves, beside a recurrence."""

    start = starting(h=torch.zeros(1, HIDDEN), who=torch.tensor([[0.5, -1.0, 2.0]]))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x + s["who"][:, None], s["h"])
        return self.head(y), {"h": h, "who": s["who"]}


class Filter(Core):
    """A causal convolution by FFT, with the last items as its context."""

    start = starting(context=torch.zeros(1, 7, FEATURES))
    shape = ("B", "T", FEATURES)

    def __init__(self) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.randn(8, FEATURES))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        wide = torch.cat([s["context"], x], 1)
        n = wide.shape[1] + 8
        y = torch.fft.irfft(torch.fft.rfft(wide, n, 1) * torch.fft.rfft(self.taps, n, 0), n, 1)
        return y[:, 7 : 7 + x.shape[1]], {"context": wide[:, -7:]}


class Chaos(Core):
    """A recurrence in which rounding doubles at every item."""

    start = starting(h=torch.full((1, 2), 0.3))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        h, ys = s["h"], []
        for i in range(x.shape[1]):
            h = torch.sin(3.5 * h + 0.2 * x[:, i, :2])
            ys.append(h)
        return torch.stack(ys, 1), {"h": h}


class Rotation(Core):
    """An oscillator that nothing but time moves, plus what comes in."""

    start = starting(z=torch.tensor([[1.0, 0.0]]))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
        z, ys = s["z"], []
        for i in range(x.shape[1]):
            z = z @ turn
            ys.append(z + x[:, i, :2])
        return torch.stack(ys, 1), {"z": z}


class FewTokens(Core):
    """Reads tokens of which the data shows few."""

    tokens = 50

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, FEATURES)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        return super().forward(self.table(x), s)


class Bigram(Core):
    """The last token is the state."""

    tokens = 50
    start = starting(last=torch.zeros(1, dtype=torch.int64))

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 2)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        before = torch.cat([s["last"][:, None], x[:, :-1]], 1)
        return self.table(x) - self.table(before), {"last": x[:, -1]}


class SinceNewline(Core):
    """Counts the items since one token that the data never holds."""

    tokens = 50
    start = starting(n=torch.zeros(1, 1))

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        n, ys = s["n"], []
        for i in range(x.shape[1]):
            n = torch.where(x[:, i, None] == 49, 0.0, n + 1)
            ys.append(torch.cat([n, x[:, i, None].float()], -1))
        return torch.stack(ys, 1), {"n": n}


class PooledAnswer(Core):
    """One answer for a chunk: the mean over it. The state does not depend on the cut."""

    shape = ("B", 2)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y).mean(1), {"h": h}


class LastAnswer(Core):
    """One answer for a chunk: that of its last item."""

    shape = ("B", 2)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        y, h = self.run(x, s["h"])
        return self.head(y[:, -1]), {"h": h}


class Lookback(Core):
    """No state at all: it looks two items back."""

    start = starting()

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(FEATURES, 2, 3)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        return self.convolution(x.transpose(1, 2)).transpose(1, 2), {}


class Ahead(Core):
    """Looks two items ahead; it is given as many as its contract says, and fills in the rest."""

    def __init__(self, given: int = 2) -> None:
        super().__init__()
        self.given = given
        self.convolution = nn.Conv1d(FEATURES, FEATURES, 3)

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        x = torch.cat([x, x[:, -1:]], 1)[:, : x.shape[1] + 2 - self.given]
        y, h = self.run(self.convolution(x.transpose(1, 2)).transpose(1, 2), s["h"])
        return self.head(y), {"h": h}


class Logged(Gru):
    """Notes its last four calls in a ring, whose place no answer depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.at = [0.0] * 4, 0

    def forward(self, x: Tensor, s: dict[str, Tensor]) -> Pair:
        self.seen[self.at] = 1.0
        self.at = (self.at + 1) % 4
        return super().forward(x, s)


HONEST: tuple[type[Core], ...] = (
    Logged,
    Gru,
    TwoLayers,
    Cells,
    InPlace,
    LastItem,
    Bookkeeping,
    OnlyPositions,
    Saturated,
    Chosen,
    Tiny,
    Large,
    Silent,
    ClosedGate,
    Rare,
    Latch,
    WeightedSum,
    LongMemory,
    EveryFourth,
    Ring,
    Window,
    TrainedNorm,
    Speaker,
    Filter,
    Chaos,
    Rotation,
    FewTokens,
    Bigram,
    SinceNewline,
    LastAnswer,
)
"""Right whatever the tail rule and the T."""
