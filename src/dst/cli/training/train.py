"""`dst train`: make a monitor of a CSV."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import msgspec

from dst.cli.errors import WrongUseError, needing
from dst.cli.options import (
    BundleName,
    Gap,
    Json,
    Out,
    Overwrite,
    argument,
    at_least,
    names_of,
    option,
)
from dst.cli.output import Output, check_folder, check_paths, foreign, pairs

RECIPE, ENDING = "int8-rows", "int8"
BOUND = 1e-2  # alerts rise steeply where a value was hardly foreseen, and rounding with them
"""Largest error of an output, against its rms, that a certificate accepts: the surprise of a value
in a narrow distribution multiplies the rounding of float32."""


class TrainResult(msgspec.Struct, frozen=True):
    """What came of a training; losses are pinball losses in units of the usual forecast error."""

    bundle: str
    quantized: str
    columns: tuple[str, ...]
    rows: int
    gaps: int
    times: bool
    steps: int
    start_loss: float
    loss: float
    test_loss: float
    test_naive_loss: float
    test_inside: float
    test_alerts: float
    bytes: int
    quantized_bytes: int


def train(
    file: Annotated[str, argument("FILE.csv", "The first line names the columns.")],
    out: Out,
    columns: Annotated[
        str | None, option("--columns", "A,B", "Columns to watch; else all but the times.")
    ] = None,
    time: Annotated[
        str | None, option("--time", "NAME", "The column of times; else found by its name.")
    ] = None,
    gap: Annotated[Gap, option("--gap", "RULE", "refuse missing values, hold or skip.")] = "refuse",
    minutes: Annotated[float, option("--minutes", "N", "Of training, at most; else 2.")] = 2.0,
    seed: Annotated[int, option("--seed", "N", "Of weights and order; else 0.", least=0)] = 0,
    bound: Annotated[
        float, option("--bound", "X", "Accept errors of the graphs up to X; recorded.")
    ] = BOUND,
    name: BundleName = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> int:
    """Make a monitor of a CSV: learn its columns, calibrate alerts, export, quantize.

    The first 60 % of the rows are learned from, the next 20 % set how odd an item must be for an
    alert, the last 20 % are the test that is printed. DIR holds the float32 bundle, DIR-int8 the
    quantized one. For a single column the training begins with the shipped model feed. Needs the
    extra export. docs/feed.md tells all.

        dst train cpu.csv --out monitor
        dst run monitor-int8 cpu-today.csv --alert 1e-4
        dst train plant.csv --time when --columns flow,heat --gap skip --out plant
    """
    from dst.cli.inputs.block import Form
    from dst.cli.training.table import read_table

    output = Output.to(json)
    at_least("--minutes", minutes, 0)
    small = out.with_name(f"{out.name}-{ENDING}")
    check_folder("--out", out)
    check_paths(output, {"FILE": file, "--out": out})
    for path in (out, small):
        if path.exists() and not overwrite:
            raise WrongUseError(f"--out {path}: exists; give another name, or --overwrite")
    named = () if columns is None else names_of("--columns", columns.split(","))
    with needing("train", "export"):
        import torch

        from dst.export import export_bundle
        from dst.export.feed.restore import shipped_feed
        from dst.export.feed.train import fit, items_of
        from dst.quantize import quantize_bundle
    table = read_table(file, Form(format="csv", gap=gap, time=time, columns=named))
    items = items_of(table.values, table.seconds)
    torch.set_num_threads(1)
    with output.progress("training", 1.0) as bar:
        start = shipped_feed() if len(table.columns) == 1 else None
        model, found = fit(
            items,
            table.columns,
            start=start,
            seconds=minutes * 60,
            seed=seed,
            progress=bar.share,
        )
        manifest = export_bundle(
            model,
            out,
            data=items,
            about_data=Path(file).name,
            name=name,
            description=f"Monitor of {', '.join(table.columns)}, trained on {Path(file).name}.",
            certify_steps=200,
            bound=bound,
            overwrite=overwrite,
            progress=bar.share,
        )
        quantized = quantize_bundle(out, small, RECIPE, overwrite=overwrite, progress=bar.share)
    result = TrainResult(
        bundle=str(out),
        quantized=str(small),
        columns=table.columns,
        rows=len(items),
        gaps=table.found.gaps,
        times=table.seconds is not None,
        bytes=sum(entry.size for entry in manifest.files.values()),
        quantized_bytes=sum(entry.size for entry in quantized.bundle.manifest.files.values()),
        **asdict(found),
    )
    _show(result, output)
    output.write_json(result)
    return 0


def _show(result: TrainResult, output: Output) -> None:
    """Print what came of it."""
    grid = pairs()
    grid.add_row("columns", foreign(", ".join(result.columns)))
    gaps = f", {result.gaps:,} with gaps" if result.gaps else ""
    known = "with times" if result.times else "without times"
    grid.add_row("rows", f"{result.rows:,} {known}{gaps}")
    gain = f"{result.start_loss:.4f} -> {result.loss:.4f}"
    grid.add_row("training", f"{result.steps:,} steps; loss on the calibration rows {gain}")
    grid.add_row(
        "test", f"loss {result.test_loss:.4f}; before training {result.test_naive_loss:.4f}"
    )
    grid.add_row("", f"{result.test_inside:.1%} inside of the 90 % range")
    grid.add_row("", f"{result.test_alerts:.2%} of the rows with an alert of rate 1e-2")
    grid.add_row("bundles", foreign(f"{result.bundle}, {result.bytes / 2**20:.2f} MiB"))
    small = f"{result.quantized}, {result.quantized_bytes / 2**20:.2f} MiB"
    grid.add_row("", foreign(small))
    output.out.print(grid)
    output.out.print(f"next: dst run {foreign(result.quantized)} FILE.csv --alert 1e-3")
