"""The options of `dst export`: read a command line and prepare the call of `dst.command.export`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dst.command.adopt_verb import TailName, TokenizerName
from dst.command.options import Json
from dst.command.output import Output


def export(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The bundle to make.")],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE.py:NAME]", help="Your module: a class, function or instance."
        ),
    ] = None,
    chunk: Annotated[
        str | None,
        typer.Option("--chunk", metavar="SHAPE", help="Of an example: B,T,40 or 1,16:int64."),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="SHAPE", help="Of each state; none given: its own zeros."),
    ] = None,
    t: Annotated[
        str | None, typer.Option("--t", metavar="N[,N]", help="Items per chunk, as in 1,16.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FILE", help="Real items to prove it on; else random."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE.pt", help="A state dict.")
    ] = None,
    arguments: Annotated[
        str | None, typer.Option("--args", metavar="JSON", help="What to make NAME with.")
    ] = None,
    lookback: Annotated[
        int, typer.Option("--lookback", metavar="N", min=0, help="Past items before each chunk.")
    ] = 0,
    tail: Annotated[
        TailName | None, typer.Option("--tail", help="What is done with a part of a chunk.")
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option("--vocabulary", metavar="N", min=1, help="Number of token ids.")
    ] = None,
    tokenizer: Annotated[
        TokenizerName, typer.Option("--tokenizer", help="bytes where an id is a byte.")
    ] = TokenizerName.none,
    size: Annotated[
        str | None, typer.Option("--size", help="Our own network: tiny, small, base or 130m.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="Its trained weights, under 'model'."),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**64 - 1, help="Of random weights.")
    ] = 0,
    name: Annotated[
        str | None, typer.Option("--name", help="The bundle's name; that of DIR by default.")
    ] = None,
    description: Annotated[str, typer.Option("--description", help="What it does.")] = "",
    license: Annotated[
        str, typer.Option("--license", metavar="SPDX", help="The weights' licence.")
    ] = "",
    certify_steps: Annotated[
        int, typer.Option("--certify-steps", metavar="N", min=1, help="Steps per certificate.")
    ] = 1000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that stands there.")
    ] = False,
    json: Json = None,
) -> Callable[[], int]:
    """Prepare `dst.command.export`."""
    output = Output.to(json)
    from dst.command.export import Order
    from dst.command.export import export as work

    order = Order(
        model=model,
        chunk=chunk,
        states=tuple(state or ()),
        t=t,
        weights=weights,
        arguments=arguments,
        lookback=lookback,
        tail=None if tail is None else tail.value,
        vocabulary=vocabulary,
        tokenizer=tokenizer.value,
        size=size,
        seed=seed,
        checkpoint=checkpoint,
        out=out,
        name=name,
        description=description,
        license=license,
        data=data,
        certify_steps=certify_steps,
        overwrite=overwrite,
    )
    return lambda: work(order, output)
