"""The options of `dst report`: a command line goes in, `dst.command.report` is called with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dst.command.errors import needing
from dst.command.numbers import at_least
from dst.command.options import BUNDLE_HELP, Json, Threads
from dst.command.output import Output, check_folder


def report(
    full: Annotated[str, typer.Argument(metavar="FULL", help=BUNDLE_HELP)],
    quantized: Annotated[
        str, typer.Argument(metavar="QUANTIZED", help="Another precision of the same model.")
    ],
    data: Annotated[str | None, typer.Argument(metavar="[DATA]", help="What to read.")] = None,
    items: Annotated[
        int, typer.Option("--items", metavar="N", min=1, help="Length of the long stream.")
    ] = 1_000_000,
    t: Annotated[
        int | None,
        typer.Option("--t", metavar="N", min=1, help="Items per chunk; QUANTIZED's by default."),
    ] = None,
    budget: Annotated[
        float, typer.Option("--budget", metavar="NATS", help="Loss per item that may be added.")
    ] = 0.02,
    error_budget: Annotated[
        float,
        typer.Option(
            "--error-budget", metavar="X", help="Relative error, where outputs predict nothing."
        ),
    ] = 0.05,
    heads: Annotated[
        int,
        typer.Option("--heads", metavar="N", min=0, help="Short streams from elsewhere in DATA."),
    ] = 16,
    sample_every: Annotated[
        int,
        typer.Option(
            "--sample-every", metavar="K", min=1, help="Look at the state each K-th chunk."
        ),
    ] = 16,
    drift_items: Annotated[
        int,
        typer.Option(
            "--drift-items", metavar="N", min=0, help="Items for full precision's own drift."
        ),
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
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Draw it; needs matplotlib.")
    ] = None,
    json: Json = None,
) -> Callable[[], int]:
    """Prepare `dst.command.report`."""
    output = Output.to(json)
    check_folder("--png", png)
    for option, value in (("--budget", budget), ("--error-budget", error_budget)):
        at_least(option, value, 0)
    with needing("report", "onnx"):
        from dst.command.report import Order
        from dst.command.report import report as work
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
