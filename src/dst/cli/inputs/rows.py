"""Read the items of an input in blocks: bytes for a model of bytes, numbers for any other.

Shape letters: `n` items.
"""

import math
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from dst.cli.errors import WrongUseError
from dst.cli.inputs.block import Block, Form, Found, Wanted, without_gaps
from dst.cli.inputs.clock import of_table, reads_times, with_times
from dst.cli.inputs.jsonl import jsonl_blocks
from dst.cli.inputs.samples import npy_blocks, npz_blocks, raw_blocks, wav_blocks
from dst.cli.inputs.source import Source, Stop, never, token_blocks
from dst.cli.inputs.table import csv_blocks
from dst.cli.inputs.which import HEAD_BYTES, format_of
from dst.runtime import TextTokenizer
from dst.runtime.bundle.manifest import Chunk, Tokens, item_shape

Array = npt.NDArray[np.generic]

AS_IT_STANDS = Form(options=False)
_BINARY_STARTS = (b"RIFF", b"\x93NUMPY", b"PK")  # a newline among these ends no line


@dataclass(frozen=True, slots=True)
class Items:
    """Some items of an input."""

    values: Array  # `[n, ...]` in the contract's dtype; n = 0 where a pipe has paused
    times: list[str] | None  # the text of the time column for each of them; None without one


def item_blocks(
    path: str, chunk: Chunk, stop: Stop = never, tokenizer: TextTokenizer | None = None
) -> Iterator[Array]:
    """Yield the items of an input as it stands, `[n, ...]` in the contract's dtype."""
    for items in read_items(path, chunk, AS_IT_STANDS, Found(), stop, tokenizer):
        yield items.values


def read_items(
    path: str,
    chunk: Chunk,
    form: Form,
    found: Found,
    stop: Stop = never,
    tokenizer: TextTokenizer | None = None,
) -> Iterator[Items]:
    """Yield the items of an input of any format; without any where a pipe has paused.

    With a tokenizer the input is text, unless it is a `.npy` file or the form names a format: those
    hold ids. `found` is told what turns up.
    """
    content, tokens = chunk.content, isinstance(chunk.content, Tokens)
    if tokenizer is not None and form.format is None and not path.lower().endswith(".npy"):
        found.format = "text"
        for ids in token_blocks(path, tokenizer, chunk.dtype, stop):
            yield Items(ids, None)
        return
    source = Source.open(path)
    if isinstance(content, Tokens) and content.tokenizer == "bytes":
        yield from _bytes(source, chunk, found, stop)
        return
    item = item_shape(chunk)
    wanted = Wanted(
        path="standard input" if path == "-" else path,
        width=math.prod(item),
        names=() if isinstance(content, Tokens) else content.names,
        input=chunk.input,
        rate_hz=None if isinstance(content, Tokens) else content.sample_rate_hz,
        scaled=not tokens and np.dtype(chunk.dtype).kind == "f",
        ids=tokens,
        form=form,
        found=found,
        stop=stop,
    )
    try:
        for whole in _blocks(wanted, path, source, reads_times(content)):
            values = _cast(whole, wanted, chunk).reshape(-1, *item)
            if len(values) or source.size is None:
                yield Items(values, whole.times)
    except WrongUseError:
        if not stop():  # what ends in the middle of an item because it was stopped is no fault
            raise


def _bytes(source: Source, chunk: Chunk, found: Found, stop: Stop) -> Iterator[Items]:
    begun = False
    for block in source.blocks(stop):
        if not begun and block.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            found.notes.append(
                "begins with the byte-order mark of UTF-16, and this model reads bytes; "
                "iconv -f UTF-16 -t UTF-8 FILE makes UTF-8 of it"
            )
        begun = begun or bool(block)
        yield Items(np.frombuffer(block, np.uint8).astype(chunk.dtype), None)


def _blocks(wanted: Wanted, path: str, source: Source, clock: bool) -> Iterator[Block]:
    """Find out the format by the first bytes and read all of it, without gaps."""
    blocks = source.blocks(wanted.stop)
    head = b""
    while len(head) < HEAD_BYTES and not (b"\n" in head and not head.startswith(_BINARY_STARTS)):
        block = next(blocks, None)
        if block is None:
            break
        head += block
    name = wanted.found.format = format_of(wanted, head)
    if name not in ("csv", "jsonl") and (wanted.form.time or wanted.form.columns):
        option = "--time" if wanted.form.time else "--columns"
        raise wanted.refuse(f"is read as {name}, which has no columns for {option} to name")
    if name in ("npy", "npz"):
        whole = None if source.size is not None and path != "-" else head + b"".join(blocks)
        yield from without_gaps(
            wanted, (npy_blocks if name == "npy" else npz_blocks)(wanted, whole)
        )
        return
    rest = chain([head], blocks)
    table = {"csv": csv_blocks, "jsonl": jsonl_blocks}.get(name)
    if table is not None and clock:
        wanted = of_table(wanted)
        yield from with_times(wanted, without_gaps(wanted, table(wanted, rest)))
        return
    reader = wav_blocks if name == "wav" else table
    read = raw_blocks(wanted, name, rest) if reader is None else reader(wanted, rest)
    yield from without_gaps(wanted, read)


def _cast(block: Block, wanted: Wanted, chunk: Chunk) -> Array:
    """Bring numbers to the contract's dtype, if they stand for the same items there."""
    values = block.values
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is told below
        cast = values.astype(chunk.dtype)
    content = chunk.content
    if isinstance(content, Tokens):
        ids = (values >= 0) & (values < content.vocabulary) & (values == np.floor(values))
        bad, what = ~ids, f"no token id of this model (0 .. {content.vocabulary - 1})"
    elif cast.dtype.kind == "f":
        bad, what = ~np.isfinite(cast), f"too large for {chunk.dtype}"
    else:
        bad, what = cast.astype(np.float64) != values, f"no number of {chunk.dtype}"
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        raise wanted.refuse(f"{block.place(row)}: {values[row, column]:.15g} is {what}")
    return cast
