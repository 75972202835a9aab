"""A module that forgets at the end of each chunk is refused, whatever T it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from dst.export import export_bundle
from dst.export.checks.forgets import check_carried
from dst.export.errors import StepFaultError
from dst.export.infer.axes import Known
from dst.export.infer.infer import infer
from dst.export.infer.inferred import Inferred

F = nn.functional


class Dropped(nn.Module):
    """Two recurrences as in most classifiers: their last state goes nowhere."""

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(5, 6, batch_first=True), nn.GRU(6, 4, batch_first=True)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x)[0])[0]
        return y[:, -1] if self.last else y


class Mended(Dropped):
    """The same with the lines that the message gives."""

    def forward(self, x: Tensor, state: object = None) -> tuple[Tensor, object]:  # type: ignore[override]
        s1, s2 = cast(tuple[Any, Any], state or (None, None))
        x, s1 = self.first(x, s1)
        x, s2 = self.second(x, s2)
        return x, (s1, s2)


class Half(Dropped):
    """One of the two is carried."""

    def forward(self, x: Tensor, state: object = None) -> tuple[Tensor, object]:  # type: ignore[override]
        x, state = self.first(x, state)
        return self.second(x)[0], state


class OwnZeros(nn.Module):
    """As in many a tutorial: zeros are made in ``forward``, time comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gru(x, torch.zeros(1, x.shape[1], 6))[0]
        return y[-1]


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        pair = None
        for item in x.unbind(1):
            pair = self.cell(item, pair)
        assert pair is not None
        h: Tensor = pair[0]
        return h


class Padded(nn.Module):
    """Causal convolutions that see zeros before each chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 4, 3), nn.Conv1d(4, 2, 3, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(F.pad(x, (2, 0))))
        answer: Tensor = self.second(F.pad(y, (4, 0)))
        return answer


class Summed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


class OverBands(nn.Module):
    """A recurrence over frequencies, which starts afresh by right, before one over time."""

    def __init__(self) -> None:
        super().__init__()
        self.bands, self.time = nn.GRU(2, 4, batch_first=True), nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor, state: object = None) -> tuple[Tensor, object]:
        b, t, bands, parts = x.shape
        y = self.bands(x.reshape(b * t, bands, parts))[0][:, -1]
        answer: tuple[Tensor, object] = self.time(y.reshape(b, t, 4), state)
        return answer


def found(module: nn.Module, chunk: Tensor, state: object = None, **known: object) -> Inferred:
    step = infer(module, chunk, state, Known(**known))  # type: ignore[arg-type]
    check_carried(step)
    return step


torch.manual_seed(0)  # how far back a window reaches is seen by what the weights let through
FORGETS = {
    "dropped": (Dropped(), torch.zeros(1, 8, 5), "`first` and `second` (nn.GRU and nn.LSTM)"),
    "per chunk": (Dropped(last=True), torch.zeros(1, 8, 5), "s1, s2 = state or (None, None)"),
    "half": (Half(), torch.zeros(1, 8, 5), "`x, s1 = self.second(x, s1)`"),
    "own zeros": (OwnZeros(), torch.zeros(8, 1, 5), "x, state = self.gru(x, state)"),
    "cells": (Cells(), torch.zeros(1, 8, 5), "h, c = state = self.cell(item, state)"),
    "inside": (nn.Sequential(Dropped()), torch.zeros(1, 8, 5), "self[0].first"),
    "padded": (Padded(), torch.zeros(1, 3, 8), "lookback=6"),
    "summed": (Summed(), torch.zeros(1, 8, 5), "return answer, state"),
}


@pytest.mark.parametrize("name", FORGETS)
@pytest.mark.parametrize("t", [(8,), (1, 8)], ids=["one T", "two T"])
def test_a_module_that_forgets_after_each_chunk_is_told_so(name: str, t: tuple[int, ...]) -> None:
    module, chunk, cure = FORGETS[name]
    with pytest.raises(StepFaultError, match="forgets after each chunk") as caught:
        found(module, chunk, t=t)
    assert caught.value.code == "cut-matters"
    assert cure in str(caught.value)


class OneLength(Dropped):
    """Takes chunks of one length, and says so in its own words."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 8:
            raise ValueError("eight readings, please")
        return super().forward(x)


class OneLengthOverBands(OverBands):
    def forward(self, x: Tensor, state: object = None) -> tuple[Tensor, object]:
        if x.shape[1] != 8:
            raise ValueError("eight frames, please")
        return super().forward(x, state)


def test_no_other_t_is_needed_to_tell_time_from_other_axes() -> None:
    with pytest.raises(StepFaultError, match="forgets after each chunk") as caught:
        found(OneLength(), torch.zeros(1, 8, 5), t=(8,))
    assert caught.value.code == "cut-matters"
    axes = {"batch_axis": 0, "time_axis": 1}
    assert found(OneLengthOverBands(), torch.zeros(1, 8, 8, 2), t=(8,), **axes).contract.state


def test_the_lines_that_the_message_gives_mend_it() -> None:
    assert len(found(Mended(), torch.zeros(1, 8, 5), t=(8,)).contract.state) == 3


def test_the_lookback_that_the_message_gives_mends_it() -> None:
    step = found(Padded(), torch.zeros(1, 3, 14), t=(8,), lookback=6)
    assert not step.contract.state
    with pytest.raises(StepFaultError, match=r"lookback gives 4.*lookback=6"):
        found(Padded(), torch.zeros(1, 3, 12), t=(8,), lookback=4)


@pytest.mark.parametrize(
    ("module", "chunk", "state", "more"),
    [
        (Dropped(last=True), torch.zeros(1, 8, 5), (), {}),
        (Padded(), torch.zeros(1, 3, 8), (), {}),
        (nn.Sequential(nn.Linear(5, 3), nn.Tanh()), torch.zeros(1, 8, 5), None, {}),
        (nn.Sequential(nn.Conv1d(3, 4, 8), nn.Flatten()), torch.zeros(1, 3, 8), None, {}),
        (OverBands(), torch.zeros(1, 8, 8, 2), None, {"batch_axis": 0, "time_axis": 1}),
        (nn.LSTM(5, 6, batch_first=True), torch.zeros(1, 8, 5), None, {}),
    ],
    ids=["window said", "convolution said", "no memory", "window", "over bands", "carried"],
)
def test_what_has_nothing_to_carry_or_says_so_is_taken(
    module: nn.Module, chunk: Tensor, state: object, more: dict[str, object]
) -> None:
    assert found(module, chunk, state, t=(8,), **more).contract.chunk.allowed_t == (8,)


def test_one_t_may_be_given_as_a_number_and_each_certificate_has_its_own_name(
    tmp_path: Path,
) -> None:
    manifest = export_bundle(
        nn.GRU(3, 4, batch_first=True),
        tmp_path / "b",
        chunk=torch.zeros(1, 4, 3),
        t=4,
        certify_steps=10,
    )
    assert manifest.contract.chunk.allowed_t == (4,)
    names = [certificate.name for certificate in manifest.certificates]
    assert len(set(names)) == len(names) == len(manifest.graphs)


class StateFirst(nn.Module):
    """The two arguments in the other order."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, state: object, x: Tensor) -> tuple[Tensor, object]:
        answer: tuple[Tensor, object] = self.gru(x, state)
        return answer


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru = nn.Embedding(9, 3), nn.GRU(3, 4, batch_first=True)

    def forward(self, ids: Tensor, state: object = None) -> tuple[Tensor, object]:
        answer: tuple[Tensor, object] = self.gru(self.table(ids), state)
        return answer


def test_a_failing_first_call_says_what_was_given_and_what_would_run() -> None:
    with pytest.raises(StepFaultError, match=r"forward\(state, x\), the chunk first"):
        found(StateFirst(), torch.zeros(1, 8, 3))
    with pytest.raises(StepFaultError, match=r"it takes token ids.*B,T:int64"):
        found(Embedded(), torch.zeros(1, 8))


class OnSelf(nn.Module):
    """A recurrence whose state is kept on the module."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.kept = nn.GRU(3, 4, batch_first=True), None

    def forward(self, x: Tensor) -> Tensor:
        answer, kept = self.gru(x, self.kept)
        self.kept = kept.detach()
        return answer  # type: ignore[no-any-return]


@pytest.mark.parametrize("t", [(4,), (1, 4)])
def test_a_state_on_self_is_named_as_its_owner_wrote_it(t: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(StepFaultError, match="attribute `kept` changed during a call") as caught:
        export_bundle(OnSelf(), tmp_path / "b", chunk=torch.zeros(1, 4, 3), t=t)
    assert caught.value.code == "hidden-state"
