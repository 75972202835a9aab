"""A small torch step with its contract, for tests that plant faults in it.

A step reads three features or tokens and has a small state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from msgspec.structs import replace
from tests.steps import PLAIN, Tail, chunk_of, contract_of, output_of, state_of
from torch import Tensor, nn

from dst.export import Step
from dst.runtime.bundle.manifest import Fill, State, Stored, Tokens, Zeros

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
