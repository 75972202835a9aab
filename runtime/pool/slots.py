"""Make the slots of a pool: recurrences over the rows of shared state tensors.

Each state tensor of all slots is one array `[N, ...]`, twice. Row i of the two are the two states
of slot i, so that a graph with a batch axis steps every row at once and each slot still moves by
the rules of `Recurrence`, alone. One array per tensor, not one block per slot: the graph then reads
and writes the rows where they lie, and a batch of some of them is gathered at a third of the cost
(docs/pool.md; `python examples/bench/pool.py layout BUNDLE`).

Shape letters: `B` batch, `N` slots, `L` lookback.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dst.runtime.execution.buffers import Buffers, Layout, StateBuffers
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.inputs import GivenInputs
from dst.runtime.execution.recurrence import Recurrence
from dst.runtime.execution.step import row_of

Array = npt.NDArray[np.generic]
Rows = npt.NDArray[np.intp]


class BatchState(Buffers):
    """The state tensors of some streams: each array has a row per stream, along its batch axis."""

    __slots__ = ("axes",)

    def __init__(self, engine: Engine, rows: int) -> None:
        contract = engine.contract
        layout = Layout.of(contract, rows)
        super().__init__(layout.views(layout.block()))
        self.axes = {state.input: state.batch_axis for state in contract.state}
        for name, array in self.arrays.items():
            array[...] = engine.initial[name]  # every row is a state that a graph can step

    def row(self, number: int) -> dict[str, Array]:
        """View one row: each tensor in the contract's shape with B = 1."""
        return {name: row_of(a, self.axes[name], number) for name, a in self.arrays.items()}

    def gather(self, rows: Rows, target: "BatchState") -> None:
        """Copy these rows to all rows of `target`, which has as many."""
        for name, array in self.arrays.items():  # any other mode makes a copy first
            np.take(array, rows, self.axes[name], target.arrays[name], mode="clip")

    def scatter(self, rows: Rows, target: "BatchState") -> None:
        """Copy the first rows to these rows of `target`."""
        for name, array in self.arrays.items():
            every = (slice(None),) * self.axes[name]
            place: tuple[slice | Rows, ...] = (*every, rows)
            target.arrays[name][place] = array[(*every, slice(len(rows)))]


class Slot(Recurrence):
    """One stream of a pool; the batch takes the step, and `commit` makes it count.

    A call is `begin`, then for every step `ready`, the batch, `commit`; then as `Recurrence`.
    """

    __slots__ = ("number",)

    def __init__(
        self, engine: Engine, number: int, states: Sequence[BatchState], given: GivenInputs
    ) -> None:
        one, other = (StateBuffers(engine.layout, state.row(number)) for state in states)
        super().__init__(engine, (one, other))
        self.number = number
        self.reset(given)

    def protect(self) -> None:
        """Before others are stepped with this row among theirs: keep what `undo` will need."""
        self._guard()

    def cross(self) -> None:
        """Move to the other state, as it is."""
        self._taken = max(self._taken, 1)
        self._guard()
        active = self.position.active
        self._states[active ^ 1].fill(self._states[active].arrays)
        np.copyto(self._look[active ^ 1], self._look[active])
        self.position = self.position._replace(active=active ^ 1)
