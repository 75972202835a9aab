"""The options of `dst adopt`."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dst.cli.options import BundleName, Description, Json, License, Out, Overwrite, line
from dst.cli.output import Output


class TailName(StrEnum):
    """What happens to items that fill no chunk."""

    exact = "exact"
    pad = "pad"
    refuse = "refuse"


class TokenizerName(StrEnum):
    """What a token id is."""

    bytes = "bytes"
    none = "none"


TAIL_HELP = "At the end: exact, pad or refuse."
TOKENIZER_HELP = "bytes: ids are bytes; else none."


def adopt(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A stateful ONNX file.")],
    out: Out,
    chunk: Annotated[str | None, line("--chunk", "NAME", "The input that takes the chunk.")] = None,
    state: Annotated[
        list[str] | None, line("--state", "IN=OUT", "A state's input, and its output.")
    ] = None,
    init: Annotated[
        list[str] | None, line("--init", "IN=VALUE", "A state's start: a number or file.")
    ] = None,
    constant: Annotated[
        list[str] | None, line("--constant", "NAME=VALUE", "Never changes: 16000, 1,2 or a file.")
    ] = None,
    stream_input: Annotated[
        list[str] | None, line("--stream-input", "NAME[=VALUE]", "Given once, at a stream's start.")
    ] = None,
    shape: Annotated[
        list[str] | None, line("--shape", "NAME=B,T,80", "Its axes, in the file's order.")
    ] = None,
    drop: Annotated[list[str] | None, line("--drop", "NAME", "Leave this output out.")] = None,
    t: Annotated[str | None, line("--t", "N[,N]", "Items per chunk, as in 1,32.")] = None,
    lookback: Annotated[
        int, line("--lookback", "N", "Past items in front of each chunk.", least=0)
    ] = 0,
    lookahead: Annotated[int, line("--lookahead", "N", "Items behind each chunk.", least=0)] = 0,
    lookback_fill: Annotated[
        float, line("--lookback-fill", "X", "What stands there at first; else 0.")
    ] = 0.0,
    tail: Annotated[TailName | None, line("--tail", "RULE", TAIL_HELP)] = None,
    pad: Annotated[float, line("--pad", "X", "What --tail pad fills in; else 0.")] = 0.0,
    vocabulary: Annotated[
        int | None, line("--vocabulary", "N", "Number of token ids.", least=1)
    ] = None,
    tokenizer: Annotated[
        TokenizerName, line("--tokenizer", "NAME", TOKENIZER_HELP)
    ] = TokenizerName.none,
    meaning: Annotated[
        list[str] | None,
        line("--meaning", "OUT=WHAT", "logits, gaussian: of the next item."),
    ] = None,
    sample_rate: Annotated[float | None, line("--sample-rate", "HZ", "Items per second.")] = None,
    data: Annotated[
        Path | None, line("--data", "FILE.npy", "Items to try it on; else noise.")
    ] = None,
    model_of: Annotated[
        str | None, line("--model-of", "BUNDLE", "Keep its id, if the same model.")
    ] = None,
    within: Annotated[
        float | None, line("--within", "X", "With it, int8: error allowed: 0.1.")
    ] = None,
    name: BundleName = None,
    description: Description = "",
    license: License = "",
    overwrite: Overwrite = False,
    json: Json = None,
) -> Callable[[], int]:
    """Prepare `dst.cli.verbs.adopt`."""
    output = Output.to(json)
    from dst.cli.verbs.adopt import Order
    from dst.cli.verbs.adopt import adopt as work

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
