"""Keep the most surprising lines or items, so many and no more."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from dst.cli.answers.scores import Floats

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class Item:
    """One item and its surprise.

    Attributes:
        number: counted from 1 at the start of the stream.
        score: in the unit of the measure.
        values: what it holds, flat.
        time: the text of the time column, "" without one.
    """

    number: int
    score: float
    values: npt.NDArray[np.generic]
    time: str


class Top(Generic[Kind]):
    """Keeps the `count` things of the highest rate; among equals the earlier ones.

    Example:
        >>> top = Top[str](2)
        >>> for number, (rate, what) in enumerate([(1.0, "a"), (3.0, "b"), (2.0, "c")]):
        ...     top.offer(rate, number, what)
        >>> top.best()
        ['b', 'c']
    """

    __slots__ = ("_count", "_heap")

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
