"""A bundle in; growth of memory over a million one-item steps and the cost of age out.

    python examples/bench/million_steps.py BUNDLE [--steps 1000000]

After a warm-up one stream takes a million steps of one item over real text. Then this aged stream
and a fresh one step in turns, in an order drawn anew each round: the ratio of their median times
is 1 where a step's cost does not depend on how many came before. Exit code 1 where memory grew by
more than 1 MiB or the ratio leaves 0.97 to 1.03.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

import dst
from dst.runtime import Session, Stream, rss_bytes

Items = npt.NDArray[np.int64]
BLOCK = 20
"""Steps that are timed together, so that the clock's own cost does not count."""


def run(stream: Stream, items: Items, steps: int, start: int = 0) -> None:
    """Take ``steps`` steps of one item, reading ``items [n, 1, 1]`` round and round."""
    for i in range(start, start + steps):
        stream.step(items[i % len(items)])


def timed(stream: Stream, items: Items, start: int) -> float:
    """Seconds per step over one block."""
    since = time.perf_counter()
    run(stream, items, BLOCK, start)
    return (time.perf_counter() - since) / BLOCK


def main() -> int:
    """Run, print the figures and judge them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--warm-up", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3000)
    args = parser.parse_args()
    text = (Path(dst.__file__).parent / "heldout" / "stdlib.txt").read_bytes()
    items = np.frombuffer(text, np.uint8).astype(np.int64).reshape(-1, 1, 1)
    session = Session.open(args.bundle, chunk_sizes=[1])
    aged = session.stream()
    run(aged, items, args.warm_up)
    before = rss_bytes()
    since = time.perf_counter()
    run(aged, items, args.steps, args.warm_up)
    seconds = time.perf_counter() - since
    growth = (rss_bytes() - before) / 2**20

    fresh = session.stream()
    run(fresh, items, 1000)
    times: dict[str, list[float]] = {"aged": [], "fresh": []}
    order = [("aged", aged), ("fresh", fresh)]
    for number in range(args.rounds):
        random.shuffle(order)
        for name, stream in order:
            times[name].append(timed(stream, items, 1000 + number * BLOCK))
    ratio = median(times["aged"]) / median(times["fresh"])
    passed = growth <= 1.0 and 0.97 <= ratio <= 1.03
    print(
        json.dumps(
            {
                "steps": args.steps,
                "microseconds_per_step": round(seconds / args.steps * 1e6, 2),
                "rss_growth_mib": round(growth, 3),
                "aged_over_fresh": round(ratio, 4),
                "passed": passed,
            }
        )
    )
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
