"""Laws of threads: streams on one session, and a pool, give the same however threads interleave."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dst.runtime import Session, Stream
from dst.runtime.pool import StreamPool
from dst.runtime.state.record import pack

Array = npt.NDArray[np.generic]
THREADS = 6
BYTES = bytes(np.random.default_rng(8).integers(0, 256, 4000, np.uint8))


def together(works: Sequence[Callable[[], bytes]]) -> list[bytes]:
    """Run each in a thread of its own, all from the same instant on."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[], bytes]) -> bytes:
        start.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as threads:
        return list(threads.map(run, works))


def read(stream: Stream, seed: int) -> bytes:
    """Outputs and state after reading in odd pieces."""
    pick = np.random.default_rng(seed)
    found = [stream.advance(BYTES[at : at + pick.integers(1, 40)]) for at in range(0, 3000, 40)]
    found.append(stream.flush())
    return b"".join(f["logits"].tobytes() for f in found) + pack(stream.saved())


@pytest.mark.parametrize("threads", [1, 2])
def test_one_thread_per_stream_on_one_session(shelf: Path, threads: int) -> None:
    """The session is opened cold: the first use of a graph is raced for, too."""
    session = Session.open(shelf / "text", threads=threads, verify="size")
    serial = Session.open(shelf / "text", threads=threads, verify="size")
    streams = [session.stream() for _ in range(THREADS)]
    found = together([lambda s=s, i=i: read(s, i) for i, s in enumerate(streams)])  # type: ignore[misc]
    assert found == [read(serial.stream(), i) for i in range(THREADS)]


def test_threads_that_share_a_pool_take_turns(text: Session) -> None:
    pool, streams = StreamPool(text, THREADS), [text.stream() for _ in range(THREADS)]

    def feed(slot: int) -> bytes:
        pick, found = np.random.default_rng(slot), []
        for at in range(0, 3000, 40):
            found.append(pool.advance({slot: BYTES[at : at + pick.integers(1, 40)]})[slot])
            if at % 600 == 0:
                pool.swap_in(slot, pool.swap_out(slot))
        return b"".join(f["logits"].tobytes() for f in found) + pack(pool.swap_out(slot))

    def alone(slot: int) -> bytes:
        pick, stream, found = np.random.default_rng(slot), streams[slot], []
        for at in range(0, 3000, 40):
            found.append(stream.advance(BYTES[at : at + pick.integers(1, 40)]))
        return b"".join(f["logits"].tobytes() for f in found) + pack(stream.saved())

    found = together([lambda slot=slot: feed(slot) for slot in range(THREADS)])  # type: ignore[misc]
    assert found == [alone(slot) for slot in range(THREADS)]
