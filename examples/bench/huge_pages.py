"""Measure what large pages of memory gain: steps of one bundle with and without, in turns.

    python examples/bench/huge_pages.py BUNDLE --t 1 64

Prints milliseconds of a step on one thread, medians and minima, and the bytes that were moved.
"""

import argparse
import random
import statistics
import time

import numpy as np

from dst.runtime import Session
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", help="of tokens")
    parser.add_argument("--t", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    for t in given.t:
        sessions = {
            on: Session.open(given.bundle, chunk_sizes=[t], huge_pages=on) for on in (False, True)
        }
        chunk = sessions[True].contract.chunk
        assert isinstance(chunk.content, Tokens)
        ids = np.random.default_rng(0).integers(0, chunk.content.vocabulary, sized(chunk.shape, t))
        ids = ids.astype(chunk.dtype)
        streams = {on: session.stream() for on, session in sessions.items()}
        spent: dict[bool, list[float]] = {False: [], True: []}
        for number in range(given.rounds + 1):
            for on in random.Random(number).sample([False, True], 2):
                streams[on].step(ids, last=t > 1)
                start = time.perf_counter()
                for _ in range(8 if t == 1 else 1):
                    streams[on].step(ids, last=t > 1)
                if number:
                    spent[on].append(1e3 * (time.perf_counter() - start) / (8 if t == 1 else 1))
        median = {on: statistics.median(times) for on, times in spent.items()}
        least = {on: min(times) for on, times in spent.items()}
        print(
            f"T = {t}: without {median[False]:.3f} ms (least {least[False]:.3f}), with "
            f"{median[True]:.3f} ({least[True]:.3f}): {median[False] / median[True]:.2f} times as "
            f"fast ({least[False] / least[True]:.2f}); "
            f"{sessions[True].report().huge_pages_bytes / 2**20:.0f} MiB moved",
            flush=True,
        )


if __name__ == "__main__":
    main()
