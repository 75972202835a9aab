"""End a scheduler when the process gets a signal."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Iterable

from dst.runtime.errors import NonFiniteError
from dst.runtime.serving.driver import AGAIN_S

_LOG = logging.getLogger("dst.runtime.serving")


def end_on(
    drain: Callable[[], Awaitable[None]],
    signals: Iterable[signal.Signals],
    done: Callable[[], object] | None,
) -> None:
    """Call `drain` at one of these signals until it succeeds, then `done`."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def end() -> None:
        while True:
            try:
                await drain()
                break
            except NonFiniteError as error:  # of a scheduler that has ended
                _LOG.error("%s", error)
                break
            except Exception as error:  # perhaps somebody makes room on the disk
                _LOG.error("a scheduler cannot end and tries again: %s", error)
            await asyncio.sleep(AGAIN_S)
        if done is not None:
            done()

    def begin() -> None:
        if not tasks:
            tasks.add(task := loop.create_task(end()))
            task.add_done_callback(over)

    def over(task: asyncio.Task[None]) -> None:
        if task.cancelled():  # among all tasks: a later signal begins anew
            tasks.discard(task)

    for number in signals:
        try:
            loop.add_signal_handler(number, begin)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(begin))
