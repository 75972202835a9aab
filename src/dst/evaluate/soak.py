"""Step a bundle very often, and judge its memory, the times of its steps and its state.

Memory moves by whole pages and whole arenas at rare steps, and stays where it went. So the errors
of a line fitted through it hang together, and the textbook interval around it is far too narrow.
What is nearly independent is how much memory **moved** in one stretch and in the next: the samples
are cut into twenty blocks, the median of a block is its level, the nineteen differences between
neighbours are averaged, and Student's t gives the interval. One jump enters one difference and
widens the interval, many raise the mean; noise that comes and goes makes neighbouring differences
opposed, and the interval too wide rather than too narrow.

Nothing is forgiven but the warm-up, the first tenth of the samples. A single jump of J bytes after
it, in a run of N steps, gives an upper bound of about 3.6 J / N: from one event nobody can tell a
late warm-up from the first step of a leak.
"""

import math
import mmap
import time
from array import array
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from dst.runtime import Session, Stream, rss_bytes
from dst.runtime.errors import NonFiniteError
from dst.runtime.golden import golden_inputs
from dst.runtime.health import Health, TensorHealth
from dst.words import mib

Array = npt.NDArray[np.generic]
Tell = Callable[[int, str], None]
Integers = npt.NDArray[np.int64]

BLOCKS = 20
STUDENT_T = 2.1009  # the 97.5 % point for the 18 degrees of freedom of 19 differences
WARM_SHARE = 0.1

LONG_STEPS = 10_000_000
SLOPE_LIMIT = 0.1
GROWTH_LIMIT = 1 << 20

SAMPLES = 4000  # of memory and of the state, over a whole run

_PER_OCTAVE = 32
_OCTAVES = 45


class Times:
    """A histogram of times in fixed memory: 32 bins per doubling, from 1 ns to 9 hours.

    The number of times that were added, the longest and their sum are exact.

    Examples:
        >>> times = Times()
        >>> for micros in range(1, 101):
        ...     times.add(1000 * micros)
        >>> round(times.percentile_ns(50) / 50_000, 1)
        1.0
        >>> times.max_ns
        100000
    """

    __slots__ = ("_bins", "count", "max_ns", "total_ns")

    def __init__(self) -> None:
        self._bins = array("Q", bytes(8 * _PER_OCTAVE * _OCTAVES))
        self.count = self.max_ns = self.total_ns = 0

    def add(self, time_ns: int) -> None:
        """Count one time; below 1 ns counts as 1 ns."""
        place = int(_PER_OCTAVE * math.log2(time_ns)) if time_ns > 1 else 0
        self._bins[min(place, len(self._bins) - 1)] += 1
        self.count += 1
        self.total_ns += time_ns
        self.max_ns = max(self.max_ns, time_ns)

    def percentile_ns(self, percent: float) -> float:
        """Return the nanoseconds that at least `percent` % of all times do not exceed.

        That is the upper edge of a bin, so up to 2.2 % above the exact one, and never below it; 0
        where nothing was added.
        """
        if not self.count:
            return 0.0
        wanted = max(1, math.ceil(self.count * percent / 100))
        place = int(np.searchsorted(np.cumsum(self._bins), wanted))
        return min(math.exp2((place + 1) / _PER_OCTAVE), float(self.max_ns))


class Slope(msgspec.Struct, frozen=True):
    """How fast memory grows, in bytes per step: the estimate and its 95 % interval."""

    mean: float
    low: float
    high: float


class MemoryResult(msgspec.Struct, frozen=True, kw_only=True):
    """Resident memory after the warm-up.

    `growth_bytes` is the most that a sample was above the first one; `slope` is null where there
    are fewer than 40 samples, two to a block; `flat` says whether the limits that count were kept,
    and is null where the run was stopped within the warm-up.
    """

    flat: bool | None
    judged_by_slope: bool
    rss_bytes: int
    growth_bytes: int
    growth_limit_bytes: int = GROWTH_LIMIT
    slope: Slope | None
    slope_limit: float = SLOPE_LIMIT
    slope_counts_from_steps: int = LONG_STEPS
    measured_steps: int


def slope(steps: Integers, resident: Integers) -> Slope | None:
    """Estimate how fast resident bytes `[n]` grow over steps `[n]`: see the head of this module.

    Steps are evenly spaced and rising. The result is None where n is below 40. The interval is
    never narrower than one page to each side over the whole run: nothing finer can be seen.
    """
    each = len(steps) // BLOCKS
    if each < 2:
        return None
    kept = each * BLOCKS  # the oldest samples go if they do not fill the blocks
    moved = np.diff(np.median(resident[-kept:].reshape(BLOCKS, each), axis=1))
    span = float(steps[-1] - steps[-kept]) * (BLOCKS - 1) * each / (kept - 1)
    error = float(np.std(moved, ddof=1)) * math.sqrt(len(moved))
    half = max(STUDENT_T * error, mmap.PAGESIZE) / span
    mean = float(moved.sum()) / span
    return Slope(mean, mean - half, mean + half)


def judge(steps: Integers, resident: Integers) -> MemoryResult:
    """Say whether memory was flat.

    After the first tenth of the samples, resident memory may rise by 1 MiB at most above what it
    was there; and in a run of 10 million steps or more the upper bound of its slope may be 0.1
    byte per step at most. In a shorter run that bound says more about the run than about the
    memory: it is given and does not count.

    Args:
        steps: `[n]`, evenly spaced and rising; the last is the length of the run. n is 1 or more.
        resident: `[n]`, resident bytes at these steps.

    Examples:
        >>> steps = np.arange(1000) * 10
        >>> judge(steps, np.full(1000, 50 << 20)).flat
        True
        >>> judge(steps, (50 << 20) + 4096 * np.arange(1000)).flat
        False
    """
    warm = int(len(steps) * WARM_SHARE)
    after, held = steps[warm:], resident[warm:]
    growth = int(held.max() - held[0])
    found = slope(after, held)
    counts = found is not None and bool(steps[-1] >= LONG_STEPS)
    steep = counts and found is not None and found.high > SLOPE_LIMIT
    return MemoryResult(
        flat=growth <= GROWTH_LIMIT and not steep,
        judged_by_slope=counts,
        rss_bytes=int(held[-1]),
        growth_bytes=growth,
        slope=found,
        measured_steps=int(after[-1] - after[0]),
    )


class StepTimes(msgspec.Struct, frozen=True):
    """Microseconds per step; percentiles are up to 2.2 % above the exact ones, never below."""

    p50_us: float
    p95_us: float
    p99_us: float
    max_us: float
    mean_us: float


class HealthResult(msgspec.Struct, frozen=True):
    """The state's health: the first cause that was found, and every float tensor at the end."""

    healthy: bool
    cause: str | None
    looks: int
    tensors: tuple[TensorHealth, ...]


class SoakResult(msgspec.Struct, frozen=True):
    """What a soak found; `passed` is null where nothing is wrong and memory was not judged."""

    bundle: str
    bundle_id: str
    provider: str
    t: int
    steps: int
    steps_asked: int
    interrupted: bool
    seconds: float
    passed: bool | None
    memory: MemoryResult
    times: StepTimes
    deadline_ms: float | None
    deadline_misses: int | None
    health: HealthResult


class _Course:
    """A soak under way. Everything it writes to is made before the first step."""

    def __init__(self, steps: int, deadline_ns: float, health: Health) -> None:
        self.steps, self.deadline_ns, self.health = steps, deadline_ns, health
        self.times = Times()
        self.done = self.misses = self.samples = self.looks = 0
        self.cause: str | None = None
        self.every = max(1, steps // SAMPLES)
        # written to, so that its pages are there: steps done, and the memory then
        self.seen: Integers = np.full((2, steps // self.every + 1), -1, np.int64)

    def sample(self) -> None:
        """Look at memory and at the state, now."""
        self.seen[:, self.samples] = self.done, rss_bytes()
        self.samples += 1
        self.look()

    def look(self) -> None:
        """Look at the state, now."""
        self.looks += 1
        report = self.health.look()
        if self.cause is None and not report.healthy:
            self.cause = report.causes[0]

    def run(self, stream: Stream, chunks: Array, stopped: Callable[[], bool], tell: Tell) -> None:
        """Step until all is done, a signal comes, or the model gives a NaN."""
        clock, deadline = time.perf_counter_ns, self.deadline_ns
        try:
            stream.step(chunks[0])  # opens the graph
            stream.reset()
            self.sample()
            while self.done < self.steps and not stopped():
                chunk = chunks[self.done % len(chunks)]
                since = clock()
                stream.step(chunk, copy=False)
                took = clock() - since
                self.times.add(took)
                self.misses += took > deadline
                self.done += 1
                if self.done % self.every == 0:
                    self.sample()
                    tell(self.done, mib(int(self.seen[1, self.samples - 1])))
            if self.done < self.steps and self.done % self.every:
                self.look()  # memory is looked at evenly or not at all
        except NonFiniteError as error:
            self.cause = f"{error} (step {self.done + 1:,})"

    def memory(self) -> MemoryResult:
        """What memory did so far; not judged where a signal ended the run within the warm-up."""
        if not self.samples:
            self.sample()
        found = judge(*self.seen[:, : self.samples])
        warm = self.done == self.steps or self.samples * WARM_SHARE >= 1
        return msgspec.structs.replace(
            found, flat=found.flat if warm else None, rss_bytes=rss_bytes()
        )


def soak(
    session: Session,
    chunks: Array,
    t: int,
    steps: int,
    deadline_ms: float | None,
    stopped: Callable[[], bool],
    tell: Tell,
) -> SoakResult:
    """Step until all `steps` are done, and judge memory, times and the state.

    The `chunks` of T = `t`, `[n, ...]`, are fed round and round, each as `Stream.step` takes it.
    Steps that take longer than `deadline_ms`, if that is given, are counted. `stopped` is asked
    before every step whether to end early; `tell` is told now and then of the steps done and the
    memory held.

    Raises:
        DstError: a step failed.
    """
    stream = session.stream(inputs=golden_inputs(session.bundle))
    deadline_ns = math.inf if deadline_ms is None else deadline_ms * 1e6
    course = _Course(steps, deadline_ns, Health(stream, policy="refuse_to_save"))
    began = time.perf_counter()
    course.run(stream, chunks, stopped, tell)
    seconds = time.perf_counter() - began
    times, memory = course.times, course.memory()
    return SoakResult(
        bundle=session.bundle.root.name,
        bundle_id=session.bundle.manifest.bundle_id,
        provider=session.provider,
        t=t,
        steps=course.done,
        steps_asked=steps,
        interrupted=course.done < steps and course.cause is None,
        seconds=seconds,
        passed=memory.flat if course.cause is None else False,
        memory=memory,
        times=StepTimes(
            p50_us=times.percentile_ns(50) / 1e3,
            p95_us=times.percentile_ns(95) / 1e3,
            p99_us=times.percentile_ns(99) / 1e3,
            max_us=times.max_ns / 1e3,
            mean_us=times.total_ns / max(1, times.count) / 1e3,
        ),
        deadline_ms=deadline_ms,
        deadline_misses=None if deadline_ms is None else course.misses,
        health=HealthResult(
            healthy=course.cause is None,
            cause=course.cause,
            looks=course.looks,
            tensors=tuple(course.health.report.tensors),
        ),
    )
