"""Twins of the kind `state-never-updated`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from tests.twins.pair import H, Pair, W, features, ids, zeros
from torch import Tensor, nn


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


class PlaceNeverMoves(nn.Module):
    """Fault: a whole-number position is read and handed on unmoved."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(32, W)
        self.register_buffer("waves", torch.randn(16, W))
        self.gru = nn.GRU(W, W, batch_first=True)

    def after(self, place: Tensor, items: int) -> Tensor:
        return place

    def forward(self, tokens: Tensor, state: Any) -> Any:
        places = (state["place"] + torch.arange(tokens.shape[1])) % 16
        waves = F.embedding(places, self.get_buffer("waves"))
        y, h = self.gru(self.table(tokens) + waves, state["h"])
        return y, {"h": h, "place": self.after(state["place"], tokens.shape[1])}


class PlaceMoves(PlaceNeverMoves):
    def after(self, place: Tensor, items: int) -> Tensor:
        return (place + items) % 16


PAIRS = [
    Pair(
        "state-never-updated", LstmReturnsOldState, LstmReturnsNewState, features(1, 8, 6), (H, H)
    ),
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
        "state-never-updated",
        UpperGruForgottenInList,
        UpperGruKeptInList,
        features(8, 1, 5),
        [H, H],
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
        "state-never-updated",
        PlaceNeverMoves,
        PlaceMoves,
        ids(
            32,
            1,
            8,
        ),
        {"h": H, "place": torch.zeros(1, 1, dtype=torch.int64)},
    ),
]
