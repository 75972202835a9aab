"""How fast a scheduler serves busy users, beside the pool driven by hand and one by one.

    python examples/bench/serving.py BUNDLE

Busy users each wait for an answer and then ask at once for the next one. In turns, round by
round: the same users through `AsyncScheduler`; the slots of a `StreamPool` driven by hand, by
`advance` and `flush` and, where the items are a chunk, by `step`; and a stream each, one after
the other. Printed are ratios of the medians of rounds, of the time that passed and of the time of
a CPU that this process took. Exit code 1 where, at T = 1, the scheduler has less than 0.9 of the
throughput of the pool (`advance` and `flush`, which is what a user asks for here) or is less than
4 times as fast as one by one.

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
) -> dict[str, object]:
    """Time each way for `rounds` rounds of `calls` calls of every user."""
    items, chunk = items_of(session, t), items_of(session, t)[None]
    flush = t % session.contract.chunk.nominal_t != 0
    pool, stepped = StreamPool(session, users), StreamPool(session, users)
    streams = [session.stream() for _ in range(users)]
    names = ("scheduler", "pool", "pool_step", "alone")
    times: dict[str, list[float]] = {n: [] for n in names}
    busy: dict[str, list[float]] = {n: [] for n in names}
    with StateStore(path, history_bytes=0, durable=False) as store:
        async with AsyncScheduler(session, users, store, save_every_s=save_every_s) as scheduler:

            async def user(number: int) -> None:
                for _ in range(calls):
                    await scheduler.advance(f"user {number}", items, flush=flush)

            async def by_scheduler() -> None:
                await asyncio.gather(*(user(number) for number in range(users)))

            async def by_pool() -> None:
                for _ in range(calls):
                    pool.advance(dict.fromkeys(range(users), items))
                    if flush:
                        pool.flush(range(users))

            async def by_step() -> None:
                for _ in range(calls):
                    stepped.step(dict.fromkeys(range(users), chunk))

            async def one_by_one() -> None:
                for stream in streams:
                    stream.step(chunk)

            ways = {
                "scheduler": by_scheduler, "pool": by_pool, "pool_step": by_step,
                "alone": one_by_one,
            }  # fmt: skip
            for number in range(rounds + 3):  # the first rounds warm up
                for name, way in ways.items():
                    since, cpu = time.perf_counter(), time.process_time()
                    await way()
                    cpu, spent = time.process_time() - cpu, time.perf_counter() - since
                    if number >= 3:
                        requests = users * (1 if name == "alone" else calls)
                        times[name].append(spent / requests)
                        busy[name].append(cpu / requests)
    ours, own = median(times["scheduler"]), median(busy["scheduler"])
    return {
        "cpu": {
            "scheduler_over_pool": round(median(busy["pool"]) / own, 2),
            "scheduler_over_pool_step": round(median(busy["pool_step"]) / own, 2),
            "scheduler_over_one_by_one": round(median(busy["alone"]) / own, 2),
            "scheduler_microseconds_per_request": round(own * 1e6, 1),
        },
        "scheduler_over_pool": round(median(times["pool"]) / ours, 2),
        "scheduler_over_pool_step": round(median(times["pool_step"]) / ours, 2),
        "scheduler_over_one_by_one": round(median(times["alone"]) / ours, 2),
        "scheduler_microseconds_per_request": round(ours * 1e6, 1),
    }


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
    figures: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for t in asked.t:
            path = Path(folder) / f"t{t}.db"
            figures[f"t{t}"] = asyncio.run(
                compare(
                    session, asked.users, t, asked.rounds, asked.calls, asked.save_every_s, path
                )
            )
    first = figures.get("t1", {})
    passed = not first or (
        float(str(first["scheduler_over_pool"])) >= 0.9
        and float(str(first["scheduler_over_one_by_one"])) >= 4
    )
    print(json.dumps({"users": asked.users, **figures, "passed": passed}, indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
