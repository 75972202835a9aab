"""Serve many users from an asyncio program: one pool, one store, one turn after the other.

Shape letters: `N` slots, `n` items of any number.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from numbers import Integral, Real
from typing import Self

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.manifest import item_shape
from dst.runtime.errors import (
    DeadlineError,
    DstError,
    NonFiniteError,
    ServingError,
    StreamNotFoundError,
    shown,
)
from dst.runtime.execution.chunking import chosen
from dst.runtime.execution.inputs import Items
from dst.runtime.execution.step import check_deadline
from dst.runtime.long_input import Cancel, Limit
from dst.runtime.serving.driver import Bounds, Driver
from dst.runtime.serving.lock import StoreLock
from dst.runtime.serving.metrics import Metrics
from dst.runtime.serving.requests import ALL, Request, User, Wish, own
from dst.runtime.serving.seats import Seats
from dst.runtime.serving.signals import end_on
from dst.runtime.session import Session
from dst.runtime.state.record import Saved
from dst.runtime.store import StateStore

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]


class AsyncScheduler:
    """Let any number of users share the N slots of a pool, with their states in a store.

    Requests that wait are read together, one piece of each per turn, so that a long one does not
    hold up the others. A user's own requests are read one after the other, in the order of their
    calls. What a user is answered does not depend on the others, bit for bit (docs/serving.md).

    A call that raises, is cancelled or runs out of time leaves the user's state as it was.

    Use it in the event loop in which it was first used, and let nobody else write to the store.

    Examples:
        >>> import asyncio, tempfile
        >>> from dst.runtime import Session, StateStore
        >>> from dst.runtime.serving import AsyncScheduler
        >>> session = Session.open("text", lowering="fused", chunk_sizes=[1, 32])
        >>> async def main(store):
        ...     async with AsyncScheduler(session, 4, store) as scheduler:
        ...         answers = await asyncio.gather(
        ...             scheduler.advance("ann", b"one stream, " * 3),
        ...             scheduler.advance("bob", b"another", flush=True, last=True),
        ...         )
        ...         return [answer["logits"].shape for answer in answers]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with StateStore(f"{folder}/memory.db") as store:
        ...         asyncio.run(main(store))
        [(1, 32, 256), (1, 1, 256)]
    """

    def __init__(
        self,
        session: Session,
        slots: int,
        store: StateStore,
        *,
        save_every_s: float = 0.0,
        cached: int = 0,
        max_waiting: int = 1024,
        max_waiting_per_user: int = 8,
        max_items: int = 1 << 16,
        turn_items: int | None = None,
        inputs: Mapping[str, Array] | None = None,
    ) -> None:
        """Make a scheduler; the store's file is locked against a second one.

        Args:
            session: a session that a pool can run: `Session.open(..., lowering="fused")`.
            slots: N, 2 or more: how many users step together and stay in memory.
            store: holds the states of all users, each under the user's name.
            save_every_s: 0: an answer is given when its state is in the store. More: a changed
                state is stored within so many seconds, so that a killed process loses what was
                answered in that time (docs/serving.md).
            cached: users without a slot whose states stay in memory, besides the N. Their next
                request reads nothing from the store, and with `save_every_s` nothing is written
                when they leave their slot.
            max_waiting: requests that may wait or be under way in all.
            max_waiting_per_user: the same for one user.
            max_items: the most items of one request.
            turn_items: items of one request that are read in one turn; None for the nominal T,
                or 32 if that is less.
            inputs: what the model takes once per stream, for every new user.

        Raises:
            SessionError: a pool cannot run this session, or a number is out of range.
            StoreBusyError: `store-served`: another scheduler serves this store.
        """
        for name, value, least in (
            ("slots", slots, 2),
            ("save_every_s", save_every_s, 0),
            ("cached", cached, 0),
            ("max_waiting", max_waiting, 1),
            ("max_waiting_per_user", max_waiting_per_user, 1),
            ("max_items", max_items, 1),
            ("turn_items", 1 if turn_items is None else turn_items, 1),
        ):
            kind: type = Real if name == "save_every_s" else Integral
            if not isinstance(value, kind) or not least <= value < float("inf"):
                number = "number, and finite" if kind is Real else "whole number"
                raise ServingError(
                    f"{name} is {value!r}, expected {least} or more, a {number}", code="argument"
                )
        self.metrics = Metrics()
        self._session, self._contract = session, session.contract
        chunk = session.contract.chunk
        self._empty = np.zeros((0, *item_shape(chunk)), chunk.dtype)
        each = save_every_s == 0
        lock = StoreLock(store.path)
        self._seats = Seats(session, slots, cached, store, lock, each, inputs, self.metrics)
        self._slots, self._max_items = slots, max_items
        self._piece = turn_items or max(chunk.nominal_t, 32)
        bounds = Bounds(max_waiting, max_waiting_per_user, self._piece, float(save_every_s))
        self._driver = Driver(self._seats, slots, bounds)
        lock.take()
        self._lock = lock
        self._ending, self._closed = asyncio.Lock(), False

    # --- users' calls

    async def advance(
        self,
        user: str,
        items: Items,
        *,
        flush: bool = False,
        last: bool = False,
        outputs: Sequence[str] | None = None,
        deadline_ms: float | None = None,
    ) -> Outputs:
        """Read items on a user's stream, as `Stream.advance` does, when his turn comes.

        Args:
            user: the user's name: 1 to 200 printable characters. A new one starts a new stream.
            items: `[n, ...]` as for `Stream.advance`.
            flush: the input ends here: answer for the items that fill no chunk, too.
            last: answer for the last item that is stepped only.
            outputs: names of the outputs to return; None for all.
            deadline_ms: give up after so many milliseconds, waiting included.

        Returns:
            As `Stream.advance`.

        Raises:
            BusyError: `busy`, `user-busy`: too many requests wait; try again later.
            DeadlineError: the time was up.
            ServingError: `draining`: the scheduler is ending.
            StepError, NonFiniteError: the items cannot be read, or a result is not finite.
            NonFiniteError: `state-not-finite`: the user's state is put back to the last good one,
                which may be further back than this call, and the message says so.
            StepError: `request-too-large`: more than `max_items`.
            StoreError, StateError: the user's state could not be loaded or stored.
        """
        if deadline_ms is not None:
            check_deadline(deadline_ms)
        request = self._request(user, items, flush, last, outputs)
        answer = await self._driver.answer(request, deadline_ms)
        assert isinstance(answer, dict)
        return answer

    def _request(
        self, user: str, items: Items, flush: bool, last: bool, outputs: Sequence[str] | None
    ) -> Request:
        fresh = own(self._contract.chunk, items, self._empty, self._max_items)
        if outputs is not None:
            outputs = tuple(o.name for o in chosen(self._contract, outputs))
        wish = Wish(last, outputs) if last or outputs is not None else ALL
        return self._driver.request(user, fresh, flush, wish)

    async def iter_advance(
        self,
        user: str,
        items: Items,
        *,
        flush: bool = False,
        last: bool = False,
        outputs: Sequence[str] | None = None,
        deadline_ms: float | None = None,
        cancel: Cancel | None = None,
    ) -> AsyncIterator[Outputs]:
        """Read a long input piece by piece, and give the outputs of each piece as it is done.

        Each piece is a call of its own: when an error is raised or the loop is left, the pieces
        before it are read and stored, and the message says where to go on. `deadline_ms` is for
        all of it, from the first piece, and `cancel` is asked before each piece.

        Yields:
            As `advance`, for a piece in which a chunk filled.

        Raises:
            DeadlineError: the time was up.
            StepError: `cancelled`: `cancel` was set.
            DstError: as `advance`.
        """
        limit = Limit(self._contract.chunk, items, deadline_ms, cancel)
        size = min(self._piece, self._max_items)
        for start in range(0, max(flush, limit.count), size):
            left = limit.check(start)
            ending = flush and start + size >= limit.count
            piece = limit.items[start : start + size]
            try:
                request = self._request(user, piece, ending, last, outputs)
                found = await self._driver.answer(request, left)
            except DeadlineError:
                raise limit.late(start) from None
            except DstError as error:
                raise error.within(limit.where(start)) from error
            assert isinstance(found, dict)
            answers = self._contract.outputs  # also those that are not wanted tell
            if any(part[o.name].shape[o.time_axis or 0] for part in request.parts for o in answers):
                yield found

    async def get(self, user: str) -> Saved:
        """Return a user's state, after the requests that he has made before.

        Raises:
            StreamNotFoundError: he has none.
            NonFiniteError: `state-not-finite`: his state was put back, as for `advance`.
        """

        def task(whose: User) -> Saved:
            saved = self._seats.committed(whose)
            if (lost := self._seats.lost.pop(user, None)) is not None:
                raise lost
            if saved is None:  # the store may still hold what was taken back
                raise StreamNotFoundError(f"user {user!r} has no state")
            return saved

        saved = await self._driver.answer(self._driver.request(user, task=task), None)
        assert isinstance(saved, Saved)
        return saved

    async def put(self, user: str, saved: Saved) -> None:
        """Let a user go on from a state, such as `Stream.saved` of this model returns.

        It is in the store when this returns. If it is cancelled, that may have happened or not.

        Raises:
            StateError: the state cannot be used by this session.
        """

        def task(whose: User) -> None:
            self._session.stream(saved)  # refuses what does not fit
            self._seats.replace(whose, saved)

        await self._driver.answer(self._driver.request(user, task=task), None)

    async def delete(self, user: str, *, erase: bool = False) -> bool:
        """Forget a user; say whether there was anything to forget.

        Args:
            user: the user's name.
            erase: leave no copy of his states in the store's files either (`StateStore.vacuum`);
                the others wait while that is done.

        If it is cancelled, he may be forgotten or not, whole: call it again, which does no harm.

        Raises:
            StoreError: he is not forgotten; or he is, where the message says so, but `erase` could
                not be done.
        """

        def task(whose: User) -> bool:
            known = whose.exists is True
            self._lock.check()
            with suppress(StreamNotFoundError):
                self._seats.store.delete(user)
                known = whose.exists is not False  # else the store held what was taken back
            self._seats.leave(whose)
            if erase:
                try:
                    self._seats.store.vacuum()
                except DstError as error:
                    raise error.within(
                        f"user {shown(user)} is forgotten, but copies may be left in the store's "
                        "files; call delete(erase=True) again"
                    ) from error
            return known

        return bool(await self._driver.answer(self._driver.request(user, task=task), None))

    async def expire(self, max_age_s: float) -> int:
        """Forget users who were idle for so many seconds, and return how many."""
        request = self._driver.request("", task=lambda _: self._seats.expire(max_age_s))
        count = await self._driver.answer(request, None)  # no user can have that name
        assert isinstance(count, int)
        return count

    # --- beginning and ending

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.drain()

    async def warm_up(self, chunk_sizes: Iterable[int] | None = None) -> None:
        """Make the buffers of every batch size now, and not when they are first needed.

        Args:
            chunk_sizes: the T that will be used; None for all of the session.
        """
        sizes = [*(self._session.chunk_sizes if chunk_sizes is None else chunk_sizes)]
        await self._driver.in_thread(lambda: self._seats.pool.warm_up(sizes))

    async def drain(self, timeout_s: float | None = None) -> None:
        """End: refuse new requests, answer those that wait, and store every state.

        Args:
            timeout_s: refuse those that still wait after so many seconds, too; None to answer all.

        Raises:
            StoreError: the states could not be stored; they are still in memory: free some space,
                say, and call it again.
            NonFiniteError: `state-not-finite`: it has ended and all is stored, but some users were
                put back to their last good state, and have not been told.
            ServingError: `other-loop`: it runs in another loop, and nothing was ended.
        """
        if self._closed:
            return
        self._driver.end()
        async with self._ending:
            if self._closed:
                return
            try:
                async with asyncio.timeout(timeout_s):
                    await self._driver.rest()
            except TimeoutError:
                self._driver.refuse_all()
                await self._driver.rest()
            await self._driver.save()
            if self._seats.fault is not None:
                raise self._seats.fault
            self._closed = True
            self._driver.stop()
            self._lock.release()
        if lost := self._seats.lost:
            names = ", ".join([*map(shown, [*lost][:8]), *(["…"] if len(lost) > 8 else [])])
            raise NonFiniteError(
                f"all is stored and the scheduler has ended, but {len(lost)} users ({names}) lost "
                f"answers: {next(iter(lost.values()))}",
                code="state-not-finite",
            )

    def drain_on(self, *signals: signal.Signals, done: Callable[[], object] | None = None) -> None:
        """Drain when the process gets one of these signals, SIGTERM by default, then call `done`.

        Where the store refuses the states, it is tried again every second until it takes them.
        To be called in the event loop. What the program does after that is its own affair; an
        `async with` block of this scheduler, once left, has nothing more to do.
        """
        end_on(self.drain, signals or (signal.SIGTERM,), done)

    def metrics_text(self) -> str:
        """Return the metrics in Prometheus' text format."""
        turns = max(1, self.metrics.turns)
        return self.metrics.text(
            {
                "waiting": ("Requests that wait or are under way.", self._driver.waiting),
                "slots": ("Slots of the pool.", self._slots),
                "seated": ("Users with a slot.", len(self._seats.seated)),
                "resting": ("Users without one, in memory.", len(self._seats.resting)),
                "unsaved": ("Users whose newest state is not stored.", len(self._seats.dirty)),
                "batch_fill": (
                    "Mean share of the slots that step in a turn.",
                    self.metrics.seats / turns / self._slots,
                ),
            }
        )
