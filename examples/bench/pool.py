"""A bundle in; the speed, the exactness and the memory of a pool of streams out.

    python examples/bench/pool.py speed BUNDLE
    python examples/bench/pool.py layout BUNDLE
    python examples/bench/pool.py streams BUNDLE

`speed`: 64 slots that step together, against 64 streams that step one by one, in turns; for each
T the ratio of the medians, and the largest error of an output (max|d|/rms) over all rounds, the
states carried on. Exit code 1 where the pool is not 4 times as fast at T = 1 or 1.3 times at
T = 16, or where an error exceeds 1e-5.

`layout`: what it costs to bring the states of 64 slots together for one call of the graph and
to put them back: as one array per tensor, rows of which are copied, and as one block per slot.

`streams`: 10,000 streams take 100 chunks each through 64 slots. A stream keeps its slot for 1 to
19 chunks; then it goes to the store, to the back of the queue, and the next one comes in, so that
each stream comes back some ten times and finds everybody else having been there in between. Then
each runs alone, and its outputs and its last state must be the same, bit for bit. Memory may grow
by 1 MiB after the first fifth. Exit code 1 where either does not hold.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

import dst
from dst.runtime import Session, StateStore, Stream, StreamPool, rss_bytes
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Tokens
from dst.runtime.pool.slots import BatchState
from dst.runtime.state.record import pack

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]


class Source:
    """What every stream reads: held-out text, each from a place of its own; or random features."""

    def __init__(self, session: Session) -> None:
        chunk = session.contract.chunk
        self._shape = chunk.shape
        if isinstance(chunk.content, Tokens):
            text = (Path(dst.__file__).parent / "heldout" / "stdlib.txt").read_bytes()
            ids = np.frombuffer(text, np.uint8).astype(np.int64) % chunk.content.vocabulary
            self._items: Array = ids.astype(chunk.dtype)
        else:
            item = [size for size in chunk.shape if not isinstance(size, str)]
            random = np.random.default_rng(0)
            self._items = random.normal(size=(1 << 16, *item)).astype(chunk.dtype)

    def chunk(self, stream: int, number: int, t: int) -> Array:
        """Chunk `number` of a stream, in the contract's shape."""
        start = (stream * 7919 + number * t) % (len(self._items) - t)
        return self._items[start : start + t].reshape(sized(self._shape, t))


def seconds(call: Callable[[], object]) -> float:
    since = time.perf_counter()
    call()
    return time.perf_counter() - since


# --- speed


def error_of(found: Outputs, expected: Outputs) -> float:
    """The largest max|d|/rms over the outputs."""
    worst = 0.0
    for name, value in expected.items():
        reference = value.astype(np.float64)
        rms = float(np.sqrt(np.mean(reference**2))) or 1.0
        worst = max(worst, float(np.abs(found[name].astype(np.float64) - reference).max()) / rms)
    return worst


def speed(session: Session, slots: int, sizes: list[int], rounds: int) -> dict[str, object]:
    """Time a pool against its streams one by one, in turns."""
    source = Source(session)
    figures: dict[str, object] = {}
    passed = True
    for t in sizes:
        pool = StreamPool(session, slots)
        streams = [session.stream() for _ in range(slots)]
        together, alone, worst = [], [], 0.0
        for number in range(rounds + 10):
            chunks = {slot: source.chunk(slot, number, t) for slot in range(slots)}
            found: dict[int, Outputs] = {}
            expected: dict[int, Outputs] = {}

            def step_pool(
                pool: StreamPool = pool,
                chunks: dict[int, Array] = chunks,
                found: dict[int, Outputs] = found,
            ) -> None:
                found |= pool.step(chunks)

            def step_streams(
                streams: list[Stream] = streams,
                chunks: dict[int, Array] = chunks,
                expected: dict[int, Outputs] = expected,
            ) -> None:
                for slot, chunk in chunks.items():
                    expected[slot] = streams[slot].step(chunk)

            first = seconds(step_pool) if number % 2 else 0.0
            second = seconds(step_streams)
            first = first or seconds(step_pool)
            worst = max(worst, *(error_of(found[s], expected[s]) for s in range(slots)))
            if number >= 10:  # the first rounds warm up
                together.append(first)
                alone.append(second)
        ratio = median(alone) / median(together)
        wanted = {1: 4.0, 16: 1.3}.get(t, 0.0)
        passed = passed and ratio >= wanted and worst <= 1e-5
        figures[f"t{t}"] = {
            "streams_over_pool": round(ratio, 2),
            "wanted": wanted or None,
            "worst_error": float(f"{worst:.2g}"),
            "pool_microseconds_per_chunk": round(median(together) / slots * 1e6, 1),
        }
    return {"slots": slots, "rounds": rounds, **figures, "passed": passed}


# --- layout


def layout(session: Session, slots: int, rounds: int) -> dict[str, object]:
    """Time the copies before and after one call of the graph, for both layouts, in turns."""
    states, stage = BatchState(session, slots), BatchState(session, slots)
    numbers = np.random.default_rng(0).permutation(slots).astype(np.intp)
    blocks = [session.layout.block() for _ in range(slots)]
    views = [list(session.layout.views(block).values()) for block in blocks]
    staged = [list(stage.row(number).values()) for number in range(slots)]
    source = Source(session)
    t = min(session.chunk_sizes)
    pool = StreamPool(session, slots)
    chunks = {slot: source.chunk(slot, 0, t) for slot in range(slots)}

    def arrays() -> None:
        states.gather(numbers, stage)
        stage.scatter(numbers, states)

    def by_slot() -> None:
        for place, number in enumerate(numbers):
            for room, value in zip(staged[place], views[number], strict=True):
                np.copyto(room, value)
        for place, number in enumerate(numbers):
            for room, value in zip(views[number], staged[place], strict=True):
                np.copyto(room, value)

    def swap_block() -> None:
        for block in blocks:
            np.copyto(blocks[0], block)

    def swap_rows() -> None:
        for row in staged:
            for room, value in zip(views[0], row, strict=True):
                np.copyto(room, value)

    ways = {
        "step": lambda: pool.step(chunks),
        "gather_arrays": arrays,
        "gather_blocks": by_slot,
        "all_states_out_arrays": swap_rows,
        "all_states_out_blocks": swap_block,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 5):
        for name, way in ways.items():
            spent = seconds(way)
            if number >= 5:
                times[name].append(spent)
    step = median(times["step"])
    shares = {name: round(median(spent) / step, 4) for name, spent in times.items()}
    return {"slots": slots, "t": t, "share_of_a_step_of_all_slots": shares, "passed": True}


# --- streams


class Tally:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, since: float) -> float:
        """Book the time since `since`; return the time now."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - since
        return now


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a run: a digest of each stream's outputs, and the figures."""

    digests: list[bytes]
    seconds: dict[str, float]
    visits: int
    rounds: int
    rss: list[int]


def through_the_pool(
    session: Session, store: StateStore, streams: int, chunks: int, slots: int, t: int
) -> Run:
    """Run every stream through the slots and, between its visits, the store."""
    source, tally = Source(session), Tally()
    pool = StreamPool(session, slots)
    for ready in range(1, slots + 1):  # every size of batch is made now, not when the queue ends
        pool.step({slot: source.chunk(slot, 0, t) for slot in range(ready)})
    random = np.random.default_rng(0)
    queue = deque(int(name) for name in random.permutation(streams))
    done = np.zeros(streams, np.int64)  # chunks that each has taken
    digests = [hashlib.blake2b(digest_size=16) for _ in range(streams)]
    names = np.full(slots, -1)  # who sits in each slot
    stay = np.zeros(slots, np.int64)  # chunks until he leaves
    visits = rounds = 0
    total, taken = streams * chunks, 0
    rss: list[int] = []  # after each tenth
    while taken < total:
        now = time.perf_counter()
        for slot in np.flatnonzero(names < 0).tolist():
            if queue:
                name = queue.popleft()
                if done[name]:
                    saved = store.get(str(name))
                    now = tally.time("store", now)
                    pool.swap_in(slot, saved)
                else:
                    pool.reset(slot)
                names[slot] = name
                stay[slot] = min(int(random.integers(1, 20)), chunks - done[name])
                visits += 1
                now = tally.time("swap", now)
        busy = np.flatnonzero(names >= 0).tolist()
        given = {slot: source.chunk(int(names[slot]), int(done[names[slot]]), t) for slot in busy}
        now = tally.time("the benchmark itself", now)
        answers = pool.step(given)
        now = tally.time("step", now)
        for slot, outputs in answers.items():
            for value in outputs.values():
                digests[names[slot]].update(value.tobytes())
        done[names[busy]] += 1
        stay[busy] -= 1
        taken += len(busy)
        rounds += 1
        leaving = [slot for slot in busy if stay[slot] == 0]
        now = tally.time("the benchmark itself", now)
        if leaving:
            states = {str(names[slot]): pool.swap_out(slot) for slot in leaving}
            now = tally.time("swap", now)
            store.put_many(states)
            tally.time("store", now)
            for slot in leaving:
                if done[names[slot]] < chunks:
                    queue.append(int(names[slot]))
                names[slot] = -1
        while taken >= total * (len(rss) + 1) / 10:
            rss.append(rss_bytes())
    found = [digest.digest() for digest in digests]
    return Run(found, tally.seconds, visits, rounds, rss)


def alone(
    session: Session, source: Source, name: int, chunks: int, t: int
) -> tuple[bytes, bytes, float]:
    """Digest of the outputs, last state, and seconds for steps, when nobody else is there."""
    stream, digest, spent = session.stream(), hashlib.blake2b(digest_size=16), 0.0
    for number in range(chunks):
        chunk = source.chunk(name, number, t)
        since = time.perf_counter()
        outputs = stream.step(chunk)
        spent += time.perf_counter() - since
        for value in outputs.values():
            digest.update(value.tobytes())
    return digest.digest(), pack(stream.saved()), spent


def many_streams(
    session: Session, streams: int, chunks: int, slots: int, t: int, compared: int, most_mib: float
) -> dict[str, object]:
    """Streams through slots and a store, then one by one: the same?"""
    source = Source(session)
    different, spent_alone = 0, 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        StateStore(Path(folder) / "states.db", history_bytes=0, durable=False) as store,
    ):
        run = through_the_pool(session, store, streams, chunks, slots, t)
        for name in range(compared):
            digest, state, spent = alone(session, source, name, chunks, t)
            spent_alone += spent
            different += digest != run.digests[name] or state != pack(store.get(str(name)))
    spent_alone *= streams / compared
    step, swap, stored = (run.seconds[name] for name in ("step", "swap", "store"))
    return {
        "streams": streams,
        "chunks": chunks,
        "slots": slots,
        "t": t,
        "visits": run.visits,
        "mean_slots_busy": round(streams * chunks / run.rounds, 1),
        "streams_compared": compared,
        "streams_that_differ": different,
        "rss_growth_mib_by_tenth": [round((rss - run.rss[1]) / 2**20, 2) for rss in run.rss],
        "alone_over_pool": round(spent_alone / step, 2),
        "alone_over_pool_with_swaps": round(spent_alone / (step + swap), 2),
        "alone_over_pool_with_swaps_and_store": round(spent_alone / (step + swap + stored), 2),
        "store_over_step": round(stored / step, 2),
        "step_microseconds_per_chunk": round(step / (streams * chunks) * 1e6, 1),
        "swap_microseconds_per_visit": round(swap / run.visits * 1e6),
        "store_microseconds_per_visit": round(stored / run.visits * 1e6),
        "passed": different == 0 and (max(run.rss[2:]) - run.rss[1]) / 2**20 <= most_mib,
    }


def main() -> int:
    """Run what was asked for, print the figures and judge them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("speed", "layout", "streams"))
    parser.add_argument("bundle")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=300, help="of speed and layout")
    parser.add_argument("--t", type=int, nargs="*", help="speed: 1 2 16 32; streams: 4")
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--compare", type=int, help="how many run alone too; all by default")
    parser.add_argument("--most-mib", type=float, default=1.0, help="by which memory may grow")
    asked = parser.parse_args()
    session = Session.open(asked.bundle, lowering="fused")
    figures: dict[str, object]
    if asked.what == "speed":
        figures = speed(session, asked.slots, asked.t or [1, 2, 16, 32], asked.rounds)
    elif asked.what == "layout":
        figures = layout(session, asked.slots, asked.rounds)
    else:
        t = asked.t[0] if asked.t else 4
        compared = min(asked.compare or asked.streams, asked.streams)
        figures = many_streams(
            session, asked.streams, asked.chunks, asked.slots, t, compared, asked.most_mib
        )
    print(json.dumps(figures, indent=1))
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
