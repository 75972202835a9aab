"""`dst verify`: replay the golden vectors of a bundle on this machine, and compare."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from rich.table import Table

from dst.cli.errors import CHECK_FAILED, WrongUseError
from dst.cli.options import BundleArgument, Json, Provider, Threads, flag, option
from dst.cli.output import Output, check_paths, foreign, table

if TYPE_CHECKING:
    from dst.evaluate.providers import GoldenTime
    from dst.runtime import Bundle
    from dst.runtime.golden import GoldenCheck

MEASURES = {"rms": "of rms", "cost": "of own error"}
"""What an error is a share of; a recipe's own error is how far it is from full precision."""


def verify(
    bundle: BundleArgument,
    graph: Annotated[
        str | None, option("--graph", "NAME", "Only this file, or this lowering.")
    ] = None,
    provider: Provider = "cpu",
    threads: Threads = 1,
    timed: Annotated[bool, flag("--time", "Time the provider against the CPU as well.")] = False,
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
    with output.progress(f"verify {name}", None):
        found = replay_golden(opened, provider, threads, named)
    times: list[GoldenTime] = []
    if timed:
        with output.progress(f"time {name}", 1.0) as bar:
            times = time_golden(opened, provider, threads, named, progress=bar.at)
    lowering = {g.file: g.lowering for g in manifest.graphs}
    passed = all(check.passed for check in found)
    where = f"{provider}, onnxruntime {onnxruntime.__version__}"
    output.out.print(f"[bold]{foreign(name)}[/] [dim]{manifest.bundle_id[:16]}…  {where}[/]")
    _show(found, lowering, output)
    if times:
        output.out.print(_timed(times, provider))
    output.write_json(
        {
            "bundle": name,
            "bundle_id": manifest.bundle_id,
            "provider": provider,
            "onnxruntime": onnxruntime.__version__,
            "passed": passed,
            "checks": [_told(check, lowering[check.graph]) for check in found],
            "times": times,
        }
    )
    return 0 if passed else CHECK_FAILED


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


def _told(check: "GoldenCheck", lowering: str) -> dict[str, object]:
    """Say for JSON how a graph replayed a golden run; `worst` is null where it is not finite."""
    tensor, worst = _worst(check)
    return {
        "graph": check.graph,
        "lowering": lowering,
        "t": check.t,
        "steps": check.steps,
        "worst": worst,
        "worst_tensor": tensor,
        "measure": check.measure,
        "tolerance": check.tolerance,
        "passed": check.passed,
    }


def _worst(check: "GoldenCheck") -> tuple[str, float]:
    return max(check.errors.items(), key=lambda error: error[1])


def _show(found: "Sequence[GoldenCheck]", lowering: Mapping[str, str], output: Output) -> None:
    checks = table("graph", "lowering", ">T", ">steps", ">worst", ">allowed", "", "in", "")
    for c in found:
        tensor, worst = _worst(c)
        mark = "[green]✓ passed[/]" if c.passed else "[bold red]✗ FAILED[/]"
        errors = f"{worst:.1e}", f"{c.tolerance:.2g}", MEASURES[c.measure], foreign(tensor)
        checks.add_row(foreign(c.graph), lowering[c.graph], str(c.t), str(c.steps), *errors, mark)
    output.out.print(checks)
    failed = sum(not c.passed for c in found)
    if failed:
        output.out.print(f"[bold red]{failed} of {len(found)} failed[/]")
    else:
        runs = f"all {len(found)} golden runs" if len(found) > 1 else "the golden run"
        output.out.print(f"[green]{runs} reproduced[/]")


def _timed(found: "Sequence[GoldenTime]", provider: str) -> Table:
    times = table("graph", ">T", ">steps", f">{provider} ms", ">cpu ms", f">{provider} / cpu")
    for t in found:
        took = f"{t.seconds * 1e3:.3f}", f"{t.cpu_seconds * 1e3:.3f}", f"{t.ratio:.2f}"
        times.add_row(foreign(t.graph), str(t.t), str(t.steps), *took)
    return times
