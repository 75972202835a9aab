"""Read CSV: one item per line, separated by comma, semicolon or tab."""

import csv
import math
import re
from collections.abc import Iterator
from contextlib import suppress

from dst.cli.errors import WrongUseError
from dst.cli.inputs.block import Block, Wanted
from dst.cli.inputs.lines import SHOWN, Columns, Rows, choose, unnamed
from dst.words import counted

_TEXT = (
    "is text, this model reads token ids, and its bundle has no tokenizer.json to make ids of "
    "text; give ids, as a .npy array or as a CSV with an id per line, or export the model from a "
    "directory with a tokenizer.json by dst export --from-hf DIR"
)
GAP_WORDS = frozenset({"", "nan", "-nan", "na", "n/a", "<na>", "null", "none"})

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_PLAIN = re.compile(rb"[0-9eE+\-., ;\t]*\r?")  # no quotes, no words: split and float() read it
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?", re.ASCII)
_LIKE_A_NUMBER = re.compile(  # a row that begins so is broken; it is no row of names
    r"[+-]?(?:[\d._,' ]*\d[\d._,' ]*(?:[eE][+-]?\d+)?|0[xX][\da-fA-F]+|inf|infinity)", re.IGNORECASE
)
_UNDERSCORES = re.compile(r"[+-]?[\d_]+\.?[\d_]*", re.ASCII)


def csv_blocks(wanted: Wanted, blocks: Iterator[bytes]) -> Iterator[Block]:
    """Yield the rows of a CSV; a first line without any number names the columns."""
    table = _Table(wanted)
    try:
        yield from table.blocks(blocks)
        if table.header and not table.seen:
            raise wanted.refuse(
                f"line 1 is not a row of numbers, and none follows: {table.header[:SHOWN]!r}; "
                f"expected lines of numbers with commas, {wanted.width} per item"
            )
    except WrongUseError:
        if table.header and not table.seen and wanted.may_be_text:
            raise WrongUseError(f"{wanted.path}: {_TEXT}") from None
        raise


class _Table(Rows):
    """Reads the lines of one table; the first of them tells separator and columns."""

    header = ""
    _separator = ","

    def read(self, number: int, line: bytes) -> None:
        """Read one line."""
        columns = self._columns
        if columns is None:
            columns = self._begin(number, line)
            if self.header:
                return
        if _PLAIN.fullmatch(line):
            parts = line.split(self._separator.encode())
            if len(parts) == columns.count:
                with suppress(ValueError):
                    values = [float(parts[place]) for place in columns.places]
                    time = "" if columns.time is None else parts[columns.time].decode().strip()
                    self.add(number, values, time, "")
                    return
        self._by_cells(number, self._cells(number, line), columns)

    def _begin(self, number: int, line: bytes) -> Columns:
        """Find out from the first line how cells are separated and what columns there are."""
        outside = re.sub(rb'"[^"]*"', b"", line)
        self._separator = next((s for s in "\t;," if s.encode() in outside), ",")
        cells = [cell.strip() for cell in self._cells(number, line)]
        named = not any(_LIKE_A_NUMBER.fullmatch(cell) for cell in cells)
        if named and any(cell.lower() not in GAP_WORDS for cell in cells):
            self.header = line.decode("utf-8", "replace").strip()
            self._columns = choose(self._wanted, cells, number)
        else:
            self._columns = unnamed(self._wanted)
            if len(cells) > 1 and cells == [str(place) for place in range(len(cells))]:
                self._wanted.found.notes.append(
                    f"line {number} reads {','.join(cells)[:SHOWN]} and was taken for an item; if "
                    "these are names of columns, leave the line out"
                )
        return self._columns

    def _cells(self, number: int, line: bytes) -> list[str]:
        if b"\r" in line.rstrip(b"\r"):
            raise self._wanted.refuse(
                f"line {number} holds a carriage return that no newline follows, and is perhaps "
                f"several lines: {line[:SHOWN]!r}; write each line end as \\n or \\r\\n"
            )
        try:
            text = line.decode("utf-8").rstrip("\r")
            return next(
                csv.reader([text], delimiter=self._separator, strict=True, skipinitialspace=True)
            )
        except UnicodeDecodeError:
            raise self._wanted.refuse(
                f"line {number} is not UTF-8 text: {line[:SHOWN]!r}"
            ) from None
        except (csv.Error, StopIteration) as error:
            raise self._wanted.refuse(
                f"line {number} cannot be cut into cells ({error}): {line[:SHOWN]!r}"
            ) from None

    def _by_cells(self, number: int, cells: list[str], columns: Columns) -> None:
        """Take a row that needs a look at each cell."""
        values, gap, time = list[float](), "", ""
        if len(cells) > columns.count:
            self._too_many(number, cells, columns)
        for place in columns.places:
            cell = cells[place].strip() if place < len(cells) else ""
            value = self._value(number, cell, columns, place)
            if math.isnan(value) and not gap:
                gap = (
                    f"has {counted(len(cells), 'value')}, {columns.count} are expected"
                    if place >= len(cells)
                    else f"has no number in {columns.called(place)}: {cell!r}"
                )
            values.append(value)
        if columns.time is not None and columns.time < len(cells):
            time = cells[columns.time].strip()
        self.add(number, values, time, gap)

    def _value(self, number: int, cell: str, columns: Columns, place: int) -> float:
        if _NUMBER.fullmatch(cell):
            return float(cell)
        if cell.lower() in GAP_WORDS:
            return math.nan
        hint = ""
        if _DECIMAL_COMMA.fullmatch(cell):
            hint = f"; a decimal comma is not read, write {cell.replace(',', '.')}"
        elif "_" in cell and _UNDERSCORES.fullmatch(cell):
            hint = f"; write {cell.replace('_', '')}"
        elif not columns.names and " " in cell:
            hint = "; separate numbers by comma, semicolon or tab"
        raise self._wanted.refuse(
            f"line {number}, {columns.called(place)} is not a number: {cell[:SHOWN]!r}{hint}"
        )

    def _too_many(self, number: int, cells: list[str], columns: Columns) -> None:
        reads = f"this model reads {self._wanted.width} per item"
        what = f"line 1 names {columns.count}" if columns.names else reads
        why = f"line {number} has {counted(len(cells), 'value')}, {what}"
        if self._separator == "," and len(cells) == 2 * columns.count:
            why += "; a decimal comma is not read, write 1.5 for 1,5"
        option = "with a first line of names, --columns A,B says which to read"
        raise self._wanted.refuse(why, "" if columns.names else option)
