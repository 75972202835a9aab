"""Cut a scored stream of bytes into lines, and keep the most surprising lines or items."""

import heapq
from collections.abc import Iterator, Mapping
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
    head: bytes  # its first `KEPT_BYTES` bytes, newline included
    bits_of_head: Floats  # the bits of each of them

    @property
    def rate(self) -> float:
        """Bits per byte."""
        return self.bits / self.size

    @property
    def text(self) -> str:
        """The text with everything escaped that would not stand in one line of a terminal."""
        return escape(self.head.removesuffix(b"\n")) + ("…" if self.size > KEPT_BYTES else "")


class Lines:
    """Cuts a scored stream into lines; keeps one line at most, and of that only the head."""

    def __init__(self) -> None:
        self._number = 1
        self._begin()

    def _begin(self) -> None:
        self._bits, self._size, self._head = 0.0, 0, b""
        self._bits_of_head = np.zeros(0)

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

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What there is of the line that is not complete, and its number; `restore` takes it."""
        return {
            "text": np.frombuffer(self._head, np.uint8),
            "bits": self._bits_of_head,
            "line": np.array([self._number, self._bits, self._size], np.float64),
        }

    def restore(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on in the middle of a line."""
        number, self._bits, size = arrays["line"].tolist()
        self._number, self._size = int(number), int(size)
        self._head = arrays["text"].tobytes()
        self._bits_of_head = arrays["bits"].astype(np.float64)

    def _add(self, ids: npt.NDArray[np.integer], bits: npt.NDArray[np.float64]) -> None:
        self._bits += float(bits.sum())
        self._size += len(ids)
        room = KEPT_BYTES - len(self._head)
        self._head += ids[:room].astype(np.uint8).tobytes()
        self._bits_of_head = np.concatenate([self._bits_of_head, bits[:room]])

    def _line(self) -> Line:
        """Return the line so far, and begin the next one."""
        line = Line(self._number, self._bits, self._size, self._head, self._bits_of_head)
        self._number += 1
        self._begin()
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
