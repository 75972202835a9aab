"""Compare the shipped bundles with those of an earlier commit, in turns in one process.

    git worktree add ../old dc2e846
    for name in text text-int8 text-int4; do
        dst upgrade ../old/src/dst/shipped/$name runs/old/$name
    done
    python examples/bench/since.py runs/old

The folder holds `text`, `text-int8` and `text-int4` in the present format. Earlier bundles run as
the earlier runtime ran them: the first graph that takes the T, without memory patterns, for one
stream on prebuilt bindings. The present ones run by `Stream.step` of sessions for that T alone.
`naive` is a loop of `session.run` with default options on the same graph; `pool` is one call of a
`StreamPool` of 64 slots. Every row is opened several times, because where its weights happen to lie
in memory moves a step by up to a tenth; ratios are of medians and of minima over all.
"""

import argparse
import gc
import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from dst.runtime import Session, StreamPool, open_bundle
from dst.runtime.execution.step import BoundStep

NAMES = ("text", "text-int8", "text-int4")
SLOTS = 64
Call = Callable[[], object]


def earlier_session(path: Path, t: int) -> Session:
    """Open an earlier bundle as its runtime did."""
    session = Session.open(path, lowering="fused", chunk_sizes=[t])
    options = ort.SessionOptions()
    options.enable_mem_pattern = False
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    file = session.bundle.root / session.graph_for(t).file
    opened = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    session._open[session.graph_for(t).file] = opened
    return session


def earlier(path: Path, t: int) -> Call:
    """Step an earlier bundle on prebuilt bindings, the states in turns."""
    session = earlier_session(path, t)
    step = BoundStep(session, t)
    names = [s.input for s in session.contract.state]
    a, b = (
        {n: ort.OrtValue.ortvalue_from_numpy(session.initial[n].copy()) for n in names}
        for _ in range(2)
    )
    step.bindings = (step.bind(a, b), step.bind(b, a))
    step.chunk.raw[...] = np.random.default_rng(0).integers(0, 256, step.chunk.raw.shape)
    step.chunk.readable()
    way = [0]

    def call() -> None:
        step.call(way[0])
        way[0] ^= 1

    return call


def naive(path: Path, file: str, t: int) -> Call:
    """Step by `session.run` with default options but for one thread, the state fed back."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path / file), options, providers=["CPUExecutionProvider"])
    bundle = open_bundle(path, "size").manifest
    initial = Session.open(path, chunk_sizes=[t]).initial
    state = {s.input: initial[s.input] for s in bundle.contract.state}
    chunk = np.random.default_rng(0).integers(0, 256, (1, t))
    names = [s.output for s in bundle.contract.state]
    asked = next(g.answers for g in bundle.graphs if g.file == file)
    more = {} if asked is None else {asked: np.arange(t)}
    wanted = [o.name for o in bundle.contract.outputs]

    def call() -> None:
        found = session.run(wanted + names, {"chunk": chunk, **more, **state})
        state.update(zip(state, found[len(wanted) :], strict=True))

    return call


def session_of(path: Path, t: int) -> Session:
    """Open a bundle for one T."""
    return Session.open(path, chunk_sizes=[t])


def present(path: Path, t: int) -> Call:
    """Step by `Stream.step`."""
    stream = session_of(path, t).stream()
    chunk = np.random.default_rng(0).integers(0, 256, (1, t))
    return lambda: stream.step(chunk)


def pool(path: Path, session_of: Callable[[Path, int], Session]) -> Call:
    """Step 64 slots by one item each."""
    held = StreamPool(session_of(path, 1), SLOTS)
    chunks = {slot: np.array([[slot]]) for slot in range(SLOTS)}
    return lambda: held.step(chunks)


def rows(old: Path, new: Path, t: int) -> dict[str, Callable[[], Call]]:
    """What is measured at one T: name -> what opens it."""
    made: dict[str, Callable[[], Call]] = {}
    for name in NAMES:
        made[f"earlier {name}"] = partial(earlier, old / name, t)
        made[f"now {name}"] = partial(present, new / name, t)
    first = Session.open(old / "text", lowering="fused").graph_for(t).file
    chosen = Session.open(new / "text", chunk_sizes=[t]).graph_for(t).file
    made["earlier text, naive"] = lambda: naive(old / "text", first, t)
    made["now text, naive"] = lambda: naive(new / "text", chosen, t)
    if t == 1:
        for name in NAMES:
            made[f"earlier {name}, pool"] = partial(pool, old / name, earlier_session)
            made[f"now {name}, pool"] = partial(pool, new / name, session_of)
    return made


def measure(opened: dict[str, Callable[[], Call]], t: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of this thread per call, in turns, in an order drawn anew each round."""
    calls = {name: make() for name, make in opened.items()}
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 3):
        for name in random.sample(list(calls), len(calls)):
            repeats = 5 if t == 1 and "pool" not in name else 1
            calls[name]()
            start = time.thread_time()
            for _ in range(repeats):
                calls[name]()
            if number >= 3:  # the first touch the memory
                spent[name].append(1e6 * (time.thread_time() - start) / repeats)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="folder of the earlier bundles")
    parser.add_argument("--t", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--openings", type=int, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    new = open_bundle("text").root.parent
    results: dict[str, dict[str, dict[str, float]]] = {}
    for t in given.t:
        spent: dict[str, list[float]] = {}
        for _ in range(given.openings):
            for name, times in measure(rows(given.old, new, t), t, given.rounds).items():
                spent.setdefault(name, []).extend(times)
            gc.collect()
        results[f"T={t}"] = found = {
            n: {"median_us": round(median(v), 1), "least_us": round(min(v), 1)}
            for n, v in spent.items()
        }
        for name, row in found.items():
            base = found["earlier text, pool" if "pool" in name else "earlier text"]
            middle, least = (base[k] / row[k] for k in ("median_us", "least_us"))
            print(
                f"T={t:<3d} {name:22s} {row['median_us']:9.1f} us  least {row['least_us']:9.1f}"
                f"   {middle:5.2f} x the earlier float32 (of minima {least:.2f})",
                flush=True,
            )
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
