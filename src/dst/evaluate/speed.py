"""Measure the speed and the cost of bundles, in turns, in one process.

Each round gives every bundle a slot at every T, and begins with another bundle than the one
before. What else the machine does then falls on all alike, and a ratio is taken within a round.
Sessions in one process share its caches: a slot begins with steps that are not timed.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dst.evaluate.inputs import feed_of
from dst.evaluate.machine import EnergyMeter, environment, load_average, pinned
from dst.evaluate.process import probed
from dst.evaluate.result import BenchResult, Cell, Entry, Start, spread_of
from dst.runtime import DstError, Session, SessionError, open_bundle
from dst.runtime.execution.providers import Provider
from dst.runtime.golden import golden_inputs

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done."""

SIZES = (1, 16, 32, 64, 256)
_CHUNKS = 8
_TRIAL_STEPS = 3
_MOST_STEPS = 4096  # of one slot
_UNTIMED = 8  # one step of so many, and two at least


def measure(
    bundles: Sequence[str | Path],
    sizes: Sequence[int] = SIZES,
    rounds: int = 10,
    *,
    threads: int = 1,
    provider: Provider = "cpu",
    slot_ms: float = 100.0,
    starts: int = 3,
    progress: Progress | None = None,
) -> BenchResult:
    """Run bundles side by side; the first is what the others are compared with.

    Args:
        bundles: directories or names of shipped bundles.
        sizes: items per chunk; one that a bundle does not run is left out for it.
        rounds: how often each bundle has its turn.
        threads: threads inside one operator, held to as many cores where the system can.
        provider: where the graphs run.
        slot_ms: how long a turn is, at about.
        starts: fresh processes per bundle, for load time and memory; 0 for none.
        progress: told of the share done.

    Raises:
        BundleError: a bundle is broken.
        ProviderError: the provider is unknown or not installed.
        SessionError: nothing to measure, or a number out of its range.
    """
    counted = bundles and sizes and rounds >= 1 and min(sizes) >= 1 and starts >= 0
    if not counted or not 0 < slot_ms < math.inf:
        raise SessionError(
            "expected bundles, sizes and rounds of at least 1, and slot_ms above 0; "
            f"{len(bundles)} bundles, sizes {list(sizes)}, {rounds} rounds, "
            f"slot_ms {slot_ms}, starts {starts} came",
            code="argument",
        )
    told = progress or (lambda what, share: None)
    before, meter = load_average(), EnergyMeter.find()
    with pinned(threads) as cores:
        racers = [_Racer(path, threads, provider) for path in bundles]
        lanes = [_Lane(racer, t) for t in sizes for racer in racers]
        for number in range(rounds):
            for place, t in enumerate(sizes):
                told(f"round {number + 1} of {rounds}", (number + place / len(sizes)) / rounds)
                ready = [lane for lane in lanes if lane.t == t and lane.why is None]
                turn = number % max(len(ready), 1)
                for lane in (*ready[turn:], *ready[:turn]):
                    lane.take(slot_ms / 1000, meter)
        entries = []
        for place, (racer, label) in enumerate(zip(racers, _labels(racers), strict=True)):
            told(f"start of {label}", place / len(racers))
            # each T is compared with the first bundle that ran it in every round
            cells = tuple(
                lane.cell(next((o for o in lanes if o.t == lane.t and o.why is None), None))
                for lane in lanes
                if lane.racer is racer
            )
            nominal = racer.bundle.manifest.contract.chunk.nominal_t
            start: Start | str = "load time and memory were not asked for"
            if starts:
                start = probed(racer.bundle.root, nominal, threads, provider, starts)
            entries.append(racer.entry(label, cells, start))
        return BenchResult(
            provider=provider,
            threads=threads,
            sizes=tuple(sizes),
            rounds=rounds,
            slot_ms=slot_ms,
            environment=environment(cores, before),
            energy_why=meter.why,
            bundles=tuple(entries),
        )


class _Racer:
    """One open bundle."""

    def __init__(self, path: str | Path, threads: int, provider: Provider) -> None:
        self.bundle = open_bundle(path)
        self.session = Session.open(self.bundle.root, provider, threads=threads, verify="size")
        self.feed = feed_of(self.bundle)

    def entry(self, label: str, cells: tuple[Cell, ...], start: Start | str) -> Entry:
        """Say what there is to say of the bundle."""
        manifest = self.bundle.manifest
        return Entry(
            label=label,
            name=manifest.name,
            precision=manifest.precision,
            recipe=manifest.recipe,
            bundle_id=manifest.bundle_id,
            model_id=manifest.model_id,
            file_bytes=sum(f.size for f in manifest.files.values()),
            weights_bytes=manifest.weights_bytes,
            data=self.feed.what,
            cells=cells,
            start=start if isinstance(start, Start) else None,
            start_why=start if isinstance(start, str) else None,
            quality=manifest.quality,
        )


class _Lane:
    """One bundle at one T, and what its turns have shown."""

    def __init__(self, racer: _Racer, t: int) -> None:
        """Open the graph, if it is not, and step once or twice."""
        self.racer, self.t = racer, t
        self.steps, self.joules, self.metered = 0, 0.0, False
        self.speeds: list[float] = []
        self.times: list[npt.NDArray[np.float32]] = []
        self.why: str | None = None
        session = racer.session
        if t not in session.chunk_sizes:
            self.why = f"runs T = {', '.join(map(str, session.chunk_sizes))}"
            return
        try:
            self.stream = session.stream(inputs=golden_inputs(session.bundle))
            self.chunks = racer.feed.chunks(session.bundle, t, _CHUNKS)
            self._steps(_TRIAL_STEPS)
        except DstError as error:
            self.why = str(error)

    def take(self, slot_s: float, meter: EnergyMeter) -> None:
        """Have one turn: some steps to warm up, then some that are timed."""
        try:
            self.stream.reset()
            if not self.steps:
                trial = float(self._steps(_TRIAL_STEPS).min())
                self.steps = round(min(max(2.0, slot_s / trial), _MOST_STEPS))
            self._steps(max(2, self.steps // _UNTIMED))
            first = meter.read()
            times = self._steps(self.steps)
            last = meter.read()
        except DstError as error:
            self.why = str(error)
            return
        self.metered = bool(meter.zones)
        self.joules += meter.joules(first, last)
        self.speeds.append(self.t / float(np.median(times)))
        self.times.append(times.astype(np.float32))

    def cell(self, baseline: "_Lane | None") -> Cell:
        """Sum up all turns."""
        if self.why is not None or not self.speeds:
            return Cell(t=self.t, why=self.why)
        micros = 1e6 * np.concatenate(self.times)
        pairs = zip(self.speeds, baseline.speeds if baseline else (), strict=False)
        ratios = [own / other for own, other in pairs]
        items = self.t * len(micros)
        return Cell(
            t=self.t,
            items_per_s=spread_of(self.speeds),
            ratio=spread_of(ratios) if ratios else None,
            p50_us=float(np.quantile(micros, 0.5)),
            p99_us=float(np.quantile(micros, 0.99)),
            steps=len(micros),
            joules_per_item=self.joules / items if self.metered else None,
        )

    def _steps(self, count: int) -> npt.NDArray[np.float64]:
        """Step so often; returns the seconds of each step."""
        step, chunks, clock = self.stream.step, self.chunks, time.perf_counter
        times = np.empty(count)
        for number in range(count):
            chunk = chunks[number % _CHUNKS]
            begin = clock()
            step(chunk, copy=False)
            times[number] = clock() - begin
        return times


def _labels(racers: Sequence[_Racer]) -> list[str]:
    """Call each bundle by its name, or where two have one name, by its directory."""
    names = [racer.bundle.manifest.name for racer in racers]
    folders = [racer.bundle.root.name for racer in racers]
    plain = [n if names.count(n) == 1 else f for n, f in zip(names, folders, strict=True)]
    return [n if plain.count(n) == 1 else f"{n} #{i + 1}" for i, n in enumerate(plain)]
