"""The options of `dst quantize`: a command line goes in, a call of `dst.command.quantize` out."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dst.command.errors import WrongUseError
from dst.command.options import BundleArgument, Json
from dst.command.output import Output, check_folder


class BackendName(StrEnum):
    """Who rounds the weights of products."""

    dst = "dst"
    optimum = "optimum"


def quantize(
    bundle: BundleArgument,
    recipe: Annotated[str, typer.Option("--recipe", metavar="NAME", help="See the list above.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The bundle to make.")],
    block: Annotated[
        int | None,
        typer.Option("--block", metavar="N", help="Values that share a scale: 16, 32, 64 or 128."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", metavar="NAME", help="How they are found: rtn, search or gptq."),
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(
            "--weight-bits",
            metavar="N",
            help="Of int8 weights by column: 7, or 8 for CPUs with VNNI and NPUs only.",
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate", metavar="FILE", help="Real input, of any kind `dst run` reads."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="PATTERN", help="Weights or nodes to leave in float32."),
    ] = None,
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--form", metavar="PATTERN=FORM", help="Hold these weights in this form instead."
        ),
    ] = None,
    backend: Annotated[
        BackendName,
        typer.Option("--with", help="Who rounds the weights of products: optimum is an extra."),
    ] = BackendName.dst,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that stands there.")
    ] = False,
    json: Json = None,
) -> Callable[[], int]:
    """Prepare `dst.command.quantize`."""
    output = Output.to(json)
    check_folder("--out", out)
    try:
        from dst.command.quantize import Order
        from dst.command.quantize import quantize as work
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("dst"):
            raise
        raise WrongUseError(
            f'quantize needs {error.name}, which is not installed: pip install "dst-edge[onnx]"'
        ) from None
    order = Order(
        bundle=bundle,
        recipe=recipe,
        out=out,
        block=block,
        method=method,
        weight_bits=weight_bits,
        calibrate=calibrate,
        keep=tuple(keep or ()),
        forms=tuple(form or ()),
        backend=backend.value,
        overwrite=overwrite,
    )
    return lambda: work(order, output)
