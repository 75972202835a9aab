"""A scheduler whose turns run when and where a test says, and each user's stream alone."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.runtime.pool.conftest import plain, with_batch

from dst.runtime import Saved, Session, StateStore, StreamPool, open_bundle, write_bundle
from dst.runtime.serving import AsyncScheduler
from dst.runtime.state.record import pack

Outputs = dict[str, Any]


@pytest.fixture(scope="session")
def served(shelf: Path) -> Session:
    """A small text model whose graph takes any number of streams: T = 1, 4, 8, nominal 8."""
    return Session.open(shelf / "text", lowering="fused")


@pytest.fixture(scope="session")
def gain_path(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of features whose state some items make infinite, which no output shows."""
    path = tmp_path_factory.mktemp("served") / "gain"
    model = with_batch(onnx.load(shelf / "gain" / "step.onnx"))
    write_bundle(path, plain(open_bundle(shelf / "gain").manifest), {"step.onnx": model})
    return path


@pytest.fixture(scope="session")
def gain(gain_path: Path) -> Session:
    """That model, whose state is looked at after each step."""
    return Session.open(gain_path, check_state_every=1)


class Inline(Executor):
    """Runs the work of a turn in the event loop itself, with a hook before and after it."""

    def __init__(self) -> None:
        self.before: list[Callable[[], object]] = []
        self.after: list[Callable[[], object]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        for hook in self.before:
            hook()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        for hook in self.after:
            hook()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


def inline(scheduler: AsyncScheduler) -> Inline:
    """Take the thread away from a scheduler."""
    scheduler._driver._thread.shutdown()
    executor = Inline()
    scheduler._driver._thread = executor  # type: ignore[assignment]
    return executor


class Alone:
    """Each user's stream with nobody else there: what the scheduler must agree with."""

    def __init__(self, session: Session) -> None:
        self._pool = StreamPool(session, 2)  # a batch of one takes other kernels (docs/pool.md)
        self.states: dict[str, Saved] = {}

    def advance(self, user: str, items: bytes, flush: bool, last: bool = False) -> Outputs:
        if user in self.states:
            self._pool.swap_in(0, self.states[user])
        else:
            self._pool.reset(0)
        outputs: Outputs = self._pool.advance({0: items})[0]
        if flush:
            tail = self._pool.flush([0])[0]
            outputs = {n: np.concatenate([v, tail[n]], axis=1) for n, v in outputs.items()}
        self.states[user] = self._pool.swap_out(0)
        return {n: v[:, -1:] for n, v in outputs.items()} if last else outputs

    def packed(self, user: str) -> bytes | None:
        return pack(self.states[user]) if user in self.states else None


def stored(path: Path) -> dict[str, bytes]:
    """What a store holds: name -> the newest state."""
    with StateStore(path) as store:
        return {entry.name: pack(store.get(entry.name)) for entry in store.list()}


async def spin(times: int) -> None:
    """Let the event loop go round some times."""
    for _ in range(times):
        await asyncio.sleep(0)


def serve(
    session: Session,
    path: Path,
    work: Callable[[AsyncScheduler], Awaitable[None]],
    slots: int = 2,
    **options: float,
) -> None:
    """Run some work with a scheduler, then drain it."""

    async def main() -> None:
        with StateStore(path, durable=False, history_bytes=0) as store:
            async with AsyncScheduler(session, slots, store, **options) as scheduler:  # type: ignore[arg-type]
                await work(scheduler)

    asyncio.run(main())
