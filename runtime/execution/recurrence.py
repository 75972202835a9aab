"""Keep the memory of one stream, and move it by whole calls or not at all.

Two states alternate: a step reads one and writes the other, so a failed step has changed
nothing that counts. `Position` says what counts; committing is one assignment of it. A call that
takes several steps first copies the state it began with, before the second step overwrites it,
and copies it back on failure. Of the three pending buffers, one holds what waits now and one
what waited when the call began: new items only ever go to the third, or behind what waits.

Shape letters: `T` items per chunk, `L` lookback.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime.bundle.manifest import item_shape
from dst.runtime.errors import NonFiniteError
from dst.runtime.execution.buffers import Block, StateBuffers, finite
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.inputs import NO_INPUTS, GivenInputs
from dst.runtime.execution.step import BoundStep
from dst.runtime.state.sampler import Sampler

Array = npt.NDArray[np.generic]

_tuple = tuple.__new__  # a named tuple made by position: its own `__new__` costs five times as much


class Position(NamedTuple):
    """Where a stream stands.

    Attributes:
        active: which of the two states (and lookback buffers) counts, 0 or 1.
        items: items in the state.
        slot: the pending buffer in use, 0, 1 or 2.
        waiting: items in it.
        unchecked: steps since the state was last found finite.
        good_due: the state was found finite and is to be kept as the last good one.
        sampler: the random source, if anything was sampled.
        given: the inputs that were given when the stream started.
    """

    active: int
    items: int
    slot: int
    waiting: int
    unchecked: int
    good_due: bool
    sampler: Sampler | None
    given: GivenInputs


class Backup(NamedTuple):
    """A copy of a state and its lookback, and the position they belong to.

    It is a block, not a record by tensor names: it is copied in the middle of calls, and one copy
    costs less than one per tensor.
    """

    block: Block
    lookback: Array
    position: Position


class BadStateError(Exception):
    """The state after a step is not finite; `recover` turns it into a `NonFiniteError`."""


class Recurrence:
    """One stream's memory and the rules by which it moves.

    It begins with `put` or `reset`. A call is `begin`, any number of `step_once`, `settle`, and on
    failure `undo` or `recover`.

    Attributes:
        position: where the stream stands.
    """

    __slots__ = (
        "_backups",
        "_before",
        "_checked",
        "_engine",
        "_every",
        "_look",
        "_pending",
        "_states",
        "_steps",
        "_taken",
        "position",
    )

    def __init__(
        self, engine: Engine, states: tuple[StateBuffers, StateBuffers] | None = None
    ) -> None:
        """Make it of these two states, or of its own."""
        chunk = engine.contract.chunk
        item = item_shape(chunk)
        self._engine = engine
        self._every = engine.check_state_every
        *own, one, other = engine.layout.blocks(4 if states is None else 2)
        self._states = states or (engine.state_buffers(own[0]), engine.state_buffers(own[1]))
        self._look = [np.zeros((chunk.lookback, *item), chunk.dtype) for _ in range(2)]
        self._pending = [
            np.zeros((chunk.nominal_t + chunk.lookahead, *item), chunk.dtype) for _ in range(3)
        ]
        self._steps: dict[tuple[int, bool], BoundStep] = {}
        self._taken = 0  # steps of this call; 2 for more than one
        self._checked = False
        self.position = Position(0, 0, 0, 0, 0, False, None, NO_INPUTS)
        self._before = self.position
        # the last good state, and what `undo` needs: swapped in one assignment
        last_good, undo = (Backup(b, self._look[0].copy(), self.position) for b in (one, other))
        self._backups = (last_good, undo)

    # --- what the stream is now

    def read(self, block: Block) -> None:
        """Copy the state into a host block."""
        self._states[self.position.active].read(block)

    def tensors(self) -> Mapping[str, Array]:
        """Return the state by name; views may change with the next step."""
        return self._states[self.position.active].tensors()

    def room(self) -> Mapping[str, Array]:
        """Return the arrays of the other state by name, to be filled before `put`."""
        return self._states[self.position.active ^ 1].arrays

    def pending(self) -> Array:
        """View the items that wait, `[n, ...]`."""
        return self._pending[self.position.slot][: self.position.waiting]

    def lookback(self) -> Array:
        """View the items before the next chunk, `[L, ...]`."""
        return self._look[self.position.active]

    def step_for(self, t: int, last: bool = False) -> BoundStep:
        """Return the step for T = `t`, made at the first call and run once.

        With `last` it answers for the last item of the chunk only.

        That run lets ONNX Runtime allocate now and not later; it only reads the state that counts.

        Raises:
            SessionError: this session does not run such a T, or its graph does not open.
        """
        last = last and t > 1
        step = self._steps.get((t, last))
        if step is None:
            step = BoundStep(self._engine, t, last=last)
            here, there = (state.values for state in self._states)
            step.bindings = (step.bind(here, there), step.bind(there, here))
            step.give(self.position.given)
            self._guard()
            step.call(self.position.active)
            self._steps[t, last] = step
        return step

    # --- one call

    def begin(self) -> Position:
        """Open a call; give the position it returns to `undo` if the call fails."""
        self._taken = 0
        self._checked = False
        if self.position.good_due:
            self._keep_good()
        self._before = self.position
        return self._before

    def step_once(self, step: BoundStep, options: ort.RunOptions | None = None) -> None:
        """Step on the chunk that lies in `step.row` and move on.

        Raises:
            StepError: an id is outside the vocabulary, or ONNX Runtime refused; nothing has moved.
            NonFiniteError: `input-not-finite`, `output-not-finite`: nothing has moved.
            BadStateError: the state after it was checked and is not finite.
        """
        self.ready()
        position, row = self.position, step.row
        if step.given is not position.given:
            step.give(position.given)
        if row.back is not None:
            np.copyto(row.back, self._look[position.active])
        if not step.chunk.readable():
            raise step.bad_inputs(step.rows)[0]
        step.call(position.active, options)
        if not finite(step.floats):
            raise step.bad_outputs(step.rows)[0]
        self.commit(step.t, row.newest)

    def ready(self) -> None:
        """Before the other state is written: keep what `undo` will need."""
        if self._taken:
            self._guard()
        else:
            self._taken = 1

    def commit(self, t: int, newest: Array | None) -> None:
        """Count a step of `t` items, done from the active state to the other.

        Args:
            t: items per chunk.
            newest: the last items of lookback and chunk, `[L, ...]`; None without lookback.

        Raises:
            BadStateError: the state after it was checked and is not finite.
        """
        active, items, slot, waiting, unchecked, _, sampler, given = self.position
        other = active ^ 1
        if newest is not None:
            np.copyto(self._look[other], newest)
        unchecked += 1
        fine = unchecked >= self._every
        if fine:
            self._check(other, items + t)
            unchecked = 0
        self.position = _tuple(
            Position, (other, items + t, slot, waiting, unchecked, fine, sampler, given)
        )

    def settle(self) -> None:
        """Close a call of several steps: a state checked on the way is checked at its end too.

        Raises:
            BadStateError: the state is not finite.
        """
        if self._checked and not self.position.good_due:
            self.check()

    def check(self) -> None:
        """Check the state now, if it was not checked since it last moved.

        Raises:
            BadStateError: it is not finite.
        """
        if self.position.unchecked:
            self._check(self.position.active, self.position.items)
            self.position = self.position._replace(unchecked=0, good_due=True)

    def undo(self, before: Position) -> None:
        """Put everything back to where `begin` found it."""
        if self._taken > 1:
            self._put_back(self._backups[1], before)
        self.position = before

    def recover(self, before: Position, bad: BadStateError) -> NonFiniteError:
        """Undo a call that found a bad state; if the state was bad before it, go back further.

        Returns:
            The error to raise: what was found, and where the stream stands now.
        """
        self.undo(before)
        if self._states[before.active].finite():
            where = f"the stream is as it was before the call, at item {before.items}"
        else:
            good, _ = self._backups
            state = self._engine.layout.views(good.block)
            at, sampler, given = good.position.items, good.position.sampler, good.position.given
            self.put(state, good.lookback, self._pending[0][:0], at, sampler, given)
            where = (
                f"the stream was put back to its last good snapshot at item {at}, with nothing "
                "pending: the items since then are not in the state"
            )
        return NonFiniteError(f"{bad}; {where}", code="state-not-finite")

    # --- steps that are taken back

    def hold(self) -> Backup:
        """Copy the state, before steps that `release` takes back."""
        (block,) = self._engine.layout.blocks(1)
        self.read(block)
        return Backup(block, self.lookback().copy(), self.position)

    def release(self, backup: Backup) -> None:
        """Go back to what `hold` returned."""
        self._put_back(backup, backup.position)
        self.position = backup.position

    # --- moving without a step

    def put(
        self,
        state: Mapping[str, Array],
        lookback: Array,
        pending: Array,
        items: int,
        sampler: Sampler | None,
        given: GivenInputs,
    ) -> None:
        """Replace everything; the copies are complete before the position moves.

        Args:
            state: the new state by name.
            lookback: `[L, ...]`.
            pending: `[n, ...]`.
            items: items in the new state.
            sampler: the random source, if anything was sampled.
            given: the inputs of the stream.

        Raises:
            NonFiniteError: `state-not-finite`: the new state is not finite; the stream is as it
                was.
        """
        active, slot = self.position.active ^ 1, self._free_slot()
        self._states[active].fill(state)
        np.copyto(self._look[active], lookback)
        if len(pending) > len(self._pending[slot]):
            self._pending[slot] = np.empty_like(pending)
        self._pending[slot][: len(pending)] = pending
        try:
            self._check(active, items)
        except BadStateError as bad:
            raise NonFiniteError(
                f"{bad}; the stream is as it was", code="state-not-finite"
            ) from None
        self.position = Position(active, items, slot, len(pending), 0, True, sampler, given)

    def reset(self, given: GivenInputs | None = None) -> None:
        """Go back to the initial state, with nothing pending and nothing sampled.

        Args:
            given: the inputs of the stream from now on; None keeps those it has.
        """
        fill = self._engine.contract.chunk.lookback_fill
        lookback = np.full_like(self._look[0], 0 if fill is None else fill)
        given = self.position.given if given is None else given
        self.put(self._engine.initial, lookback, self._pending[0][:0], 0, None, given)

    def append(self, items: Array, sampler: Sampler | None) -> None:
        """Let items `[n, ...]` wait that still fit the pending buffer, and set the sampler."""
        waiting = self.position.waiting + len(items)
        self._pending[self.position.slot][self.position.waiting : waiting] = items
        self.position = self.position._replace(waiting=waiting, sampler=sampler)

    def leave(self, before: Array, items: Array) -> None:
        """Let only these items wait: `before` and then `items`, both `[n, ...]`."""
        slot = self._free_slot()
        waiting = len(before) + len(items)
        room = self._pending[slot]
        room[: len(before)] = before
        room[len(before) : waiting] = items
        self.position = self.position._replace(slot=slot, waiting=waiting)

    # --- inside

    def _free_slot(self) -> int:
        """A pending buffer that holds neither what waits now nor what waited at `begin`."""
        taken = (self._before.slot, self.position.slot)
        return next(slot for slot in range(3) if slot not in taken)

    def _guard(self) -> None:
        """Before the state of `begin` is written to, copy it for `undo`."""
        if self._taken == 1:
            self._copy_to(self._backups[1], self._before.active)
            self._taken = 2

    def _keep_good(self) -> None:
        """Keep the state, just found finite, as the last good one."""
        last_good, undo = self._backups
        self._copy_to(undo, self.position.active)
        self._backups = (undo._replace(position=self.position), last_good)
        self.position = self.position._replace(good_due=False)

    def _copy_to(self, backup: Backup, active: int) -> None:
        self._states[active].read(backup.block)
        np.copyto(backup.lookback, self._look[active])

    def _put_back(self, backup: Backup, position: Position) -> None:
        self._states[position.active].write(backup.block)
        np.copyto(self._look[position.active], backup.lookback)

    def _check(self, active: int, items: int) -> None:
        if self._states[active].finite():
            self._checked = True
            return
        name = self._states[active].bad_tensor()
        raise BadStateError(f"state `{name}` holds a NaN or an infinity, found at item {items}")
