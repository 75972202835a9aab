"""Seat users in the slots of a pool, take their turns, and keep the store up to date.

A user without a slot gets a free one, or that of the user who was idle for longest. That user's
state then stays in memory for a while, if it may, and goes to the store.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from heapq import nsmallest
from itertools import islice, takewhile
from operator import attrgetter
from time import thread_time

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import (
    DstError,
    NonFiniteError,
    SessionError,
    SlotError,
    StreamNotFoundError,
)
from dst.runtime.execution.engine import Engine
from dst.runtime.pool import StreamPool
from dst.runtime.serving.lock import StoreLock
from dst.runtime.serving.metrics import Metrics
from dst.runtime.serving.requests import ALL, Prior, Request, User, join_parts
from dst.runtime.serving.states import States
from dst.runtime.state.record import Saved
from dst.runtime.store import StateStore
from dst.runtime.store.served import serving

Array = npt.NDArray[np.generic]


class Seats(States):
    """The slots of a pool and the users in them.

    Attributes:
        spent_s: the time of a CPU that the last turn took.
    """

    def __init__(
        self,
        session: Engine,
        slots: int,
        cached: int,
        store: StateStore,
        lock: StoreLock,
        save_each: bool,
        inputs: Mapping[str, Array] | None,
        metrics: Metrics,
    ) -> None:
        pool = StreamPool(session, slots, inputs=inputs)
        super().__init__(pool, slots, session.contract, store, lock, metrics)
        self._each = save_each
        self._inputs = inputs
        self._needs_inputs = bool(session.contract.stream_inputs) and inputs is None
        self._cached = cached
        self.spent_s = 0.0

    # --- a turn

    def work(
        self, picked: Sequence[Request], undo: Iterable[Request], save_from: float | None
    ) -> None:
        """Take back what was cancelled, write what is due, then let each request read a piece.

        Due are the states that the store has not had since `save_from`, or none with None.
        """
        since = thread_time()
        try:
            with serving():
                self._work(picked, undo, save_from)
        finally:
            self.forget_expired()
            self.spent_s = thread_time() - since

    def _work(
        self, picked: Sequence[Request], undo: Iterable[Request], save_from: float | None
    ) -> None:
        self._take_back(undo)
        if self.fault:
            self.save()
        elif save_from is not None:
            self.save([*takewhile(lambda user: user.since <= save_from, self.dirty.values())])
        for request in picked:
            if request.task is not None:
                self._do(request)
        reading = [request for request in picked if request.task is None]
        if self.fault is not None:  # what was answered could not be kept
            for request in reading:
                self._fail(request, copy.copy(self.fault))
            return
        self._seat(reading)
        self._begin(reading)
        reading = [request for request in reading if request.error is None]
        if reading:
            self._read(reading)
        if self._each:
            self._commit([r for r in reading if r.ends and r.error is None])

    def _do(self, request: Request) -> None:
        assert request.task is not None
        try:
            request.answer = request.task(request.user)
        except DstError as error:
            request.error = error
        except Exception as error:  # of the machine or of this program: the others were made
            request.failure = error

    def _begin(self, requests: Sequence[Request]) -> None:
        """Remember what the users of new requests have."""
        for request in requests:
            if request.prior is not None or request.error is not None:
                continue
            user = request.user
            if not request.ends:  # other calls of the pool will come before its end
                user.record = self.committed(user)
            if user.name in self.lost:
                self._fail(request, self.lost.pop(user.name))
                continue
            user.reading = not request.ends
            request.prior = Prior(user.record, bool(user.exists), user.dirty)

    def _read(self, requests: Sequence[Request]) -> None:
        pieces: dict[int, Array | bytes] = {}
        ending: list[int] = []
        for request in requests:
            slot = request.user.slot
            assert slot is not None
            pieces[slot] = request.piece
            if request.flush and request.ends:
                ending.append(slot)
        failed: Mapping[int, DstError] = {}
        try:
            outputs = self.pool.advance(pieces, flush=ending)
        except SlotError as error:
            outputs, failed = error.outputs, error.failed
        except DstError as error:
            outputs, failed = {}, {slot: copy.copy(error) for slot in pieces}
        self.metrics.turns += 1
        self.metrics.seats += len(pieces)
        for request, slot in zip(requests, pieces, strict=True):
            if slot in failed:
                self._fail(request, failed[slot])
                continue
            request.parts.append(outputs[slot])
            request.done += len(request.piece)
            if request.ends:
                user = request.user
                user.record, user.exists, user.reading = None, True, False
                if not user.dirty:
                    self._mark(user, True)
                request.answer = outputs[slot]
        for request in requests:  # now that all is written down that an error would take back
            if request.ends and (request.wish is not ALL or len(request.parts) > 1):
                request.answer = join_parts(self._contract, request.parts, request.wish)

    def _fail(self, request: Request, error: DstError) -> None:
        """End a request by an error, with its user's state as it was before."""
        request.error = error
        user = request.user
        prior, request.prior = request.prior, None
        if prior is None:
            return
        known = prior.record is not None or not prior.exists
        if known and (user.reading or error.code == "state-not-finite"):
            self._restore(user, prior)
        elif error.code == "state-not-finite":  # the pool went back to the last good state
            user.record = None
            self._mark(user, True)

    def _commit(self, requests: Sequence[Request]) -> None:
        """Store the new states of these users before they are answered, in one transaction."""
        states: dict[str, Saved] = {}
        by_name = {request.user.name: request for request in requests}
        for request in requests:
            user = request.user
            assert user.slot is not None
            try:
                states[user.name] = self.pool.swap_out(user.slot)
            except NonFiniteError as error:
                self._fail_late(request, error)
        try:
            self.put(states)
        except DstError as error:
            several = len(states) > 1
            for name, saved in states.items():
                try:
                    if several:  # perhaps it is the fault of one
                        self.put({name: saved})
                    else:
                        self._fail_late(by_name[name], error)
                except DstError as own:
                    self._fail_late(by_name[name], own)
        for name, saved in states.items():
            if by_name[name].error is None:
                by_name[name].user.record = saved

    def _fail_late(self, request: Request, error: DstError) -> None:
        request.error = error
        prior, request.prior = request.prior, None
        assert prior is not None
        self._restore(request.user, prior)

    # --- taking back

    def _take_back(self, requests: Iterable[Request]) -> None:
        """Undo what cancelled requests have done, all of them before anything is stored."""
        stored = []
        for request in requests:
            user, prior = request.user, request.prior
            request.prior = None
            if prior is None:  # it had not begun, or has failed and is undone
                continue
            self.left.append(user)
            if not request.parts:  # nothing has moved
                user.reading = False
                continue
            self.metrics.undone += 1
            finished = not user.reading
            if prior.record is not None or not prior.exists:
                self._restore(user, prior)
            else:
                assert user.slot is not None
                self.pool.undo([user.slot])
                user.record = prior.record
                self._mark(user, prior.dirty)
            if finished and self._each:
                self._mark(user, True)
                stored.append(user)
        if stored:
            self.save(stored)

    def _restore(self, user: User, prior: Prior) -> None:
        user.record, user.exists = prior.record, prior.exists
        user.reading, user.partial = False, None
        self._mark(user, prior.dirty)
        if user.slot is not None:
            self._fill(user.slot, prior.record)

    # --- seats

    def _seat(self, requests: Sequence[Request]) -> None:
        """Give every user of these requests a slot; a request that cannot have one fails."""
        self.turn += 1
        newcomers = []
        for request in requests:
            user = request.user
            user.seen = self.turn
            if user.slot is None:
                newcomers.append(request)
                self.resting.pop(user.name, None)
        missing = len(newcomers) - len(self._free)
        if missing > 0:
            idle = [user for user in self.seated.values() if user.seen != self.turn]
            self._evict(nsmallest(missing, idle, key=attrgetter("seen")))
        for request in newcomers:
            user = request.user
            slot = self._free.pop()
            try:
                self._load(user, slot)
            except Exception as error:
                self._free.append(slot)
                if not isinstance(error, DstError):
                    raise
                self._fail(request, error)
                continue
            user.slot = slot
            self.seated[user.name] = user

    def _evict(self, users: Sequence[User]) -> None:
        """Free the slots of these users, and let their states rest in memory.

        Where too many rest, the first go to the store; where that refuses, they go on resting.
        """
        for user in users:
            assert user.slot is not None
            if user.reading:
                try:
                    user.partial = self.pool.swap_out(user.slot)
                except NonFiniteError as error:
                    where = "this request was ended, and the state is as it was before it"
                    self._fail(user.queue[0], error.within(where))
            elif user.exists and user.record is None and (user.dirty or self._cached):
                user.record = self._out(user)
            del self.seated[user.name]
            self._free.append(user.slot)
            user.slot = None
            self.resting[user.name] = user
        self.metrics.evictions += len(users)
        first = [*islice(self.resting.values(), max(0, len(self.resting) - self._cached))]
        self.save([user for user in first if user.dirty])
        for user in first:
            if not user.dirty:
                self._drop(user)

    def _drop(self, user: User) -> None:
        """Let a state that the store holds rest no longer."""
        del self.resting[user.name]
        self.room.names.discard(user.name)
        if not user.reading:
            user.record = None
        self.left.append(user)

    def _load(self, user: User, slot: int) -> None:
        if user.partial is None and user.record is None and user.exists is not False:
            try:
                user.record = self.store.get(user.name)
                user.exists = True
                self.metrics.loads += 1
            except StreamNotFoundError:
                user.exists = False
        self._fill(slot, user.partial if user.partial is not None else user.record)
        if not user.exists:
            self.admit(user, partial(self.pool.swap_out, slot))
        user.partial = None

    def _fill(self, slot: int, record: Saved | None) -> None:
        if record is not None:
            self.pool.swap_in(slot, record)
        elif self._needs_inputs:
            raise SessionError(
                "the model takes inputs once per stream, and this user is new; give the scheduler "
                "inputs={...} for all, or start the user with "
                "scheduler.put(user, session.stream(inputs={...}).saved())",
                code="stream-input-missing",
            )
        else:
            self.pool.reset(slot, inputs=self._inputs)
