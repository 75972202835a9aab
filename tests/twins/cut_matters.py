"""Twins of the kind `cut-matters`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tests.twins.pair import H, Pair, W, features, ids, zeros
from torch import Tensor, nn


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


class PlaceCountsChunks(nn.Module):
    """Fault: the position goes on by one a chunk, not by one an item."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, W, batch_first=True)

    def moved(self, place: Tensor, items: int) -> Tensor:
        return place + 1

    def forward(self, x: Tensor, state: Any) -> Any:
        h, place = state
        places = place + torch.arange(x.shape[1])
        y, h = self.gru(x + 0.1 * torch.sin(places)[..., None], h)
        return y, (h, self.moved(place, x.shape[1]) % (2 * torch.pi))


class PlaceCountsItems(PlaceCountsChunks):
    def moved(self, place: Tensor, items: int) -> Tensor:
        return place + items


class SinglesTakeAnotherPath(nn.Module):
    """Fault: the path for single items forgets the scale of 1.01 that chunks have."""

    single = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, W, batch_first=True)

    def forward(self, x: Tensor, state: Any = None) -> Any:
        scale = self.single if x.shape[1] == 1 else 1.01
        return self.lstm(x * scale, state)


class SinglesTakeTheSamePath(SinglesTakeAnotherPath):
    single = 1.01


PAIRS = [
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
    Pair(
        "cut-matters",
        PlaceCountsChunks,
        PlaceCountsItems,
        features(1, 8, 4),
        (H, zeros(1, 1)),
    ),
    Pair(
        "cut-matters",
        SinglesTakeAnotherPath,
        SinglesTakeTheSamePath,
        features(1, 8, 4),
    ),
]
