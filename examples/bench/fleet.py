"""A fleet beside one process: the same results, whoever dies, and what it costs.

    pip install -e ".[fleet]"
    python examples/bench/fleet.py BUNDLE

10,000 streams read some rounds of items over 3 local Ray workers, each stream with a copy of its
state at a second worker; in two of the rounds a worker is killed by SIGKILL. The same items go
through one process with one pool and one store, between the rounds of the fleet. Every output must
be the same, bit for bit, and every last state. Printed are the medians of the rounds without a
kill: updates per second of both, and the ratio. Exit code 1 where a bit differs.
"""

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import ray

from dst.fleet import Fleet
from dst.runtime import Session, StateStore, StreamPool
from dst.runtime.bundle.manifest import Tokens, item_shape
from dst.runtime.state.record import pack

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]


class OneProcess:
    """One pool and one store, without Ray: every stream is loaded, stepped and stored."""

    def __init__(self, session: Session, path: Path, slots: int) -> None:
        self._pool, self._slots = StreamPool(session, slots), slots
        self.store = StateStore(path, history_bytes=0, durable=False)
        self._known: set[str] = set()

    def advance(self, items: dict[str, Array]) -> dict[str, Outputs]:
        """Read items on every stream."""
        answers: dict[str, Outputs] = {}
        keys = [*items]
        for start in range(0, len(keys), self._slots):
            some = keys[start : start + self._slots]
            for slot, key in enumerate(some):
                if key in self._known:
                    self._pool.swap_in(slot, self.store.get(key))
                else:
                    self._pool.reset(slot)
            found = self._pool.advance({s: items[k] for s, k in enumerate(some)}, last=True)
            answers |= {key: found[slot] for slot, key in enumerate(some)}
            self.store.put_many({key: self._pool.swap_out(slot) for slot, key in enumerate(some)})
            self._known |= {*some}
        return answers


def run(asked: argparse.Namespace, folder: Path) -> tuple[dict[str, object], bool]:
    """Run the rounds and compare."""
    session = Session.open(asked.bundle, lowering="fused")
    chunk, random = session.contract.chunk, np.random.default_rng(0)
    one = OneProcess(session, folder / "one.db", asked.slots)
    times: dict[str, list[float]] = {"fleet": [], "one": []}
    killed: list[float] = []
    differ = 0
    with Fleet(
        asked.bundle, folder / "fleet", workers=asked.workers, slots=asked.slots, durable=False,
        num_cpus=1,
    ) as fleet:  # fmt: skip
        for number in range(asked.rounds):
            shape = (asked.streams, chunk.nominal_t, *item_shape(chunk))
            if isinstance(chunk.content, Tokens):
                block = random.integers(0, chunk.content.vocabulary, shape).astype(chunk.dtype)
            else:
                block = random.normal(size=shape).astype(chunk.dtype)
            items = {f"stream {n}": block[n] for n in range(asked.streams)}
            kill = number in (asked.rounds // 3, 2 * asked.rounds // 3)
            if kill:
                name, worker = next(iter(fleet.workers.items()))
                victim = ray.get(worker.__ray_call__.remote(lambda _: os.getpid()))
                timer = threading.Timer(min(times["fleet"]) / 4, os.kill, (victim, signal.SIGKILL))
                timer.start()
            since = time.perf_counter()
            found = fleet.advance(items, last=True)
            middle = time.perf_counter()
            expected = one.advance(items)
            if kill:
                killed.append(round(middle - since, 1))
                timer.join()
                assert name not in fleet.workers
            else:
                times["fleet"].append(middle - since)
                times["one"].append(time.perf_counter() - middle)
            differ += sum(
                found[key][name].tobytes() != value.tobytes()
                for key, outputs in expected.items()
                for name, value in outputs.items()
            )
        states = sum(
            pack(fleet.get(key)) != pack(one.store.get(key)) for key in [*items][:: asked.every]
        )
    rates = {name: round(asked.streams / median(spent)) for name, spent in times.items()}
    return {
        "streams": asked.streams, "workers": asked.workers, "slots": asked.slots,
        "t": chunk.nominal_t, "rounds": asked.rounds, "killed_rounds_s": killed,
        "round_s": round(median(times["fleet"]), 1), "outputs_that_differ": differ,
        "states_compared": len(range(0, asked.streams, asked.every)), "states_that_differ": states,
        "updates_per_s": rates, "fleet_over_one": round(rates["fleet"] / rates["one"], 2),
    }, differ == 0 and states == 0 and len(killed) == 2  # fmt: skip


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=lambda p: str(Path(p).absolute()) if Path(p).exists() else p)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--every", type=int, default=1, help="compare the state of every so many")
    asked = parser.parse_args()
    ray.init("local", num_cpus=asked.workers + 1, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        figures, passed = run(asked, Path(folder))
    print(json.dumps({**figures, "passed": passed}, indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
