"""Slots: a contract and a number in, that many recurrences over rows of shared tensors out.

Each state tensor of all slots is one array `[N, ...]`, twice: side 0 and side 1. Row i of the two
sides are the two arenas of slot i, so that a graph with a batch axis steps every row of a side at
once and each slot still moves by the rules of `Recurrence`, alone.

One array per tensor, not one block per slot: the graph then reads and writes the rows where they
lie, and a batch of some of them is gathered at a third of the cost (docs/pool.md;
`python examples/bench/pool.py layout BUNDLE`).

Shape letters: `B` batch, `N` slots, `L` lookback.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime.execution.buffers import Block, Layout, Place
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.finite import finite, pieces
from dst.runtime.execution.recurrence import Recurrence
from dst.runtime.execution.stream_inputs import Given

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.intp]


class Side:
    """The state tensors of some number of rows, in contract order.

    Attributes:
        tensors: one array per state tensor, its batch axis as long as there are rows.
        axes: the batch axis of each.
    """

    __slots__ = ("axes", "tensors")

    def __init__(self, engine: Engine, rows: int) -> None:
        contract = engine.contract
        layout = Layout.of(contract, rows)
        self.axes = [state.batch_axis for state in contract.state]
        self.tensors = list(layout.views(layout.block()).values())
        for tensor, first in zip(
            self.tensors, engine.layout.views(engine.initial).values(), strict=True
        ):
            tensor[...] = first  # every row is a state that a graph can step

    def row(self, number: int) -> list[Array]:
        """View one row: each tensor in the contract's shape with B = 1."""
        return [row_of(t, a, number) for t, a in zip(self.tensors, self.axes, strict=True)]

    def gather(self, rows: Rows, target: "Side") -> None:
        """Copy these rows to all rows of `target`, which has as many."""
        for tensor, axis, room in zip(self.tensors, self.axes, target.tensors, strict=True):
            np.take(tensor, rows, axis, room, mode="clip")  # any other mode makes a copy first

    def scatter(self, rows: Rows, target: "Side") -> None:
        """Copy the first rows to these rows of `target`."""
        for tensor, axis, room in zip(self.tensors, self.axes, target.tensors, strict=True):
            every = (slice(None),) * axis
            place: tuple[slice | Rows, ...] = (*every, rows)
            room[place] = tensor[(*every, slice(len(rows)))]


def row_of(array: Array, axis: int, number: int) -> Array:
    """View one row of a batch axis; the axis stays, with length 1."""
    return array[(slice(None),) * axis + (slice(number, number + 1),)]


class RowArena:
    """An arena that is one row of a side."""

    __slots__ = ("_floats", "_places", "_rows", "values")

    def __init__(self, places: Sequence[Place], rows: Sequence[Array]) -> None:
        self.values: tuple[ort.OrtValue, ...] = ()  # the sides are bound whole, not row by row
        self._places = tuple(places)
        self._rows = tuple(rows)
        self._floats: list[Floats] = []
        for row in rows:
            if row.dtype.kind == "f":
                flat = row.flags.c_contiguous
                self._floats += pieces(row) if flat else [cast(Floats, row)]

    def read(self, block: Block) -> None:
        """Copy the state into a host block."""
        for place, row in zip(self._places, self._rows, strict=True):
            np.copyto(_tensor(place, block), row)

    def write(self, block: Block) -> None:
        """Copy the state from a host block."""
        for place, row in zip(self._places, self._rows, strict=True):
            np.copyto(row, _tensor(place, block))

    def fill(self, tensors: Mapping[str, Array]) -> None:
        """Copy the state from tensors by name."""
        for place, row in zip(self._places, self._rows, strict=True):
            np.copyto(row, tensors[place.name])

    def tensors(self) -> Mapping[str, Array]:
        """View the row by name."""
        return {p.name: row for p, row in zip(self._places, self._rows, strict=True)}

    def room(self) -> Mapping[str, Array]:
        """Return nothing: a row need not be contiguous."""
        return {}

    def take(self, other: "RowArena") -> None:
        """Copy the state from another row."""
        for row, theirs in zip(self._rows, other._rows, strict=True):
            np.copyto(row, theirs)

    def finite(self) -> bool:
        """Say whether every float in the state is finite."""
        return finite(self._floats)


def _tensor(place: Place, block: Block) -> Array:
    return block[place.start : place.start + place.size].view(place.dtype).reshape(place.shape)


class Slot(Recurrence):
    """One stream of a pool; the batch takes the step, and `commit` makes it count.

    A call is `begin`, then for every step `ready`, the batch, `commit`; then as `Recurrence`.

    Attributes:
        number: which row is its own.
    """

    __slots__ = ("_own", "number")

    def __init__(self, engine: Engine, number: int, sides: Sequence[Side], given: Given) -> None:
        places = engine.layout.places
        self._own = [RowArena(places, side.row(number)) for side in sides]
        super().__init__(engine, (self._own[0], self._own[1]))
        self.number = number
        self.reset(given)

    def protect(self) -> None:
        """Before others are stepped with this row among theirs: keep what `undo` will need."""
        self._guard()

    def cross(self) -> None:
        """Move to the other side, as it is."""
        self._steps = max(self._steps, 1)
        self._guard()
        side = self.mark.side
        self._own[side ^ 1].take(self._own[side])
        np.copyto(self._look[side ^ 1], self._look[side])
        self.mark = self.mark._replace(side=side ^ 1)
