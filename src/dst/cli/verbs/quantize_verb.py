"""The options of `dst quantize`: a command line goes in, a call of `dst.cli.verbs.quantize` out."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated

import typer

from dst.cli.errors import WrongUseError, needing
from dst.cli.options import BundleArgument, Json, Out, Overwrite, line
from dst.cli.output import Output, check_folder


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
    out: Out,
    recipe: Annotated[str | None, line("--recipe", "NAME", "One of the list above.")] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Measure the recipes here, and pick one.")
    ] = False,
    budget: Annotated[
        str | None,
        line("--budget", "UNIT<X", "--auto: loss; else nats<0.02, error<0.05."),
    ] = None,
    goal: Annotated[
        GoalName | None, line("--goal", "WHAT", "--auto: speed (by default) or size.")
    ] = None,
    items: Annotated[
        int | None, line("--items", "N", "--auto: how many to measure; else 20,000.", least=1)
    ] = None,
    data: Annotated[
        str | None, line("--input", "FILE", "--auto: real input to measure on.")
    ] = None,
    block: Annotated[
        int | None, line("--block", "N", "Values to a scale: 16, 32, 64 or 128.")
    ] = None,
    method: Annotated[
        str | None, line("--method", "NAME", "Of finding scales: rtn, search or gptq.")
    ] = None,
    weight_bits: Annotated[
        int | None, line("--weight-bits", "N", "Of int8 columns: 7; 8: VNNI, NPU only.")
    ] = None,
    calibrate: Annotated[
        str | None, line("--calibrate", "FILE", "Real input, of any kind that run reads.")
    ] = None,
    keep: Annotated[
        list[str] | None, line("--keep", "PATTERN", "Weights or nodes to leave in float32.")
    ] = None,
    form: Annotated[
        list[str] | None, line("--form", "NAME=FORM", "Hold these weights in this form.")
    ] = None,
    backend: Annotated[
        BackendName | None, line("--with", "WHO", "Who rounds products: dst, or optimum.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> Callable[[], int]:
    """Prepare `dst.cli.verbs.quantize`."""
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
        from dst.cli.verbs.quantize import Order
        from dst.cli.verbs.quantize import quantize as work
        from dst.cli.verbs.quantize_auto import Order as PickOrder
        from dst.cli.verbs.quantize_auto import pick_recipe
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
