"""Any interleaving of users, cancels, evictions and restarts gives each what his stream gives."""

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.runtime.pool.conftest import same
from tests.runtime.serving.conftest import Alone, Inline, Outputs, inline, spin, stored

from dst.runtime import Saved, Session, StateStore
from dst.runtime.errors import DeadlineError, StepError, StoreFullError, StreamNotFoundError
from dst.runtime.serving import AsyncScheduler, BusyError
from dst.runtime.state.record import pack

USERS = ("ann", "bob", "cleo", "dan")
WAITING_MOST = 3


class Call:
    """One request, and what it must have answered if it counts."""

    def __init__(self, user: str, items: bytes, flush: bool, last: bool) -> None:
        self.user, self.items, self.flush, self.last = user, items, flush, last
        self.task: asyncio.Task[Outputs] | None = None


class Serving(RuleBasedStateMachine):
    """Two slots, four users; work is done when the loop is spun; every answer is checked."""

    session: ClassVar[Session]

    @initialize(
        every=st.sampled_from([0.0, 1e-9, 1e9]), turn=st.sampled_from([3, 8, 32]),
        cached=st.integers(0, 3), pages=st.sampled_from([None, 9, 10, 11]),
    )  # fmt: skip
    def begin(self, every: float, turn: int, cached: int, pages: int | None) -> None:
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # no disk to wait for
        self.folder = Path(tempfile.mkdtemp(dir=memory))
        self.every, self.turn, self.cached = every, turn, cached
        self.max_bytes = None if pages is None else pages * 16384  # room for no user, or for some
        self.loop = asyncio.new_event_loop()
        self.alone, self.trial = Alone(self.session), Alone(self.session)
        self.calls: list[Call] = []
        self.seed = 0
        self.seen: Counter[str] = Counter()
        self.open()

    def open(self) -> None:
        self.store = StateStore(
            self.folder / "a.db", durable=False, history_bytes=0, max_bytes=self.max_bytes
        )
        self.scheduler = AsyncScheduler(
            self.session,
            2,
            self.store,
            save_every_s=self.every,
            cached=self.cached,
            turn_items=self.turn,
            max_waiting_per_user=WAITING_MOST,
        )
        self.executor: Inline = inline(self.scheduler)
        # what each user was since the store was last known to hold all: a kill may go back there
        self.past = {user: [self.alone.states.get(user)] for user in USERS}

    def run(self, times: int) -> None:
        self.loop.run_until_complete(spin(times))

    # --- what may happen

    @rule(
        user=st.sampled_from(USERS), count=st.integers(0, 20), flush=st.booleans(),
        last=st.booleans(), deadline=st.sampled_from([None, None, 1e-3, 1e5]),
    )  # fmt: skip
    def asks(self, user: str, count: int, flush: bool, last: bool, deadline: float | None) -> None:
        self.ask(user, count, flush, last, deadline)

    def ask(self, user: str, count: int, flush: bool, last: bool, deadline: float | None) -> None:
        self.seed += 1
        items = np.random.default_rng(self.seed).integers(0, 256, count).astype(np.uint8).tobytes()
        call = Call(user, items, flush, last)
        call.task = self.loop.create_task(
            self.scheduler.advance(user, items, flush=flush, last=last, deadline_ms=deadline)
        )
        self.calls.append(call)

    @rule(times=st.integers(1, 8))
    def go_on(self, times: int) -> None:
        self.run(times)

    @precondition(lambda self: self.pending())
    @rule(which=st.integers(0, 7))
    def cancel(self, which: int) -> None:
        pending = self.pending()
        pending[which % len(pending)].cancel()

    @rule(user=st.sampled_from(USERS), count=st.integers(1, 20), times=st.integers(0, 9))
    def ask_and_cancel(self, user: str, count: int, times: int) -> None:
        """At any moment of its life, the one after the answer is there included."""
        self.ask(user, count, flush=True, last=False, deadline=None)
        self.run(times)
        task = self.calls[-1].task
        assert task is not None
        task.cancel()

    @rule(
        user=st.sampled_from(USERS), count=st.integers(1, 20), late=st.booleans(),
        times=st.integers(0, 6),
    )  # fmt: skip
    def cancel_during_a_turn(self, user: str, count: int, late: bool, times: int) -> None:
        self.ask(user, count, flush=True, last=False, deadline=None)
        task = self.calls[-1].task
        assert task is not None
        self.run(times)
        hooks = self.executor.after if late else self.executor.before
        hooks.append(task.cancel)
        self.run(5)
        hooks.clear()

    def pending(self) -> list[asyncio.Task[Outputs]]:
        return [call.task for call in self.calls if call.task and not call.task.done()]

    @rule(user=st.sampled_from(USERS))
    def malformed(self, user: str) -> None:
        refusals: tuple[type[Exception], ...] = (StepError,)
        waiting = [c for c in self.calls if c.user == user and c.task and not c.task.done()]
        if len(waiting) >= WAITING_MOST:
            refusals += (BusyError,)
        with pytest.raises(refusals if self.max_bytes is None else (*refusals, StoreFullError)):
            self.loop.run_until_complete(
                self.scheduler.advance(user, np.array([300]))  # no such byte
            )

    @rule(states=st.booleans())
    def compare(self, states: bool) -> None:
        self.settle(states)

    def settle(self, states: bool = False) -> None:
        """Wait for all, and compare every answer and every state."""
        for call in self.calls:
            if call.task is not None:
                self.loop.run_until_complete(asyncio.wait([call.task]))
        self.run(3)
        self.judge()
        assert self.calls == []
        for user in USERS if states else ():  # asking for a state makes it known
            try:
                found = pack(self.loop.run_until_complete(self.scheduler.get(user)))
            except StreamNotFoundError:
                found = None
            assert found == self.alone.packed(user), user

    def judge(self) -> None:
        """Compare every answer that has come, and keep the calls that have none yet."""
        left = []
        for call in self.calls:
            assert call.task is not None
            if not call.task.done():
                left.append(call)
            elif call.task.cancelled():
                self.seen["a cancelled call"] += 1
            elif (error := call.task.exception()) is not None:
                assert isinstance(error, DeadlineError | BusyError | StoreFullError), error
                if isinstance(error, StoreFullError):  # who is known is never refused
                    assert self.max_bytes is not None
                    assert call.user not in self.alone.states
                self.seen[type(error).__name__] += 1
            else:
                expected = self.alone.advance(call.user, call.items, call.flush, call.last)
                same(call.task.result(), expected)
                self.past[call.user].append(self.alone.states[call.user])
        self.calls = left

    @rule(user=st.sampled_from(USERS))
    def forget(self, user: str) -> None:
        self.settle()
        known = self.loop.run_until_complete(self.scheduler.delete(user))
        assert known == (user in self.alone.states)
        self.alone.states.pop(user, None)
        self.past[user] = [None]

    @rule()
    def drain_and_restart(self) -> None:
        self.settle()
        self.loop.run_until_complete(self.scheduler.drain())
        self.count()
        self.store.close()
        self.compare_store()
        self.open()

    @rule(
        counts=st.lists(st.integers(0, 20), min_size=4, max_size=4), flush=st.booleans(),
        times=st.integers(0, 8),
    )  # fmt: skip
    def all_ask(self, counts: list[int], flush: bool, times: int) -> None:
        """More users than there are slots."""
        for user, count in zip(USERS, counts, strict=True):
            self.ask(user, count, flush, last=False, deadline=None)
        self.run(times)

    @rule(settled=st.booleans(), more=st.lists(st.sampled_from(USERS)), times=st.integers(0, 6))
    def is_killed_and_restarts(self, settled: bool, more: list[str], times: int) -> None:
        """Go on with the store as it is now, whatever is under way.

        What was answered is there, where each answer waits for the store; else the state is one
        that the user had before. What had no answer yet is there whole, or not at all.
        """
        if settled:
            self.settle()
        for user in () if settled else more:
            self.ask(user, 12, flush=False, last=False, deadline=None)
            self.run(times)
        open_calls = [c for c in self.calls if c.task and (c.task.cancelled() or not c.task.done())]
        self.judge()
        there = stored_copy(self.folder)
        for user in USERS:
            calls = [call for call in open_calls if call.user == user]
            past = self.past[user][-1:] if self.every == 0 else self.past[user]
            found = there.get(user)
            for state in self.may_be(user, past, calls):
                if (None if state is None else pack(state)) == found:
                    break
            else:
                raise AssertionError(f"{user} has a state that he never had")
            self.alone.states.pop(user, None)
            if state is not None:
                self.alone.states[user] = state
        self.seen["a kill with calls under way"] += bool(self.calls)
        self.count()
        self.abandon()
        self.open()

    def may_be(
        self, user: str, past: list[Saved | None], calls: list[Call]
    ) -> Iterator[Saved | None]:
        """Give every state that a user may have: an earlier one, and that after some calls."""
        yield from reversed(past)
        for state in reversed(past):
            for count in range(1, len(calls) + 1):
                for some in combinations(calls, count):
                    self.trial.states = {} if state is None else {user: state}
                    for call in some:
                        self.trial.advance(call.user, call.items, call.flush)
                    yield self.trial.states[user]

    def abandon(self) -> None:
        """End everything as a kill would, and leave the files as they are."""
        for task in self.pending():
            task.cancel()
        driver = self.scheduler._driver
        if driver._task is not None:
            driver._task.cancel()
        self.run(3)
        self.calls = []
        self.store.close()
        self.scheduler._lock.release()

    def compare_store(self) -> None:
        expected = {user: self.alone.packed(user) for user in self.alone.states}
        assert stored(self.folder / "a.db") == expected

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            try:
                self.end()
            finally:  # the folder may be memory, which a trial that fails must not keep
                shutil.rmtree(self.folder)

    def end(self) -> None:
        self.settle()
        self.loop.run_until_complete(self.scheduler.drain())
        self.count()
        for what, times in self.seen.items():
            if times:
                event(what)
        self.store.close()
        self.compare_store()
        self.loop.close()

    def count(self) -> None:
        """Count what this scheduler did, for hypothesis' statistics."""
        metrics = self.scheduler.metrics
        self.seen["a user who left his slot"] += metrics.evictions
        self.seen["a state read from the store"] += metrics.loads
        self.seen["work that was taken back"] += metrics.undone
        self.seen["a restart"] += 1


def stored_copy(folder: Path) -> dict[str, bytes]:
    """What a store holds that is still in use."""
    copy = folder / "copy"
    copy.mkdir()
    for file in folder.glob("a.db*"):
        shutil.copy(file, copy)
    found = stored(copy / "a.db")
    shutil.rmtree(copy)
    return found


def test_every_interleaving_gives_each_user_his_own_stream(served: Session) -> None:
    Serving.session = served
    machine = Serving.TestCase
    machine.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
    machine().runTest()
