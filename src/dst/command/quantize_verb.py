"""The options of `dst quantize`: a command line goes in, a call of `dst.command.quantize` out."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dst.command.errors import WrongUseError, needing
from dst.command.options import BundleArgument, Json
from dst.command.output import Output, check_folder


class BackendName(StrEnum):
    """Who rounds the weights of products."""

    dst = "dst"
    optimum = "optimum"


class GoalName(StrEnum):
    """What is wanted of the recipes that hold the budget."""

    speed = "speed"
    size = "size"


def quantize(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The bundle to make.")],
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="NAME", help="See the list above.")
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Measure the recipes on this machine and pick one.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="UNIT<X",
            help="With --auto: what may be lost; nats<0.02 or error<0.05 by default.",
        ),
    ] = None,
    goal: Annotated[
        GoalName | None,
        typer.Option("--goal", help="With --auto: what is wanted; speed by default."),
    ] = None,
    items: Annotated[
        int | None,
        typer.Option(
            "--items", metavar="N", min=1, help="With --auto: items to measure on; 20,000 else."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="With --auto: real input; held-out text or golden runs else.",
        ),
    ] = None,
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
        BackendName | None,
        typer.Option(
            "--with",
            help="Who rounds the weights of products: dst by default; optimum is an extra.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that stands there.")
    ] = False,
    json: Json = None,
) -> Callable[[], int]:
    """Prepare `dst.command.quantize`."""
    output = Output.to(json)
    check_folder("--out", out)
    if auto == (recipe is not None):
        raise WrongUseError("expected either --recipe NAME or --auto, see dst quantize --help")
    by_hand = {
        "--block": block,
        "--method": method,
        "--weight-bits": weight_bits,
        "--calibrate": calibrate,
        "--keep": keep or None,
        "--form": form or None,
        "--with": backend,
    }
    measured = {"--budget": budget, "--goal": goal, "--items": items, "--input": data}
    _refuse(by_hand if auto else measured, "goes without --auto" if auto else "goes with --auto")
    with needing("quantize", "onnx"):
        from dst.command.pick import Order as PickOrder
        from dst.command.pick import pick_recipe
        from dst.command.quantize import Order
        from dst.command.quantize import quantize as work
    if recipe is None:
        wish = PickOrder(
            bundle=bundle,
            out=out,
            budget=budget,
            goal=(goal or GoalName.speed).value,
            items=items,
            data=data,
            overwrite=overwrite,
        )
        return lambda: pick_recipe(wish, output)
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
        backend=(backend or BackendName.dst).value,
        overwrite=overwrite,
    )
    return lambda: work(order, output)


def _refuse(options: Mapping[str, object], why: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise WrongUseError(f"{given[0]} {why}")
