"""Choose who reads in each turn, and see that every request is answered or undone.

All of this runs in the event loop; the work of a turn is done by one thread (`Seats`), or in the
loop itself where it is briefer than handing it over and reaches no disk. A request that is
cancelled while its turn runs is undone before the next one.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import BusyError, DeadlineError, ServingError, StoreError
from dst.runtime.serving.requests import ALL, Request, User, Wish
from dst.runtime.serving.seats import Seats

Array = npt.NDArray[np.generic]
_LOG = logging.getLogger("dst.runtime.serving")
AGAIN_S = 1.0  # until a store that has refused is tried again, where nobody asks for anything
_BRIEF_S = 0.005  # a turn that takes less may run in the event loop: threads take turns as long
_NOTHING = np.zeros(0)
_ENDING = "this scheduler is ending and takes no more requests; nothing was read; try another one"


@dataclass(slots=True, frozen=True)
class Bounds:
    """What a scheduler takes: requests that wait in all and of one user, items of a turn."""

    waiting: int
    own: int
    piece: int
    save_every_s: float

    @property
    def save_each(self) -> bool:
        """Say whether a state is stored before its answer is given."""
        return self.save_every_s == 0


class Driver:
    """The requests of all users, and the task that lets them read in turn.

    Attributes:
        waiting: requests that wait or are under way.
        draining: no more requests are taken.
    """

    def __init__(self, seats: Seats, slots: int, bounds: Bounds) -> None:
        self._seats, self._slots, self._bounds = seats, slots, bounds
        self._metrics = seats.metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dst-serving")
        self._users: dict[str, User] = {}
        self._ready: dict[str, User] = {}  # users whose first request can be read, in turn
        self._undo: list[Request] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake, self._idle = asyncio.Event(), asyncio.Event()
        self._tried_at = 0.0  # to store states
        self._turn_s = 2 * _BRIEF_S  # the time of a CPU that turns take, the last counting most
        self._resting = 0  # callers that wait until nothing is to be done
        self._stopped = False
        self.waiting = 0
        self.draining = False

    # --- requests

    def request(
        self,
        name: str,
        items: Array | bytes = _NOTHING,
        flush: bool = False,
        wish: Wish = ALL,
        task: Callable[[User], object] | None = None,
    ) -> Request:
        """Let a request wait for its turn."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._here()
        if self.draining:
            raise ServingError(_ENDING, code="draining")
        if not isinstance(name, str):
            raise StoreError(
                f"user is a {type(name).__name__}, expected a name of 1 to 200 printable "
                "characters",
                code="stream-name",
            )
        user = self._users.get(name) or User(name)
        if self.waiting >= self._bounds.waiting:
            self._metrics.outcomes["busy"] += 1
            raise BusyError(
                f"{self.waiting} requests wait already, the most that this scheduler takes "
                "(max_waiting); try again later"
            )
        if len(user.queue) >= self._bounds.own:
            self._metrics.outcomes["busy"] += 1
            raise BusyError(
                f"{len(user.queue)} requests of this user wait already, the most that one may "
                "have (max_waiting_per_user); wait for an answer first",
                code="user-busy",
            )
        if self._task is None or self._task.done():  # a call costs more
            self._start()
        request = Request(user, loop.create_future(), items, flush, wish, task, perf_counter())
        self.waiting += 1
        user.queue.append(request)
        if len(user.queue) == 1:
            self._users[name] = self._ready[name] = user
            if len(self._ready) == 1:
                self._idle.clear()
                self._wake.set()
        return request

    async def answer(self, request: Request, deadline_ms: float | None) -> object:
        """Wait for the answer of a request; whatever else happens, see that it is undone."""
        timer = None
        if deadline_ms is not None:
            assert self._loop is not None
            timer = self._loop.call_later(deadline_ms / 1000, self._expire, request, deadline_ms)
        try:
            answer = await request.future
        except BaseException as error:
            self._metrics.outcomes[_outcome_of(error)] += 1
            if not request.picked:
                self._remove(request)
            self._wake.set()
            raise
        finally:
            self.waiting -= 1
            if timer is not None:
                timer.cancel()
        request.taken = True
        if request.task is None:
            self._metrics.answered(len(request.items), perf_counter() - request.since)
        return answer

    def _expire(self, request: Request, deadline_ms: float) -> None:
        if not request.future.done():
            request.future.set_exception(
                DeadlineError(
                    f"the request was not answered in {deadline_ms:g} ms; the state is as it was"
                )
            )

    def _remove(self, request: Request) -> None:
        """Take a request that no turn has picked out of its user's queue."""
        user = request.user
        if request not in user.queue:  # a turn has passed it over in the meantime
            return
        first = user.queue[0] is request
        user.queue.remove(request)
        if first:
            self._next(user)

    def _next(self, user: User) -> None:
        """Let the user's next request wait for its turn, behind the other users."""
        self._ready.pop(user.name, None)
        if user.queue:
            self._ready[user.name] = user
        elif user.slot is None:
            self._forget(user)

    def _forget(self, user: User) -> None:
        """Forget a user who is in the store only."""
        busy = user.queue or user.dirty or user.reading or user.slot is not None
        busy = busy or user.name in self._seats.resting
        if not busy and self._users.get(user.name) is user:
            del self._users[user.name]

    # --- the task

    def _here(self) -> asyncio.AbstractEventLoop:
        """Return the event loop, and refuse any but that of the first use."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif loop is not self._loop:
            raise ServingError(
                "this scheduler runs in another event loop; make one scheduler per loop, or use "
                "asyncio.run_coroutine_threadsafe",
                code="other-loop",
            )
        return loop

    def _start(self) -> None:
        """Make the task, at first or after somebody has cancelled it among all tasks."""
        if not self._stopped and (self._task is None or self._task.done()):
            self._task = self._here().create_task(self._drive())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Go on where there is something to do; after an error, say so to all who wait."""
        if self._stopped:
            return
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a scheduler's task failed", exc_info=error)
            self._end_all(error)
            self._idle.set()
        elif self.waiting or self._resting:
            self._start()
        elif self._seats.dirty and self._loop is not None:  # unless the loop is ending
            self._loop.call_later(AGAIN_S, self._start)

    def end(self) -> None:
        """Take no more requests. Where the loop of the first use is closed, end in this one."""
        if self._loop is not None and self._loop.is_closed():
            self._loop, self._task = asyncio.get_running_loop(), None
            self._wake, self._idle = asyncio.Event(), asyncio.Event()
            for user in self._users.values():
                for request in user.queue:  # whose callers have ended with their loop
                    request.future = self._loop.create_future()
                    request.future.cancel()
        self._here()
        self.draining = True

    # --- the turns

    async def _drive(self) -> None:
        """Take turn after turn. A cancel ends this between two turns, never within one."""
        cancelled = False
        while not cancelled:
            if not self._ready and not self._undo:
                self._idle.set()  # until the next request
                await self._sleep()
                if not self._ready and not self._due():
                    continue
            picked, undo = self._pick(), self._undo
            self._undo = []
            save_from = monotonic() - self._bounds.save_every_s / 2 if self._due() else None
            try:
                on_disk = self._bounds.save_each or save_from is not None or self._seats.fault
                brief = self._turn_s < _BRIEF_S and not (on_disk or undo)
                if brief and all(map(seated, picked)):
                    self._seats.work(picked, undo, None)
                else:
                    work = partial(self._seats.work, picked, undo, save_from)
                    job = asyncio.get_running_loop().run_in_executor(self._thread, work)
                    cancelled = await _over(job)
                    job.result()
                self._turn_s += (self._seats.spent_s - self._turn_s) / 4
            except Exception as error:  # of the machine or of this program: say so to the callers
                _LOG.exception("a turn failed")
                for request in picked:
                    request.failure = error
            if save_from is not None or self._seats.fault:
                self._tried_at = monotonic()
            answered = [request for request in picked if self._finish(request)]
            left, self._seats.left = self._seats.left, []
            try:
                await asyncio.sleep(0)  # whoever was answered goes on now, and may ask for more
            finally:
                self._undo += [request for request in answered if not request.taken]
                for user in left:
                    self._forget(user)
        raise asyncio.CancelledError

    def _due(self) -> bool:
        """Say whether changed states are to be stored now."""
        return bool(self._seats.dirty) and monotonic() >= self._due_at()

    def _due_at(self) -> float:
        """Say when the state that is to be stored next is due.

        That is after half of `save_every_s`, so that the other half is left to write it. A store
        that refuses is left alone for a while.
        """
        if self._seats.fault:
            return self._tried_at + AGAIN_S
        return next(iter(self._seats.dirty.values())).since + self._bounds.save_every_s / 2

    async def _sleep(self) -> None:
        """Wait for a request, or until states are to be stored."""
        wait: float | None = None
        if self._seats.dirty:
            wait = max(0.0, self._due_at() - monotonic())
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wake.wait()

    def _pick(self) -> list[Request]:
        """Choose who reads in the next turn: those who have waited for longest."""
        picked: list[Request] = []
        for user in [*self._ready.values()]:
            while user.queue and user.queue[0].future.done():  # cancelled between two turns
                self._undo.append(user.queue.popleft())
            if not user.queue:
                self._next(user)
                continue
            if len(picked) == self._slots:
                break
            request = user.queue[0]
            request.picked = True
            request.piece, request.ends = request.items, True
            if len(request.items) > self._bounds.piece:
                end = request.done + self._bounds.piece
                request.piece = request.items[request.done : end]
                request.ends = end >= len(request.items)
            picked.append(request)
        return picked

    def _finish(self, request: Request) -> bool:
        """Answer a request, if it is over; say whether it was answered with outputs."""
        user, future = request.user, request.future
        error = request.failure or request.error
        gone = future.done()
        if not (gone or error or request.ends or request.task):
            self._ready[user.name] = self._ready.pop(user.name)
            return False
        user.queue.popleft()
        self._next(user)
        if gone or request.failure is not None:
            self._undo.append(request)
        if gone:
            return False
        if error is not None:
            future.set_exception(error)
            return False
        future.set_result(request.answer)
        return True

    async def rest(self) -> None:
        """Wait until nothing is to be done."""
        self._start()
        self._resting += 1
        try:
            await self._idle.wait()
        finally:
            self._resting -= 1

    def refuse_all(self) -> None:
        """End every request that waits or is being read by an error."""
        self._end_all(ServingError(_ENDING, code="draining"))

    def _end_all(self, error: BaseException) -> None:
        for user in [*self._users.values()]:
            for request in user.queue:
                made = request.picked and request.task  # it is not undone, so let it be answered
                if not (request.future.done() or made):
                    request.future.set_exception(error)

    async def save(self) -> None:
        """Store every state; what the store refuses is tried again by the task."""
        await self.in_thread(self._seats.save_all)
        self._tried_at = monotonic()
        self._wake.set()

    def stop(self) -> None:
        """End the task and the thread."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
        self._thread.shutdown(wait=False)

    async def in_thread(self, work: Callable[[], None]) -> None:
        """Do some work in the thread of the pool and the store."""
        await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def _over(job: asyncio.Future[None]) -> bool:
    """Wait until some work is over, whatever comes; say whether a cancel came."""
    cancelled = False
    while not job.done():
        try:
            await asyncio.wait([job])
        except asyncio.CancelledError:
            cancelled = True
    return cancelled


def _outcome_of(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return "deadline" if isinstance(error, DeadlineError) else "failed"


def seated(request: Request) -> bool:
    """Say whether a request only steps a user who has a slot."""
    return request.task is None and request.user.slot is not None
