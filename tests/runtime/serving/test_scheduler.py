"""One scheduler: what it answers, refuses, undoes, stores and counts."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.pool.conftest import same
from tests.runtime.serving.conftest import Alone, inline, serve, spin, stored

from dst.runtime import DstError, Saved, Session, StateStore
from dst.runtime.errors import DeadlineError, StoreBusyError, StoreFullError, StreamNotFoundError
from dst.runtime.serving import AsyncScheduler, BusyError, ServingError
from dst.runtime.state.record import pack


def code_of(error: pytest.ExceptionInfo[DstError]) -> str:
    return error.value.code


@pytest.mark.parametrize("save_every_s", [0, 0.001, 1000])
def test_many_users_over_few_slots_in_a_real_thread(
    served: Session, tmp_path: Path, save_every_s: float
) -> None:
    """Every user's answers and last state are those of his stream alone, bit for bit."""
    random = np.random.default_rng(0)
    texts = {
        f"user {n}": [random.bytes(int(random.integers(0, 30))) for _ in range(6)] for n in range(9)
    }
    alone = Alone(served)

    async def work(scheduler: AsyncScheduler) -> None:
        async def user(name: str) -> None:
            for number, text in enumerate(texts[name]):
                answer = await scheduler.advance(name, text, flush=number % 2 == 0)
                answers[name].append(answer)

        answers: dict[str, list] = {name: [] for name in texts}  # type: ignore[type-arg]
        await asyncio.gather(*map(user, texts))
        for name, parts in texts.items():
            for number, (text, found) in enumerate(zip(parts, answers[name], strict=True)):
                same(found, alone.advance(name, text, number % 2 == 0))
        assert scheduler.metrics.evictions > 0

    serve(served, tmp_path / "a.db", work, slots=3, save_every_s=save_every_s)
    assert stored(tmp_path / "a.db") == {name: alone.packed(name) for name in texts}


def test_a_storm_of_cancels_leaves_what_was_answered(served: Session, tmp_path: Path) -> None:
    """Tasks are cancelled at any moment while a real thread works."""
    random = np.random.default_rng(1)
    alone = Alone(served)

    async def work(scheduler: AsyncScheduler) -> None:
        calls: list[tuple[str, bytes, asyncio.Task[dict[str, np.ndarray]]]] = []
        for _ in range(300):
            name, text = f"user {random.integers(6)}", random.bytes(int(random.integers(1, 40)))
            calls.append((name, text, asyncio.create_task(scheduler.advance(name, text))))
            if random.random() < 0.5:
                await asyncio.sleep(float(random.uniform(0, 0.003)))
            if random.random() < 0.7:
                calls[int(random.integers(max(0, len(calls) - 6), len(calls)))][2].cancel()
        await asyncio.wait([task for *_, task in calls])
        done = [call for call in calls if not call[2].cancelled() and call[2].exception() is None]
        assert 20 < len(done) < 280
        for name, text, task in done:
            same(task.result(), alone.advance(name, text, flush=False))

    serve(served, tmp_path / "a.db", work, slots=3, max_waiting_per_user=100)
    assert stored(tmp_path / "a.db") == {name: alone.packed(name) for name in alone.states}


def test_a_long_request_does_not_hold_up_the_others(served: Session, tmp_path: Path) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        inline(scheduler)
        order: list[str] = []

        async def ask(name: str, count: int) -> None:
            await scheduler.advance(name, bytes(count))
            order.append(name)

        long = [asyncio.create_task(ask(f"long {n}", 4000)) for n in range(2)]
        await spin(3)
        await asyncio.gather(*(ask(f"short {n}", 8) for n in range(6)), *long)
        assert order[:6] == [f"short {n}" for n in range(6)]
        assert {name: scheduler.metrics.items for name in ("all",)} == {"all": 8048}

    serve(served, tmp_path / "a.db", work, turn_items=32)


def test_the_queue_is_bounded_and_says_so(served: Session, tmp_path: Path) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        tasks = [asyncio.create_task(scheduler.advance("ann", b"x")) for _ in range(2)]
        await spin(1)
        with pytest.raises(BusyError) as caught:
            await scheduler.advance("ann", b"x")
        assert code_of(caught) == "user-busy"
        tasks += [asyncio.create_task(scheduler.advance(f"u{n}", b"x")) for n in range(2)]
        await spin(1)
        with pytest.raises(BusyError) as caught:
            await scheduler.advance("bob", b"x")
        assert code_of(caught) == "busy"
        await asyncio.gather(*tasks)
        await scheduler.advance("bob", b"x")
        assert scheduler.metrics.outcomes["busy"] == 2

    serve(served, tmp_path / "a.db", work, max_waiting=4, max_waiting_per_user=2)


def test_requests_that_were_cancelled_leave_nothing_behind(served: Session, tmp_path: Path) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        for _ in range(500):
            task = asyncio.create_task(scheduler.advance(f"user {_}", b"x"))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await scheduler._driver.rest()
        driver = scheduler._driver
        assert (driver.waiting, driver._ready, driver._undo) == (0, {}, [])
        assert len(driver._users) <= 2  # who sits in a slot, at most

    serve(served, tmp_path / "a.db", work)
    assert stored(tmp_path / "a.db") == {}


@pytest.mark.parametrize("save_every_s", [0, 1e-9, 1e9])
@pytest.mark.parametrize("cached", [0, 2])
@pytest.mark.parametrize("count", [0, 5, 40])
def test_a_new_user_whose_only_request_was_cancelled_stays_unknown(
    served: Session, tmp_path: Path, save_every_s: float, cached: int, count: int
) -> None:
    """At any moment of the request's life, and after the user has lost the slot to others."""

    async def work(scheduler: AsyncScheduler) -> None:
        inline(scheduler)
        for times in range(12):
            name = f"user {times}"
            task = asyncio.create_task(scheduler.advance(name, bytes(count)))
            await spin(times)
            task.cancel()
            await asyncio.wait([task])
            for other in ("bob", "cleo", "dan"):
                await scheduler.advance(other, b"x")
            if task.cancelled():
                gone.add(times)
                with pytest.raises(StreamNotFoundError):
                    await scheduler.get(name)

    gone: set[int] = set()
    serve(served, tmp_path / "a.db", work, save_every_s=save_every_s, cached=cached)
    assert len(gone) > 2
    known = {f"user {times}" for times in range(12) if times not in gone}
    assert set(stored(tmp_path / "a.db")) == known | {"bob", "cleo", "dan"}


def test_a_deadline_ends_a_request_and_leaves_the_state(served: Session, tmp_path: Path) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        await scheduler.advance("ann", b"hello")
        before = pack(await scheduler.get("ann"))
        with pytest.raises(DeadlineError, match="in 5 ms"):
            await scheduler.advance("ann", bytes(65536), deadline_ms=5)
        assert pack(await scheduler.get("ann")) == before
        for wrong in (0, -1, float("nan"), float("inf")):
            with pytest.raises(DstError) as caught:
                await scheduler.advance("ann", b"x", deadline_ms=wrong)
            assert code_of(caught) == "argument"
        assert scheduler.metrics.outcomes["deadline"] == 1

    serve(served, tmp_path / "a.db", work)


def test_outputs_are_chosen_and_long_input_comes_in_parts(served: Session, tmp_path: Path) -> None:
    text = bytes(range(100))
    whole = Alone(served).advance("ann", text, flush=True)

    async def work(scheduler: AsyncScheduler) -> None:
        last = await scheduler.advance("ann", text, flush=True, last=True, outputs=["logits"])
        same(last, {"logits": whole["logits"][:, -1:]})
        parts = [part async for part in scheduler.iter_advance("bob", text, flush=True)]
        assert len(parts) == 4
        same({"logits": np.concatenate([p["logits"] for p in parts], axis=1)}, whole)
        assert await scheduler.advance("ann", b"", outputs=[]) == {}
        with pytest.raises(DstError) as caught:
            await scheduler.advance("ann", text, outputs=["y"])
        assert code_of(caught) == "no-such-output"

    serve(served, tmp_path / "a.db", work)


def test_an_array_is_read_as_it_was_given(served: Session, tmp_path: Path) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        items = np.arange(8)
        task = asyncio.create_task(scheduler.advance("ann", items))
        await spin(1)
        items[:] = 300
        same(await task, Alone(served).advance("ann", bytes(range(8)), flush=False))

    serve(served, tmp_path / "a.db", work)


@pytest.mark.parametrize(
    ("user", "items", "code"),
    [
        ("ann", "text", "chunk-type"),
        ("ann", np.array([1.5]), "chunk-type"),
        ("ann", np.array([300]), "token-out-of-range"),
        ("ann", bytes(70000), "request-too-large"),
        ("", b"x", "stream-name"),
        ("a\nb", b"x", "stream-name"),
        ("x" * 201, b"x", "stream-name"),
        (5, b"x", "stream-name"),
    ],
)
def test_what_cannot_be_read_is_refused_and_others_go_on(
    served: Session, tmp_path: Path, user: str, items: bytes, code: str
) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        bad, good = await asyncio.gather(
            scheduler.advance(user, items), scheduler.advance("bob", bytes(8)),
            return_exceptions=True,
        )  # fmt: skip
        assert isinstance(bad, DstError)
        assert bad.code == code
        assert isinstance(good, dict)

    serve(served, tmp_path / "a.db", work)
    assert [*stored(tmp_path / "a.db")] == ["bob"]


def test_states_go_in_and_out(served: Session, shelf: Path, tmp_path: Path) -> None:
    stream = served.stream()
    stream.advance(b"a life before")
    saved = stream.saved()

    async def work(scheduler: AsyncScheduler) -> None:
        with pytest.raises(DstError) as caught:
            await scheduler.get("ann")
        assert code_of(caught) == "stream-not-found"
        await scheduler.advance("ann", b"something else")
        await scheduler.put("ann", saved)
        assert pack(await scheduler.get("ann")) == pack(saved)
        same(await scheduler.advance("ann", b" and after"), stream.advance(b" and after"))
        other = Session.open(shelf / "twin", lowering="fused").stream().saved()
        with pytest.raises(DstError) as caught:
            await scheduler.put("ann", other)
        assert code_of(caught) == "other-model"
        assert pack(await scheduler.get("ann")) == pack(stream.saved())
        assert await scheduler.delete("ann", erase=True)
        assert not await scheduler.delete("ann")

    serve(served, tmp_path / "a.db", work)
    assert stored(tmp_path / "a.db") == {}


def test_two_schedulers_cannot_serve_one_store(
    served: Session, shelf: Path, tmp_path: Path
) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        for path in (tmp_path / "a.db", tmp_path / "x" / ".." / "a.db"):
            (tmp_path / "x").mkdir(exist_ok=True)
            with StateStore(path) as store, pytest.raises(StoreBusyError) as caught:
                AsyncScheduler(served, 2, store)
            assert code_of(caught) == "store-served"
        code = (
            "import sys\nfrom dst.runtime import Session, StateStore\n"
            "from dst.runtime.serving import AsyncScheduler\n"
            "AsyncScheduler(Session.open(sys.argv[1], lowering='fused'), 2, "
            "StateStore(sys.argv[2]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(shelf / "text"), str(tmp_path / "a.db")],
            capture_output=True,
            text=True,
        )
        assert "another scheduler or fleet serves it" in done.stderr

    serve(served, tmp_path / "a.db", work)
    serve(served, tmp_path / "a.db", lambda scheduler: spin(1))  # and now it is free


@pytest.mark.parametrize("save_every_s", [0, 1e-9])
def test_a_full_disk_refuses_and_loses_nothing(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every_s: float
) -> None:
    alone = Alone(served)

    async def work(scheduler: AsyncScheduler) -> None:
        real, full = StateStore.put_many, False

        def put_many(store: StateStore, states: dict[str, Saved]) -> tuple[str, ...]:
            if full:
                raise StoreFullError("the disk is full")
            return real(store, states)

        monkeypatch.setattr(StateStore, "put_many", put_many)
        names = ["ann", "bob", "cleo", "dan"]
        for name in names:
            same(await scheduler.advance(name, b"before"), alone.advance(name, b"before", False))
        full = True
        failed = 0
        for text in (b"one", b"two"):
            for name in names:
                try:
                    await scheduler.advance(name, text)
                    alone.advance(name, text, False)
                except StoreFullError:
                    failed += 1
        assert failed == 8 if save_every_s == 0 else failed >= 6
        if save_every_s:
            with pytest.raises(StoreFullError):
                await scheduler.drain()
            full = False
            return
        full = False
        for name in names:
            same(await scheduler.advance(name, b"after"), alone.advance(name, b"after", False))

    serve(served, tmp_path / "a.db", work, save_every_s=save_every_s)
    assert stored(tmp_path / "a.db") == {name: alone.packed(name) for name in alone.states}


def test_a_state_that_the_store_has_lost_fails_alone(served: Session, tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def begin(scheduler: AsyncScheduler) -> None:
        await scheduler.advance("ann", b"hello")

    serve(served, path, begin)
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE states SET blob = zeroblob(length(blob))")

    async def work(scheduler: AsyncScheduler) -> None:
        bad, good = await asyncio.gather(
            scheduler.advance("ann", b"x"), scheduler.advance("bob", b"x"), return_exceptions=True
        )
        assert isinstance(bad, DstError)
        assert bad.code == "state-corrupt"
        assert isinstance(good, dict)

    serve(served, path, work)


def test_draining_answers_what_waits_and_refuses_what_comes(
    served: Session, tmp_path: Path
) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        tasks = [asyncio.create_task(scheduler.advance(f"u{n}", bytes(200))) for n in range(5)]
        await spin(2)
        await scheduler.drain()
        assert all(len(task.result()["logits"][0]) == 200 for task in tasks)
        with pytest.raises(ServingError) as caught:
            await scheduler.advance("ann", b"x")
        assert code_of(caught) == "draining"
        await scheduler.drain()

    serve(served, tmp_path / "a.db", work, save_every_s=1000)
    assert len(stored(tmp_path / "a.db")) == 5


def test_draining_with_a_timeout_refuses_the_rest(served: Session, tmp_path: Path) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        await scheduler.advance("ann", b"x")
        before = pack(await scheduler.get("ann"))
        task = asyncio.create_task(scheduler.advance("ann", bytes(65536)))
        await asyncio.sleep(0.02)
        await scheduler.drain(timeout_s=0)
        with pytest.raises(ServingError):
            await task
        assert stored(tmp_path / "a.db") == {"ann": before}

    serve(served, tmp_path / "a.db", work)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_sigterm_drains(served: Session, tmp_path: Path) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        ended = asyncio.Event()
        scheduler.drain_on(done=ended.set)
        task = asyncio.create_task(scheduler.advance("ann", bytes(400)))
        await spin(2)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(ended.wait(), 20)
        assert task.result()["logits"].shape == (1, 400, 256)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)

    serve(served, tmp_path / "a.db", work, save_every_s=1000)
    assert [*stored(tmp_path / "a.db")] == ["ann"]


def test_metrics_count_what_happened(served: Session, tmp_path: Path) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        await scheduler.warm_up([1, 8])
        for n in range(3):
            await scheduler.advance(f"u{n}", bytes(8))
        text = scheduler.metrics_text()
        for line in (
            'dst_serving_requests_total{outcome="ok"} 3',
            "dst_serving_items_total 24",
            "dst_serving_evictions_total 1",
            "dst_serving_store_writes_total 3",
            "dst_serving_slots 2",
            "dst_serving_batch_fill 0.5",
            "dst_serving_latency_seconds_count 3",
        ):
            assert line in text.splitlines()
        for line in text.splitlines():  # the text format: a comment, or a name and a number
            assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0
        assert 0 < scheduler.metrics.quantile(0.5) <= scheduler.metrics.quantile(0.99)

    serve(served, tmp_path / "a.db", work)


@pytest.mark.parametrize(
    "wrong", [{"save_every_s": -1}, {"max_waiting": 0}, {"max_items": 0}, {"turn_items": 0},
              {"max_waiting_per_user": 0}, {"save_every_s": float("inf")}, {"turn_items": 2.5},
              {"cached": 1.5}, {"max_items": 8.5}, {"max_waiting": 2.0}, {"slots": 2.5},
              {"max_waiting_per_user": 1.5}, {"save_every_s": "1"}, {"save_every_s": float("nan")}]
)  # fmt: skip
def test_numbers_out_of_range_are_refused(
    served: Session, tmp_path: Path, wrong: dict[str, float]
) -> None:
    with StateStore(tmp_path / "a.db") as store:
        with pytest.raises(ServingError) as caught:
            AsyncScheduler(served, store=store, **{"slots": 2, **wrong})  # type: ignore[arg-type]
        assert code_of(caught) == "argument"
        asyncio.run(AsyncScheduler(served, 2, store).drain())  # nothing was locked


def test_another_loop_is_refused(served: Session, tmp_path: Path) -> None:
    with StateStore(tmp_path / "a.db") as store:
        scheduler = AsyncScheduler(served, 2, store)

        async def use() -> None:
            await scheduler.advance("ann", b"x")

        asyncio.run(use())
        with pytest.raises(ServingError) as caught:
            asyncio.run(use())
        assert code_of(caught) == "other-loop"


@pytest.mark.parametrize("save_every_s", [0, 1e-9, 1e9])
@pytest.mark.parametrize("where", ["between", "before", "after"])
@pytest.mark.parametrize("count", [5, 40])
def test_a_cancel_at_any_moment_is_answered_or_undone(
    served: Session, tmp_path: Path, save_every_s: float, where: str, count: int
) -> None:
    """Every turn of the event loop in the life of a request, and the middle of its work."""
    alone = Alone(served)
    outcomes: set[bool] = set()

    async def work(scheduler: AsyncScheduler) -> None:
        executor = inline(scheduler)
        for times in range(16):
            name = f"user {times}"
            for text in (b"first", b"second, and more"):
                same(await scheduler.advance(name, text), alone.advance(name, text, False))
            task = asyncio.create_task(scheduler.advance(name, bytes(count)))
            await spin(times)
            if where == "between":
                task.cancel()
            else:
                hooks = executor.before if where == "before" else executor.after
                hooks.append(task.cancel)
                await spin(6)
                hooks.clear()
            await asyncio.wait([task])
            outcomes.add(task.cancelled())
            if not task.cancelled():
                same(task.result(), alone.advance(name, bytes(count), False))
            if times % 2:  # the others' states are those in the store
                text = b"third" * 9
                same(await scheduler.advance(name, text), alone.advance(name, text, False))

    serve(served, tmp_path / "a.db", work, save_every_s=save_every_s, turn_items=16)
    assert outcomes == {True, False}
    assert stored(tmp_path / "a.db") == {name: alone.packed(name) for name in alone.states}
