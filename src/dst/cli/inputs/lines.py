"""Cut an input into lines, gather the rows that they hold, and choose the columns of a table."""

from abc import ABC, abstractmethod
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dst.cli.inputs.block import Block, Wanted

LINE_BYTES = 1 << 20  # of a line, at most
SHOWN = 60  # bytes of a line in a message


def lines_of(wanted: Wanted, blocks: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines that each block completes, and at the end what no newline ends.

    An empty list says that the input has paused.
    """
    left, number = b"", 0
    for block in blocks:
        *lines, left = (left + block).split(b"\n")
        for place, line in ((1, [*lines, left][0]), (len(lines) + 1, left)):
            if len(line) > LINE_BYTES:
                raise wanted.refuse(
                    f"line {number + place} is longer than {LINE_BYTES >> 20} MiB; expected one "
                    "item per line"
                )
        if lines and not number:
            lines[0] = lines[0].removeprefix(BOM_UTF8)
        number += len(lines)
        yield lines
    if left and not wanted.stop():
        yield [left if number else left.removeprefix(BOM_UTF8)]


class Rows(ABC):
    """Reads lines, and gathers the rows of one block after the other.

    A blank line counts as an item whose values are missing once a row follows it: only blank
    lines at the end of an input mean nothing.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._columns: Columns | None = None
        self._blank: list[int] = []
        self.seen = 0  # rows so far
        self._start()

    @abstractmethod
    def read(self, number: int, line: bytes) -> None:
        """Read one line that is not blank."""

    def blocks(self, blocks: Iterator[bytes]) -> Iterator[Block]:
        """Yield the rows of the lines that each block of bytes completes."""
        before = 0
        for lines in lines_of(self._wanted, blocks):
            for number, line in enumerate(lines, before + 1):
                if line.strip():
                    self.read(number, line)
                else:
                    self._blank.append(number)
            before += len(lines)
            yield self._take()

    def _start(self) -> None:
        self._rows: list[list[float]] = []
        self._lines: list[int] = []
        self._times: list[str] = []
        self._gaps: dict[int, str] = {}

    def add(self, line: int, values: list[float], time: str, gap: str) -> None:
        """Take a row; `gap` says what of it is missing, "" for nothing."""
        rows = [(line, values, time, gap)]
        if self._blank:
            nothing = [float("nan")] * self._wanted.width
            rows[:0] = [(n, nothing, "", "is blank, inside the data") for n in self._blank]
            self._blank.clear()
        for number, row, text, missing in rows:
            if missing:
                self._gaps[len(self._rows)] = f"line {number} {missing}"
            self._rows.append(row)
            self._lines.append(number)
            self._times.append(text)
            self.seen += 1

    def _take(self) -> Block:
        """Return the rows gathered so far and start anew."""
        lines, gaps = self._lines, self._gaps
        timed = self._columns is not None and self._columns.time is not None
        times = self._times if timed else None
        values = np.asarray(self._rows, np.float64).reshape(-1, self._wanted.width)
        self._start()
        return Block(values, lambda row: f"line {lines[row]}", gaps, times)


TIME_NAMES = {"time", "timestamp", "datetime", "date", "date_time", "ts", "t", "time_s", "time_ms"}

_CHOOSE = "--columns A,B says which to read, in the model's order"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table are read."""

    names: tuple[str, ...]  # all columns of the table, in its order; empty where nothing names them
    places: tuple[int, ...]  # for each number of an item, its column
    time: int | None  # the column whose text goes beside the answers, None for none
    count: int  # how many columns a row has

    def called(self, place: int) -> str:
        """Say which column it is: `column 2 (right)`."""
        name = self.names[place] if self.names else ""
        return f"column {place + 1}" + (f" ({name})" if name else "")


def unnamed(wanted: Wanted) -> Columns:
    """Read every column of a table whose columns have no names, in order."""
    if wanted.form.columns or wanted.form.time is not None:
        option = "--columns" if wanted.form.columns else "--time"
        raise wanted.refuse(f"line 1 names no columns, so {option} has none to choose from")
    return Columns((), tuple(range(wanted.width)), None, wanted.width)


def choose(wanted: Wanted, header: Sequence[str], line: int) -> Columns:
    """Match the columns of a table, which a line names, with what the model reads.

    `--columns` says which, in the model's order. Otherwise they are matched by the model's names,
    in any order, or taken as they stand where the model has no names. A column that looks like a
    time by its name is left out, any other column too many is refused.
    """
    form, names = wanted.form, [name.strip() for name in header]
    time = None
    if form.time is not None:
        time = _place(wanted, names, form.time, line, "--time")
    elif wanted.clock:
        time = next((at for at, name in enumerate(names) if name.lower() in TIME_NAMES), None)
    named = form.columns or (wanted.names if len(wanted.names) == wanted.width else ())
    if wanted.clock and wanted.width == 1 and not form.columns and named[0] not in names:
        named = ()  # the only value of a model for any stream has any name
    if form.columns and len(form.columns) != wanted.width:
        raise wanted.refuse(
            f"--columns names {len(form.columns)}, this model reads {_reads(wanted)}"
        )
    others = [place for place in range(len(names)) if place != time]
    if named:
        option = "--columns" if form.columns else ""
        places = [_place(wanted, names, name, line, option) for name in named]
    else:
        places = others
        if len(others) > wanted.width:
            places = [place for place in others if names[place].lower() not in TIME_NAMES]
        if len(places) != wanted.width:
            raise wanted.refuse(
                f"line {line} names {len(names)} columns ({_list(names)}), this model reads "
                f"{_reads(wanted)}",
                f"{_CHOOSE}; --time NAME keeps one beside the answers"
                if len(places) == wanted.width + 1 and form.time is None
                else _CHOOSE,
            )
        for name in (names[place] for place in places if names[place].lower() in TIME_NAMES):
            wanted.found.notes.append(
                f"line {line} names the column `{name}`; it is read as a feature, as without it "
                f"there are too few: this model reads {_reads(wanted)}"
            )
        if wanted.width > 1:
            read = [names[place] for place in places]
            wanted.found.notes.append(
                f"the columns are read in the order of the file: {_list(read)}; this model has no "
                "names to match them with (export_bundle takes `features`)"
            )
    left = [place for place in others if place not in places]
    extra = [names[place] for place in left if names[place].lower() not in TIME_NAMES]
    if extra and not form.columns:
        raise wanted.refuse(
            f"line {line} names columns that this model does not read: {_list(extra)}",
            f"--columns {','.join(names[place] for place in places)} leaves them out",
        )
    wanted.found.left_out = tuple(names[place] for place in left)
    return Columns(tuple(names), tuple(places), time, len(names))


def _place(wanted: Wanted, names: list[str], name: str, line: int, option: str) -> int:
    if names.count(name) == 1:
        return names.index(name)
    if name in names:
        raise wanted.refuse(f"line {line} names the column `{name}` twice")
    said = f"which {option} names" if option else f"which this model reads ({_reads(wanted)})"
    why = f"line {line} names {_list(names)}, but not `{name}`, {said}"
    raise wanted.refuse(why, "" if option else _CHOOSE)


def _reads(wanted: Wanted) -> str:
    if len(wanted.names) == wanted.width:
        return f"{wanted.width} per item: {_list(wanted.names)}"
    return f"{wanted.width} per item"


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(name or "(no name)" for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")
