"""The records of a bench, from the whole down to one number and its spread."""

from collections.abc import Sequence

import msgspec
import numpy as np

from dst.runtime.bundle.manifest import Quality

_DRAWS = 2000


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A median over rounds and the 95 % interval of it, by bootstrap."""

    median: float
    low: float
    high: float


def spread_of(values: Sequence[float]) -> Spread:
    """Return the median of one or more numbers with its 95 % bootstrap interval.

    Rounds are drawn with replacement, always in the same way, so that equal numbers give equal
    intervals.

    Examples:
        >>> spread_of([2.0, 2.0, 2.0])
        Spread(median=2.0, low=2.0, high=2.0)
    """
    held = np.asarray(values, np.float64)
    drawn = np.random.default_rng(0).choice(held, (_DRAWS, len(held)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return Spread(median=float(np.median(held)), low=float(low), high=float(high))


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle at one T; everything is null where it did not run, and `why` says so.

    `items_per_s` is T over a round's median step, `ratio` that over the same of the first bundle
    that runs this T, round by round; `p50_us` and `p99_us` are over all `steps` timed;
    `joules_per_item` is the energy of the whole package.
    """

    t: int
    why: str | None = None
    items_per_s: Spread | None = None
    ratio: Spread | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    steps: int = 0
    joules_per_item: float | None = None


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes to begin, from fresh processes that ran this bundle alone.

    Times are medians in milliseconds, from before the bundle is opened and hashed, with its files
    in the page cache: `load_ms` until the graph is ready, `first_output_ms` until the first
    outputs. `base_rss_bytes` is held before that (Python, numpy, ONNX Runtime); `peak_rss_bytes`
    is the most that was ever held, that included.
    """

    t: int
    load_ms: float
    first_output_ms: float
    base_rss_bytes: int
    peak_rss_bytes: int


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle. `start` is null where no fresh process ran it, and `start_why` says why."""

    label: str
    name: str
    precision: str
    recipe: str | None
    bundle_id: str
    model_id: str
    file_bytes: int
    weights_bytes: int
    data: str
    cells: tuple[Cell, ...]
    start: Start | None
    start_why: str | None
    quality: Quality | None


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and its state; null means that the machine does not tell."""

    cpu: str
    cores: int
    pinned_to: tuple[int, ...] | None
    instructions: tuple[str, ...]
    governor: str | None
    load_before: tuple[float, ...] | None
    load_after: tuple[float, ...] | None
    system: str
    python: str
    onnxruntime: str
    numpy: str


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A bench. `energy_why` says why no energy was measured; it is null where it was."""

    provider: str
    threads: int
    sizes: tuple[int, ...]
    rounds: int
    slot_ms: float
    environment: Environment
    energy_why: str | None
    bundles: tuple[Entry, ...]

    @property
    def divergence_unit(self) -> str:
        """What the divergence of the bundles' quality is measured in."""
        units = {entry.quality.unit for entry in self.bundles if entry.quality is not None}
        return "KL, nats per item" if units == {"nats"} else "divergence"
