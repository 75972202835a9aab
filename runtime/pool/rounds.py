"""Take the steps of some slots of a pool, those of one T in one call of the graph.

Shape letters: `B` batch, `T` items per chunk, `N` slots.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.manifest import Output
from dst.runtime.errors import DstError, SlotError, StepError
from dst.runtime.execution.chunking import ChunkPlan
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.inputs import GivenInputs
from dst.runtime.execution.recurrence import BadStateError, Position
from dst.runtime.execution.step import BoundStep, Row
from dst.runtime.pool.proof import prove
from dst.runtime.pool.slots import BatchState, Slot

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]


class OneChunk:
    """One chunk of one slot, where a `ChunkPlan` has any number."""

    __slots__ = ("_chunk", "_outputs", "sizes", "t")

    def __init__(self, chunk: Array, t: int) -> None:
        self._chunk, self.t, self.sizes = chunk, t, (t,)
        self._outputs: Outputs = {}

    def fill(self, row: Row) -> None:
        """Give the chunk to a row."""
        np.copyto(row.fresh, self._chunk)

    def take(self, row: Row) -> None:
        """Copy the outputs of the row."""
        self._outputs = {name: value.copy() for name, value in row.outputs.items()}
        self.t = 0

    def end(self) -> Outputs:
        """Return the outputs."""
        return self._outputs


class OneRead(OneChunk):
    """As `OneChunk`, but of items `[n, ...]`, and answered as `ChunkPlan` answers."""

    __slots__ = ("_last", "_wanted")

    def __init__(self, items: Array, wanted: Sequence[Output], last: bool) -> None:
        super().__init__(items, len(items))
        self._wanted, self._last = wanted, last

    def fill(self, row: Row) -> None:
        """Give the items to a row."""
        np.copyto(row.items, self._chunk)

    def take(self, row: Row) -> None:
        """Copy the outputs that are wanted."""
        for o in self._wanted:
            value = row.outputs[o.name]
            if o.time_axis is None:
                value = value[None]
            elif self._last:
                value = value[(slice(None),) * o.time_axis + (slice(-1, None),)]
            self._outputs[o.name] = value.copy()
        self.t = 0


@dataclass(slots=True)
class Work:
    """What one slot has to do in one call."""

    slot: Slot
    before: Position
    plan: ChunkPlan | OneChunk


class Rounds:
    """The buffers of a pool, its slots, and how these step together, by B and T in `steps`."""

    def __init__(self, engine: Engine, slots: int, given: GivenInputs) -> None:
        self._engine = engine
        self._states = (BatchState(engine, slots), BatchState(engine, slots))
        self.slots = tuple(Slot(engine, number, self._states, given) for number in range(slots))
        # A batch of one takes other kernels than any larger one: with two rows at least, what a
        # slot answers is the same in any company.
        self._buckets = [*(1 << p for p in range(1, 31) if 1 << p < slots), slots]
        self._stages = {
            b: (BatchState(engine, b), BatchState(engine, b)) for b in self._buckets[:-1]
        }
        self.steps: dict[tuple[int, int], BoundStep] = {}

    def run(self, works: Sequence[Work], failed: dict[int, DstError]) -> dict[int, Outputs]:
        """Take every step that there is to do, the largest T first, and end the call."""
        outputs: dict[int, Outputs] = {}
        begun: list[Work] = []
        try:
            for work in works:
                work.before = work.slot.begin()
                begun.append(work)
            active = [work for work in works if work.plan.t]
            while active:
                t = max(work.plan.t for work in active)
                self._round(t, [work for work in active if work.plan.t == t], begun, failed)
                active = [w for w in active if w.plan.t and w.slot.number not in failed]
            for work in works:
                if work.slot.number not in failed:
                    self._end(work, outputs, failed)
        except BaseException:
            try:
                _undo(begun)
            except BaseException:  # an interrupt that came while this was being undone
                _undo(begun)
                raise
            raise
        if failed:
            raise SlotError(failed, outputs)
        return outputs

    def warm_up(self, chunk_sizes: Iterable[int], given: Sequence[GivenInputs]) -> None:
        """Make and prove the step of every batch size and these T."""
        for t in chunk_sizes:
            for size in self._buckets:
                self._step(size, t, given)

    def _end(self, work: Work, outputs: dict[int, Outputs], failed: dict[int, DstError]) -> None:
        try:
            result = work.plan.end()
            work.slot.settle()
            outputs[work.slot.number] = result
        except BadStateError as bad:
            failed[work.slot.number] = work.slot.recover(work.before, bad)

    def _round(
        self, t: int, group: Sequence[Work], begun: Sequence[Work], failed: dict[int, DstError]
    ) -> None:
        """Step a group of slots on one chunk of T = `t` each, in one call of the graph."""
        size = next(b for b in self._buckets if b >= len(group))
        whole = size == len(self.slots)
        given = [work.slot.position.given for work in group]
        step = self._step(size, t, given)
        numbers = [work.slot.number for work in group]
        rows = [step.rows[n] for n in numbers] if whole else step.rows[: len(group)]
        if given[0].arrays:
            for row in step.rows:
                if row.given is None:  # a row that is not in use needs what a graph can read
                    row.give(given[0])
            for row, own in zip(rows, given, strict=True):
                row.give(own)
        active = self._to_one_state(self.slots if whole else [work.slot for work in group])
        for work, row in zip(group, rows, strict=True):
            if row.back is not None:
                np.copyto(row.back, work.slot.lookback())
            work.plan.fill(row)
        bad = step.refuse(rows)
        if whole:  # the graph writes every row of the other state
            for work in begun:
                work.slot.protect()
        for work in group:
            work.slot.ready()
        try:
            if whole:
                step.call(active)
            else:
                places = np.full(size, numbers[0], np.intp)
                places[: len(numbers)] = numbers
                source, target = self._stages[size]
                self._states[active].gather(places, source)
                step.call(0)
                target.scatter(places[: len(numbers)], self._states[active ^ 1])
            bad = step.bad_outputs(rows) | bad
        except StepError as error:
            bad = dict.fromkeys(range(len(group)), error) | bad
        for place, (work, row) in enumerate(zip(group, rows, strict=True)):
            if place in bad:
                work.slot.undo(work.before)
                failed[work.slot.number] = bad[place]
                continue
            try:
                work.slot.commit(t, row.newest)
                work.plan.take(row)
            except BadStateError as found:
                failed[work.slot.number] = work.slot.recover(work.before, found)

    def _to_one_state(self, slots: Sequence[Slot]) -> int:
        """Let the fewer slots cross to the state that is active for the others, and return it."""
        first = sum(slot.position.active for slot in slots)
        active = int(2 * first > len(slots))
        if first not in (0, len(slots)):
            for slot in slots:
                if slot.position.active != active:
                    slot.cross()
        return active

    def _step(self, size: int, t: int, given: Sequence[GivenInputs]) -> BoundStep:
        """The step for B = `size`, T = `t`, made and proved at the first call."""
        step = self.steps.get((size, t))
        if step is None:
            step = BoundStep(self._engine, t, size)
            prove(self._engine, step, given)
            a, b = self._states
            ways = [(a, b), (b, a)] if size == len(self.slots) else [self._stages[size]]
            step.bindings = [step.bind(here.values, there.values) for here, there in ways]
            self.steps[size, t] = step
        return step


def _undo(works: Sequence[Work]) -> None:
    """Put every slot back to where the call began."""
    for work in works:
        work.slot.undo(work.before)
