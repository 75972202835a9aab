"""`dst soak`: run a bundle for very many steps, and watch memory, step times and the state."""

from typing import TYPE_CHECKING, Annotated

from rich.text import Text

from dst.cli.errors import CHECK_FAILED
from dst.cli.options import BundleArgument, Json, Provider, Threads, at_least, option
from dst.cli.output import Output, check_paths, foreign, pairs
from dst.cli.signals import Interrupts
from dst.words import counted, mib

if TYPE_CHECKING:
    from dst.evaluate.soak import SoakResult


def soak(
    bundle: BundleArgument,
    steps: Annotated[int, option("--steps", "N", "How many steps.", least=1)],
    chunk: Annotated[
        int | None, option("--t", "T", "Items per step; the bundle's own by default.")
    ] = None,
    deadline_ms: Annotated[
        float | None, option("--deadline-ms", "X", "Count the steps that take longer.", least=0)
    ] = None,
    data: Annotated[
        str | None, option("--data", "FILE", "Feed these items; text or random ones by default.")
    ] = None,
    provider: Provider = "cpu",
    threads: Threads = 1,
    json: Json = None,
) -> int:
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
    from dst.cli.data import chunks_to_repeat
    from dst.evaluate.soak import soak as measured
    from dst.runtime import Session

    output = Output.to(json)
    check_paths(output, {"BUNDLE": bundle, "--data": data})
    if deadline_ms is not None:
        at_least("--deadline-ms", deadline_ms, 0)
    sizes = None if chunk is None else [chunk]
    session = Session.open(bundle, provider=provider, threads=threads, chunk_sizes=sizes)
    t = session.contract.chunk.nominal_t if chunk is None else chunk
    chunks = chunks_to_repeat(session.contract.chunk, t, data)
    with (
        Interrupts() as interrupts,
        output.progress(f"soak {session.bundle.root.name}", steps) as bar,
    ):
        stopped = lambda: interrupts.signal is not None  # noqa: E731
        result = measured(session, chunks, t, steps, deadline_ms, stopped, bar.at)
    _show(result, output)
    output.write_json(result)
    return CHECK_FAILED if result.passed is False else interrupts.exit_code


def _show(result: "SoakResult", output: Output) -> None:
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
