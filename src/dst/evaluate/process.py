"""Open and step a bundle in a fresh process, and tell what that took.

`probed` starts some, one after the other; each is `python -m dst.evaluate.process BUNDLE T THREADS
PROVIDER` and prints one `Start` as JSON.
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import cast

import msgspec

from dst.evaluate.inputs import feed_of
from dst.evaluate.result import Start
from dst.runtime import DstError, Session, open_bundle, rss_bytes
from dst.runtime.execution.memory import peak_rss_bytes
from dst.runtime.execution.providers import Provider
from dst.runtime.golden import golden_inputs

STEPS = 32
_LIMIT_S = 600


def probed(path: Path, t: int, threads: int, provider: Provider, times: int) -> Start | str:
    """Run the bundle at `path` at T = `t`, alone in `times` fresh processes.

    Returns:
        What it took, medians of all; or why it did not run.
    """
    arguments = (str(path), str(t), str(threads), provider)
    command = [sys.executable, "-m", "dst.evaluate.process", *arguments]
    found = []
    for _ in range(times):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"it did not end in {_LIMIT_S} s"
        if done.returncode != 0:
            return [f"it ended with {done.returncode}", *done.stderr.strip().splitlines()][-1]
        found.append(msgspec.json.decode(done.stdout, type=Start))
    return Start(
        t=t,
        load_ms=median(s.load_ms for s in found),
        first_output_ms=median(s.first_output_ms for s in found),
        base_rss_bytes=int(median(s.base_rss_bytes for s in found)),
        peak_rss_bytes=int(median(s.peak_rss_bytes for s in found)),
    )


def main() -> int:
    """Open the bundle that the arguments name, step it a few times, and print what it took."""
    path, t_text, threads, provider = sys.argv[1:]
    t = int(t_text)
    try:
        bundle = open_bundle(path, "size")
        chunks = feed_of(bundle).chunks(bundle, t, 4)
        base = rss_bytes()
        start = time.perf_counter()
        place = cast(Provider, provider)
        session = Session.open(path, place, threads=int(threads), chunk_sizes=[t])
        session.runner_for(t)
        loaded = time.perf_counter()
        stream = session.stream(inputs=golden_inputs(bundle))
        stream.step(chunks[0], copy=False)
        first = time.perf_counter()
        for number in range(STEPS):
            stream.step(chunks[number % len(chunks)], copy=False)
    except DstError as error:
        print(error, file=sys.stderr)
        return 1
    found = Start(
        t=t,
        load_ms=1000 * (loaded - start),
        first_output_ms=1000 * (first - start),
        base_rss_bytes=base,
        peak_rss_bytes=peak_rss_bytes(),
    )
    sys.stdout.write(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
