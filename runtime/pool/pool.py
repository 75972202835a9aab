"""Pools: one session in, N streams that step together out.

Shape letters: `B` batch, `T` items per chunk, `N` slots, `n` items of any number.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from dst.runtime.engine import Engine
from dst.runtime.errors import (
    BatchError,
    DstError,
    NoSlotError,
    PendingItemsError,
    SessionError,
    SlotError,
    StepError,
    StreamInputError,
)
from dst.runtime.given import NOTHING, Given
from dst.runtime.grid import Walk, ending, reading
from dst.runtime.items import Items, check_chunk, check_items
from dst.runtime.pool.batch import Batch, Lane
from dst.runtime.pool.slots import Side, Slot
from dst.runtime.providers import PLACES
from dst.runtime.recurrence import BadStateError, Mark
from dst.runtime.rest import put_saved, to_saved
from dst.runtime.saved import Saved

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]


class _Chunk:
    """One chunk of one slot: `Pool.step`'s counterpart of a `Walk`."""

    __slots__ = ("_chunk", "_outputs", "t")

    def __init__(self, chunk: Array, t: int) -> None:
        self._chunk = chunk
        self._outputs: Outputs = {}
        self.t = t

    def fill(self, lane: Lane) -> None:
        np.copyto(lane.fresh, self._chunk)

    def take(self, lane: Lane) -> None:
        self._outputs = {name: value.copy() for name, value in lane.outputs.items()}
        self.t = 0

    def end(self) -> Outputs:
        return self._outputs


@dataclass(slots=True)
class _Work:
    """What one slot has to do in one call."""

    slot: Slot
    before: Mark
    way: Walk | _Chunk


class StreamPool:
    """N streams over the batch axis of one session: what is ready steps in one call of the graph.

    Slots are numbered 0 .. N - 1, and each is a stream as `Session.stream` gives one: a slot
    that is not named in a call is not touched by it. What a slot answers does not depend on the
    others, bit for bit; it is what a stream alone answers, bit for bit or, where the kernels take
    another way for a single item, within the bound of the certificates (docs/pool.md).

    A slot fails alone. If it does, it is as it was before the call, the others go on, and at the
    end `SlotError` says what failed and carries what the others answered. Whatever else is
    raised, an interrupt say, leaves every slot as it was.

    Threads may share a pool: their calls take turns. One call with many slots is what is fast.

    ```python
    pool = StreamPool(Session.open("text"), slots=64)
    outputs = pool.advance({0: b"one stream", 7: b"and another one"})
    store.put("ada", pool.swap_out(7))
    pool.swap_in(7, store.get("bob"))
    ```
    """

    def __init__(
        self, session: Engine, slots: int, *, inputs: Mapping[str, Array] | None = None
    ) -> None:
        """Make a pool with every slot at the initial state.

        Args:
            session: whose graphs run any number of streams at once.
            slots: N, 2 or more.
            inputs: what the model takes once per stream, for every slot, as for `Session.stream`.
                Without them a slot waits for its own: `reset(slot, inputs=...)` or `swap_in`.

        Raises:
            BatchError: a graph of the session has a fixed batch size, a stream input has no batch
                axis, or the provider wants the state in the memory of a device.
            StreamInputError: `inputs` are not those that the model takes.
            SessionError: `slots` is less than 2.
        """
        if slots < 2:
            raise SessionError(
                f"slots is {slots}, expected 2 or more; session.stream() makes one stream"
            )
        if (device := PLACES[session.provider].device) != "cpu":
            raise BatchError(
                f"{session.bundle.label}: a pool holds its states in host memory, and "
                f"{session.provider!r} wants them on {device}; use session.stream() there"
            )
        for t in session.chunk_sizes:
            graph = session.graph_for(t)
            if graph.batch:
                raise BatchError(
                    f"{session.bundle.label}: {graph.file} runs T = {t} for B = "
                    f"{list(graph.batch)} only, a pool needs any B; open the session with another "
                    "lowering or without this T in chunk_sizes, or use session.stream()"
                )
        for wanted in session.contract.stream_inputs:
            if "B" not in wanted.shape:
                raise BatchError(
                    f"{session.bundle.label}: stream input `{wanted.input}` is {wanted.dtype} "
                    f"{list(wanted.shape)} without a batch axis: one call of the graph takes one "
                    "value of it, and a pool steps many streams in one call; use session.stream(), "
                    "or export it with a batch axis"
                )
        self._engine = session
        self._chunk = session.contract.chunk
        self._sides = (Side(session, slots), Side(session, slots))
        given = NOTHING if inputs is None else Given.of(session.contract, inputs)
        self._slots = tuple(Slot(session, number, self._sides, given) for number in range(slots))
        # A batch of one takes other kernels than any larger one: with two rows at least, what a
        # slot answers is the same in any company.
        self._buckets = [*(1 << p for p in range(1, 31) if 1 << p < slots), slots]
        self._stages = {b: (Side(session, b), Side(session, b)) for b in self._buckets[:-1]}
        self._batches: dict[tuple[int, int], Batch] = {}
        self._sizes: dict[tuple[int, ...], int] = {}
        self._lock = threading.Lock()

    # --- feeding

    def step(self, chunks: Mapping[int, Array]) -> dict[int, Outputs]:
        """Step some slots on one chunk each; chunks of different T may come together.

        Args:
            chunks: slot -> chunk in the contract's dtype and shape with B = 1.

        Returns:
            Slot -> output name -> array in the contract's shape with B = 1.

        Raises:
            NoSlotError: there is no such slot; nothing was stepped.
            SlotError: some slots failed, each for a reason `Stream.step` names.
        """
        with self._lock:
            slots = self._find(chunks)
            failed: dict[int, DstError] = {}
            works: list[_Work] = []
            for slot, chunk in zip(slots, chunks.values(), strict=True):
                try:
                    works.append(_Work(slot, slot.mark, self._single(slot, chunk)))
                except DstError as error:
                    failed[slot.number] = error
            return self._work(works, failed)

    def advance(self, items: Mapping[int, Items]) -> dict[int, Outputs]:
        """Let some slots read any number of items each, on the grid of the nominal T.

        Args:
            items: slot -> `[n, ...]` as for `Stream.advance`; n may differ.

        Returns:
            Slot -> outputs as from `Stream.advance`.

        Raises:
            NoSlotError: there is no such slot; nothing was read.
            SlotError: some slots failed, each for a reason `Stream.advance` names.
        """
        with self._lock:
            slots = self._find(items)
            contract = self._engine.contract
            failed: dict[int, DstError] = {}
            works: list[_Work] = []
            for slot, given in zip(slots, items.values(), strict=True):
                try:
                    walk = reading(slot, contract, check_items(self._chunk, given))
                    works.append(self._checked(slot, walk))
                except DstError as error:
                    failed[slot.number] = error
            return self._work(works, failed)

    def flush(self, slots: Iterable[int]) -> dict[int, Outputs]:
        """End the input of some slots, by the contract's tail rule, as `Stream.flush` does.

        Returns:
            Slot -> outputs as from `Stream.flush`.

        Raises:
            NoSlotError: there is no such slot; nothing was stepped.
            SlotError: some slots failed, each for a reason `Stream.flush` names.
        """
        with self._lock:
            contract = self._engine.contract
            failed: dict[int, DstError] = {}
            works: list[_Work] = []
            for slot in self._find(dict.fromkeys(slots)):
                try:
                    walk = ending(slot, contract, self._engine.chunk_sizes)
                    works.append(self._checked(slot, walk))
                except DstError as error:
                    failed[slot.number] = error
            return self._work(works, failed)

    # --- slots

    def __len__(self) -> int:
        """How many slots there are."""
        return len(self._slots)

    def items_consumed(self, slot: int) -> int:
        """Return how many items are in the state of a slot; those that wait are not among them."""
        with self._lock:
            return self._find((slot,))[0].mark.items

    def pending(self, slot: int) -> int:
        """Return how many items of a slot wait for their chunk to fill."""
        with self._lock:
            return self._find((slot,))[0].mark.waiting

    def reset(self, slot: int, *, inputs: Mapping[str, Array] | None = None) -> None:
        """Start a slot anew: initial state, nothing pending, nothing sampled.

        Args:
            slot: which one.
            inputs: what it is given for good, as for `Session.stream`; None keeps what it has.

        Raises:
            NoSlotError: there is no such slot.
            StreamInputError: `inputs` are not those that the model takes.
        """
        with self._lock:
            core = self._find((slot,))[0]
            core.reset(None if inputs is None else Given.of(self._engine.contract, inputs))

    def swap_out(self, slot: int) -> Saved:
        """Return all that a slot is, for a store, a file or `Session.stream`; it stays as it is.

        Raises:
            NoSlotError: there is no such slot.
            NonFiniteStateError: its state holds a NaN or an infinity.
            StreamInputError: the model takes inputs once per stream, and it was given none.
        """
        with self._lock:
            core = self._find((slot,))[0]
            self._need_inputs(core)
            return to_saved(self._engine, core, copy=True)

    def swap_in(self, slot: int, saved: Saved, *, allow_precision: bool = False) -> None:
        """Let a slot go on where a saved stream stood; what it held before is dropped.

        Args:
            slot: which one.
            saved: from `swap_out`, `Stream.saved` or a store.
            allow_precision: take a state that another precision of the model has made.

        Raises:
            NoSlotError: there is no such slot.
            StateCorruptError: `saved` does not fit the contract.
            OtherModelError, OtherStateError, OtherPrecisionError: it belongs to another bundle.
        """
        with self._lock:
            core = self._find((slot,))[0]
            put_saved(self._engine, core, saved, allow_precision, "saved state")

    # --- inside

    def _find(self, numbers: Iterable[int]) -> list[Slot]:
        found: list[Slot] = []
        for number in numbers:
            place = index(number) if isinstance(number, SupportsIndex) else -1
            if not 0 <= place < len(self._slots):
                raise NoSlotError(
                    f"slot {number!r}: this pool has slots 0 .. {len(self._slots) - 1}"
                )
            found.append(self._slots[place])
        return found

    def _need_inputs(self, slot: Slot) -> None:
        if self._engine.contract.stream_inputs and not slot.mark.given.arrays:
            names = ", ".join(f"`{g.input}`" for g in self._engine.contract.stream_inputs)
            raise StreamInputError(
                f"slot {slot.number} was not given its stream inputs ({names}); start it with "
                f"pool.reset({slot.number}, inputs={{...}}), or swap a saved stream in",
                code="stream-input-missing",
            )

    def _single(self, slot: Slot, chunk: Array) -> _Chunk:
        self._need_inputs(slot)
        t = self._sizes.get(chunk.shape) if isinstance(chunk, np.ndarray) else None
        if t is None or chunk.dtype != self._chunk.dtype:
            t = check_chunk(self._chunk, chunk, self._engine.chunk_sizes)
            self._sizes[chunk.shape] = t
        if slot.mark.waiting:
            raise PendingItemsError(
                f"{slot.mark.waiting} items from advance() wait, and step() would overtake them; "
                "call flush() first, or go on with advance()"
            )
        return _Chunk(chunk, t)

    def _checked(self, slot: Slot, walk: Walk) -> _Work:
        self._need_inputs(slot)
        for t in set(walk.sizes):
            self._engine.graph_for(t)
        return _Work(slot, slot.mark, walk)

    def _work(self, works: Sequence[_Work], failed: dict[int, DstError]) -> dict[int, Outputs]:
        """Take every step that there is to do, the largest T first, and end the call."""
        outputs: dict[int, Outputs] = {}
        begun: list[_Work] = []
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

    def _end(self, work: _Work, outputs: dict[int, Outputs], failed: dict[int, DstError]) -> None:
        try:
            result = work.way.end()
            work.slot.settle()
            outputs[work.slot.number] = result
        except BadStateError as bad:
            failed[work.slot.number] = work.slot.recover(work.before, bad)

    def _round(
        self, t: int, group: Sequence[_Work], begun: Sequence[_Work], failed: dict[int, DstError]
    ) -> None:
        """Step a group of slots on one chunk of T = `t` each, in one call of the graph."""
        size = next(b for b in self._buckets if b >= len(group))
        whole = size == len(self._slots)
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
        side = self._to_one_side(self._slots if whole else [work.slot for work in group])
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
        batch = self._batches.get((size, t))
        if batch is None:
            a, b = self._sides
            ways = [(a, b), (b, a)] if size == len(self._slots) else [self._stages[size]]
            batch = Batch(self._engine, size, t, ways, given)
            self._batches[size, t] = batch
        return batch


def _undo(works: Sequence[_Work]) -> None:
    """Put every slot back to where the call began."""
    for work in works:
        work.slot.undo(work.before)
