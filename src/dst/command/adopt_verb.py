"""The options of `dst adopt`."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dst.command.options import Json
from dst.command.output import Output


class TailName(StrEnum):
    """What happens to items that fill no chunk."""

    exact = "exact"
    pad = "pad"
    refuse = "refuse"


class TokenizerName(StrEnum):
    """What a token id is."""

    bytes = "bytes"
    none = "none"


def adopt(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A stateful ONNX file.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The bundle to make.")],
    chunk: Annotated[
        str | None, typer.Option("--chunk", metavar="NAME", help="The input that takes the chunk.")
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state", metavar="IN=OUT", help="A state: its input, and the output it becomes."
        ),
    ] = None,
    init: Annotated[
        list[str] | None,
        typer.Option(
            "--init",
            metavar="IN=VALUE",
            help="What a state starts from: a number, a .npy or a .safetensors file.",
        ),
    ] = None,
    constant: Annotated[
        list[str] | None,
        typer.Option(
            "--constant",
            metavar="NAME=VALUE",
            help="An input that never changes: a number, numbers with commas, or a file.",
        ),
    ] = None,
    stream_input: Annotated[
        list[str] | None,
        typer.Option(
            "--stream-input",
            metavar="NAME[=VALUE]",
            help="An input that is given once when a stream starts; with an example to try.",
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="NAME=B,T,80",
            help="The axes of an input or output in the file's order: B, T or a size.",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", metavar="NAME", help="Leave this output out."),
    ] = None,
    t: Annotated[
        str | None,
        typer.Option(
            "--t",
            metavar="N[,N]",
            help="Items per chunk: the sizes to run, the largest by default.",
        ),
    ] = None,
    lookback: Annotated[
        int,
        typer.Option("--lookback", metavar="N", min=0, help="Past items in front of each chunk."),
    ] = 0,
    lookahead: Annotated[
        int,
        typer.Option("--lookahead", metavar="N", min=0, help="Items behind each chunk."),
    ] = 0,
    lookback_fill: Annotated[
        float, typer.Option("--lookback-fill", metavar="X", help="What stands there at first.")
    ] = 0.0,
    tail: Annotated[
        TailName | None, typer.Option("--tail", help="What is done with a part of a chunk.")
    ] = None,
    pad: Annotated[
        float, typer.Option("--pad", metavar="X", help="What fills it up, with --tail pad.")
    ] = 0.0,
    vocabulary: Annotated[
        int | None, typer.Option("--vocabulary", metavar="N", min=1, help="Number of token ids.")
    ] = None,
    tokenizer: Annotated[
        TokenizerName, typer.Option("--tokenizer", help="bytes where an id is a byte.")
    ] = TokenizerName.none,
    meaning: Annotated[
        list[str] | None,
        typer.Option(
            "--meaning", metavar="OUT=WHAT", help="logits or gaussian: it foretells the next item."
        ),
    ] = None,
    sample_rate: Annotated[
        float | None, typer.Option("--sample-rate", metavar="HZ", help="Items per second.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE.npy", help="Items to try it on; noise by default."),
    ] = None,
    model_of: Annotated[
        str | None,
        typer.Option(
            "--model-of",
            metavar="BUNDLE",
            help="A bundle of the same model: where the data proves it, its id is kept.",
        ),
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(
            "--within",
            metavar="X",
            help="Largest distance of another precision of it (int8), as a share: 0.1.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The bundle's name; that of DIR by default.")
    ] = None,
    description: Annotated[str, typer.Option("--description", help="What it does.")] = "",
    license: Annotated[
        str, typer.Option("--license", metavar="SPDX", help="The weights' licence.")
    ] = "",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that stands there.")
    ] = False,
    json: Json = None,
) -> Callable[[], int]:
    """Prepare `dst.command.adopt`."""
    output = Output.to(json)
    from dst.command.adopt import Order
    from dst.command.adopt import adopt as work

    order = Order(
        model=model,
        out=out,
        chunk=chunk,
        states=state or [],
        inits=init or [],
        constants=constant or [],
        stream_inputs=stream_input or [],
        shapes=shape or [],
        drop=drop or [],
        t=t,
        lookback=lookback,
        lookahead=lookahead,
        lookback_fill=lookback_fill,
        tail=None if tail is None else tail.value,
        pad=pad,
        vocabulary=vocabulary,
        tokenizer=tokenizer.value,
        meanings=meaning or [],
        sample_rate_hz=sample_rate,
        data=data,
        model_of=model_of,
        within=within,
        name=name,
        description=description,
        license=license,
        overwrite=overwrite,
    )
    return lambda: work(order, output)
