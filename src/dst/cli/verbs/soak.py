"""`dst soak`: run a bundle for very many steps, and watch memory, step times and the state."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
import typer
from rich.text import Text

from dst.cli.data import chunks_to_repeat
from dst.cli.errors import CHECK_FAILED
from dst.cli.options import BundleArgument, Json, Provider, Threads, at_least
from dst.cli.output import Output, check_paths, foreign, pairs
from dst.cli.signals import Interrupts
from dst.evaluate.memory_growth import (
    GROWTH_LIMIT,
    LONG_STEPS,
    SLOPE_LIMIT,
    WARM_SHARE,
    Growth,
    Slope,
    Times,
    judge,
)
from dst.runtime import Session, Stream, rss_bytes
from dst.runtime.errors import NonFiniteError
from dst.runtime.golden import golden_inputs
from dst.runtime.health import Health, TensorHealth
from dst.words import counted, mib

Array = npt.NDArray[np.generic]
Tell = Callable[[int, str], None]

SAMPLES = 4000  # of memory and of the state, over a whole run


class StepTimes(msgspec.Struct, frozen=True):
    """Microseconds per step; percentiles are up to 2.2 % above the exact ones, never below."""

    p50_us: float
    p95_us: float
    p99_us: float
    max_us: float
    mean_us: float


class MemoryResult(msgspec.Struct, frozen=True):
    """Resident memory after the warm-up, a tenth of the run; `slope`, bytes per step, may be null.

    `flat` is null where the run was stopped within the warm-up.
    """

    flat: bool | None
    judged_by_slope: bool
    rss_bytes: int
    growth_bytes: int
    growth_limit_bytes: int
    slope: Slope | None
    slope_limit: float
    slope_counts_from_steps: int
    measured_steps: int


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


@dataclass(slots=True)
class Course:
    """A soak under way. Everything it writes to was made before the first step."""

    steps: int
    deadline_ns: float
    health: Health
    times: Times = field(default_factory=Times)
    done: int = 0
    misses: int = 0
    samples: int = 0
    looks: int = 0
    cause: str | None = None
    every: int = field(init=False)
    at: npt.NDArray[np.int64] = field(init=False)
    resident: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.every = max(1, self.steps // SAMPLES)
        size = self.steps // self.every + 1
        self.at = np.full(size, -1, np.int64)  # written to, so that its pages are there
        self.resident = np.full(size, -1, np.int64)

    def sample(self) -> None:
        """Look at memory and at the state, now."""
        self.at[self.samples] = self.done
        self.resident[self.samples] = rss_bytes()
        self.samples += 1
        self.look()

    def look(self) -> None:
        """Look at the state, now."""
        self.looks += 1
        report = self.health.look()
        if self.cause is None and not report.healthy:
            self.cause = report.causes[0]

    def run(self, stream: Stream, chunks: Array, interrupts: Interrupts, tell: Tell) -> None:
        """Step until all is done, a signal comes, or the model gives a NaN."""
        try:
            stream.step(chunks[0])  # opens the graph
            stream.reset()
            self._drive(stream, chunks, interrupts, tell)
        except NonFiniteError as error:
            self.cause = f"{error} (step {self.done + 1:,})"

    def _drive(self, stream: Stream, chunks: Array, interrupts: Interrupts, tell: Tell) -> None:
        clock, deadline = time.perf_counter_ns, self.deadline_ns
        self.sample()
        while self.done < self.steps and interrupts.signal is None:
            chunk = chunks[self.done % len(chunks)]
            since = clock()
            stream.step(chunk, copy=False)
            took = clock() - since
            self.times.add(took)
            self.misses += took > deadline
            self.done += 1
            if self.done % self.every == 0:
                self.sample()
                tell(self.done, mib(int(self.resident[self.samples - 1])))
        if self.done < self.steps and self.done % self.every:
            self.look()  # memory is looked at evenly or not at all

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up is over; a run that is stopped early may end within it."""
        return self.done == self.steps or self.samples * WARM_SHARE >= 1

    def growth(self) -> Growth:
        """What memory did so far."""
        if not self.samples:
            self.sample()
        return judge(self.at[: self.samples], self.resident[: self.samples])


def soak(
    bundle: BundleArgument,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="How many steps.")],
    chunk: Annotated[
        int | None,
        typer.Option("--t", metavar="T", help="Items per step; the bundle's own by default."),
    ] = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option("--deadline-ms", metavar="X", min=0, help="Count the steps that take longer."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="FILE", help="Feed these items; text or random ones by default."
        ),
    ] = None,
    provider: Provider = "cpu",
    threads: Threads = 1,
    json: Json = None,
) -> Callable[[], int]:
    """Run a bundle for very many steps: is memory flat, is every step in time, is the state sound?

    The input goes round and round: FILE, or the held-out text, or random items. Memory and
    state are looked at 4,000 times. After the first tenth of the run memory may rise by 1 MiB
    at most; from 10 million steps on the upper 95 % bound of its slope may also be 0.1 byte per
    step at most. Exit code 1 if memory is not flat or the state not finite. Steps over the
    deadline are counted and not cut short. Ctrl-C ends early with a report of what was done,
    and 130.

        dst soak text --steps 10000 --deadline-ms 20
        dst soak ./my-bundle --steps 10000000 --t 1 --json soak.json
    """
    output = Output.to(json)

    def work() -> int:
        check_paths(output, {"BUNDLE": bundle, "--data": data})
        if deadline_ms is not None:
            at_least("--deadline-ms", deadline_ms, 0)
        sizes = None if chunk is None else [chunk]
        session = Session.open(bundle, provider=provider, threads=threads, chunk_sizes=sizes)
        return step_on(session, chunk, steps, deadline_ms, data, output)

    return work


def step_on(
    session: Session,
    t: int | None,
    steps: int,
    deadline_ms: float | None,
    data: str | None,
    output: Output,
) -> int:
    """Take steps until all are done or a signal comes, and return the exit code.

    Args:
        session: what steps.
        t: items per chunk; None for the bundle's own.
        steps: how many.
        deadline_ms: steps that take longer are counted; None for no deadline.
        data: a file of items to feed; None for held-out text or random items.
        output: where to tell.

    Raises:
        DstError: a step failed.
        OSError: the data cannot be read.
        WrongUseError: the data holds less than one chunk.
    """
    chunk = session.contract.chunk
    t = chunk.nominal_t if t is None else t
    chunks = chunks_to_repeat(chunk, t, data)
    stream = session.stream(inputs=golden_inputs(session.bundle))
    deadline = float("inf") if deadline_ms is None else deadline_ms * 1e6
    course = Course(steps, deadline, Health(stream, policy="refuse_to_save"))
    began = time.perf_counter()
    title = f"soak {session.bundle.root.name}"
    with Interrupts() as interrupts, output.progress(title, steps) as bar:
        course.run(stream, chunks, interrupts, bar.at)
    result = _result(session, t, deadline_ms, course, time.perf_counter() - began)
    _show(result, output)
    output.write_json(result)
    return CHECK_FAILED if result.passed is False else interrupts.exit_code


def _result(
    session: Session, t: int, deadline_ms: float | None, course: Course, seconds: float
) -> SoakResult:
    growth, times, report = course.growth(), course.times, course.health.report
    flat = growth.flat if course.is_warm else None
    memory = MemoryResult(
        flat=flat,
        judged_by_slope=growth.judged_by_slope,
        rss_bytes=rss_bytes(),
        growth_bytes=growth.growth_bytes,
        growth_limit_bytes=GROWTH_LIMIT,
        slope=growth.slope,
        slope_limit=SLOPE_LIMIT,
        slope_counts_from_steps=LONG_STEPS,
        measured_steps=growth.steps,
    )
    return SoakResult(
        bundle=session.bundle.root.name,
        bundle_id=session.bundle.manifest.bundle_id,
        provider=session.provider,
        t=t,
        steps=course.done,
        steps_asked=course.steps,
        interrupted=course.done < course.steps and course.cause is None,
        seconds=seconds,
        passed=flat if course.cause is None else False,
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
            tensors=tuple(report.tensors),
        ),
    )


def _show(result: SoakResult, output: Output) -> None:
    memory, times, health = result.memory, result.times, result.health
    grid = pairs()
    of = f" of {result.steps_asked:,}" if result.steps < result.steps_asked else ""
    grid.add_row("steps", f"{result.steps:,}{of}, T = {result.t}, in {result.seconds:,.1f} s")
    grew = f"{mib(memory.rss_bytes)}, grew by {memory.growth_bytes / 2**20:.2f} MiB"
    if memory.flat is None:
        grid.add_row("memory", Text(f"? {grew}, not judged: stopped within the warm-up", "dim"))
    else:
        grid.add_row("memory", _mark(memory.flat, f"{grew} after the warm-up (limit 1 MiB)"))
    if memory.slope is not None:
        s = memory.slope
        limit = f"limit {memory.slope_limit:g}" if memory.judged_by_slope else "too short to judge"
        grid.add_row(
            "slope", f"{s.mean:+.3g} bytes per step, 95 % {s.low:+.3g} … {s.high:+.3g}, {limit}"
        )
    p50, p95, p99 = (f"{us:,.0f}" for us in (times.p50_us, times.p95_us, times.p99_us))
    grid.add_row("a step", f"p50 {p50}, p95 {p95}, p99 {p99}, max {times.max_us:,.0f} µs")
    if result.deadline_ms is not None:
        misses = counted(result.deadline_misses or 0, "step")
        grid.add_row("deadline", f"{misses} over {result.deadline_ms:g} ms")
    told = health.cause or f"finite at {counted(health.looks, 'look')}"
    grid.add_row("state", _mark(health.healthy, told))
    for tensor in health.tensors:
        trend = tensor.growth_per_decade
        grows = "" if trend is None else f", x {trend:.2f} per tenfold of items"
        size = f"rms {tensor.rms:.3g}, max {tensor.peak:.3g}{grows}"
        grid.add_row("", f"[dim]{foreign(tensor.name)}  {size}[/]")
    output.out.print(f"[bold]{foreign(result.bundle)}[/] [dim]{result.bundle_id[:16]}…[/]")
    output.out.print(grid)


def _mark(good: bool, words: str) -> Text:
    return Text(f"✓ {words}", "green") if good else Text(f"✗ {words}", "bold red")
