"""`dst verify`: replay the golden vectors of a bundle on this machine, and compare."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

from dst.cli.errors import CHECK_FAILED, WrongUseError
from dst.cli.options import BundleArgument, Json, Provider, Threads
from dst.cli.output import Output, check_paths, foreign, table

if TYPE_CHECKING:
    from dst.evaluate.providers import GoldenTime
    from dst.runtime import Bundle

MEASURES = {"rms": "of rms", "cost": "of own error"}
"""What an error is a share of; a recipe's own error is how far it is from full precision."""


class Check(msgspec.Struct, frozen=True):
    """One golden run on one graph; `measure` says what its errors are shares of."""

    graph: str
    lowering: str
    t: int
    steps: int
    worst: float
    worst_tensor: str
    measure: str
    tolerance: float
    passed: bool


class Verified(msgspec.Struct, frozen=True):
    """The replay of a bundle; a `worst` is null where it is not finite."""

    bundle: str
    bundle_id: str
    provider: str
    onnxruntime: str
    passed: bool
    checks: tuple[Check, ...]
    times: "tuple[GoldenTime, ...]"


def verify(
    bundle: BundleArgument,
    graph: Annotated[
        str | None,
        typer.Option("--graph", metavar="NAME", help="Only this file, or this lowering."),
    ] = None,
    provider: Provider = "cpu",
    threads: Threads = 1,
    timed: Annotated[
        bool, typer.Option("--time", help="Time the provider against the CPU as well.")
    ] = False,
    json: Json = None,
) -> int:
    """Replay a bundle's golden vectors here and compare with what was recorded.

    Every file is hashed first. Exit code 1 if a graph strays further than the bundle allows, 2
    if the bundle is broken or cannot be run here. A provider that would leave work to the CPU
    is refused. With --time the golden chunks are stepped on the provider and on the CPU in turn
    as well.

        dst verify text
        dst verify text --provider openvino --time
        dst verify ./my-bundle --provider cuda --graph fused
    """
    import onnxruntime

    from dst.evaluate.providers import time_golden
    from dst.runtime import open_bundle, replay_golden

    output = Output.to(json)
    check_paths(output, {"BUNDLE": bundle})
    opened = _only(open_bundle(bundle), graph)
    manifest, name = opened.manifest, opened.root.name
    named = None if graph is None else manifest.graphs[0].lowering
    lowering = {g.file: g.lowering for g in manifest.graphs}
    with output.progress(f"verify {name}", None):
        found = replay_golden(opened, provider, threads, named)
    times: list[GoldenTime] = []
    if timed:
        with output.progress(f"time {name}", 1.0) as bar:
            times = time_golden(opened, provider, threads, named, progress=bar.at)
    checks = []
    for f in found:
        tensor, worst = max(f.errors.items(), key=lambda e: e[1])
        checks.append(
            Check(
                graph=f.graph,
                lowering=lowering[f.graph],
                t=f.t,
                steps=f.steps,
                worst=worst,
                worst_tensor=tensor,
                measure=f.measure,
                tolerance=f.tolerance,
                passed=f.passed,
            )
        )
    result = Verified(
        bundle=name,
        bundle_id=manifest.bundle_id,
        provider=provider,
        onnxruntime=onnxruntime.__version__,
        passed=all(c.passed for c in checks),
        checks=tuple(checks),
        times=tuple(times),
    )
    _show(result, output)
    output.write_json(result)
    return 0 if result.passed else CHECK_FAILED


def _only(bundle: "Bundle", graph: str | None) -> "Bundle":
    """Return the bundle with only the graphs of that file name or lowering."""
    from dst.runtime import Bundle

    if graph is None:
        return bundle
    kept = tuple(g for g in bundle.manifest.graphs if graph in (g.file, g.lowering))
    if not kept:
        names = sorted({n for g in bundle.manifest.graphs for n in (g.file, g.lowering)})
        raise WrongUseError(f"--graph {graph}: {bundle.label} has {', '.join(names)}")
    return Bundle(bundle.root, msgspec.structs.replace(bundle.manifest, graphs=kept))


def _show(result: Verified, output: Output) -> None:
    numbers = (">T", ">steps", ">worst", ">allowed")
    checks = table("graph", "lowering", *numbers, "", "in", "")
    for c in result.checks:
        mark = "[green]✓ passed[/]" if c.passed else "[bold red]✗ FAILED[/]"
        checks.add_row(
            foreign(c.graph),
            c.lowering,
            str(c.t),
            str(c.steps),
            f"{c.worst:.1e}",
            f"{c.tolerance:.2g}",
            MEASURES[c.measure],
            foreign(c.worst_tensor),
            mark,
        )
    where = f"{result.provider}, onnxruntime {result.onnxruntime}"
    output.out.print(f"[bold]{foreign(result.bundle)}[/] [dim]{result.bundle_id[:16]}…  {where}[/]")
    output.out.print(checks)
    passed = sum(c.passed for c in result.checks)
    if result.passed:
        runs = f"all {passed} golden runs" if passed > 1 else "the golden run"
        output.out.print(f"[green]{runs} reproduced[/]")
    else:
        output.out.print(
            f"[bold red]{len(result.checks) - passed} of {len(result.checks)} failed[/]"
        )
    if result.times:
        output.out.print(_timed(result))


def _timed(result: Verified) -> Table:
    where = (f">{result.provider} ms", ">cpu ms", f">{result.provider} / cpu")
    times = table("graph", ">T", ">steps", *where)
    for t in result.times:
        times.add_row(
            foreign(t.graph),
            str(t.t),
            str(t.steps),
            f"{t.seconds * 1e3:.3f}",
            f"{t.cpu_seconds * 1e3:.3f}",
            f"{t.ratio:.2f}",
        )
    return times
