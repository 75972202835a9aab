"""Measure the speed and the cost of bundles, in turns, in one process.

Each round gives every bundle a slot at every T, and begins with another bundle than the one
before. What else the machine does then falls on all alike, and a ratio is taken within a round.
Sessions in one process share its caches: a slot begins with steps that are not timed.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dst.evaluate.inputs import Feed, feed_of
from dst.evaluate.machine import EnergyMeter, environment, load_average, pinned
from dst.evaluate.process import probed
from dst.evaluate.result import BenchResult, Cell, Entry, spread_of
from dst.runtime import Bundle, DstError, Session, SessionError, Stream, open_bundle
from dst.runtime.execution.providers import Provider
from dst.runtime.golden import golden_inputs

Array = npt.NDArray[np.generic]
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
        racers = [_Racer.open(path, threads, provider) for path in bundles]
        lanes = [lane for t in sizes for lane in _lanes(racers, t)]
        for number in range(rounds):
            for place, t in enumerate(sizes):
                told(f"round {number + 1} of {rounds}", (number + place / len(sizes)) / rounds)
                ready = [lane for lane in lanes if lane.t == t and lane.why is None]
                turn = number % max(len(ready), 1)
                for lane in (*ready[turn:], *ready[:turn]):
                    lane.take(slot_ms / 1000, meter)
        entries = []
        labels = _labels(racers)
        for place, racer in enumerate(racers):
            told(f"start of {labels[place]}", place / len(racers))
            own = [lane for lane in lanes if lane.racer is racer]
            cells = tuple(lane.cell(_baseline(lanes, lane.t)) for lane in own)
            entries.append(racer.entry(labels[place], cells, threads, provider, starts))
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


@dataclass(frozen=True, slots=True, eq=False)
class _Racer:
    """One open bundle."""

    bundle: Bundle
    session: Session
    feed: Feed

    @staticmethod
    def open(path: str | Path, threads: int, provider: Provider) -> "_Racer":
        bundle = open_bundle(path)
        session = Session.open(bundle.root, provider, threads=threads, verify="size")
        return _Racer(bundle, session, feed_of(bundle))

    def entry(
        self, label: str, cells: tuple[Cell, ...], threads: int, provider: Provider, starts: int
    ) -> Entry:
        """Say what there is to say of the bundle, its fresh start included."""
        manifest = self.bundle.manifest
        nominal = manifest.contract.chunk.nominal_t
        found = (
            probed(self.bundle.root, nominal, threads, provider, starts)
            if starts
            else "load time and memory were not asked for"
        )
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
            start=None if isinstance(found, str) else found,
            start_why=found if isinstance(found, str) else None,
            quality=manifest.quality,
        )


@dataclass(slots=True, eq=False)
class _Lane:
    """One bundle at one T, and what its turns have shown."""

    racer: _Racer
    t: int
    why: str | None = None
    stream: Stream | None = None
    chunks: list[Array] = field(default_factory=list)
    steps: int = 0
    speeds: list[float] = field(default_factory=list)
    times: list[npt.NDArray[np.float32]] = field(default_factory=list)
    joules: float = 0.0
    metered: bool = False

    def prepare(self) -> None:
        """Open the graph, if it is not, and step once or twice."""
        session = self.racer.session
        if self.t not in session.chunk_sizes:
            runs = ", ".join(str(t) for t in session.chunk_sizes)
            self.why = f"runs T = {runs}"
            return
        try:
            self.stream = session.stream(inputs=golden_inputs(session.bundle))
            self.chunks = self.racer.feed.chunks(session.bundle, self.t, _CHUNKS)
            self._steps(_TRIAL_STEPS)
        except DstError as error:
            self.why = str(error)

    def take(self, slot_s: float, meter: EnergyMeter) -> None:
        """Have one turn: some steps to warm up, then some that are timed."""
        if self.stream is None:
            return
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
        if self.stream is None:
            return np.zeros(0)
        step, chunks, clock = self.stream.step, self.chunks, time.perf_counter
        times = np.empty(count)
        for number in range(count):
            chunk = chunks[number % _CHUNKS]
            begin = clock()
            step(chunk, copy=False)
            times[number] = clock() - begin
        return times


def _lanes(racers: Sequence[_Racer], t: int) -> list[_Lane]:
    lanes = [_Lane(racer, t) for racer in racers]
    for lane in lanes:
        lane.prepare()
    return lanes


def _baseline(lanes: Sequence[_Lane], t: int) -> _Lane | None:
    """The first bundle at this T that ran in every round."""
    return next((lane for lane in lanes if lane.t == t and lane.why is None), None)


def _labels(racers: Sequence[_Racer]) -> list[str]:
    """Call each bundle by its name, or where two have one name, by its directory."""
    names = [racer.bundle.manifest.name for racer in racers]
    folders = [racer.bundle.root.name for racer in racers]
    plain = [n if names.count(n) == 1 else f for n, f in zip(names, folders, strict=True)]
    return [n if plain.count(n) == 1 else f"{n} #{i + 1}" for i, n in enumerate(plain)]
