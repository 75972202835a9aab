"""What keeps a store to one scheduler, and how a scheduler ends when things go wrong."""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.pool.conftest import same
from tests.runtime.serving.conftest import Alone, serve, spin, stored

from dst.runtime import Saved, Session, StateStore
from dst.runtime.bundle.manifest import item_shape
from dst.runtime.errors import NonFiniteError, StoreBusyError, StoreFullError
from dst.runtime.serving import AsyncScheduler, ServingError, driver, signals

posix = pytest.mark.skipif(os.name != "posix", reason="links, fork, signals")


def within(seconds: float, work: Awaitable[None]) -> None:
    """Run something that might hang."""

    async def main() -> None:
        async with asyncio.timeout(seconds):
            await work

    asyncio.run(main())


# --- one scheduler per store


@posix
@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_does_not_get_round_the_lock(served: Session, tmp_path: Path, link: str) -> None:
    (tmp_path / "real").mkdir()
    path, other = tmp_path / "real" / "a.db", tmp_path / "real" / "b.db"
    with StateStore(path) as store:
        if link == "file":
            other.symlink_to(path)
        else:
            (tmp_path / "link").symlink_to(tmp_path / "real")
            other = tmp_path / "link" / "a.db"
        scheduler = AsyncScheduler(served, 2, store)
        with StateStore(other) as again, pytest.raises(StoreBusyError) as caught:
            AsyncScheduler(served, 2, again)
        assert caught.value.code == "store-served"
        asyncio.run(scheduler.drain())


@posix
@pytest.mark.parametrize("save_every_s", [0, 1000])
@pytest.mark.parametrize("other_comes", [False, True])
def test_who_lost_his_lock_file_writes_nothing_over_another(
    served: Session, tmp_path: Path, save_every_s: float, other_comes: bool
) -> None:
    path = tmp_path / "a.db"
    alone = Alone(served)

    async def work() -> None:
        with StateStore(path, history_bytes=0) as store, StateStore(path) as second:
            first = AsyncScheduler(served, 2, store, save_every_s=save_every_s)
            await first.advance("ann", b"first")
            (tmp_path / "a.db.lock").unlink()
            if not other_comes:
                await first.advance("ann", b"second")
                await first.drain()
                assert (tmp_path / "a.db.lock").exists()
                return
            async with AsyncScheduler(served, 2, second) as other:
                if not save_every_s:
                    alone.advance("ann", b"first", False)
                same(await other.advance("ann", b"x" * 9), alone.advance("ann", b"x" * 9, False))
                if not save_every_s:
                    with pytest.raises(StoreBusyError):
                        await first.advance("ann", b"second")
                with pytest.raises(StoreBusyError):
                    await first.put("ann", served.stream().saved())
                with pytest.raises(StoreBusyError):
                    await first.delete("ann")
            if save_every_s:
                with pytest.raises(StoreBusyError):  # also when the other has ended
                    await first.drain()

    within(60, work())
    if other_comes:
        assert stored(path) == {"ann": alone.packed("ann")}


def test_a_scheduler_that_nobody_refers_to_locks_nothing(served: Session, tmp_path: Path) -> None:
    with StateStore(tmp_path / "a.db") as store:
        for used in (False, True):
            scheduler = AsyncScheduler(served, 2, store)
            if used:
                asyncio.run(scheduler.advance("ann", b"x"))
            del scheduler
            gc.collect()
        asyncio.run(AsyncScheduler(served, 2, store).drain())


@posix
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_not_keep_the_lock_nor_give_it_up(
    served: Session, tmp_path: Path
) -> None:
    with StateStore(tmp_path / "a.db") as store:
        scheduler = AsyncScheduler(served, 2, store)
        begin, end = os.pipe(), os.pipe()
        if not (child := os.fork()):
            scheduler._lock.release()
            os.write(begin[1], b"x")
            os.read(end[0], 1)
            os._exit(0)
        os.read(begin[0], 1)
        with pytest.raises(StoreBusyError):
            AsyncScheduler(served, 2, store)
        if not (other := os.fork()):
            os.read(end[0], 1)
            os._exit(0)
        try:
            asyncio.run(scheduler.drain())
            asyncio.run(AsyncScheduler(served, 2, store).drain())
        finally:
            os.write(end[1], b"xx")
            for process in (child, other):
                os.waitpid(process, 0)


@posix
def test_a_store_reached_by_a_link_keeps_its_log_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: Session
) -> None:
    from dst.runtime.store import database

    monkeypatch.setattr(database, "LOG_BYTES", 1 << 18)
    saved = served.stream().saved()
    StateStore(tmp_path / "a.db").close()
    (tmp_path / "b.db").symlink_to(tmp_path / "a.db")
    with StateStore(tmp_path / "b.db", durable=False) as store:
        for number in range(60):
            store.put(f"user {number % 2}", saved)
            assert (tmp_path / "a.db-wal").stat().st_size < 1 << 19


# --- a task that is cancelled, a loop that is another


def cancel_others() -> None:
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


@pytest.mark.parametrize("save_every_s", [0, 1000])
@pytest.mark.parametrize("spins", [0, 1, 2, 3, 50])
def test_cancelling_every_task_neither_hangs_nor_loses_what_was_answered(
    served: Session, tmp_path: Path, save_every_s: float, spins: int
) -> None:
    alone = Alone(served)

    async def work() -> None:
        with StateStore(tmp_path / "a.db", durable=False, history_bytes=0) as store:
            async with AsyncScheduler(served, 2, store, save_every_s=save_every_s) as scheduler:
                same(await scheduler.advance("ann", b"x"), alone.advance("ann", b"x", False))
                task = asyncio.create_task(scheduler.advance("bob", bytes(3000)))
                await spin(spins)
                cancel_others()
                with pytest.raises(asyncio.CancelledError):
                    await task
                if spins % 2:
                    same(await scheduler.advance("ann", b"y"), alone.advance("ann", b"y", False))

    asyncio.run(asyncio.wait_for(_shielded(work), 60))
    assert stored(tmp_path / "a.db") == {"ann": alone.packed("ann")}


async def _shielded(work: Callable[[], Awaitable[None]]) -> None:
    """Do it in a loop of its own, where `all_tasks` are its own."""
    await asyncio.to_thread(lambda: asyncio.run(work()))  # type: ignore[arg-type]


def test_a_driver_that_was_cancelled_goes_on_for_those_who_wait_and_stores(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "AGAIN_S", 0.01)

    async def work(scheduler: AsyncScheduler) -> None:
        for _ in range(30):
            tasks = [asyncio.create_task(scheduler.advance(f"u{n}", bytes(300))) for n in range(3)]
            await spin(3)
            while not all(task.done() for task in tasks):
                assert scheduler._driver._task is not None
                scheduler._driver._task.cancel()
                await asyncio.sleep(0.001)
            assert all(task.result()["logits"].shape[1] == 296 for task in tasks) or _
        scheduler._driver._task.cancel()  # type: ignore[union-attr]
        async with asyncio.timeout(30):
            while scheduler._seats.dirty:
                await asyncio.sleep(0.01)

    serve(served, tmp_path / "a.db", work, save_every_s=0.1)
    assert len(stored(tmp_path / "a.db")) == 3


def test_an_error_of_the_driver_is_told_to_who_waits(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        await scheduler.advance("ann", b"x")
        with monkeypatch.context() as patch:
            patch.setattr(driver.Driver, "_pick", None)
            with pytest.raises(TypeError):
                await scheduler.advance("ann", b"x")
        await scheduler.advance("ann", b"x")

    serve(served, tmp_path / "a.db", work)
    alone = Alone(served)
    alone.advance("ann", b"xx", False)
    assert stored(tmp_path / "a.db") == {"ann": alone.packed("ann")}


def test_draining_from_another_loop_is_refused_and_ends_nothing(
    served: Session, tmp_path: Path
) -> None:
    with StateStore(tmp_path / "a.db") as store:
        scheduler = AsyncScheduler(served, 2, store, save_every_s=1000)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        waiting = [
            asyncio.run_coroutine_threadsafe(scheduler.advance(f"u{n}", bytes(2000)), loop)
            for n in range(4)
        ]
        waiting[0].result(60)
        with pytest.raises(ServingError) as caught:
            asyncio.run(scheduler.drain())
        assert caught.value.code == "other-loop"
        for future in waiting:
            future.result(60)
        asyncio.run_coroutine_threadsafe(scheduler.advance("ann", b"x"), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        within(60, scheduler.drain())  # of a loop that is closed: what was answered is stored
        assert len(store.list()) == 5


# --- the disk, the state


@posix
def test_a_signal_drains_as_soon_as_the_disk_has_room(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (driver, signals):
        monkeypatch.setattr(module, "AGAIN_S", 0.01)
    full, real = True, StateStore.put_many

    def put_many(store: StateStore, states: Mapping[str, Saved]) -> tuple[str, ...]:
        if full:
            raise StoreFullError("the disk is full")
        return real(store, states)

    async def work(scheduler: AsyncScheduler) -> None:
        nonlocal full
        await scheduler.advance("ann", b"x")
        ended = asyncio.Event()
        scheduler.drain_on(signal.SIGUSR1, done=ended.set)
        monkeypatch.setattr(StateStore, "put_many", put_many)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.1)
        assert not ended.is_set()
        full = False
        await asyncio.wait_for(ended.wait(), 20)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

    serve(served, tmp_path / "a.db", work, save_every_s=1000)
    assert [*stored(tmp_path / "a.db")] == ["ann"]


def test_a_full_disk_is_tried_again_while_nobody_asks(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the next state is due much later."""
    monkeypatch.setattr(driver, "AGAIN_S", 0.01)
    real = StateStore.put_many
    tries = 0

    def put_many(store: StateStore, states: Mapping[str, Saved]) -> tuple[str, ...]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise StoreFullError("the disk is full")
        return real(store, states)

    async def work(scheduler: AsyncScheduler) -> None:
        await scheduler.advance("ann", b"x")
        monkeypatch.setattr(StateStore, "put_many", put_many)
        with pytest.raises(StoreFullError):
            await scheduler.drain()
        async with asyncio.timeout(20):
            while scheduler._seats.dirty:
                await asyncio.sleep(0.01)

    serve(served, tmp_path / "a.db", work, save_every_s=1000)
    assert tries == 3


@pytest.mark.parametrize("way", ["get", "long", "drain", "evicted"])
def test_answers_that_a_spoilt_state_takes_with_it_are_told(
    gain_path: Path, tmp_path: Path, way: str
) -> None:
    """The session looks at a state every 64 steps, and these answers were given before that."""
    session = Session.open(gain_path)

    def items(value: float, count: int = 8) -> np.ndarray:
        return np.full((count, *item_shape(session.contract.chunk)), value, np.float32)

    async def work() -> None:
        with StateStore(tmp_path / "a.db", history_bytes=0) as store:
            scheduler = AsyncScheduler(session, 2, store, save_every_s=1000, turn_items=16)
            await scheduler.advance("ann", items(1.0))
            await scheduler.get("ann")
            for value in (80.0, 1.0, 1.0):
                await scheduler.advance("ann", items(value))
            if way == "drain":
                with pytest.raises(NonFiniteError, match="ann"):
                    await scheduler.drain()
                return
            if way == "evicted":
                for name in ("bob", "cleo", "dan"):
                    await scheduler.advance(name, items(1.0))
            call = (
                scheduler.advance("ann", items(1.0, 64)) if way != "get" else scheduler.get("ann")
            )
            with pytest.raises(NonFiniteError) as caught:
                await call
            assert caught.value.code == "state-not-finite"
            before = (await scheduler.get("ann")).items_consumed
            assert before in (0, 8)
            await scheduler.advance("ann", items(1.0))
            assert (await scheduler.get("ann")).items_consumed == before + 8
            await scheduler.drain()

    within(60, work())
    with StateStore(tmp_path / "a.db") as store:
        assert store.get("ann").items_consumed in (0, 8, 16)
