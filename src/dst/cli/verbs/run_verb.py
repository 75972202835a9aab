"""The options of `dst run`."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dst.cli.errors import WrongUseError
from dst.cli.options import (
    BundleArgument,
    Json,
    Provider,
    ProviderName,
    State,
    Threads,
    line,
)
from dst.cli.output import Output


class PerName(StrEnum):
    """What `dst run` prints."""

    none = "none"
    line = "line"
    item = "item"


class GapName(StrEnum):
    """What `dst run` does about missing values."""

    refuse = "refuse"
    hold = "hold"
    skip = "skip"


class FormatName(StrEnum):
    """What `dst run` reads."""

    csv = "csv"
    jsonl = "jsonl"
    wav = "wav"
    npy = "npy"
    npz = "npz"
    f32 = "f32"
    f64 = "f64"
    s16 = "s16"
    s24 = "s24"
    s32 = "s32"
    u8 = "u8"


def run(
    bundle: BundleArgument,
    file: Annotated[
        str, typer.Argument(metavar="[FILE|-]", help="What to read; - for standard input.")
    ] = "-",
    out: Annotated[
        str | None,
        line("--out", "FILE", "Answers: .npy .csv .jsonl; - for CSV."),
    ] = None,
    outputs: Annotated[
        list[str] | None, line("--output", "NAME", "Only this output; may be repeated.")
    ] = None,
    classes: Annotated[
        str | None, line("--classes", "A,B", "Class names, or a file of them.")
    ] = None,
    per: Annotated[PerName, line("--per", "WHAT", "Print each line, or each item.")] = PerName.none,
    top: Annotated[int, line("--top", "N", "Show the N most surprising.", least=0)] = 0,
    format: Annotated[
        FormatName | None, line("--format", "KIND", f"{' '.join(FormatName)}.")
    ] = None,
    columns: Annotated[
        str | None, line("--columns", "A,B", "Columns to read, in the model's order.")
    ] = None,
    time: Annotated[
        str | None, line("--time", "NAME", "Keep this column beside the answers.")
    ] = None,
    gap: Annotated[
        GapName, line("--gap", "RULE", "refuse missing values, hold or skip.")
    ] = GapName.refuse,
    stream_inputs: Annotated[
        list[str] | None, line("--stream-input", "N=FILE", "What a stream is given once.")
    ] = None,
    state: State = None,
    save_every: Annotated[
        int | None, line("--save-every", "N", "Save to --state every N items or so.", least=1)
    ] = None,
    chunk: Annotated[
        int | None, line("--chunk", "T", "Items per step; else the bundle's own.")
    ] = None,
    provider: Provider = ProviderName.cpu,
    threads: Threads = 1,
    json: Json = None,
) -> Callable[[], int]:
    """Prepare `dst.cli.verbs.run`."""
    output = Output.to(json)
    named = () if classes is None else _classes(classes)
    from dst.cli.inputs.formats.block import Form
    from dst.cli.verbs.run import Wish
    from dst.cli.verbs.run import run as work

    form = Form(
        format=None if format is None else format.value,
        gap=gap.value,
        time=time,
        columns=() if columns is None else _names("--columns", columns.split(",")),
    )
    wish = Wish(
        per=per.value,
        top=top,
        out=out,
        outputs=tuple(outputs or ()),
        classes=named,
        form=form,
        stream_inputs=tuple(stream_inputs or ()),
        state=state,
        save_every=save_every,
        chunk=chunk,
    )
    return lambda: work(bundle, file, provider.value, threads, wish, output)


def _classes(text: str) -> tuple[str, ...]:
    """Read names with commas between them, or a file with one per line.

    Raises:
        OSError: the file cannot be read.
        WrongUseError: it is no text, or a name is empty or comes twice.
    """
    path = Path(text)
    if "," in text or not path.is_file():
        return _names("--classes", text.split(","))
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise WrongUseError(f"--classes {text}: is not UTF-8 text") from None
    return _names(f"--classes {text}", lines)


def _names(option: str, found: list[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in found)
    if "" in names:
        raise WrongUseError(f"{option}: name {names.index('') + 1} is empty; expected names")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise WrongUseError(f"{option}: {twice!r} comes twice; expected each name once")
    return names
