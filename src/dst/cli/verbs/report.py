"""`dst report`: measure how far two precisions of a model part over the horizon of a stream."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dst.cli.errors import CHECK_FAILED, WrongUseError, needing
from dst.cli.options import BUNDLE_HELP, PNG_HELP, Json, Threads, argument, at_least, flag, option
from dst.cli.output import Output, check_folder, check_paths, foreign, shown, table
from dst.cli.signals import Interrupts
from dst.words import counted, mib

if TYPE_CHECKING:
    from dst.evaluate.quality import Report
    from dst.runtime import Bundle


def report(
    full: Annotated[str, argument("FULL", BUNDLE_HELP)],
    quantized: Annotated[str, argument("QUANTIZED", "Another precision of the same model.")],
    data: Annotated[str | None, argument("[DATA]", "What to read.")] = None,
    items: Annotated[
        int, option("--items", "N", "Length of the stream; else 1,000,000.", least=1)
    ] = 1_000_000,
    t: Annotated[
        int | None, option("--t", "N", "Items per chunk; else QUANTIZED's own.", least=1)
    ] = None,
    budget: Annotated[
        float, option("--budget", "NATS", "Loss per item that may be added; else 0.02.")
    ] = 0.02,
    error_budget: Annotated[
        float,
        option("--error-budget", "X", "Relative error, where outputs predict nothing; else 0.05."),
    ] = 0.05,
    heads: Annotated[
        int, option("--heads", "N", "Short streams from elsewhere in DATA; else 16.", least=0)
    ] = 16,
    sample_every: Annotated[
        int, option("--sample-every", "K", "Look at the state each K-th chunk; else 16th.", least=1)
    ] = 16,
    drift_items: Annotated[
        int,
        option(
            "--drift-items", "N", "Items for full precision's own drift; else 100,000.", least=0
        ),
    ] = 100_000,
    threads: Threads = 1,
    attach: Annotated[bool, flag("--attach", "Write the report into QUANTIZED.")] = False,
    other_file: Annotated[
        bool,
        flag(
            "--other-file",
            "QUANTIZED is of another file of the model, made elsewhere; states stay apart.",
        ),
    ] = False,
    png: Annotated[Path | None, option("--png", "FILE", PNG_HELP)] = None,
    json: Json = None,
) -> int:
    """Measure how far a quantized bundle strays from full precision, over the horizon of a stream.

    Both read DATA side by side, each with its own state. Per range of positions: KL (or
    relative error), added loss, distance of the state, and how much of the error has
    accumulated, against full precision's own drift. DATA is what `dst run` reads, by default
    the held-out text for models of bytes; where it is shorter than --items it is read again.
    The gates need 1,000,000 items; a shorter run can fail them, and says what it did not judge.
    Exit code 1 if a gate failed. Needs the extra onnx.

        dst report text ./text-int8 --items 1000000 --attach --png text-int8.png
        dst report text ./text-int4 notes.txt --items 100000 --budget 0.02 --json -
    """
    output = Output.to(json)
    check_folder("--png", png)
    for name, value in (("--budget", budget), ("--error-budget", error_budget)):
        at_least(name, value, 0)
    if other_file and attach:
        raise WrongUseError(
            "--attach goes without --other-file: a bundle holds the report against its own model"
        )
    with needing("report", "onnx"):
        from dst.cli.data import items_of
        from dst.evaluate.drawing import horizon_picture
        from dst.evaluate.quality import Budget, Settings, horizon_report
        from dst.evaluate.quality import attach as attach_to
        from dst.runtime import open_bundle
    check_paths(output, {"FULL": full, "QUANTIZED": quantized, "DATA": data}, {"--png": png})
    right, other = open_bundle(full), open_bundle(quantized)
    _check_order(right, other, other_file)
    read, about = items_of(other, data)
    settings = Settings(
        budget=Budget(budget, error_budget),
        t=t,
        heads=heads,
        sample_every=sample_every,
        drift_items=drift_items,
        threads=threads,
        data=about,
        other_file=other_file,
    )
    with Interrupts() as interrupts:
        with output.progress("report", 1.0) as bar:
            watched = interrupts.watched(lambda what, share: bar.at(share, f"{share:.0%}", what))
            made = horizon_report(right.root, other.root, read, items, settings, watched)
        if attach:
            attach_to(other.root, made)
    _show(made, output)
    output.write_picture(png, lambda: horizon_picture(made))
    output.write_json(made)
    return CHECK_FAILED if made.passed is False else 0


def _check_order(full: "Bundle", quantized: "Bundle", other_file: bool) -> None:
    """Refuse bundles in the wrong order: full precision would be judged as if it were rounded.

    Another file of the model may be in full precision as well, and so may be in float64.
    """
    from dst.runtime.bundle.validation import is_full_precision

    first, rounded = full.manifest, not is_full_precision(quantized.manifest)
    double = other_file and first.recipe is None and first.precision == "float64"
    cure = (
        "give the one of full precision first: the second is judged by it"
        if other_file
        else "report compares two precisions of one model, give full precision first and the "
        "quantized one second"
    )
    for place, bundle, fits in (
        ("first", full, is_full_precision(first) or double),
        ("second", quantized, rounded or other_file),
    ):
        if not fits:
            what = bundle.manifest.recipe or f"{bundle.manifest.precision}, not quantized by dst"
            raise WrongUseError(f"{place} bundle {bundle.root.name}: is {what}; {cure}")


def _show(made: "Report", output: Output) -> None:
    full, quantized = made.full, made.quantized
    output.out.print(
        f"[bold]{foreign(quantized.name)}[/] {foreign(quantized.recipe or quantized.precision)} "
        f"against {foreign(full.precision)}: {counted(made.items, 'item')} of "
        f"{foreign(made.data)}, T = {made.items_per_step}"
    )
    divergence = ">KL nats" if made.unit == "nats" else ">error"
    ranges = table(">up to item", divergence, ">loss", ">state", ">accumulation")
    for found in made.ranges:
        if not found.items:
            continue
        ranges.add_row(
            f"{found.end:,}",
            f"{found.divergence:.2e}",
            shown(found.loss_difference, "+.4f"),
            shown(found.state, ".1e"),
            shown(found.accumulation, ".2f"),
        )
    output.out.print(ranges)
    if made.drift is not None:
        output.out.print(
            f"[dim]own drift, {foreign(made.drift.what)}: "
            f"{made.drift.divergence[-1]:.1e} after {counted(made.drift.items, 'item')}[/]"
        )
    sizes = quantized.parts.weights_size, full.parts.weights_size
    output.out.print(
        f"weights {mib(sizes[0])} of {mib(sizes[1])} ({sizes[0] / max(sizes[1], 1):.2f}), "
        f"files {mib(quantized.parts.bundle_size)} of {mib(full.parts.bundle_size)}"
    )
    marks = {"passed": "[green]✓[/]", "failed": "[bold red]✗[/]", "not judged": "[dim]?[/]"}
    for gate in made.gates:
        value = "not judged" if gate.value is None else f"{gate.value:.3g} ≤ {gate.bound:g}"
        output.out.print(f"{marks[gate.verdict]} {gate.name}  {value}")
    for note in made.notes:
        output.out.print(f"[dim]{foreign(note)}[/]")
