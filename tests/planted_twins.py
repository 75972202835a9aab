"""Faulty stateful modules as their owners would write them, each beside its mended twin.

Written from the public documents alone: what the exporter checks, and how, was not looked at. A
twin is the same module with the one fault mended; where the cure needs a further state tensor, the
twin has a state of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

W = 8


def zeros(*shape: int) -> Tensor:
    """A state that starts from nothing."""
    return torch.zeros(*shape)


def features(*shape: int) -> Tensor:
    """An example chunk of random readings."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def ids(count: int, *shape: int) -> Tensor:
    """An example chunk of token ids."""
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(5))


SAME = object()


@dataclass(frozen=True)
class Pair:
    """A faulty module, its twin, and how both are exported."""

    kind: str
    faulty: Callable[[], nn.Module]
    mended: Callable[[], nn.Module]
    chunk: Tensor
    state: Any = None
    mended_state: Any = SAME
    t: Sequence[int] = (1, 8)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The faulty class, by which a test is called."""
        return getattr(self.faulty, "__name__", str(self.faulty))


# --- state-never-updated -------------------------------------------------------------------------


class LstmReturnsOldState(nn.Module):
    """Fault: the LSTM's new state is dropped and the old one returned."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, W, batch_first=True)
        self.head = nn.Linear(W, 3)

    def forward(self, x: Tensor, state: Any) -> Any:
        y, _ = self.lstm(x, state)
        return self.head(y), state


class LstmReturnsNewState(LstmReturnsOldState):
    def forward(self, x: Tensor, state: Any) -> Any:
        y, state = self.lstm(x, state)
        return self.head(y), state


class ConvKeepsFirstItems(nn.Module):
    """Fault: the context is cut from the wrong end, so it is the old context for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, W, 6)
        self.head = nn.Conv1d(W, 2, 1)

    def forward(self, x: Tensor, state: Any) -> Any:
        before = torch.cat([state, x], 2)
        return self.head(torch.relu(self.conv(before))), before[:, :, :5]


class ConvKeepsLastItems(ConvKeepsFirstItems):
    def forward(self, x: Tensor, state: Any) -> Any:
        before = torch.cat([state, x], 2)
        return self.head(torch.relu(self.conv(before))), before[:, :, -5:]


class SlowAverageWithWholeDivision(nn.Module):
    """Fault: `1 // 16` is zero, so the slow one of two averages never moves."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 6, 2)

    def rates(self) -> tuple[float, float]:
        return 1 / 4, 1 // 16

    def forward(self, x: Tensor, state: Any) -> Any:
        fast, slow = state["fast"], state["slow"]
        quick, lazy = self.rates()
        answers = []
        for item in x.unbind(1):
            fast = fast + quick * (item - fast)
            slow = slow + lazy * (item - slow)
            answers.append(self.head(torch.cat([item, fast, slow], -1)))
        return torch.stack(answers, 1), {"fast": fast, "slow": slow}


class SlowAverageWithDivision(SlowAverageWithWholeDivision):
    def rates(self) -> tuple[float, float]:
        return 1 / 4, 1 / 16


class UpperGruForgottenInList(nn.Module):
    """Fault: of two stacked GRUs, time first, only the lower one's state is written back."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.GRU(5, W), nn.GRU(W, W)])

    def forward(self, x: Tensor, state: Any) -> Any:
        after = list(state)
        x, after[0] = self.layers[0](x, state[0])
        x, _ = self.layers[1](x, state[1])
        return x, after


class UpperGruKeptInList(UpperGruForgottenInList):
    def forward(self, x: Tensor, state: Any) -> Any:
        after = list(state)
        x, after[0] = self.layers[0](x, state[0])
        x, after[1] = self.layers[1](x, state[1])
        return x, after


class RingWrittenOnACopy(nn.Module):
    """Fault: the ring is copied, the copy is written to, and the ring itself is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, W)
        self.query = nn.Linear(W, W)
        self.head = nn.Linear(W, 32)

    def read(self, ring: Tensor, item: Tensor) -> Tensor:
        weights = torch.softmax((ring * self.query(item)[:, None]).sum(-1), 1)
        return (weights[..., None] * ring).sum(1)

    def forward(self, tokens: Tensor, state: Any) -> Any:
        ring, answers = state["ring"].clone(), []
        for item in self.table(tokens).unbind(1):
            ring = torch.cat([ring[:, 1:], item[:, None]], 1)
            answers.append(self.head(self.read(ring, item)))
        return torch.stack(answers, 1), state


class RingWritten(RingWrittenOnACopy):
    def forward(self, tokens: Tensor, state: Any) -> Any:
        ring, answers = state["ring"].clone(), []
        for item in self.table(tokens).unbind(1):
            ring = torch.cat([ring[:, 1:], item[:, None]], 1)
            answers.append(self.head(self.read(ring, item)))
        return torch.stack(answers, 1), {"ring": ring}


# --- state-never-read ----------------------------------------------------------------------------


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


# --- hidden-state --------------------------------------------------------------------------------


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
        y, lstm = self.lstm(
            torch.cat([x, x.diff(dim=1, prepend=state["last"])], -1), state["lstm"]
        )
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


# --- random --------------------------------------------------------------------------------------


class DropoutLeftOn(nn.Module):
    """Fault: `F.dropout` without `training=`, which is on in evaluation as well."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, W, batch_first=True)
        self.head = nn.Linear(W, 3)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        y, state = self.lstm(x, state)
        return self.head(F.dropout(y, 0.1)), state


class DropoutOffInEvaluation(DropoutLeftOn):
    def forward(self, x: Tensor, state: Any = None) -> Any:
        y, state = self.lstm(x, state)
        return self.head(F.dropout(y, 0.1, training=self.training)), state


class DitherOfOnePartInAThousand(nn.Module):
    """Fault: a little noise is added to the samples of a carried convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, W, 5)

    def front(self, x: Tensor) -> Tensor:
        return x + 0.001 * torch.randn_like(x)

    def forward(self, x: Tensor, past: Tensor) -> Any:
        before = torch.cat([past, self.front(x)], 2)
        return torch.relu(self.conv(before)), before[:, :, -4:]


class NoDither(DitherOfOnePartInAThousand):
    def front(self, x: Tensor) -> Tensor:
        return x


class StartDrawnAtRandom(nn.Module):
    """Fault: where no state is given, the module starts from `torch.randn`, as tutorials do."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, W, batch_first=True)
        self.head = nn.Linear(W, 2)

    def start(self, rows: int) -> Tensor:
        return torch.randn(1, rows, W)

    def forward(self, x: Tensor, h: Any = None) -> Any:
        if h is None:
            h = self.start(x.shape[0])
        y, h = self.gru(x, h)
        return self.head(y), h


class StartFromZeros(StartDrawnAtRandom):
    def start(self, rows: int) -> Tensor:
        return torch.zeros(1, rows, W)


class NextTokenSampled(nn.Module):
    """Fault: beside its logits the model returns a token that it samples."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(24, W)
        self.gru = nn.GRU(W, W, batch_first=True)
        self.head = nn.Linear(W, 24)

    def pick(self, logits: Tensor) -> Tensor:
        rows = torch.softmax(logits, -1).flatten(0, 1)
        return torch.multinomial(rows, 1).reshape(logits.shape[:2]).float()

    def forward(self, tokens: Tensor, h: Any) -> Any:
        y, h = self.gru(self.table(tokens), h)
        logits = self.head(y)
        return {"logits": logits, "next": self.pick(logits)}, h


class NextTokenGreatest(NextTokenSampled):
    def pick(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1).float()


class Zoneout(nn.Module):
    """Fault: zoneout keeps old state at random, in evaluation too, by Python's own numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, W)

    def keep(self) -> float:
        return 1.0 if random.random() < 0.2 else 0.0

    def forward(self, x: Tensor, h: Tensor) -> Any:
        answers = []
        for item in x.unbind(1):
            keep = self.keep()
            h = keep * h + (1 - keep) * self.cell(item, h)
            answers.append(h)
        return torch.stack(answers, 1), h


class ZoneoutExpected(Zoneout):
    def keep(self) -> float:
        return 0.2


class GateByGumbel(nn.Module):
    """Fault: the gate of one of two memories is drawn by Gumbel noise."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(5, 2)
        self.write = nn.Linear(5, W)

    def choose(self, item: Tensor) -> Tensor:
        return F.gumbel_softmax(self.gate(item), tau=1.0)

    def forward(self, x: Tensor, state: Any) -> Any:
        a, b = state["a"], state["b"]
        answers = []
        for item in x.unbind(1):
            gate = self.choose(item)
            a = a + gate[:, :1] * (self.write(item) - a)
            b = 0.9 * b + 0.1 * self.write(item)
            answers.append(torch.cat([a, b], -1))
        return torch.stack(answers, 1), {"a": a, "b": b}


class GateBySoftmax(GateByGumbel):
    def choose(self, item: Tensor) -> Tensor:
        return torch.softmax(self.gate(item), -1)


# --- rows-mixed ----------------------------------------------------------------------------------


class LastHiddenReshaped(nn.Module):
    """Fault: `(layers, B, H)` is reshaped to `(B, layers * H)` without a transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, W, num_layers=2, batch_first=True)
        self.head = nn.Linear(2 * W, 3)

    def flat(self, h: Tensor) -> Tensor:
        return h.reshape(h.shape[1], -1)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        y, state = self.lstm(x, state)
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


# --- not-causal ----------------------------------------------------------------------------------


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


# --- state-grows ---------------------------------------------------------------------------------


class ContextNotCut(nn.Module):
    """Fault: the convolution returns all that it has read as its context."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, W, 5)

    def kept(self, before: Tensor) -> Tensor:
        return before

    def forward(self, x: Tensor, past: Tensor) -> Any:
        before = torch.cat([past, x], 2)
        y = self.conv(before[:, :, -(x.shape[2] + 4) :])
        return y, self.kept(before)


class ContextCut(ContextNotCut):
    def kept(self, before: Tensor) -> Tensor:
        return before[:, :, -4:]


class ContextCutForSingles(nn.Module):
    """Fault: the context is cut by one item a call, so it grows where a chunk has more items."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, W, 5)
        self.gru = nn.GRU(W, W, batch_first=True)

    def kept(self, before: Tensor) -> Tensor:
        return before[:, :, 1:]

    def forward(self, x: Tensor, state: Any) -> Any:
        past, h = state
        before = torch.cat([past, x], 2)
        y = self.conv(before[:, :, -(x.shape[2] + 4) :])
        y, h = self.gru(y.transpose(1, 2), h)
        return y.transpose(1, 2), (self.kept(before), h)


class ContextCutForChunks(ContextCutForSingles):
    def kept(self, before: Tensor) -> Tensor:
        return before[:, :, -4:]


class KeyCache(nn.Module):
    """Fault: attention appends its keys and values to a cache that nothing bounds."""

    window: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, W)
        self.qkv = nn.Linear(W, 3 * W)

    def forward(self, tokens: Tensor, state: Any) -> Any:
        q, k, v = self.qkv(self.table(tokens)).chunk(3, -1)
        keys, values = state["keys"], state["values"]
        answers = []
        for i in range(tokens.shape[1]):
            keys = torch.cat([keys, k[:, i : i + 1]], 1)
            values = torch.cat([values, v[:, i : i + 1]], 1)
            if self.window:
                keys, values = keys[:, -self.window :], values[:, -self.window :]
            score = (keys * q[:, i : i + 1]).sum(-1)
            answers.append((torch.softmax(score, 1)[..., None] * values).sum(1))
        return torch.stack(answers, 1), {"keys": keys, "values": values}


class KeyRing(KeyCache):
    window = 6


class WindowFillsUp(nn.Module):
    """Fault: the window starts empty and fills up to 20 items, so its size changes for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, W)

    def forward(self, x: Tensor, window: Tensor) -> Any:
        answers = []
        for item in x.split(1, 1):
            window = torch.cat([window, item], 1)[:, -20:]
            answers.append(self.head(window.sum(1) / 20))
        return torch.stack(answers, 1), window


class WindowFull(WindowFillsUp):
    """The same class, which is sound where the window starts full of zeros."""


class TokensSoFar(nn.Module):
    """Fault: beside a GRU's state, all tokens so far are kept, to damp those that repeat."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, W)
        self.gru = nn.GRU(W, W, batch_first=True)
        self.head = nn.Linear(W, 16)

    def forward(self, tokens: Tensor, state: Any) -> Any:
        h, past = state
        y, h = self.gru(self.table(tokens), h)
        past = torch.cat([past, F.one_hot(tokens, 16).float()], 1)
        seen = past.cumsum(1)[:, -tokens.shape[1] :]
        return self.head(y) - torch.log1p(seen), (h, past)


class TokenCounts(TokensSoFar):
    def forward(self, tokens: Tensor, state: Any) -> Any:
        h, past = state
        y, h = self.gru(self.table(tokens), h)
        seen = past[:, None] + F.one_hot(tokens, 16).float().cumsum(1)
        return self.head(y) - torch.log1p(seen), (h, seen[:, -1])


# --- data-dependent ------------------------------------------------------------------------------


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


class RootUntilItConverges(nn.Module):
    """Fault: Newton's steps for a root mean square run until they converge."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, W)

    def root(self, power: Tensor) -> Tensor:
        root = power
        while bool(((root * root - power).abs() > 1e-6 * power).any()):
            root = 0.5 * (root + power / root)
        return root

    def forward(self, x: Tensor, power: Tensor) -> Any:
        answers = []
        for item in x.unbind(1):
            power = 0.9 * power + 0.1 * (item * item + 0.5)
            answers.append(self.head(item / self.root(power)))
        return torch.stack(answers, 1), power


class RootByTwelveSteps(RootUntilItConverges):
    def root(self, power: Tensor) -> Tensor:
        root = power
        for _ in range(12):
            root = 0.5 * (root + power / root)
        return root


# --- cut-matters ---------------------------------------------------------------------------------


class DifferenceFromChunkStart(nn.Module):
    """Fault: the difference feature of a chunk's first item is always zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(10, W, batch_first=True)

    def forward(self, x: Tensor, state: Any) -> Any:
        change = x.diff(dim=1, prepend=x[:, :1])
        y, h = self.gru(torch.cat([x, change], -1), state["h"])
        return y, {"h": h}


class DifferenceFromLast(DifferenceFromChunkStart):
    def forward(self, x: Tensor, state: Any) -> Any:
        change = x.diff(dim=1, prepend=state["last"])
        y, h = self.gru(torch.cat([x, change], -1), state["h"])
        return y, {"h": h, "last": x[:, -1:]}


class PositionsStartAgain(nn.Module):
    """Fault: the positions start again from zero with each chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, W)
        self.register_buffer("waves", torch.sin(torch.arange(16.0)[:, None] * torch.rand(W)))
        self.gru = nn.GRU(W, W, batch_first=True)

    def forward(self, tokens: Tensor, state: Any) -> Any:
        waves = self.get_buffer("waves")[: tokens.shape[1]]
        y, h = self.gru(self.table(tokens) + waves, state["h"])
        return y, {"h": h}


class PositionsGoOn(PositionsStartAgain):
    def forward(self, tokens: Tensor, state: Any) -> Any:
        places = state["place"][:, None] + torch.arange(tokens.shape[1])
        waves = F.embedding(places % 16, self.get_buffer("waves"))
        y, h = self.gru(self.table(tokens) + waves, state["h"])
        return y, {"h": h, "place": (state["place"] + tokens.shape[1]) % 16}


class DecayOncePerChunk(nn.Module):
    """Fault: the sums of a linear memory fade once a chunk, and not once an item."""

    def __init__(self) -> None:
        super().__init__()
        self.write = nn.Linear(5, W)

    def forward(self, x: Tensor, s: Tensor) -> Any:
        sums = 0.99 * s[:, None] + torch.tanh(self.write(x)).cumsum(1)
        return sums, sums[:, -1]


class DecayOncePerItem(DecayOncePerChunk):
    def forward(self, x: Tensor, s: Tensor) -> Any:
        written, sums = torch.tanh(self.write(x)), []
        for item in written.unbind(1):
            s = 0.99 * s + item
            sums.append(s)
        return torch.stack(sums, 1), s


class SecondLstmStartsAgain(nn.Module):
    """Fault: the upper of two LSTMs is not in the state; it starts from zeros in each chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.LSTM(5, W, batch_first=True)
        self.upper = nn.LSTM(W, W, batch_first=True)

    def forward(self, x: Tensor, state: Any) -> Any:
        y, state = self.lower(x, state)
        y, _ = self.upper(y)
        return y, state


class SecondLstmGoesOn(SecondLstmStartsAgain):
    def forward(self, x: Tensor, state: Any) -> Any:
        y, lower = self.lower(x, state[0])
        y, upper = self.upper(y, state[1])
        return y, (lower, upper)


class StateRoundedOncePerCall(nn.Module):
    """Fault: the state is rounded to half precision whenever a chunk ends."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, W, batch_first=True)

    def stored(self, h: Tensor) -> Tensor:
        return torch.round(h * 512) / 512

    def forward(self, x: Tensor, h: Any) -> Any:
        y, h = self.gru(x, h)
        return y, self.stored(h)


class StateNotRounded(StateRoundedOncePerCall):
    def stored(self, h: Tensor) -> Tensor:
        return h


class ContextOfOneLayerOnly(nn.Module):
    """Fault: the second of two convolutions is padded with zeros in front of each chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, W, 4)
        self.second = nn.Conv1d(W, 2, 3)

    def forward(self, x: Tensor, state: Any) -> Any:
        before = torch.cat([state["first"], x], 2)
        y = torch.relu(self.first(before))
        return self.second(F.pad(y, (2, 0))), {"first": before[:, :, -3:]}


class ContextOfBothLayers(ContextOfOneLayerOnly):
    def forward(self, x: Tensor, state: Any) -> Any:
        before = torch.cat([state["first"], x], 2)
        y = torch.relu(self.first(before))
        middle = torch.cat([state["second"], y], 2)
        kept = {"first": before[:, :, -3:], "second": middle[:, :, -2:]}
        return self.second(middle), kept


class Levels(NamedTuple):
    """What a compressor carries."""

    peak: Tensor
    gain: Tensor


class GainHeldOverChunk(nn.Module):
    """Fault: a compressor applies the gain it had before the chunk to all of the chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, W)

    def gains(self, before: Tensor, gains: list[Tensor]) -> Tensor:
        return torch.stack([before] * len(gains), 1)

    def forward(self, x: Tensor, state: Any) -> Any:
        peak, gain = state
        gains = []
        for item in x.unbind(1):
            peak = torch.maximum(0.95 * peak, item.abs())
            gains.append(1 / (1 + peak))
        y = self.head(x * self.gains(gain, gains))
        return y, Levels(peak, gains[-1])


class GainOfEachItem(GainHeldOverChunk):
    def gains(self, before: Tensor, gains: list[Tensor]) -> Tensor:
        return torch.stack([before, *gains[:-1]], 1)


H = zeros(1, 1, W)

PAIRS = [
    Pair("state-never-updated", LstmReturnsOldState, LstmReturnsNewState, features(1, 8, 6), (H, H)),
    Pair(
        "state-never-updated",
        ConvKeepsFirstItems,
        ConvKeepsLastItems,
        features(1, 4, 8),
        zeros(1, 4, 5),
    ),
    Pair(
        "state-never-updated",
        SlowAverageWithWholeDivision,
        SlowAverageWithDivision,
        features(1, 4, 6),
        {"fast": zeros(1, 6), "slow": zeros(1, 6)},
        t=(1, 4),
    ),
    Pair(
        "state-never-updated", UpperGruForgottenInList, UpperGruKeptInList, features(8, 1, 5), [H, H]
    ),
    Pair(
        "state-never-updated",
        RingWrittenOnACopy,
        RingWritten,
        ids(32, 1, 3),
        {"ring": zeros(1, 5, W)},
        t=(1, 3),
    ),
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
    Pair("random", DropoutLeftOn, DropoutOffInEvaluation, features(1, 8, 6)),
    Pair("random", DitherOfOnePartInAThousand, NoDither, features(1, 1, 8), zeros(1, 1, 4)),
    Pair("random", StartDrawnAtRandom, StartFromZeros, features(1, 8, 5)),
    Pair("random", NextTokenSampled, NextTokenGreatest, ids(24, 1, 8), H),
    Pair("random", Zoneout, ZoneoutExpected, features(1, 3, 4), zeros(1, W), t=(1, 3)),
    Pair(
        "random",
        GateByGumbel,
        GateBySoftmax,
        features(1, 3, 5),
        {"a": zeros(1, W), "b": zeros(1, W)},
        t=(1, 3),
    ),
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
    Pair("state-grows", ContextNotCut, ContextCut, features(1, 3, 8), zeros(1, 3, 4)),
    Pair(
        "state-grows",
        ContextCutForSingles,
        ContextCutForChunks,
        features(1, 3, 8),
        (zeros(1, 3, 4), H),
    ),
    Pair(
        "state-grows",
        KeyCache,
        KeyRing,
        ids(32, 1, 3),
        {"keys": zeros(1, 6, W), "values": zeros(1, 6, W)},
        t=(1, 3),
    ),
    Pair(
        "state-grows",
        WindowFillsUp,
        WindowFull,
        features(1, 3, 4),
        zeros(1, 0, 4),
        zeros(1, 20, 4),
        t=(1, 3),
    ),
    Pair(
        "state-grows",
        TokensSoFar,
        TokenCounts,
        ids(16, 1, 8),
        (H, zeros(1, 4, 16)),
        (H, zeros(1, 16)),
    ),
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
        RootUntilItConverges,
        RootByTwelveSteps,
        features(1, 3, 4),
        torch.ones(1, 4),
        t=(1, 3),
    ),
    Pair(
        "cut-matters",
        DifferenceFromChunkStart,
        DifferenceFromLast,
        features(1, 8, 5),
        {"h": H},
        {"h": H, "last": zeros(1, 1, 5)},
    ),
    Pair(
        "cut-matters",
        PositionsStartAgain,
        PositionsGoOn,
        ids(32, 1, 8),
        {"h": H},
        {"h": H, "place": torch.zeros(1, dtype=torch.int64)},
    ),
    Pair(
        "cut-matters", DecayOncePerChunk, DecayOncePerItem, features(1, 3, 5), zeros(1, W), t=(1, 3)
    ),
    Pair(
        "cut-matters",
        SecondLstmStartsAgain,
        SecondLstmGoesOn,
        features(1, 8, 5),
        (H, H),
        ((H, H), (H, H)),
    ),
    Pair("cut-matters", StateRoundedOncePerCall, StateNotRounded, features(1, 8, 5), H),
    Pair(
        "cut-matters",
        ContextOfOneLayerOnly,
        ContextOfBothLayers,
        features(1, 3, 8),
        {"first": zeros(1, 3, 3)},
        {"first": zeros(1, 3, 3), "second": zeros(1, W, 2)},
    ),
    Pair(
        "cut-matters",
        GainHeldOverChunk,
        GainOfEachItem,
        features(1, 3, 2),
        Levels(zeros(1, 2), torch.ones(1, 2)),
        t=(1, 3),
    ),
]
