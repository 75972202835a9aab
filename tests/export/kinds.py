"""Small torch modules of every kind that can become a bundle, each with its example."""

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

LSTM, GRU, RNN = nn.LSTM, nn.GRU, nn.RNN
Pair = namedtuple("Pair", "left right")


class Headed(nn.Module):
    """A recurrence inside a user's own module, whose head needs the sizes of what it gets."""

    def __init__(self, cell: nn.RNNBase) -> None:
        super().__init__()
        self.cell = cell
        self.head = nn.Linear(cell.proj_size or cell.hidden_size, 3)

    def forward(self, x: Tensor, state: object = None) -> tuple[Tensor, object]:
        y, after = self.cell(x, state)
        rows = self.head(torch.relu(y).reshape(y.shape[0] * y.shape[1], -1))
        return rows.reshape(y.shape[0], y.shape[1], 3), after


class InDict(nn.Module):
    """Two recurrences with a nested state, and outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.gru = nn.GRU(6, 4, batch_first=True)

    def forward(self, x: Tensor, state: dict[str, object]) -> tuple[dict[str, Tensor], object]:
        y, lstm = self.lstm(x, state["lstm"])
        z, gru = self.gru(y, state["gru"])
        return {"wide": y, "last": z[:, -1]}, {"lstm": lstm, "gru": gru}


class Loop(nn.Module):
    """A Python loop over time around a cell."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        rows = []
        for item in x.unbind(1):
            h = self.cell(item, h)
            rows.append(h)
        return torch.stack(rows, 1), h


class Conv(nn.Module):
    """A causal convolution that carries its context, channels before time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)

    def forward(self, x: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
        whole = torch.cat([buffer, x], 2)
        return torch.tanh(self.conv(whole)), whole[:, :, -2:]


class Valid(nn.Module):
    """A convolution without a state, which wants its past in front of the chunk."""

    def __init__(self, pad: bool = False) -> None:
        super().__init__()
        self.conv, self.pad = nn.Conv1d(3, 4, 3), pad

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        y = nn.functional.pad(y, (2, 0)) if self.pad else y
        answer: Tensor = self.conv(y).transpose(1, 2)
        return answer


class Rwkv(nn.Module):
    """The recurrence of RWKV: numerator, denominator and the largest exponent so far."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.decay = nn.Parameter(torch.rand(width) + 0.1)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        top, bottom, peak = state
        rows = []
        for item in x.unbind(1):
            k, v = self.key(item), self.value(item)
            new = torch.maximum(peak - self.decay, k)
            old, now = torch.exp(peak - self.decay - new), torch.exp(k - new)
            top, bottom, peak = old * top + now * v, old * bottom + now, new
            rows.append(top / bottom)
        return torch.stack(rows, 1), (top, bottom, peak)


class InPlace(nn.Module):
    """Writes into the state, and into the chunk, that it is given."""

    def forward(self, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        x *= 0.01
        seen = total[:, None] + x.cumsum(1)
        total.copy_(seen[:, -1])
        return seen.clone(), total


class Counter(nn.Module):
    """Keeps whole numbers and a switch beside its sum."""

    def forward(
        self, x: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        count = state["count"] + x.shape[1]
        return (x + state["seen"][:, None, None], count), {
            "count": count,
            "seen": state["seen"] | (x.amax((1, 2)) > 0),
        }


class Tokens(nn.Module):
    """A language model."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru = nn.Embedding(11, 6), nn.GRU(6, 8, batch_first=True)
        self.head = nn.Linear(8, 11)

    def forward(self, ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.gru(self.table(ids), state)
        return self.head(y), state


@dataclass
class Memory:
    """A state in a dataclass."""

    slow: Tensor
    fast: list[Tensor] = field(default_factory=list)


class Data(nn.Module):
    """Takes and gives a dataclass, and a named tuple of outputs."""

    def forward(self, x: Tensor, state: Memory) -> tuple[Pair, Memory]:
        slow = state.slow * 0.99 + x.mean(1) * 0.01
        fast = [state.fast[0] * 0.5 + x[:, -1] * 0.5]
        answer = Pair(x + state.slow[:, None], x - state.fast[0][:, None])
        return answer, Memory(slow, fast)


class Alone(nn.Module):
    """Knows no batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 8)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, object]:
        y, state = self.lstm(x, state)
        return y, state


class Clock(nn.Module):
    """Counts items in one number, which has no batch axis."""

    def forward(self, x: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        places = at + torch.arange(1, x.shape[1] + 1)
        return x * torch.cos(places)[None, :, None], at + x.shape[1]


class OneBatch(nn.Module):
    """Takes B = 1 only, by a shape that is written down."""

    def forward(self, x: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        y = total + x.reshape(x.shape[1], 3).cumsum(0) * 0.01
        total = y[-1:] * 0.5
        return y[None].reshape(1, -1, 3), total


class Branch(nn.Module):
    """Goes another way for single items, as decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 8, batch_first=True)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, h = self.gru(x, h)
        return (y * 2.0 if x.shape[1] == 1 else y + y), h


@dataclass(frozen=True)
class Kind:
    """A module, its example, and what must be found.

    Attributes:
        make: makes the module.
        chunk: the shape of the example.
        state: its state at the start.
        t: the T asked for.
        shape: the contract's chunk.
        names: the names of outputs and states.
        batch: whether several streams can be stepped together.
        tail: its tail rule.
        free: whether one graph runs every T.
        more: further arguments.
    """

    make: Callable[[], nn.Module]
    chunk: Sequence[int]
    shape: Sequence[int | str]
    names: str
    state: object = None
    t: Sequence[int] | None = (1, 6)
    batch: bool = True
    tail: str = "exact"
    free: bool = True
    dtype: torch.dtype = torch.float32
    more: Mapping[str, object] = field(default_factory=dict)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


BTF = ("B", "T", 5)
KINDS: dict[str, Kind] = {
    "lstm": Kind(lambda: LSTM(5, 8, 2, batch_first=True), (1, 6, 5), BTF, "output h c"),
    "lstm-time-first": Kind(lambda: LSTM(5, 8), (6, 1, 5), ("T", "B", 5), "output h c"),
    "lstm-given": Kind(
        lambda: LSTM(5, 8, batch_first=True),
        (2, 6, 5),
        BTF,
        "output h c",
        [zeros(1, 2, 8), zeros(1, 2, 8)],
    ),
    "lstm-projected": Kind(
        lambda: LSTM(5, 8, proj_size=3, batch_first=True),
        (1, 3, 5),
        BTF,
        "output h c",
        t=(1, 3),
        free=False,
    ),
    "lstm-dropout": Kind(
        lambda: LSTM(5, 8, 2, dropout=0.5, batch_first=True).train(), (1, 6, 5), BTF, "output h c"
    ),
    "lstm-float64": Kind(
        lambda: LSTM(5, 8, batch_first=True).double(),
        (1, 3, 5),
        BTF,
        "output h c",
        t=(1, 3),
        free=False,
        dtype=torch.float64,
    ),
    "lstm-no-batch": Kind(
        Alone, (6, 5), BTF, "output h c", (zeros(1, 8), zeros(1, 8)), batch=False
    ),
    "lstm-one-t": Kind(
        lambda: LSTM(5, 8, batch_first=True), (1, 9, 5), BTF, "output h c", t=(9,), tail="refuse"
    ),
    "lstm-many-t": Kind(
        lambda: LSTM(5, 8, batch_first=True), (1, 9, 5), BTF, "output h c", t=(1, 2, 5)
    ),
    "gru": Kind(lambda: GRU(5, 8, 2, batch_first=True), (1, 6, 5), BTF, "output h"),
    "gru-no-bias": Kind(lambda: GRU(5, 8, bias=False), (6, 1, 5), ("T", "B", 5), "output h"),
    "rnn": Kind(lambda: RNN(5, 8, 2, batch_first=True), (1, 6, 5), BTF, "output h"),
    "rnn-relu": Kind(
        lambda: RNN(5, 8, nonlinearity="relu", batch_first=True), (1, 6, 5), BTF, "output h"
    ),
    "lstm-headed": Kind(
        lambda: Headed(LSTM(5, 8, 2, batch_first=True)), (1, 6, 5), BTF, "output h c"
    ),
    "rnn-headed": Kind(lambda: Headed(RNN(5, 8, batch_first=True)), (1, 6, 5), BTF, "output h"),
    "lstm-cell": Kind(lambda: nn.LSTMCell(5, 8), (1, 5), BTF, "output h c", t=None),
    "gru-cell": Kind(lambda: nn.GRUCell(5, 8), (1, 5), BTF, "output h", zeros(1, 8), t=(1,)),
    "rnn-cell": Kind(
        lambda: _Twice(nn.RNNCell(5, 8)), (2, 5), BTF, "output h", zeros(2, 8), t=None
    ),
    "loop": Kind(
        lambda: Loop(nn.GRUCell(5, 8)), (1, 3, 5), BTF, "output h", zeros(1, 8), (1, 3), free=False
    ),
    "nested": Kind(
        InDict,
        (1, 6, 5),
        BTF,
        "wide last lstm.h lstm.c gru",
        {"lstm": (zeros(1, 1, 6), zeros(1, 1, 6)), "gru": zeros(1, 1, 4)},
    ),
    "conv": Kind(Conv, (1, 4, 6), ("B", 4, "T"), "output state", zeros(1, 4, 2)),
    "conv-lookback": Kind(Valid, (1, 8, 3), ("B", "T", 3), "output", more={"lookback": 2}),
    "conv-padded": Kind(
        lambda: Valid(pad=True), (1, 8, 3), ("B", "T", 3), "output", more={"lookback": 2}
    ),
    "rwkv": Kind(
        Rwkv,
        (1, 3, 4),
        ("B", "T", 4),
        "output state.0 state.1 state.2",
        (zeros(1, 4), zeros(1, 4), zeros(1, 4) - 1e30),
        t=(1, 3),
        free=False,
    ),
    "in-place": Kind(InPlace, (1, 6, 5), BTF, "output state", zeros(1, 5)),
    "counter": Kind(
        Counter,
        (1, 6, 5),
        BTF,
        "output.0 output.1 count seen",
        {"count": zeros(1, dtype=torch.int64), "seen": zeros(1, dtype=torch.bool)},
        t=(6,),
        tail="refuse",
    ),
    "tokens": Kind(Tokens, (1, 6), ("B", "T"), "output h", zeros(1, 1, 8), dtype=torch.int64),
    "dataclass": Kind(
        Data,
        (1, 6, 5),
        BTF,
        "left right slow fast.0",
        Memory(zeros(1, 5), [zeros(1, 5)]),
        t=(6,),
        tail="refuse",
    ),
    "clock": Kind(Clock, (1, 6, 5), BTF, "output state", zeros(dtype=torch.int64), batch=False),
    "one-batch": Kind(
        OneBatch,
        (1, 6, 3),
        ("B", "T", 3),
        "output state",
        zeros(1, 3),
        t=(6,),
        batch=False,
        tail="refuse",
    ),
    "branch": Kind(Branch, (1, 6, 5), BTF, "output h", zeros(1, 1, 8)),
}


class _Twice(nn.Module):
    """A cell of one state, which returns it as output and as state."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(x, h)
        return h, h


def example(kind: Kind) -> Tensor:
    """Draw the example chunk of a kind."""
    torch.manual_seed(1)
    if kind.dtype == torch.int64:
        return torch.randint(11, tuple(kind.chunk))
    return torch.randn(tuple(kind.chunk), dtype=kind.dtype)
