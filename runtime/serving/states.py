"""Keep the users whose states are in memory, and store what has changed of these.

What is answered before it is stored can be stored later only if there is room for it: a user whom
the store knows has his, and a new one is admitted where there is more. Whom the store forgets by
his age is forgotten here, too, unless he has read since he was stored.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic

from dst.runtime.bundle.manifest import Contract
from dst.runtime.errors import DstError, NonFiniteError, StreamNotFoundError
from dst.runtime.pool import StreamPool
from dst.runtime.serving.lock import StoreLock
from dst.runtime.serving.metrics import Metrics
from dst.runtime.serving.requests import User
from dst.runtime.serving.room import Room
from dst.runtime.state.record import Saved
from dst.runtime.store import StateStore
from dst.runtime.store.served import serving

_LOG = logging.getLogger("dst.runtime.serving")
_AT_ONCE = 256  # states that one transaction writes
_LOST_MOST = 4096


class States:
    """The users in memory, in the slots of a pool and beside them, and the store behind it.

    Attributes:
        metrics: what is counted.
        dirty: the users whose newest state the store does not hold, the one for longest first.
        seated: the users with a slot, by name.
        resting: the users without a slot whose state is in memory, who left it first at first.
        turn: the number of the last turn.
        room: the room that is kept in the store for new users.
        expired: whom the store has forgotten, until he is forgotten here.
        fault: why the store could not be written, until it can be again.
        lost: why the last answers of a user are not in his state, until he is told, by name.
        left: users who have lost their slot, for the scheduler to forget.
    """

    def __init__(
        self,
        pool: StreamPool,
        slots: int,
        contract: Contract,
        store: StateStore,
        lock: StoreLock,
        metrics: Metrics,
    ) -> None:
        self.pool, self.store, self.lock, self.metrics = pool, store, lock, metrics
        self._contract = contract
        self._free = [*range(slots)]
        self.room = Room(store, contract.chunk)
        self.turn = 0
        self.seated: dict[str, User] = {}
        self.resting: dict[str, User] = {}
        self.dirty: dict[str, User] = {}
        self.expired: set[str] = set()
        self.fault: DstError | None = None
        self.lost: dict[str, NonFiniteError] = {}
        self.left: list[User] = []

    def leave(self, user: User) -> None:
        """Free the slot of a user, whose state in it is not wanted any more."""
        self.dirty.pop(user.name, None)
        self.resting.pop(user.name, None)
        self.room.names.discard(user.name)
        self.lost.pop(user.name, None)
        user.record = user.partial = None
        user.exists, user.dirty = None, False
        if self.seated.pop(user.name, None) is not None and user.slot is not None:
            self._free.append(user.slot)
            user.slot = None

    def committed(self, user: User) -> Saved | None:
        """Return the state of a user as of his last answer; None where he has none."""
        if user.record is None and user.exists is not False:
            if user.slot is None:
                try:
                    return self.store.get(user.name)
                except StreamNotFoundError:
                    return None
            user.record = self._out(user)
        return user.record

    def save(self, users: Sequence[User] | None = None) -> None:
        """Store the states of these users, by default of all who have changed.

        Where the store refuses, `fault` says why, and they stay dirty. Where only its budget is
        reached, those that fit are stored, known users before new ones.
        """
        left = [*self.dirty.values()] if users is None else [*users]
        left.sort(key=lambda user: user.name in self.room.names)
        fault, at_once = None, _AT_ONCE
        while left:
            some, left = left[:at_once], left[at_once:]
            records = {user.name: self.committed(user) for user in some}
            try:
                self.put({name: saved for name, saved in records.items() if saved is not None})
                for user in some:
                    if records[user.name] is None:  # his first request was taken back
                        self.lock.check()
                        with suppress(StreamNotFoundError):
                            self.store.delete(user.name)
                        self._mark(user, False)
            except DstError as error:
                if error.code == "store-budget" and len(some) > 1:
                    left, at_once = some + left, 1
                    continue
                _LOG.warning("states could not be stored: %s", error)
                fault = error
                if error.code != "store-budget":
                    break
        self.fault = fault  # at the end: `drain` may look while the task tries again

    def put(self, states: Mapping[str, Saved]) -> None:
        """Store these states, by name."""
        if not states:
            return
        self.lock.check()
        expired = self.store.put_many(states)
        self.room.names -= states.keys()
        self.expired = (self.expired - states.keys()).union(expired)
        self.metrics.writes += len(states)
        for name in states:
            if (user := self.dirty.pop(name, None)) is not None:
                user.dirty = False
                self.left.append(user)

    def save_all(self) -> None:
        """Store the states of all who have changed, outside of a turn."""
        with serving():
            self.save()

    def _out(self, user: User) -> Saved:
        assert user.slot is not None
        try:
            return self.pool.swap_out(user.slot)
        except NonFiniteError as error:  # the pool has gone back to the last good state
            _LOG.error("user %s: %s", user.name, error)
            self.lost[user.name] = error
            if len(self.lost) > _LOST_MOST:
                del self.lost[next(iter(self.lost))]
            return self.pool.swap_out(user.slot)

    def _mark(self, user: User, dirty: bool) -> None:
        if dirty and not user.dirty:
            user.since = monotonic()
            self.dirty[user.name] = user
        elif not dirty:
            self.dirty.pop(user.name, None)
        user.dirty = dirty

    # --- what the store's limits ask for

    def admit(self, user: User, state: Callable[[], Saved]) -> None:
        """Keep room in the store for a new user, or refuse him; `state` gives one of this model."""
        fresh = self.room.names
        self.room.admit(
            user.name,
            state,
            write=lambda: self.save([u for u in self.dirty.values() if u.name in fresh]),
        )

    def replace(self, user: User, saved: Saved) -> None:
        """Let a user go on from a state, which is stored at once."""
        try:
            self.store.history(user.name)
        except StreamNotFoundError:
            self.admit(user, lambda: saved)
        self.put({user.name: saved})
        self.leave(user)

    def expire(self, max_age_s: float) -> int:
        """Forget users who were idle for so many seconds; return how many."""
        self.save()  # who has read since he was stored was not idle
        if self.fault is not None:
            raise copy.copy(self.fault)
        expired = self.store.expire(max_age_s)
        self.expired.update(expired)
        return len(expired)

    def forget_expired(self) -> None:
        """After a turn: let nobody go on from what the store has forgotten."""
        for name in self.expired:
            user = self.seated.get(name) or self.resting.get(name)
            if user is None:
                continue
            if user.dirty or user.reading or user.seen == self.turn:
                self.room.names.add(name)
            else:
                self.leave(user)
                self.left.append(user)
        self.expired.clear()
