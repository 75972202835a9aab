"""A scheduler over a store with limits: a budget, an age, and nobody else who writes."""

import asyncio
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import pytest
from tests.runtime.pool.conftest import same
from tests.runtime.serving.conftest import Alone, stored
from tests.runtime.test_store_limits import Clock

from dst.runtime import Session, StateStore
from dst.runtime.errors import StoreBusyError, StoreFullError, StreamNotFoundError
from dst.runtime.serving import AsyncScheduler
from dst.runtime.state.record import pack

PAGE = 16384
EVERY = pytest.mark.parametrize("save_every_s", [0, 1e-9, 1000])


def serve(
    session: Session,
    path: Path,
    limits: Mapping[str, float],
    work: Callable[[AsyncScheduler, StateStore], Awaitable[None]],
    **options: float,
) -> None:
    async def main() -> None:
        with StateStore(path, durable=False, history_bytes=0, **limits) as store:  # type: ignore[arg-type]
            async with AsyncScheduler(session, 2, store, **options) as scheduler:  # type: ignore[arg-type]
                await work(scheduler, store)

    asyncio.run(main())


@EVERY
@pytest.mark.parametrize("cached", [0, 50])
def test_what_was_answered_is_stored_at_the_end_however_small_the_budget(
    served: Session, tmp_path: Path, save_every_s: float, cached: int
) -> None:
    """Who is new is refused before he is read; whoever was once answered is always answered."""
    alone = Alone(served)
    chance = random.Random(1)

    async def work(scheduler: AsyncScheduler, store: StateStore) -> None:
        refused = 0
        for n in range(150):
            name, text = f"user {n % 60}", bytes(chance.randrange(1, 40))
            try:
                answer = await scheduler.advance(name, text)
            except StoreFullError:
                assert name not in alone.states
                with pytest.raises(StreamNotFoundError):
                    await scheduler.get(name)
                refused += 1
            else:
                same(answer, alone.advance(name, text, False))
            if n % 50 == 49:
                gone = next(iter(alone.states))
                assert await scheduler.delete(gone)
                del alone.states[gone]
        assert refused > 20
        assert len(alone.states) > 3

    limits = {"max_bytes": 12 * PAGE}
    serve(served, tmp_path / "a.db", limits, work, save_every_s=save_every_s, cached=cached)
    assert stored(tmp_path / "a.db") == {name: alone.packed(name) for name in alone.states}


def test_a_new_user_for_whom_there_is_no_room_holds_nobody_up(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should he have been answered all the same, known users are stored before him."""
    monkeypatch.setattr(StateStore, "make_room", lambda *_: None)
    alone = Alone(served)
    path = tmp_path / "a.db"
    known = ("ann", "bob", "cleo")

    async def first(scheduler: AsyncScheduler, store: StateStore) -> None:
        for name in known:
            await scheduler.advance(name, b"x")
            alone.advance(name, b"x", False)

    async def second(scheduler: AsyncScheduler, store: StateStore) -> None:
        for name in (*(f"new {n}" for n in range(40)), *known):
            same(await scheduler.advance(name, b"more"), alone.advance(name, b"more", False))
        with pytest.raises(StoreFullError):
            await scheduler.drain()
        found = stored(path)
        assert len(known) < len(found) < 40  # and of the others those that fit
        for name in known:
            assert found[name] == alone.packed(name)
        monkeypatch.setattr(store._limits, "max_bytes", None)  # somebody has made room

    serve(served, path, {}, first)
    with StateStore(path) as store:
        limits = {"max_bytes": store.used_bytes() + PAGE}
    serve(served, path, limits, second, save_every_s=1000, cached=99)
    assert stored(path) == {name: alone.packed(name) for name in alone.states}


@pytest.mark.parametrize("save_every_s", [0, 1000])
@pytest.mark.parametrize("way", ["put", "expire"])
def test_who_is_forgotten_by_his_age_is_forgotten_in_memory_too(
    served: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save_every_s: float,
    way: str,
) -> None:
    """In a slot or resting; and whoever has read since is not."""
    clock = Clock(monkeypatch)
    alone = Alone(served)

    async def work(scheduler: AsyncScheduler, store: StateStore) -> None:
        for name in ("resting", "seated", "used"):
            same(await scheduler.advance(name, b"before"), alone.advance(name, b"before", False))
        assert await scheduler.expire(1e6) == 0  # which stores all
        clock.pass_by(2 * 86400)
        same(await scheduler.advance("used", b"more"), alone.advance("used", b"more", False))
        if way == "expire":
            assert await scheduler.expire(86400) == 2
        elif save_every_s:  # a put that does not hold the user who has read since
            await scheduler.put("other", await scheduler.get("used"))
            alone.states["other"] = alone.states["used"]
        for name in ("resting", "seated"):
            with pytest.raises(StreamNotFoundError):
                await scheduler.get(name)
            del alone.states[name]
        for name in ("resting", "used", "seated"):
            same(await scheduler.advance(name, b"after"), alone.advance(name, b"after", False))

    limits = {"max_age_s": 86400} if way == "put" else {}
    serve(served, tmp_path / "a.db", limits, work, save_every_s=save_every_s, cached=9)
    assert stored(tmp_path / "a.db") == {name: alone.packed(name) for name in alone.states}


@pytest.mark.skipif(sys.platform == "win32", reason="locks cannot be shared")
def test_nobody_else_writes_to_a_served_store(served: Session, tmp_path: Path) -> None:
    """By the same object or another one; reading is free."""
    path = tmp_path / "a.db"

    async def work(scheduler: AsyncScheduler, store: StateStore) -> None:
        await scheduler.advance("ann", b"text")
        saved = await scheduler.get("ann")
        with StateStore(path) as second:
            for other in (store, second):
                writes: tuple[Callable[[], object], ...] = (
                    partial(other.put, "ann", saved),
                    partial(other.delete, "ann"),
                    partial(other.expire, 1e-9),
                    other.wipe,
                )
                for write in writes:
                    with pytest.raises(StoreBusyError) as caught:
                        write()
                    assert caught.value.code == "store-served"
                assert pack(other.get("ann")) == pack(saved)
                other.vacuum()
        await scheduler.advance("ann", b"text")

    serve(served, path, {}, work)
    with StateStore(path) as store:
        store.delete("ann")


@pytest.mark.skipif(sys.platform == "win32", reason="locks cannot be shared")
def test_a_scheduler_begins_beside_somebody_who_writes(served: Session, tmp_path: Path) -> None:
    """He holds the lock for a moment, which is no other scheduler."""
    path = tmp_path / "a.db"

    async def work(scheduler: AsyncScheduler, store: StateStore) -> None:
        await scheduler.advance("ann", b"text")

    serve(served, path, {}, work)
    with StateStore(path, durable=False) as store:
        saved, ending, refused = store.get("ann"), threading.Event(), 0

        def write() -> None:
            nonlocal refused
            while not ending.is_set():
                try:
                    store.put("bob", saved)
                except StoreBusyError:
                    refused += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(20):
                serve(served, path, {}, work)
        finally:
            ending.set()
            thread.join()
        assert store.get("ann").items_consumed + len(store.get("ann").pending) == 4 * 21
