"""Take the steps of some slots of a pool, those of one T in one call of the graph.

Shape letters: `B` batch, `T` items per chunk, `N` slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import DstError, SlotError, StepError
from dst.runtime.execution.chunking import Walk
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.recurrence import BadStateError, Mark
from dst.runtime.execution.stream_inputs import Given
from dst.runtime.pool.batch import Batch, Lane
from dst.runtime.pool.slots import Side, Slot

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]


class Single:
    """One chunk of one slot: `Pool.step`'s counterpart of a `Walk`."""

    __slots__ = ("_chunk", "_outputs", "t")

    def __init__(self, chunk: Array, t: int) -> None:
        self._chunk = chunk
        self._outputs: Outputs = {}
        self.t = t

    def fill(self, lane: Lane) -> None:
        """Give the chunk to a row."""
        np.copyto(lane.fresh, self._chunk)

    def take(self, lane: Lane) -> None:
        """Copy the outputs of the row."""
        self._outputs = {name: value.copy() for name, value in lane.outputs.items()}
        self.t = 0

    def end(self) -> Outputs:
        """Return the outputs."""
        return self._outputs


@dataclass(slots=True)
class Work:
    """What one slot has to do in one call."""

    slot: Slot
    before: Mark
    way: Walk | Single


class Rounds:
    """The buffers of a pool, and how its slots step together.

    Attributes:
        slots: N of them, at the initial state.
        batches: those made so far, by B and T.
    """

    def __init__(self, engine: Engine, slots: int, given: Given) -> None:
        self._engine = engine
        self._sides = (Side(engine, slots), Side(engine, slots))
        self.slots = tuple(Slot(engine, number, self._sides, given) for number in range(slots))
        # A batch of one takes other kernels than any larger one: with two rows at least, what a
        # slot answers is the same in any company.
        self._buckets = [*(1 << p for p in range(1, 31) if 1 << p < slots), slots]
        self._stages = {b: (Side(engine, b), Side(engine, b)) for b in self._buckets[:-1]}
        self.batches: dict[tuple[int, int], Batch] = {}

    def run(self, works: Sequence[Work], failed: dict[int, DstError]) -> dict[int, Outputs]:
        """Take every step that there is to do, the largest T first, and end the call."""
        outputs: dict[int, Outputs] = {}
        begun: list[Work] = []
        try:
            for work in works:
                work.before = work.slot.begin()
                begun.append(work)
            active = [work for work in works if work.way.t]
            while active:
                t = max(work.way.t for work in active)
                self._round(t, [work for work in active if work.way.t == t], begun, failed)
                active = [w for w in active if w.way.t and w.slot.number not in failed]
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

    def _end(self, work: Work, outputs: dict[int, Outputs], failed: dict[int, DstError]) -> None:
        try:
            result = work.way.end()
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
        given = [work.slot.mark.given for work in group]
        batch = self._batch(size, t, given)
        numbers = [work.slot.number for work in group]
        lanes = [batch.lanes[n] for n in numbers] if whole else batch.lanes[: len(group)]
        if given[0].arrays:
            for lane in batch.lanes:
                if lane.given is None:  # a row that is not in use needs what a graph can read
                    lane.give(given[0])
            for lane, own in zip(lanes, given, strict=True):
                lane.give(own)
        side = self._to_one_side(self.slots if whole else [work.slot for work in group])
        for work, lane in zip(group, lanes, strict=True):
            if lane.back is not None:
                np.copyto(lane.back, work.slot.lookback())
            work.way.fill(lane)
        bad = batch.refuse(lanes)
        if whole:  # the graph writes every row of the other side
            for work in begun:
                work.slot.protect()
        for work in group:
            work.slot.ready()
        try:
            if whole:
                batch.run(side)
            else:
                batch.rows[:] = numbers[0]
                batch.rows[: len(numbers)] = numbers
                source, target = self._stages[size]
                self._sides[side].gather(batch.rows, source)
                batch.run(0)
                target.scatter(batch.rows[: len(numbers)], self._sides[side ^ 1])
            bad = batch.bad_outputs(lanes) | bad
        except StepError as error:
            bad = dict.fromkeys(range(len(group)), error) | bad
        for place, (work, lane) in enumerate(zip(group, lanes, strict=True)):
            if place in bad:
                work.slot.undo(work.before)
                failed[work.slot.number] = bad[place]
                continue
            try:
                work.slot.commit(t, lane.newest)
                work.way.take(lane)
            except BadStateError as found:
                failed[work.slot.number] = work.slot.recover(work.before, found)

    def _to_one_side(self, slots: Sequence[Slot]) -> int:
        """Let the fewer slots cross to the side of the others, and return it."""
        first = sum(slot.mark.side for slot in slots)
        side = int(2 * first > len(slots))
        if first not in (0, len(slots)):
            for slot in slots:
                if slot.mark.side != side:
                    slot.cross()
        return side

    def _batch(self, size: int, t: int, given: Sequence[Given]) -> Batch:
        """The batch for B = `size`, T = `t`, made at the first call."""
        batch = self.batches.get((size, t))
        if batch is None:
            a, b = self._sides
            ways = [(a, b), (b, a)] if size == len(self.slots) else [self._stages[size]]
            batch = Batch(self._engine, size, t, ways, given)
            self.batches[size, t] = batch
        return batch


def _undo(works: Sequence[Work]) -> None:
    """Put every slot back to where the call began."""
    for work in works:
        work.slot.undo(work.before)
