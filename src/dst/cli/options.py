"""Declare the options that several verbs share, and read what is written behind them."""

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from dst.cli.errors import WrongUseError

MAX_THREADS = 1024  # what the runtime takes
_SIZE = re.compile(r"[0-9]{1,18}")  # what any machine can count


def option(
    name: str, value: str, told: str, least: float | None = None, most: int | None = None
) -> Any:  # what typer itself returns
    """Declare an option in as few lines as can be: a verb's help fits a screen of 48 lines.

    `value` stands for its value, e.g. ``N``; what is told has the default, if not obvious.
    """
    return typer.Option(name, metavar=value, show_default=False, min=least, max=most, help=told)


def flag(name: str, told: str) -> Any:
    """Declare an option without a value."""
    return typer.Option(name, help=told)


def argument(value: str, told: str, least: int | None = None) -> Any:
    """Declare what stands behind a verb without a name."""
    return typer.Argument(metavar=value, min=least, help=told)


BUNDLE_HELP = "A directory, or shipped: log, text, feed."
PNG_HELP = "Draw it; needs matplotlib."

BundleArgument = Annotated[str, argument("BUNDLE", BUNDLE_HELP)]
Out = Annotated[Path, option("--out", "DIR", "The bundle to make.")]
Overwrite = Annotated[bool, flag("--overwrite", "Replace a bundle that stands there.")]
Json = Annotated[str | None, option("--json", "FILE", "The result as JSON; - for stdout.")]
ProviderName = Literal["cpu", "cuda", "tensorrt", "directml", "coreml", "openvino"]
Format = Literal["csv", "jsonl", "wav", "npy", "npz", "f32", "f64", "s16", "s24", "s32", "u8"]
"""Of an input of numbers."""
Gap = Literal["refuse", "hold", "skip"]  # what becomes of an item with a missing value
Provider = Annotated[
    ProviderName,
    option("--provider", "NAME", f"{' '.join(get_args(ProviderName))}; cpu by default."),
]
Threads = Annotated[
    int, option("--threads", "N", "Threads in an operator; else 1.", least=1, most=MAX_THREADS)
]
State = Annotated[Path | None, option("--state", "FILE", "Go on from it if it exists; save to it.")]
Description = Annotated[str, option("--description", "TEXT", "What it does.")]
License = Annotated[str, option("--license", "SPDX", "The weights' licence.")]
BundleName = Annotated[str | None, option("--name", "NAME", "The bundle's name; else that of DIR.")]

# How a graph or a module takes its items: adopt and export.
Sizes = Annotated[str | None, option("--t", "N[,N]", "Items per chunk, as in 1,16.")]
Lookback = Annotated[int, option("--lookback", "N", "Past items in front of each chunk.", least=0)]
Lookahead = Annotated[int, option("--lookahead", "N", "Items behind each chunk.", least=0)]
Tail = Annotated[
    Literal["exact", "pad", "refuse"] | None,
    option("--tail", "RULE", "At the end: exact, pad or refuse."),
]
Vocabulary = Annotated[int | None, option("--vocabulary", "N", "Number of token ids.", least=1)]
Tokenizer = Annotated[
    Literal["bytes", "none"], option("--tokenizer", "NAME", "bytes: ids are bytes; else none.")
]


def at_least(option: str, value: float, least: float) -> None:
    """Check that an option is a finite number and not too small; typer's `min` may let others pass.

    Examples:
        >>> at_least("--budget", float("nan"), 0)
        Traceback (most recent call last):
        dst.cli.errors.WrongUseError: --budget nan: expected a number of 0 or more
    """
    if not (math.isfinite(value) and value >= least):
        raise WrongUseError(f"{option} {value:g}: expected a number of {least:g} or more")


def sizes_of(text: str | None) -> tuple[int, ...]:
    """Read the value of `--t`: numbers of items per chunk; none where the option was left out.

    Examples:
        >>> sizes_of("16,1")
        (16, 1)
    """
    if text is None:
        return ()
    words = text.replace(",", " ").split()
    if not words or not all(_SIZE.fullmatch(word) and int(word) > 0 for word in words):
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise WrongUseError(f"--t {shown}: expected numbers of items per chunk, such as 1,16,32")
    return tuple(int(word) for word in words)


def names_of(option: str, found: list[str]) -> tuple[str, ...]:
    """Take names without the space around them, none empty and each once.

    Examples:
        >>> names_of("--columns", ["left", " right"])
        ('left', 'right')
    """
    names = tuple(name.strip() for name in found)
    if "" in names:
        raise WrongUseError(f"{option}: name {names.index('') + 1} is empty; expected names")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise WrongUseError(f"{option}: {twice!r} comes twice; expected each name once")
    return names
