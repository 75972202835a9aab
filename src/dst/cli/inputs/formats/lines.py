"""Cut blocks of bytes into lines, and gather the rows that lines hold."""

from codecs import BOM_UTF8
from collections.abc import Iterator

import numpy as np

from dst.cli.inputs.formats.block import Block, Wanted

LINE_BYTES = 1 << 20  # of a line, at most
SHOWN = 60  # bytes of a line in a message


def lines_of(wanted: Wanted, blocks: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines that each block completes, and at the end what no newline ends.

    An empty list says that the input has paused.

    Raises:
        WrongUseError: a line is longer than 1 MiB.
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


class Rows:
    """Gathers the rows of one block after the other.

    A blank line counts as an item whose values are missing once a row follows it: only blank
    lines at the end of an input mean nothing.
    """

    __slots__ = ("_blank", "_gaps", "_lines", "_rows", "_times", "_wanted", "seen")

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._blank: list[int] = []
        self.seen = 0
        self._start()

    @property
    def none(self) -> bool:
        """Whether no row has come yet."""
        return not (self.seen or self._rows)

    def _start(self) -> None:
        self._rows: list[list[float]] = []
        self._lines: list[int] = []
        self._times: list[str] = []
        self._gaps: dict[int, str] = {}

    def blank(self, line: int) -> None:
        """Note a blank line."""
        self._blank.append(line)

    def add(self, line: int, values: list[float], time: str, gap: str) -> None:
        """Take a row; `gap` says what of it is missing, "" for nothing."""
        for number in self._blank:
            self._put(number, [float("nan")] * self._wanted.width, "", "is blank, inside the data")
        self._blank.clear()
        self._put(line, values, time, gap)

    def _put(self, line: int, values: list[float], time: str, gap: str) -> None:
        if gap:
            self._gaps[len(self._rows)] = f"line {line} {gap}"
        self._rows.append(values)
        self._lines.append(line)
        self._times.append(time)

    def take(self) -> Block:
        """Return the rows gathered so far and start anew."""
        lines = self._lines
        values = np.asarray(self._rows, np.float64).reshape(-1, self._wanted.width)
        timed = self._wanted.form.time is not None
        self.seen += len(values)
        block = Block(
            values, lambda row: f"line {lines[row]}", self._gaps, self._times if timed else None
        )
        self._start()
        return block
