"""How long a request of a busy scheduler takes, beside one step and a step of the whole batch.

    python examples/bench/latency.py BUNDLE

64 requests of 1,000 users are under way at any time: whoever is answered makes room at once for
the user who has waited for longest. So a request waits at least as long as a batch of 64 takes,
and that, not a step of one stream, is what its time is compared with. Ways, in turns, round by
round, without HTTP:

- `seated`: 64 users only, each with a slot; states are stored every 10 s;
- `cached`: 1,000 users, their states in memory; stored every 10 s;
- `later`: 1,000 users; stored every 10 s or when a user loses his slot, that is at each request;
- `each`: 1,000 users; each answer waits until its state is in the store;
- `durable`: the same, and the disk has it (`durable=True`).

Times are milliseconds. The disk is that of the temporary folder.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import deque
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dst.runtime import Session, StateStore, StreamPool
from dst.runtime.serving import AsyncScheduler


class Way(NamedTuple):
    """How a scheduler is made."""

    users: int
    save_every_s: float = 0.0
    cached: int = 0
    durable: bool = False


def quantiles(times: list[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds."""
    return {f"p{q}": round(float(np.percentile(times, q)) * 1e3, 2) for q in (50, 99)}


async def load(
    scheduler: AsyncScheduler, waiting: deque[int], data: bytes, calls: int, busy: int
) -> list[float]:
    """Make some requests, `busy` at a time, and return how long each took."""
    times: list[float] = []

    async def ask() -> None:
        while len(times) < calls:
            user = waiting.popleft()
            since = time.perf_counter()
            await scheduler.advance(f"user {user}", data, flush=True, last=True)
            times.append(time.perf_counter() - since)
            waiting.append(user)

    await asyncio.gather(*(ask() for _ in range(busy)))
    return times


async def compare(session: Session, asked: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Time all ways."""
    busy, data = asked.busy, bytes(range(97, 97 + asked.bytes))
    ways = {
        "seated": Way(busy, 10),
        "cached": Way(asked.users, 10, asked.users),
        "later": Way(asked.users, 10),
        "each": Way(asked.users),
        "durable": Way(asked.users, durable=True),
    }
    pool, stream = StreamPool(session, busy), session.stream()
    single: list[float] = []
    batch: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in ways}
    spent = dict.fromkeys(ways, 0.0)
    async with AsyncExitStack() as stack:
        schedulers = {}
        for name, way in ways.items():
            store = stack.enter_context(
                StateStore(folder / f"{name}.db", history_bytes=0, durable=way.durable)
            )
            scheduler = AsyncScheduler(
                session, busy, store, save_every_s=way.save_every_s, cached=way.cached
            )
            schedulers[name] = await stack.enter_async_context(scheduler)
        waiting = {name: deque(range(way.users)) for name, way in ways.items()}
        for number in range(asked.rounds + 1):  # the first warms up, and makes every user
            for name, scheduler in schedulers.items():
                calls = asked.calls if number else max(asked.calls, 2 * asked.users)
                since = time.perf_counter()
                found = await load(scheduler, waiting[name], data, calls, busy)
                if number:
                    times[name] += found
                    spent[name] += time.perf_counter() - since
            for _ in range(20):
                since = time.perf_counter()
                stream.advance(data)
                stream.flush(last=True)
                middle = time.perf_counter()
                pool.advance(dict.fromkeys(range(busy), data), last=True, flush=range(busy))
                if number:
                    single.append(middle - since)
                    batch.append(time.perf_counter() - middle)
    whole = float(np.median(batch))
    return {
        "one_stream": quantiles(single),
        f"batch_of_{busy}": quantiles(batch),
        **{
            name: {
                **quantiles(found),
                "p99_over_batch": round(float(np.percentile(found, 99)) / whole, 1),
                "answers_per_s": round(len(found) / spent[name]),
            }
            for name, found in times.items()
        },
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--busy", type=int, default=64)
    parser.add_argument("--bytes", type=int, default=16, help="of each request")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=2000, help="of each way in a round")
    asked = parser.parse_args()
    session = Session.open(asked.bundle, lowering="fused")
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(compare(session, asked, Path(folder)))
    print(json.dumps({"users": asked.users, "busy": asked.busy, **figures}, indent=1))


if __name__ == "__main__":
    main()
