"""Twins of the kind `random`."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tests.twins.pair import H, Pair, W, features, ids, zeros
from torch import Tensor, nn


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


class LossOnceInAThousand(nn.Module):
    """Fault: one call in a thousand, by Python's own numbers, loses its chunk."""

    share = 0.001

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, W, batch_first=True)

    def front(self, x: Tensor) -> Tensor:
        return x * float(random.random() > self.share)

    def forward(self, x: Tensor, h: Any) -> Any:
        return self.gru(self.front(x), h)


class LossOnceInTwenty(LossOnceInAThousand):
    """Fault: one call in twenty, by Python's own numbers, loses its chunk."""

    share = 0.05


class NoLoss(LossOnceInAThousand):
    def front(self, x: Tensor) -> Tensor:
        return x


class AttentionDropsOut(nn.Module):
    """Fault: `scaled_dot_product_attention` is given a dropout, which has no evaluation mode."""

    dropout = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(5, W), nn.Linear(5, 2 * W)

    def forward(self, x: Tensor, past: Tensor) -> Any:
        seen = torch.cat([past, x], 1)
        k, v = self.kv(seen).chunk(2, -1)
        t, n = x.shape[1], past.shape[1]
        i, j = torch.arange(t)[:, None] + n, torch.arange(t + n)
        near = (j <= i) & (j >= i - n)
        y = F.scaled_dot_product_attention(self.q(x), k, v, near, dropout_p=self.dropout)
        return y, seen[:, -n:]


class AttentionKeepsAll(AttentionDropsOut):
    dropout = 0.0


class NoiseFromNumpy(nn.Module):
    """Fault: one number of numpy's noise a call leaks into one of two memories."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRU(3, W, batch_first=True), nn.GRU(3, W, batch_first=True)

    def noise(self) -> float:
        return float(np.random.normal(0, 1e-3))

    def forward(self, x: Tensor, state: Any) -> Any:
        y, a = self.a(x, state[0])
        z, b = self.b(x, state[1])
        return y + z, [a, b + self.noise()]


class NoNoise(NoiseFromNumpy):
    def noise(self) -> float:
        return 0.0


PAIRS = [
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
    Pair(
        "random",
        LossOnceInAThousand,
        NoLoss,
        features(1, 8, 4),
        H,
    ),
    Pair(
        "random",
        LossOnceInTwenty,
        NoLoss,
        features(1, 8, 4),
        H,
    ),
    Pair(
        "random",
        AttentionDropsOut,
        AttentionKeepsAll,
        features(1, 8, 5),
        zeros(1, 5, 5),
    ),
    Pair(
        "random",
        NoiseFromNumpy,
        NoNoise,
        features(1, 8, 3),
        [H, H],
    ),
]
