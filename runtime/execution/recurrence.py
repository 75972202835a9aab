"""The recurrence: chunks in, outputs out, and a state that moves on whole calls or not at all.

Two arenas alternate: a step reads one and writes the other, so a failed step has changed
nothing that counts. `Mark` says what counts; committing is one assignment of it. A call that
takes several steps first copies the state to a spare block, before the second step overwrites
it, and copies it back on failure. Of the three pending buffers, one holds what waits now and one
what waited when the call began: new items only ever go to the third, or behind what waits.

Shape letters: `T` items per chunk, `L` lookback.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime.bundle.manifest import item_shape
from dst.runtime.errors import NonFiniteError
from dst.runtime.execution.buffers import Arena, Block
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.step import Plan
from dst.runtime.execution.stream_inputs import NOTHING, Given
from dst.runtime.state.sampler import Sampler

Array = npt.NDArray[np.generic]

_tuple = tuple.__new__  # a named tuple made by position: its own `__new__` costs five times as much


class Mark(NamedTuple):
    """Where a stream stands.

    Attributes:
        side: the arena (and lookback buffer) that holds the state, 0 or 1.
        items: items in the state.
        slot: the pending buffer in use, 0, 1 or 2.
        waiting: items in it.
        unchecked: steps since the state was last found finite.
        good_due: the state in force was found finite and is to be kept as the last good one.
        sampler: the random source, if anything was sampled.
        given: the inputs that were given when the stream started.
    """

    side: int
    items: int
    slot: int
    waiting: int
    unchecked: int
    good_due: bool
    sampler: Sampler | None
    given: Given


class Kept(NamedTuple):
    """Room for a copy of a state, and the mark the copy belongs to."""

    block: Block
    lookback: Array
    mark: Mark


class BadStateError(Exception):
    """The state after a step is not finite; `recover` turns it into a `NonFiniteError`."""


class Recurrence:
    """One stream's memory and the rules by which it moves.

    It begins with `put` or `reset`. A call is `begin`, any number of `step_once`, `settle`, and on
    failure `undo` or `recover`.

    Attributes:
        mark: where the stream stands.
    """

    __slots__ = (
        "_arenas",
        "_before",
        "_checked",
        "_engine",
        "_every",
        "_kept",
        "_look",
        "_pending",
        "_plans",
        "_steps",
        "mark",
    )

    def __init__(self, engine: Engine, arenas: tuple[Arena, Arena] | None = None) -> None:
        """Make it of these arenas, or of its own."""
        chunk = engine.contract.chunk
        item = item_shape(chunk)
        self._engine = engine
        self._every = engine.check_state_every
        *own, one, other = engine.layout.rooms(4 if arenas is None else 2)
        self._arenas = arenas or (engine.arena(own[0]), engine.arena(own[1]))
        self._look = [np.zeros((chunk.lookback, *item), chunk.dtype) for _ in range(2)]
        self._pending = [
            np.zeros((chunk.nominal_t + chunk.lookahead, *item), chunk.dtype) for _ in range(3)
        ]
        self._plans: dict[int, Plan] = {}
        self._steps = 0
        self._checked = False
        self.mark = Mark(0, 0, 0, 0, 0, False, None, NOTHING)
        self._before = self.mark
        # the last good state, and room to undo a call: swapped in one assignment
        good, spare = (Kept(block, self._look[0].copy(), self.mark) for block in (one, other))
        self._kept = (good, spare)

    # --- what the stream is now

    def read(self, block: Block) -> None:
        """Copy the state in force into a host block."""
        self._arenas[self.mark.side].read(block)

    def tensors(self) -> Mapping[str, Array]:
        """Return the state in force by name; views may change with the next step."""
        return self._arenas[self.mark.side].tensors()

    def room(self) -> Mapping[str, Array]:
        """Return the memory of the state not in force by name, to be filled before `put`."""
        return self._arenas[self.mark.side ^ 1].room()

    def pending(self) -> Array:
        """View the items that wait, `[n, ...]`."""
        return self._pending[self.mark.slot][: self.mark.waiting]

    def lookback(self) -> Array:
        """View the items before the next chunk, `[L, ...]`."""
        return self._look[self.mark.side]

    def plan(self, t: int) -> Plan:
        """Return the plan for T = `t`, made and warmed at the first call.

        Raises:
            SessionError: this session does not run such a T, or its graph does not open.
        """
        plan = self._plans.get(t)
        if plan is None:
            plan = Plan(self._engine, t, self._arenas, self.mark.given)
            self._guard()
            plan.warm(self.mark.side)
            self._plans[t] = plan
        return plan

    # --- one call

    def begin(self) -> Mark:
        """Open a call; give the mark it returns to `undo` if the call fails."""
        self._steps = 0
        self._checked = False
        if self.mark.good_due:
            self._keep_good()
        self._before = self.mark
        return self._before

    def step_once(self, plan: Plan, options: ort.RunOptions | None = None) -> None:
        """Step on the chunk that lies in `plan.fresh` and move the mark.

        Raises:
            StepError: the step was refused or failed; the mark has not moved.
            BadStateError: the state after it was checked and is not finite.
        """
        self.ready()
        side = self.mark.side
        if plan.given is not self.mark.given:
            plan.take(self.mark.given)
        if plan.back is not None:
            np.copyto(plan.back, self._look[side])
        plan.run(side, options)
        self.commit(plan.t, plan.newest)

    def ready(self) -> None:
        """Before the other arena is written: keep what `undo` will need."""
        if self._steps:
            self._guard()
        else:
            self._steps = 1

    def commit(self, t: int, newest: Array | None) -> None:
        """Count a step of `t` items, done from the arena in force to the other.

        Args:
            t: items per chunk.
            newest: the last items of lookback and chunk, `[L, ...]`; None without lookback.

        Raises:
            BadStateError: the state after it was checked and is not finite.
        """
        side, items, slot, waiting, unchecked, _, sampler, given = self.mark
        other = side ^ 1
        if newest is not None:
            np.copyto(self._look[other], newest)
        unchecked += 1
        fine = unchecked >= self._every
        if fine:
            self._check(other, items + t)
            unchecked = 0
        self.mark = _tuple(Mark, (other, items + t, slot, waiting, unchecked, fine, sampler, given))

    def settle(self) -> None:
        """Close a call of several steps: a state checked on the way is checked at its end too.

        Raises:
            BadStateError: the state is not finite.
        """
        if self._checked and not self.mark.good_due:
            self.check()

    def check(self) -> None:
        """Check the state in force now, if it was not checked since it last moved.

        Raises:
            BadStateError: it is not finite.
        """
        if self.mark.unchecked:
            self._check(self.mark.side, self.mark.items)
            self.mark = self.mark._replace(unchecked=0, good_due=True)

    def undo(self, before: Mark) -> None:
        """Put everything back to where `begin` found it."""
        if self._steps > 1:
            _, spare = self._kept
            self._arenas[before.side].write(spare.block)
            np.copyto(self._look[before.side], spare.lookback)
        self.mark = before

    def recover(self, before: Mark, bad: BadStateError) -> NonFiniteError:
        """Undo a call that found a bad state; if the state was bad before it, go back further.

        Returns:
            The error to raise: what was found, and where the stream stands now.
        """
        self.undo(before)
        if self._arenas[before.side].finite():
            where = f"the stream is as it was before the call, at item {before.items}"
        else:
            good, _ = self._kept
            at, given = good.mark.items, good.mark.given
            nothing = self._pending[0][:0]
            self.put(held(good.block), good.lookback, nothing, at, good.mark.sampler, given)
            where = (
                f"the stream was put back to its last good snapshot at item {at}, with nothing "
                "pending: the items since then are not in the state"
            )
        return NonFiniteError(f"{bad}; {where}", code="state-not-finite")

    # --- steps that are taken back

    def hold(self) -> Kept:
        """Copy the state, before steps that `release` takes back."""
        (block,) = self._engine.layout.rooms(1)
        self.read(block)
        return Kept(block, self.lookback().copy(), self.mark)

    def release(self, kept: Kept) -> None:
        """Go back to what `hold` returned."""
        side = kept.mark.side
        self._arenas[side].write(kept.block)
        np.copyto(self._look[side], kept.lookback)
        self.mark = kept.mark

    # --- moving the mark without a step

    def put(
        self,
        fill: Callable[[Arena], None],
        lookback: Array,
        pending: Array,
        items: int,
        sampler: Sampler | None,
        given: Given,
    ) -> None:
        """Replace everything; the copies are complete before the mark moves.

        Args:
            fill: writes the new state to the arena it is given.
            lookback: `[L, ...]`.
            pending: `[n, ...]`.
            items: items in the new state.
            sampler: the random source, if anything was sampled.
            given: the inputs of the stream.

        Raises:
            NonFiniteError: `state-not-finite`: the new state is not finite; the stream is as it
                was.
        """
        side, slot = self.mark.side ^ 1, self._free_slot()
        fill(self._arenas[side])
        np.copyto(self._look[side], lookback)
        if len(pending) > len(self._pending[slot]):
            self._pending[slot] = np.empty_like(pending)
        self._pending[slot][: len(pending)] = pending
        try:
            self._check(side, items)
        except BadStateError as bad:
            raise NonFiniteError(
                f"{bad}; the stream is as it was", code="state-not-finite"
            ) from None
        self.mark = Mark(side, items, slot, len(pending), 0, True, sampler, given)

    def reset(self, given: Given | None = None) -> None:
        """Go back to the initial state, with nothing pending and nothing sampled.

        Args:
            given: the inputs of the stream from now on; None keeps those it has.
        """
        fill = self._engine.contract.chunk.lookback_fill
        lookback = np.full_like(self._look[0], 0 if fill is None else fill)
        given = self.mark.given if given is None else given
        self.put(held(self._engine.initial), lookback, self._pending[0][:0], 0, None, given)

    def append(self, items: Array, sampler: Sampler | None) -> None:
        """Let items `[n, ...]` wait that still fit the pending buffer, and set the sampler."""
        waiting = self.mark.waiting + len(items)
        self._pending[self.mark.slot][self.mark.waiting : waiting] = items
        self.mark = self.mark._replace(waiting=waiting, sampler=sampler)

    def leave(self, before: Array, items: Array) -> None:
        """Let only these items wait: `before` and then `items`, both `[n, ...]`."""
        slot = self._free_slot()
        waiting = len(before) + len(items)
        room = self._pending[slot]
        room[: len(before)] = before
        room[len(before) : waiting] = items
        self.mark = self.mark._replace(slot=slot, waiting=waiting)

    # --- inside

    def _free_slot(self) -> int:
        """A pending buffer that holds neither what waits now nor what waited at `begin`."""
        return next(slot for slot in range(3) if slot not in (self._before.slot, self.mark.slot))

    def _guard(self) -> None:
        """Before the arena of `begin` is written to, copy it to the spare room."""
        if self._steps == 1:
            _, spare = self._kept
            self._arenas[self._before.side].read(spare.block)
            np.copyto(spare.lookback, self._look[self._before.side])
            self._steps = 2

    def _keep_good(self) -> None:
        """Keep the state in force, just found finite, as the last good one."""
        good, spare = self._kept
        self.read(spare.block)
        np.copyto(spare.lookback, self._look[self.mark.side])
        self._kept = (spare._replace(mark=self.mark), good)
        self.mark = self.mark._replace(good_due=False)

    def _check(self, side: int, items: int) -> None:
        if self._arenas[side].finite():
            self._checked = True
            return
        block = self._engine.layout.block()
        self._arenas[side].read(block)
        name = self._engine.layout.bad_tensor(block)
        raise BadStateError(f"state `{name}` holds a NaN or an infinity, found at item {items}")


def held(block: Block) -> Callable[[Arena], None]:
    """Return what fills an arena from a block, for `Recurrence.put`."""
    return lambda arena: arena.write(block)
