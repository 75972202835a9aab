"""What a scheduler keeps when an error comes in the middle of a turn, from wherever it comes."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.pool.conftest import positive
from tests.runtime.serving.conftest import Alone, inline, serve

from dst.runtime import Saved, Session, StateStore, StreamPool
from dst.runtime.errors import NonFiniteError
from dst.runtime.serving import AsyncScheduler, seats
from dst.runtime.state.record import pack


def out_of_memory(*_: Any, **__: Any) -> Any:
    raise MemoryError("as a test says")


@pytest.mark.parametrize("save_every_s", [0, 1000])
@pytest.mark.parametrize("cached", [0, 5])
@pytest.mark.parametrize("others", [0, 4])
def test_a_long_request_whose_state_is_spoilt_is_not_answered(
    gain_path: Path, tmp_path: Path, save_every_s: float, cached: int, others: int
) -> None:
    """Also where its user loses his slot in between, and the state is looked at only then."""
    session = Session.open(gain_path)  # which looks at a state now and then
    pool = StreamPool(session, 2)

    async def work(scheduler: AsyncScheduler) -> None:
        await scheduler.advance("ann", positive(8, 1))
        pool.advance({0: positive(8, 1)})
        spoilt = positive(64, 2)
        spoilt[8:16] = 80.0
        calls = [scheduler.advance("ann", spoilt)]
        calls += [scheduler.advance(f"other {n}", positive(64, n)) for n in range(others)]
        ann, *rest = await asyncio.gather(*calls, return_exceptions=True)
        if save_every_s and not others:  # nobody has looked at the state before the answer
            assert isinstance(ann, dict)
            with pytest.raises(
                NonFiniteError, match="put back to its last good snapshot at item 8"
            ):
                await scheduler.get("ann")
        else:
            assert isinstance(ann, NonFiniteError)
        assert all(isinstance(answer, dict) for answer in rest)
        assert pack(await scheduler.get("ann")) == pack(pool.swap_out(0))
        await scheduler.advance("ann", positive(8, 3))
        pool.advance({0: positive(8, 3)})
        assert pack(await scheduler.get("ann")) == pack(pool.swap_out(0))

    serve(session, tmp_path / "a.db", work, turn_items=8, cached=cached, save_every_s=save_every_s)


def test_a_slot_is_not_lost_when_its_user_cannot_be_loaded(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(StateStore, "get", out_of_memory)
            for name in ("ann", "bob", "cleo"):
                with pytest.raises(MemoryError):
                    await scheduler.advance(name, b"x")
        both = await asyncio.gather(*(scheduler.advance(n, b"x" * 8) for n in ("ann", "bob")))
        assert all(answer["logits"].shape[1] == 8 for answer in both)

    serve(served, tmp_path / "a.db", work)


def test_every_cancelled_request_is_taken_back_though_the_store_fails(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Alone(served)
    failing = False
    real = StateStore.put_many

    def put_many(store: StateStore, states: Mapping[str, Saved]) -> tuple[str, ...]:
        nonlocal failing
        if failing:
            failing = False
            raise MemoryError("as a test says")
        return real(store, states)

    async def work(scheduler: AsyncScheduler) -> None:
        executor = inline(scheduler)
        for name in ("ann", "bob"):
            await scheduler.advance(name, b"before--")
            alone.advance(name, b"before--", False)
        calls = [asyncio.create_task(scheduler.advance(n, b"cancelled")) for n in ("ann", "bob")]

        def after() -> None:
            nonlocal failing
            executor.after.clear()
            failing = True
            for call in calls:
                call.cancel()

        executor.after.append(after)
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)
        for name in ("ann", "bob"):
            while True:
                try:
                    assert pack(await scheduler.get(name)) == alone.packed(name)
                    break
                except MemoryError:  # told to who is there
                    continue

    monkeypatch.setattr(StateStore, "put_many", put_many)
    serve(served, tmp_path / "a.db", work)


@pytest.mark.parametrize("save_every_s", [0, 1000])
def test_an_error_behind_the_step_takes_all_of_its_users_back(
    served: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_every_s: float
) -> None:
    alone = Alone(served)

    async def work(scheduler: AsyncScheduler) -> None:
        for name in ("ann", "bob"):
            await scheduler.advance(name, b"before--", last=True)
            alone.advance(name, b"before--", False)
        with monkeypatch.context() as patch:
            patch.setattr(seats, "join_parts", out_of_memory)
            calls = (scheduler.advance(name, b"failing!", last=True) for name in ("ann", "bob"))
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [MemoryError, MemoryError]
        for name in ("ann", "bob"):
            assert pack(await scheduler.get(name)) == alone.packed(name)

    serve(served, tmp_path / "a.db", work, save_every_s=save_every_s)


def test_a_task_that_fails_is_told_to_its_caller_alone(served: Session, tmp_path: Path) -> None:
    async def work(scheduler: AsyncScheduler) -> None:
        for name in ("ann", "bob"):
            await scheduler.advance(name, b"x" * 8)
        saved = await scheduler.get("ann")
        driver = scheduler._driver

        async def failing() -> object:
            return await driver.answer(driver.request("bob", task=out_of_memory), None)

        calls = failing(), scheduler.put("cleo", saved), scheduler.delete("ann")
        answers = await asyncio.gather(*calls, return_exceptions=True)  # all in one turn
        assert isinstance(answers[0], MemoryError)
        assert [*map(str, answers[1:])] == ["None", "True"]

    serve(served, tmp_path / "a.db", work, slots=3)
