"""How fast a scheduler serves busy users, beside the pool driven by hand and one by one.

    python examples/bench/serving.py BUNDLE

Busy users each wait for an answer and then ask at once for the next one. In turns, round by
round: the same users through `AsyncScheduler`; a `StreamPool` driven by hand in four ways; and a
stream each, one after the other.

- `users`: the same 64 coroutines wait for futures, which a loop around `StreamPool.advance` sets:
  the least that a program with users needs, without a store, cancelling, bounds or metrics;
- `pool`: `advance(items, flush=...)` of all slots, the call that both make, without any users;
- `pool_two_calls`: `advance`, then `flush`;
- `pool_step`: `step`, which takes one chunk of each slot and nothing else.

Printed are ratios of the medians of rounds, of the time that passed and of the time of a CPU that
this process took. Exit code 1 where, at T = 1, the scheduler has less than 0.9 of the throughput
of `users`, or is less than 4 times as fast as one by one, by the time that passed.

The states are stored every 10 s (`--save-every-s`), which is within the time that is measured;
0 stores each state before its answer.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from dst.runtime import Session, StateStore, StreamPool
from dst.runtime.bundle.manifest import Tokens, item_shape
from dst.runtime.serving import AsyncScheduler

Array = npt.NDArray[np.generic]


def items_of(session: Session, count: int) -> Array:
    """Random items `[n, ...]`."""
    chunk, random = session.contract.chunk, np.random.default_rng(0)
    if isinstance(chunk.content, Tokens):
        return random.integers(0, chunk.content.vocabulary, count).astype(chunk.dtype)
    return random.normal(size=(count, *item_shape(chunk))).astype(chunk.dtype)


async def compare(
    session: Session, users: int, t: int, rounds: int, calls: int, save_every_s: float, path: Path
) -> dict[str, dict[str, float]]:
    """Time each way for `rounds` rounds of `calls` calls of every user."""
    items, chunk = items_of(session, t), items_of(session, t)[None]
    flush = t % session.contract.chunk.nominal_t != 0
    hand, pool, two, stepped = (StreamPool(session, users) for _ in range(4))
    streams = [session.stream() for _ in range(users)]
    ending = range(users) if flush else ()
    with StateStore(path, history_bytes=0, durable=False) as store:
        async with AsyncScheduler(session, users, store, save_every_s=save_every_s) as scheduler:

            async def user(number: int) -> None:
                for _ in range(calls):
                    await scheduler.advance(f"user {number}", items, flush=flush)

            async def by_scheduler() -> None:
                await asyncio.gather(*(user(number) for number in range(users)))

            async def by_users() -> None:
                waiting: dict[int, tuple[Array, asyncio.Future[object]]] = {}
                loop, there = asyncio.get_running_loop(), asyncio.Event()

                async def ask(slot: int) -> None:
                    for _ in range(calls):
                        waiting[slot] = (items, loop.create_future())
                        there.set()
                        await waiting[slot][1]

                async def answer() -> None:
                    while True:
                        await there.wait()
                        there.clear()
                        asked = dict(waiting)
                        waiting.clear()
                        given = {slot: value for slot, (value, _) in asked.items()}
                        found = hand.advance(given, flush=given if flush else ())
                        for slot, (_, future) in asked.items():
                            future.set_result(found[slot])

                task = loop.create_task(answer())
                await asyncio.gather(*map(ask, range(users)))
                task.cancel()

            async def by_pool() -> None:
                for _ in range(calls):
                    pool.advance(dict.fromkeys(range(users), items), flush=ending)

            async def by_two_calls() -> None:
                for _ in range(calls):
                    two.advance(dict.fromkeys(range(users), items))
                    if flush:
                        two.flush(ending)

            async def by_step() -> None:
                for _ in range(calls):
                    stepped.step(dict.fromkeys(range(users), chunk))

            async def one_by_one() -> None:
                for stream in streams:
                    stream.step(chunk)

            ways = {
                "scheduler": by_scheduler, "users": by_users, "pool": by_pool,
                "pool_two_calls": by_two_calls, "pool_step": by_step, "alone": one_by_one,
            }  # fmt: skip
            times: dict[str, list[float]] = {name: [] for name in ways}
            busy: dict[str, list[float]] = {name: [] for name in ways}
            for number in range(rounds + 3):  # the first rounds warm up
                for name, way in ways.items():
                    since, cpu = time.perf_counter(), time.process_time()
                    await way()
                    cpu, spent = time.process_time() - cpu, time.perf_counter() - since
                    if number >= 3:
                        requests = users * (1 if name == "alone" else calls)
                        times[name].append(spent / requests)
                        busy[name].append(cpu / requests)
    found: dict[str, dict[str, float]] = {}
    for what, measured in (("cpu", busy), ("passed", times)):
        own = median(measured["scheduler"])
        ratios = {f"over_{n}": round(median(v) / own, 2) for n, v in measured.items()}
        found[what] = {**ratios, "microseconds_per_request": round(own * 1e6, 1)}
    return found


def main() -> int:
    """Print the figures and judge them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--t", type=int, nargs="*", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=8, help="of each user in a round")
    parser.add_argument("--save-every-s", type=float, default=10.0)
    asked = parser.parse_args()
    session = Session.open(asked.bundle, lowering="fused")
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for t in asked.t:
            path = Path(folder) / f"t{t}.db"
            figures[f"t{t}"] = asyncio.run(
                compare(
                    session, asked.users, t, asked.rounds, asked.calls, asked.save_every_s, path
                )
            )
    first = figures["t1"]["passed"] if "t1" in figures else {"over_users": 1.0, "over_alone": 4.0}
    passed = first["over_users"] >= 0.9 and first["over_alone"] >= 4
    print(json.dumps({"users": asked.users, **figures, "passed": passed}, indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
