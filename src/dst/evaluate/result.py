"""What a bench found: plain records, from the whole down to one number and its spread."""

import msgspec

from dst.runtime.bundle.manifest import Quality


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A median over rounds and the 95 % interval of it, by bootstrap."""

    median: float
    low: float
    high: float


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
    """The machine and its state; null is: the machine does not tell."""

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
