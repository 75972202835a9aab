"""The options of `dst export`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from dst.cli.errors import WrongUseError
from dst.cli.options import BundleName, Description, Json, License, Out, Overwrite, line
from dst.cli.output import Output
from dst.cli.verbs.adopt_verb import TAIL_HELP, TOKENIZER_HELP, TailName, TokenizerName

MAX_SEED = 2**64 - 1  # what torch takes


def export(
    out: Out,
    model: Annotated[
        str | None, typer.Argument(metavar="[FILE.py:NAME]", help="A class, function or instance.")
    ] = None,
    chunk: Annotated[
        str | None, line("--chunk", "SHAPE", "Of an example: B,T,40 or 1,16:int64.")
    ] = None,
    state: Annotated[
        list[str] | None, line("--state", "SHAPE", "Of each state: 2,B,64; else zeros.")
    ] = None,
    t: Annotated[str | None, line("--t", "N[,N]", "Items per chunk, as in 1,16.")] = None,
    data: Annotated[
        str | None, line("--data", "FILE", "Real items to prove it on; else random.")
    ] = None,
    weights: Annotated[Path | None, line("--weights", "FILE.pt", "A state dict.")] = None,
    arguments: Annotated[str | None, line("--args", "JSON", "What to make NAME with.")] = None,
    lookback: Annotated[
        int, line("--lookback", "N", "Past items in front of each chunk.", least=0)
    ] = 0,
    lookahead: Annotated[int, line("--lookahead", "N", "Items behind each chunk.", least=0)] = 0,
    non_causal: Annotated[
        bool, typer.Option("--non-causal", help="Later items may move earlier answers.")
    ] = False,
    tail: Annotated[TailName | None, line("--tail", "RULE", TAIL_HELP)] = None,
    vocabulary: Annotated[
        int | None, line("--vocabulary", "N", "Number of token ids.", least=1)
    ] = None,
    tokenizer: Annotated[
        TokenizerName, line("--tokenizer", "NAME", TOKENIZER_HELP)
    ] = TokenizerName.none,
    from_hf: Annotated[
        Path | None, line("--from-hf", "DIR", "Instead: what save_pretrained wrote.")
    ] = None,
    size: Annotated[
        str | None, line("--size", "NAME", "Our network: tiny small base 130m.")
    ] = None,
    checkpoint: Annotated[
        Path | None, line("--checkpoint", "FILE", "Its trained weights, under 'model'.")
    ] = None,
    seed: Annotated[int, line("--seed", "N", "Of random weights; 0 by default.")] = 0,
    name: BundleName = None,
    description: Description = "",
    license: License = "",
    certify_steps: Annotated[
        int, line("--certify-steps", "N", "Steps per certificate; else 1000.", least=1)
    ] = 1000,
    bound: Annotated[
        float | None, line("--bound", "X", "Accept errors above 1e-5; recorded.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> Callable[[], int]:
    """Prepare `dst.cli.verbs.export`."""
    output = Output.to(json)
    if not 0 <= seed <= MAX_SEED:
        raise WrongUseError(f"--seed {seed}: expected a whole number from 0 to {MAX_SEED}")
    from dst.cli.verbs.export import Order
    from dst.cli.verbs.export import export as work

    order = Order(
        model=model,
        chunk=chunk,
        states=tuple(state or ()),
        t=t,
        weights=weights,
        arguments=arguments,
        lookback=lookback,
        lookahead=lookahead,
        causal=not non_causal,
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
        bound=bound,
        overwrite=overwrite,
        from_hf=from_hf,
    )
    return lambda: work(order, output)
