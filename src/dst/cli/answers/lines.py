"""Cut a scored stream of bytes into lines, and keep the most surprising lines or items."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from dst.cli.answers.scores import Floats

KEPT_BYTES = 4096  # of a line's text; its bits and length count whole

_NEWLINE = 10


@dataclass(frozen=True, slots=True)
class Line:
    """A line, or what there is of one."""

    number: int  # 1 for the first line of this input
    bits: float  # its surprise, newline included
    size: int  # bytes, newline included
    start: bytes  # its first `KEPT_BYTES` bytes, without the newline

    @property
    def rate(self) -> float:
        """Bits per byte."""
        return self.bits / self.size

    @property
    def text(self) -> str:
        """The text with everything escaped that would not stand in one line of a terminal."""
        return escape(self.start) + ("…" if self.size > KEPT_BYTES + 1 else "")


class Lines:
    """Cuts a scored stream into lines; keeps one line at most, and of that only the start."""

    def __init__(self) -> None:
        self._number, self._bits, self._size, self._start = 1, 0.0, 0, b""

    def feed(self, ids: npt.NDArray[np.integer], bits: npt.NDArray[np.float64]) -> list[Line]:
        """Take bytes `[n]` and their bits `[n]`; return the lines that are now complete."""
        done: list[Line] = []
        at = 0
        for end in (np.flatnonzero(ids == _NEWLINE) + 1).tolist():
            self._add(ids[at:end], bits[at:end])
            done.append(self._line())
            at = end
        self._add(ids[at:], bits[at:])
        return done

    def rest(self) -> Line | None:
        """Return the line that has no newline yet, or None."""
        return self._line() if self._size else None

    def _add(self, ids: npt.NDArray[np.integer], bits: npt.NDArray[np.float64]) -> None:
        self._bits += float(bits.sum())
        self._size += len(ids)
        self._start += ids[: KEPT_BYTES + 1 - len(self._start)].astype(np.uint8).tobytes()

    def _line(self) -> Line:
        """Return the line so far, and begin the next one."""
        start = self._start.removesuffix(b"\n")[:KEPT_BYTES]
        line = Line(self._number, self._bits, self._size, start)
        self._number, self._bits, self._size, self._start = self._number + 1, 0.0, 0, b""
        return line


def escape(data: bytes) -> str:
    r"""Decode UTF-8 and escape control characters and what is not UTF-8.

    Examples:
        >>> print(escape(b"caf\xc3\xa9\t\xff"))
        café\t\xff
    """
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


Kind = TypeVar("Kind")


class Top(Generic[Kind]):
    """Keeps the `count` things of the highest rate; among equals the earlier ones.

    Examples:
        >>> top = Top[str](2)
        >>> for number, (rate, what) in enumerate([(1.0, "a"), (3.0, "b"), (2.0, "c")]):
        ...     top.offer(rate, number, what)
        >>> top.best()
        ['b', 'c']
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[float, int, Kind]] = []

    def offer(self, rate: float, number: int, what: Kind) -> None:
        """Look at one more; `number` tells its place."""
        entry = (rate, -number, what)
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, entry)
        elif self._count:
            heapq.heappushpop(self._heap, entry)

    def worth(self, rates: Floats) -> Iterator[int]:
        """Yield the places in `rates` that `offer` might keep."""
        if not self._count:
            return
        floor = self._heap[0][0] if len(self._heap) == self._count else -np.inf
        yield from np.flatnonzero(rates > floor).tolist()

    def best(self) -> list[Kind]:
        """Return those kept, the highest first."""
        return [what for _, _, what in sorted(self._heap, key=lambda e: e[:2], reverse=True)]
