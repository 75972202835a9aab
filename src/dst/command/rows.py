"""Items that are numbers: a .npy, raw float32 or CSV input goes in, blocks of items come out.

Shape letters: `n` items, `F` features.
"""

from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from dst.command.errors import WrongUseError
from dst.command.source import Source, Stop, never
from dst.command.token_text import token_blocks
from dst.runtime import TextTokenizer
from dst.runtime.manifest import Chunk, Tokens
from dst.words import counted

Array = npt.NDArray[np.generic]

BLOCK_ITEMS = 4096
LINE_BYTES = 1 << 20  # of a line of CSV, at most
RAW_SUFFIXES = (".f32", ".raw", ".bin")


def item_blocks(
    path: str, chunk: Chunk, stop: Stop = never, tokenizer: TextTokenizer | None = None
) -> Iterator[Array]:
    """Yield the items of an input, `[n, ...]` in the contract's dtype; n = 0 where it pauses.

    Bytes for the tokenizer `bytes`, and text for a `tokenizer` that is given, unless the input is
    a `.npy` file of ids. Otherwise the name decides: `.npy`; `.f32`, `.raw` or
    `.bin` for little-endian float32, row after row; all else is CSV, one item per line,
    after a first line of names, if there is one.

    Raises:
        OSError: the input cannot be read.
        WrongUseError: it does not hold items of this model; the message says where.
    """
    content = chunk.content
    if isinstance(content, Tokens) and content.tokenizer == "bytes":
        for block in Source.open(path).blocks(stop):
            yield np.frombuffer(block, np.uint8).astype(chunk.dtype)
        return
    if tokenizer is not None and PurePath(path).suffix.lower() != ".npy":
        yield from token_blocks(path, tokenizer, chunk.dtype, stop)
        return
    item = tuple(size for size in chunk.shape if not isinstance(size, str))
    width = int(np.prod(item)) if item else 1
    seen = 0
    for rows in _rows(path, width, stop):
        yield _checked(rows, path, seen, chunk).reshape(-1, *item)
        seen += len(rows)


def _rows(path: str, width: int, stop: Stop) -> Iterator[Array]:
    """Yield numbers `[n, width]` of any dtype."""
    suffix = PurePath(path).suffix.lower()
    if suffix == ".npy":
        yield from _npy(path, width, stop)
    elif suffix in RAW_SUFFIXES:
        yield from _raw(path, width, stop)
    else:
        yield from _csv(path, width, stop)


def _npy(path: str, width: int, stop: Stop) -> Iterator[Array]:
    try:
        whole = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError) as error:
        raise WrongUseError(f"{path}: is no .npy array of numbers: {error}") from None
    if whole.dtype.kind not in "fiu" or not whole.ndim or whole.size != len(whole) * width:
        raise WrongUseError(
            f"{path}: holds {whole.dtype} {list(whole.shape)}, expected numbers [n, {width}]"
        )
    for at in range(0, len(whole), BLOCK_ITEMS):
        if stop():
            return
        yield np.array(whole[at : at + BLOCK_ITEMS]).reshape(-1, width)


def _raw(path: str, width: int, stop: Stop) -> Iterator[Array]:
    left = b""
    for block in Source.open(path).blocks(stop):
        left += block
        whole = len(left) // (4 * width) * 4 * width
        yield np.frombuffer(left[:whole], "<f4").reshape(-1, width)
        left = left[whole:]
    if left and not stop():
        raise WrongUseError(
            f"{path}: ends with {counted(len(left), 'byte')} of an item, expected whole items of "
            f"{width} float32"
        )


def _csv(path: str, width: int, stop: Stop) -> Iterator[Array]:
    """Read lines of numbers; the first line may name the columns."""
    number, seen, header = 0, 0, b""
    for lines in _lines(path, stop):
        if lines and not number:
            lines[0] = lines[0].removeprefix(BOM_UTF8)
            if _is_header(lines[0]):
                header, lines[0] = lines[0], b""
        rows = _parse(lines, path, number, width)
        yield rows
        number, seen = number + len(lines), seen + len(rows)
    if header and not seen and not stop():
        raise WrongUseError(
            f"{path}: line 1 is not a row of numbers, and none follows: {header[:60]!r}; expected "
            f"lines of numbers with commas, {width} per item"
        )


def _lines(path: str, stop: Stop) -> Iterator[list[bytes]]:
    """Yield the lines that each block completes, and at the end what no newline ends."""
    left, number = b"", 0
    for block in Source.open(path).blocks(stop):
        *lines, left = (left + block).split(b"\n")
        for place, line in ((1, [*lines, left][0]), (len(lines) + 1, left)):
            if len(line) > LINE_BYTES:
                raise WrongUseError(
                    f"{path}: line {number + place} is longer than {LINE_BYTES >> 20} MiB; "
                    "expected numbers with commas, one item per line"
                )
        number += len(lines)
        yield lines
    if left and not stop():
        yield [left]


def _is_header(line: bytes) -> bool:
    """Say whether a line holds words alone: one number among them, and it is a broken row."""
    return bool(line.strip(b", \t\r")) and not any(map(_is_number, line.split(b",")))


def _is_number(part: bytes) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True


def _parse(lines: list[bytes], path: str, number: int, width: int) -> Array:
    """Read lines of comma-separated numbers, the first of them line `number` + 1."""
    rows: list[list[float]] = []
    for place, line in enumerate(lines, number + 1):
        if not line.strip():
            continue
        try:
            row = [float(part) for part in line.split(b",")]
        except ValueError:
            raise WrongUseError(
                f"{path}: line {place} is not a row of numbers: {line[:60]!r}"
            ) from None
        if len(row) != width:
            raise WrongUseError(
                f"{path}: line {place} has {counted(len(row), 'number')}, this model "
                f"reads {width} per item"
            )
        rows.append(row)
    return np.asarray(rows, np.float64).reshape(-1, width)


def _checked(rows: Array, path: str, seen: int, chunk: Chunk) -> Array:
    """Bring numbers to the contract's dtype, if they stand for the same items there."""
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is told below
        values, cast = rows.astype(np.float64), rows.astype(chunk.dtype)
    for held, what in (
        (values, "a NaN or an infinity"),
        (cast, f"a number that is too large for {chunk.dtype}"),
    ):
        bad = ~np.isfinite(held).all(axis=1)
        if bad.any():
            raise WrongUseError(f"{path}: item {seen + int(np.argmax(bad)) + 1} holds {what}")
    if isinstance(chunk.content, Tokens) and (cast.astype(np.float64) != values).any():
        raise WrongUseError(f"{path}: holds numbers that are no {chunk.dtype} token ids")
    return cast
