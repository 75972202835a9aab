"""What a scheduler does when the store refuses, a state is spoilt or the program itself fails."""

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.pool.conftest import positive, same
from tests.runtime.serving.conftest import Alone, inline, serve, spin, stored

from dst.runtime import DstError, Saved, Session, StateStore, StreamPool
from dst.runtime.errors import NonFiniteError, StoreError, StoreFullError, StreamNotFoundError
from dst.runtime.serving import AsyncScheduler, driver, states
from dst.runtime.state.record import pack


class Disk:
    """A disk that is full when a test says so, or takes no state of some users."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.refused: set[str] = set()
        self.tries = self.refusals = 0
        self.sizes: list[int] = []
        self.threads: set[threading.Thread] = set()
        real, real_delete = StateStore.put_many, StateStore.delete

        def refuse() -> None:
            if self.full:
                self.refusals += 1
                raise StoreFullError("the disk is full")

        def delete(store: StateStore, name: str) -> None:
            refuse()
            real_delete(store, name)

        def put_many(store: StateStore, states: Mapping[str, Saved]) -> tuple[str, ...]:
            self.tries += 1
            self.threads.add(threading.current_thread())
            refuse()
            if self.refused & states.keys():
                raise StoreError("a state is refused")
            expired = real(store, states)
            self.sizes.append(len(states))
            return expired

        monkeypatch.setattr(StateStore, "put_many", put_many)
        monkeypatch.setattr(StateStore, "delete", delete)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_state_that_cannot_be_put_back_into_the_store_is_put_back_later(
    served: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disk: Disk,
    asks: bool,
    known: bool,
) -> None:
    """A request is cancelled after its state was stored, and then the disk is full."""
    monkeypatch.setattr(driver, "AGAIN_S", 0.001)
    alone = Alone(served)
    path = tmp_path / "a.db"

    async def work(scheduler: AsyncScheduler) -> None:
        executor = inline(scheduler)
        if known:
            same(await scheduler.advance("ann", b"before"), alone.advance("ann", b"before", False))
        task = asyncio.create_task(scheduler.advance("ann", b"to be cancelled"))

        def cancel() -> None:
            if "ann" in scheduler._seats.seated and disk.tries > known and not disk.full:
                task.cancel()
                disk.full = True

        executor.after.append(cancel)
        await asyncio.wait([task])
        assert task.cancelled()
        executor.after.clear()
        await wait_until(lambda: disk.refusals)
        assert stored(path) != {name: alone.packed(name) for name in alone.states}
        if known:
            assert pack(await scheduler.get("ann")) == alone.packed("ann")
        else:
            with pytest.raises(StreamNotFoundError):
                await scheduler.get("ann")
        disk.full = False
        if asks:
            for name in ("bob", "cleo", "dan"):  # they take her slot
                same(await scheduler.advance(name, b"x"), alone.advance(name, b"x", False))
        else:
            await wait_until(lambda: not scheduler._seats.dirty)
        assert stored(path) == {name: alone.packed(name) for name in alone.states}
        same(await scheduler.advance("ann", b"after"), alone.advance("ann", b"after", False))

    serve(served, path, work)


async def wait_until(what) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.001)


def test_one_state_that_the_store_refuses_fails_alone(
    served: Session, tmp_path: Path, disk: Disk
) -> None:
    alone = Alone(served)

    async def work(scheduler: AsyncScheduler) -> None:
        names = [f"user {n}" for n in range(5)]
        for text in (b"one", b"two", b"three"):
            disk.refused = {"user 3"} if text == b"two" else set()
            answers = await asyncio.gather(
                *(scheduler.advance(name, text) for name in names), return_exceptions=True
            )
            for name, answer in zip(names, answers, strict=True):
                if name in disk.refused:
                    assert isinstance(answer, StoreError)
                else:
                    assert isinstance(answer, dict)
                    same(answer, alone.advance(name, text, False))
        assert scheduler.metrics.outcomes["failed"] == 1

    serve(served, tmp_path / "a.db", work, slots=5)
    assert stored(tmp_path / "a.db") == {name: alone.packed(name) for name in alone.states}


def test_many_changed_states_are_stored_in_several_transactions(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    monkeypatch.setattr(states, "_AT_ONCE", 2)
    alone = Alone(served)

    async def work(scheduler: AsyncScheduler) -> None:
        for name in "abcde":
            same(await scheduler.advance(name, b"text"), alone.advance(name, b"text", False))

    serve(served, tmp_path / "a.db", work, slots=5, save_every_s=1000)
    assert disk.sizes == [2, 2, 1]
    assert stored(tmp_path / "a.db") == {name: alone.packed(name) for name in alone.states}


@pytest.mark.parametrize("save_every_s", [0, 1000])
@pytest.mark.parametrize("count", [5, 100])
@pytest.mark.parametrize("where", ["advance", "put_many"])
def test_a_failure_of_the_program_is_told_and_undone(
    served: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save_every_s: float,
    count: int,
    where: str,
) -> None:
    """In the pool or in the store, for requests of one turn and of several."""
    alone = Alone(served)
    owner = StreamPool if where == "advance" else StateStore
    real = getattr(owner, where)
    calls_left = -1

    def failing(*given: object, **named: object) -> object:
        nonlocal calls_left
        calls_left -= 1
        if calls_left == 0:
            raise MemoryError("none left")
        return real(*given, **named)

    async def work(scheduler: AsyncScheduler) -> None:
        nonlocal calls_left
        for at in range(1, 5):
            for name in ("ann", "bob"):
                same(await scheduler.advance(name, b"x"), alone.advance(name, b"x", False))
            calls_left = at
            answers = await asyncio.gather(
                *(scheduler.advance(name, bytes(count)) for name in ("ann", "bob")),
                return_exceptions=True,
            )
            calls_left = -1
            for name, answer in zip(("ann", "bob"), answers, strict=True):
                if isinstance(answer, dict):
                    same(answer, alone.advance(name, bytes(count), False))
                else:
                    assert isinstance(answer, MemoryError)
                    failures.append(at)

    failures: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, where, failing)
        serve(served, tmp_path / "a.db", work, save_every_s=save_every_s)
    assert bool(failures) == (where == "advance" or save_every_s == 0)
    assert stored(tmp_path / "a.db") == {name: alone.packed(name) for name in alone.states}


@pytest.mark.parametrize("save_every_s", [0, 1000])
@pytest.mark.parametrize("count", [8, 40])
def test_a_state_that_is_not_finite_fails_alone(
    gain: Session, tmp_path: Path, save_every_s: float, count: int
) -> None:
    """It is as it was before the request, also where that took several turns."""
    pool = StreamPool(gain, 2)

    async def work(scheduler: AsyncScheduler) -> None:
        for turn in range(3):
            good = positive(count, turn)
            bad = positive(count, turn)
            bad[-8:] = 80.0
            first, second = await asyncio.gather(
                scheduler.advance("ann", good), scheduler.advance("bob", bad),
                return_exceptions=True,
            )  # fmt: skip
            assert isinstance(first, dict)
            assert isinstance(second, NonFiniteError)
            same(first, pool.advance({0: good})[0])
            same(await scheduler.advance("bob", good), pool.advance({1: good})[1])
            assert pack(await scheduler.get("bob")) == pack(pool.swap_out(1))

    serve(gain, tmp_path / "a.db", work, turn_items=16, save_every_s=save_every_s)
    assert stored(tmp_path / "a.db") == {
        name: pack(pool.swap_out(slot)) for slot, name in enumerate(("ann", "bob"))
    }


def test_who_was_idle_for_longest_leaves_first(served: Session, tmp_path: Path) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        for name in ("ann", "bob", "cleo", "ann", "bob"):  # ann has waited for long, now cleo
            await scheduler.advance(name, b"x")
        await scheduler.advance("dan", b"x")
        assert scheduler._seats.seated.keys() == {"ann", "bob", "dan"}

    serve(served, tmp_path / "a.db", work, slots=3)


@pytest.mark.parametrize("save_every_s", [0, 1000])
@pytest.mark.parametrize("cached", [0, 3])
def test_memory_holds_who_has_a_slot_and_some_more(
    served: Session, tmp_path: Path, save_every_s: float, cached: int
) -> None:
    alone = Alone(served)

    async def work(scheduler: AsyncScheduler) -> None:
        for n in range(40):
            name, count = f"user {n % 20}", 40 if n % 3 else 4
            task = asyncio.create_task(scheduler.advance(name, bytes(count)))
            await spin(n % 4)
            if n % 5 == 0:
                task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                same(task.result(), alone.advance(name, bytes(count), False))
            await scheduler._driver.rest()
            assert len(scheduler._seats.resting) <= cached
            assert len(scheduler._driver._users) <= 2 + cached
            assert len(scheduler._seats.dirty) <= (2 + cached if save_every_s else 0)

    serve(served, tmp_path / "a.db", work, save_every_s=save_every_s, cached=cached)
    assert stored(tmp_path / "a.db") == {name: alone.packed(name) for name in alone.states}


def test_a_cached_state_is_neither_read_from_the_store_nor_written_at_once(
    served: Session, tmp_path: Path, disk: Disk
) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        for _ in range(3):
            for name in "abcdef":
                await scheduler.advance(name, b"x")
        assert (scheduler.metrics.loads, disk.sizes) == (0, [])
        assert scheduler.metrics.evictions == 16
        await scheduler.advance("g", b"x")  # one too many
        assert disk.sizes == [1]

    serve(served, tmp_path / "a.db", work, cached=4, save_every_s=1000)
    assert len(stored(tmp_path / "a.db")) == 7


def test_states_are_stored_while_nobody_asks(served: Session, tmp_path: Path) -> None:
    alone = Alone(served)

    async def work(scheduler: AsyncScheduler) -> None:
        for text in (b"one", b"two"):
            await scheduler.advance("ann", text)
            alone.advance("ann", text, False)
            await wait_until(lambda: not scheduler._seats.dirty)
            assert stored(tmp_path / "a.db") == {"ann": alone.packed("ann")}

    serve(served, tmp_path / "a.db", work, save_every_s=0.01)


def test_the_event_loop_does_not_wait_for_the_disk(
    served: Session, tmp_path: Path, disk: Disk
) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        scheduler._driver._turn_s = 0.0  # turns are brief
        for _ in range(5):
            await scheduler.advance("ann", b"x")

    for number, save_every_s in enumerate((0, 1e-9)):
        serve(served, tmp_path / f"{number}.db", work, save_every_s=save_every_s)
    assert threading.main_thread() not in disk.threads


def test_what_the_store_refuses_rests_in_memory(
    served: Session, tmp_path: Path, disk: Disk
) -> None:
    """Users come and go while the disk is full; nobody's answered update is lost."""
    alone = Alone(served)

    async def work(scheduler: AsyncScheduler) -> None:
        disk.full = True
        answered = 0
        for n in range(12):
            name = f"user {n % 6}"
            try:
                answer = await scheduler.advance(name, b"text")
            except StoreFullError:
                assert len(scheduler._seats.resting) <= 3
                continue
            same(answer, alone.advance(name, b"text", False))
            answered += 1
        assert 2 <= answered < 12
        disk.full = False
        for n in range(12):
            name = f"user {n % 6}"
            same(await scheduler.advance(name, b"more"), alone.advance(name, b"more", False))

    serve(served, tmp_path / "a.db", work, save_every_s=1000)
    assert stored(tmp_path / "a.db") == {name: alone.packed(name) for name in alone.states}


def test_what_cannot_be_read_leaves_the_state_in_the_middle_of_a_request(
    served: Session, tmp_path: Path
) -> None:
    alone = Alone(served)

    async def work(scheduler: AsyncScheduler) -> None:
        same(await scheduler.advance("ann", b"good"), alone.advance("ann", b"good", False))
        wrong = np.zeros(80, np.int64)
        wrong[70] = 999  # found in its third turn
        with pytest.raises(DstError):
            await scheduler.advance("ann", wrong)
        same(await scheduler.advance("ann", b"more"), alone.advance("ann", b"more", False))

    serve(served, tmp_path / "a.db", work)
