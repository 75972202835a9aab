"""The options of `dst report`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dst.cli.errors import needing
from dst.cli.numbers import at_least
from dst.cli.options import BUNDLE_HELP, Json, Threads, line
from dst.cli.output import Output, check_folder


def report(
    full: Annotated[str, typer.Argument(metavar="FULL", help=BUNDLE_HELP)],
    quantized: Annotated[
        str, typer.Argument(metavar="QUANTIZED", help="Another precision of the same model.")
    ],
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="What to read.")] = None,
    items: Annotated[
        int, line("--items", "N", "Length of the stream; else 1,000,000.", least=1)
    ] = 1_000_000,
    t: Annotated[
        int | None, line("--t", "N", "Items per chunk; else QUANTIZED's own.", least=1)
    ] = None,
    budget: Annotated[
        float, line("--budget", "NATS", "Loss per item that may be added; else 0.02.")
    ] = 0.02,
    error_budget: Annotated[
        float,
        line("--error-budget", "X", "Relative error, where outputs predict nothing; else 0.05."),
    ] = 0.05,
    heads: Annotated[
        int, line("--heads", "N", "Short streams from elsewhere in DATA; else 16.", least=0)
    ] = 16,
    sample_every: Annotated[
        int, line("--sample-every", "K", "Look at the state each K-th chunk; else 16th.", least=1)
    ] = 16,
    drift_items: Annotated[
        int,
        line("--drift-items", "N", "Items for full precision's own drift; else 100,000.", least=0),
    ] = 100_000,
    threads: Threads = 1,
    attach: Annotated[
        bool, typer.Option("--attach", help="Write the report into QUANTIZED.")
    ] = False,
    other_file: Annotated[
        bool,
        typer.Option(
            "--other-file",
            help="QUANTIZED is of another file of the model, made elsewhere; states stay apart.",
        ),
    ] = False,
    png: Annotated[Path | None, line("--png", "FILE", "Draw it; needs matplotlib.")] = None,
    json: Json = None,
) -> Callable[[], int]:
    """Prepare `dst.cli.verbs.report`."""
    output = Output.to(json)
    check_folder("--png", png)
    for option, value in (("--budget", budget), ("--error-budget", error_budget)):
        at_least(option, value, 0)
    with needing("report", "onnx"):
        from dst.cli.verbs.report import Order
        from dst.cli.verbs.report import report as work
    order = Order(
        full=full,
        quantized=quantized,
        data=data,
        items=items,
        t=t,
        nats=budget,
        error=error_budget,
        heads=heads,
        sample_every=sample_every,
        drift_items=drift_items,
        threads=threads,
        attach=attach,
        other_file=other_file,
        png=png,
    )
    return lambda: work(order, output)
