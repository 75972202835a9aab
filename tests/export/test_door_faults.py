"""Laws of the faults of a module whose contract is found out: the search spoils no name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.steps import Tail
from torch import Tensor, nn

from dst.export import StepFaultError, export_bundle

CHUNK = torch.randn(1, 8, 5, generator=torch.Generator().manual_seed(0))
CUTS: list[tuple[Tail, tuple[int, ...]]] = [("exact", (1, 8)), ("refuse", (8,))]


class Plain(nn.Module):
    """A right module: a recurrent layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(5, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor, h: Any = None) -> Any:
        y, h = self.rnn(x, h)
        return self.head(y), h


class KeepsLast(Plain):
    """Goes on from the state it had, whatever it is given."""

    last: Tensor | None = None

    def forward(self, x: Tensor, h: Any = None) -> Any:
        y, self.last = self.rnn(x, self.last)
        return self.head(y), self.last


class WarmsUp(Plain):
    """Answers otherwise from its fiftieth call on."""

    calls = 0

    def forward(self, x: Tensor, h: Any = None) -> Any:
        self.calls += 1
        y, h = super().forward(x, h)
        return (y if self.calls < 50 else 0.5 * y), h


class KeepsMeans(Plain):
    """Adds what the last three chunks were like, from a list that fits one shape alone."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[Tensor] = []

    def forward(self, x: Tensor, h: Any = None) -> Any:
        self.means = [*self.means, x.mean(1)][-3:]
        y, h = super().forward(x, h)
        return y + sum(self.means).mean(), h  # type: ignore[union-attr]


class Slow:
    """An object that is called and keeps a running mean."""

    mean: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        now = x.mean(1, keepdim=True)
        known = self.mean is not None and len(self.mean) == len(x)
        self.mean = 0.9 * self.mean + 0.1 * now if known else now  # type: ignore[operator]
        return self.mean


class KeepsInHelper(Plain):
    """Normalises by such an object."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = Slow()

    def forward(self, x: Tensor, h: Any = None) -> Any:
        return super().forward(x - self.norm(x), h)


LAST: dict[str, Tensor] = {}


class KeepsInGlobal(Plain):
    """Adds the last chunk of any stream, and fails where that had another length."""

    def forward(self, x: Tensor, h: Any = None) -> Any:
        before = LAST.get("x", torch.zeros_like(x))
        LAST["x"] = x
        return super().forward(torch.stack([x, before]).sum(0), h)


@pytest.mark.parametrize(("tail", "t"), CUTS)
@pytest.mark.parametrize("made", [KeepsLast, WarmsUp, KeepsMeans, KeepsInHelper, KeepsInGlobal])
def test_a_memory_on_the_module_is_named_whatever_the_search_has_left_in_it(
    made: type[Plain], tail: Tail, t: tuple[int, ...], tmp_path: Path
) -> None:
    LAST.clear()
    with pytest.raises(StepFaultError) as fault:
        export_bundle(made(), tmp_path / "m", chunk=CHUNK, t=t, tail=tail, certify_steps=10)
    assert fault.value.code == "hidden-state"
    assert not (tmp_path / "m").exists()


class KeepsList(Plain):
    """Carries a list with one more tensor after each chunk."""

    def forward(self, x: Tensor, h: Any = None) -> Any:
        kept = [*h, x.mean(1)]
        return x + sum(kept)[:, None], kept


@pytest.mark.parametrize(("tail", "t"), CUTS)
def test_a_list_of_tensors_that_grows_is_a_state_that_grows(
    tail: Tail, t: tuple[int, ...], tmp_path: Path
) -> None:
    start = [torch.zeros(1, 5)]
    with pytest.raises(StepFaultError, match="holds 1, 2, 3 tensors") as fault:
        export_bundle(KeepsList(), tmp_path / "m", chunk=CHUNK, state=start, t=t, tail=tail)
    assert fault.value.code == "state-grows"
