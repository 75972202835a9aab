"""`dst bench`: measure what bundles cost on this machine, side by side."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table

from dst.cli.errors import WrongUseError
from dst.cli.options import (
    BUNDLE_HELP,
    PNG_HELP,
    Json,
    Provider,
    Threads,
    argument,
    option,
    sizes_of,
)
from dst.cli.output import (
    NONE,
    Output,
    check_folder,
    check_paths,
    foreign,
    replace_file,
    shown,
    table,
)
from dst.cli.signals import Interrupts
from dst.words import counted, mib

if TYPE_CHECKING:
    from dst.evaluate import BenchResult, Cell

BUSY_LOAD = 0.5  # of the cores; more than that disturbs what is measured


def bench(
    bundles: Annotated[list[str], argument("BUNDLE...", BUNDLE_HELP)],
    t: Annotated[
        str | None, option("--t", "N[,N]", "Items per chunk; by default what they run.")
    ] = None,
    rounds: Annotated[
        int, option("--rounds", "N", "How often each has its turn; else 10.", least=1)
    ] = 10,
    slot_ms: Annotated[
        float, option("--slot-ms", "MS", "How long a turn is, at about; else 100.")
    ] = 100.0,
    starts: Annotated[
        int, option("--starts", "N", "Fresh processes for load and memory; else 3.", least=0)
    ] = 3,
    provider: Provider = "cpu",
    threads: Threads = 1,
    png: Annotated[Path | None, option("--png", "FILE", PNG_HELP)] = None,
    html: Annotated[
        Path | None, option("--html", "FILE", "Write a page that stands alone.")
    ] = None,
    json: Json = None,
) -> int:
    """Measure what bundles cost on this machine, in turns, and compare them with the first.

    Per bundle and T: items per second with its ratio to the first bundle (median of all rounds
    and its 95 % interval), p50 and p99 of a step. Per bundle: files, load time, time to the
    first output and peak memory, each in fresh processes; energy where the machine tells; and
    the quality that the bundle's horizon report found. A T that a bundle does not run shows as
    –. Other work on the machine makes times worse, and ratios only less sure.

        dst bench text ./text-int8 ./text-int4
        dst bench text ./text-int8 --t 1,32 --rounds 30 --json - --html bench.html --png bench.png
    """
    from dst.evaluate import measure
    from dst.evaluate.drawing import picture
    from dst.evaluate.page import page

    output = Output.to(json)
    check_folder("--png", png)
    check_folder("--html", html)
    sizes = tuple(sorted(set(sizes_of(t))))
    if not 0 < slot_ms < math.inf:
        raise WrongUseError(f"--slot-ms {slot_ms:g}: expected a number above 0")
    reads = {f"bundle {bundle}": bundle for bundle in bundles}
    check_paths(output, reads, {"--png": png, "--html": html})
    with Interrupts() as interrupts:
        with output.progress("bench", 1.0) as bar:
            result = measure(
                bundles,
                sizes or usual_sizes(bundles),
                rounds,
                threads=threads,
                provider=provider,
                slot_ms=slot_ms,
                starts=starts,
                progress=interrupts.watched(lambda what, share: bar.at(share, what)),
            )
        _show(result, output)
        if html is not None:
            replace_file(html, page(result).encode())
        output.write_picture(png, lambda: picture(result))
    output.write_json(result)
    return 0


def usual_sizes(bundles: Sequence[str]) -> tuple[int, ...]:
    """Choose the T to measure: the nominal ones, and of the usual ones those that a bundle runs."""
    from dst.evaluate.speed import SIZES
    from dst.runtime import open_bundle

    chunks = [open_bundle(bundle, "size").manifest.contract.chunk for bundle in bundles]
    run = {t for chunk in chunks for t in chunk.allowed_t}
    return tuple(sorted({chunk.nominal_t for chunk in chunks} | run.intersection(SIZES)))


def _show(result: "BenchResult", output: Output) -> None:
    env = result.environment
    cores = ", ".join(map(str, env.pinned_to or ()))
    pinned = "not pinned" if env.pinned_to is None else f"on core {cores}"
    threads = counted(result.threads, "thread")
    output.out.print(
        f"[dim]{foreign(env.cpu)}, {threads} {pinned}, {result.provider}, onnxruntime "
        f"{env.onnxruntime}, {counted(result.rounds, 'round')} in turns[/]"
    )
    output.out.print(_by_t(result, "items/s", _speed))
    output.out.print(_by_t(result, "µs a step", _step))
    output.out.print(_cost(result))
    if any(entry.quality is not None for entry in result.bundles):
        output.out.print(_quality(result))
    for entry in result.bundles:
        missing = sorted({c.why for c in entry.cells if c.why is not None})
        for why in filter(None, (*missing, entry.start_why)):
            output.out.print(f"[dim]{foreign(entry.label)}: {foreign(why)}[/]")
    first = env.load_before[0] if env.load_before else 0.0
    if first > BUSY_LOAD * env.cores:
        output.out.print(
            f"[yellow]the load was {first:g} on {env.cores} cores before this began: "
            "trust the ratios, not the times[/]"
        )
    if result.energy_why is not None:
        output.out.print(f"[dim]energy: {foreign(result.energy_why)}[/]")


def _by_t(result: "BenchResult", what: str, show: "Callable[[Cell], str]") -> Table:
    grid = table(what, *(f">T = {t}" for t in result.sizes))
    for entry in result.bundles:
        grid.add_row(foreign(entry.label), *(show(cell) for cell in entry.cells))
    return grid


def _speed(cell: "Cell") -> str:
    if cell.items_per_s is None:
        return NONE
    speed, ratio = f"{cell.items_per_s.median:,.0f}", cell.ratio
    if ratio is None:
        return speed
    return f"{speed}  [bold]{ratio.median:.2f}×[/] [dim]{ratio.low:.2f}–{ratio.high:.2f}[/]"


def _step(cell: "Cell") -> str:
    if cell.p50_us is None or cell.p99_us is None:
        return NONE
    return f"{cell.p50_us:,.0f}  [dim]p99 {cell.p99_us:,.0f}[/]"


def _cost(result: "BenchResult") -> Table:
    head = ("cost", ">files", ">weights", ">load", ">first output", ">peak memory", ">its own")
    grid = table(*head, ">µJ an item" if result.energy_why is None else ">")
    for entry in result.bundles:
        start, cells = entry.start, [NONE] * 4
        if start is not None:
            times = (f"{ms:,.0f} ms" for ms in (start.load_ms, start.first_output_ms))
            own = start.peak_rss_bytes - start.base_rss_bytes
            cells = [*times, mib(start.peak_rss_bytes), mib(own)]
        sizes = mib(entry.file_bytes), mib(entry.weights_bytes)
        used = [(c.t, c.joules_per_item) for c in entry.cells if c.joules_per_item is not None]
        energy = ", ".join(f"{1e6 * joules:,.0f} at {t}" for t, joules in used)
        grid.add_row(foreign(entry.label), *sizes, *cells, energy)
    return grid


def _quality(result: "BenchResult") -> Table:
    grid = table("quality", ">items", ">divergence", ">loss", ">growth", ">causal", ">gates")
    words = {True: "[green]passed[/]", False: "[bold red]failed[/]", None: "not judged"}
    for entry in result.bundles:
        held = entry.quality
        if held is None:
            grid.add_row(foreign(entry.label), *[NONE] * 6)
            continue
        growth = next((g.value for g in held.gates if g.name == "last-over-early"), None)
        grid.add_row(
            foreign(entry.label),
            f"{held.items:,}",
            f"{held.divergence[-1]:.2g}",
            shown(held.loss_difference[-1] if held.loss_difference else None, "+.4f"),
            NONE if growth is None else f"{growth:.2f}×",
            "yes" if held.causal else "no",
            words[held.passed],
        )
    return grid
