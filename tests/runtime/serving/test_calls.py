"""What a call of a scheduler takes, and what it says where it is not made, or not known to be."""

import asyncio
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.runtime.serving.conftest import serve, spin, stored

from dst.runtime import Session, StateStore, StepError, long_input
from dst.runtime.errors import DeadlineError, StoreBusyError, StreamNotFoundError
from dst.runtime.serving import AsyncScheduler, BusyError, ServingError


def test_draining_at_once_lets_what_is_done_be_answered(served: Session, tmp_path: Path) -> None:
    """`put` and `delete` that are under way are not refused: they are made."""
    started, go = threading.Event(), threading.Event()

    async def work(scheduler: AsyncScheduler) -> None:
        await scheduler.advance("ann", b"x" * 8)
        saved = await scheduler.get("ann")
        real = scheduler._seats.store.list

        def slow(whose: object) -> object:
            started.set()
            go.wait(60)
            return real()

        first = asyncio.create_task(
            scheduler._driver.answer(scheduler._driver.request("cleo", task=slow), None)
        )
        await asyncio.to_thread(started.wait, 60)
        put = asyncio.create_task(scheduler.put("bob", saved))
        await spin(2)
        draining = asyncio.create_task(scheduler.drain(timeout_s=0))
        await asyncio.sleep(0.05)
        go.set()
        await draining
        assert await first
        with pytest.raises(ServingError):  # no turn had taken it
            await put

    serve(served, tmp_path / "a.db", work)
    assert [*stored(tmp_path / "a.db")] == ["ann"]


def test_a_user_whom_the_files_still_hold_is_told_so(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        def busy(store: StateStore) -> None:
            raise StoreBusyError("others use it")

        await scheduler.advance("ann", b"x")
        with monkeypatch.context() as patch:
            patch.setattr(StateStore, "vacuum", busy)
            with pytest.raises(StoreBusyError, match="ann is forgotten, but copies"):
                await scheduler.delete("ann", erase=True)
        with pytest.raises(StreamNotFoundError):
            await scheduler.get("ann")
        assert await scheduler.delete("ann", erase=True) is False

    serve(served, tmp_path / "a.db", work)


@pytest.mark.parametrize("deadline_ms", [0, -5, float("nan"), float("inf"), 1e12])
def test_what_is_no_deadline_is_refused_everywhere(
    served: Session, tmp_path: Path, deadline_ms: float
) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        with pytest.raises(StepError, match="deadline_ms is"):
            await scheduler.advance("ann", b"x", deadline_ms=deadline_ms)
        with pytest.raises(StepError, match="deadline_ms is"):
            await anext(scheduler.iter_advance("ann", b"x", deadline_ms=deadline_ms))
        with pytest.raises(StepError, match="deadline_ms is"):
            next(served.stream().iter_advance(b"x", deadline_ms=deadline_ms))

    serve(served, tmp_path / "a.db", work)


class Flag:
    """What `cancel` may be."""

    def __init__(self) -> None:
        self.on = False

    def is_set(self) -> bool:
        return self.on


@pytest.mark.parametrize("why", ["deadline", "cancel", "busy", "item"])
def test_a_long_input_that_stops_says_where_to_go_on(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    items = np.arange(200) % 256
    if why == "item":
        items[70] = 999

    async def work(scheduler: AsyncScheduler) -> None:
        flag = Flag()
        parts = scheduler.iter_advance(
            "ann", items, cancel=flag, deadline_ms=80_000_000 if why == "deadline" else None
        )
        await anext(parts)
        await anext(parts)
        if why == "deadline":
            later = SimpleNamespace(monotonic=lambda: time.monotonic() + 80_000)
            monkeypatch.setattr(long_input, "time", later)
        flag.on = why == "cancel"
        others = [
            asyncio.create_task(scheduler.advance("bob", b"x")) for _ in range(3 * (why == "busy"))
        ]
        await spin(1)
        kind = {"deadline": DeadlineError, "busy": BusyError}.get(why, StepError)
        with pytest.raises(kind, match=r"^64 of 200 items were read; go on with items\[64:\]"):
            await anext(parts)
        await asyncio.gather(*others)
        assert (await scheduler.get("ann")).items_consumed == 64

    serve(served, tmp_path / "a.db", work, max_waiting=3)


@pytest.mark.parametrize("outputs", [None, []])
def test_a_long_input_yields_where_a_stream_does(
    served: Session, tmp_path: Path, outputs: list[str] | None
) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        stream = served.stream()
        for number, count in enumerate((0, 3, 8, 20)):
            found = scheduler.iter_advance("ann", bytes(count), outputs=outputs)
            expected = [*stream.iter_advance(bytes(count), outputs=outputs)]
            shapes = [{n: v.shape for n, v in part.items()} async for part in found]
            assert shapes == [{n: v.shape for n, v in part.items()} for part in expected]
            if not number:  # nothing was read
                with pytest.raises(StreamNotFoundError):
                    await scheduler.get("ann")

    serve(served, tmp_path / "a.db", work, turn_items=8)


@pytest.mark.parametrize("shape", [(1 << 26,), (8, 1 << 26), (1 << 13, 1 << 13)])
def test_what_is_refused_is_not_copied_first(
    served: Session, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    huge = np.broadcast_to(np.int64(1), shape)
    many = bytearray(1 << 24)

    async def work(scheduler: AsyncScheduler) -> None:
        tracemalloc.start()
        for items in (huge, many, memoryview(many)):
            with pytest.raises(StepError):
                await scheduler.advance("ann", items)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20

    serve(served, tmp_path / "a.db", work)
