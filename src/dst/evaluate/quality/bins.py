"""Average a quantity per item over log-spaced ranges of positions in a stream.

Shape letters: `n` items, `O` outputs or tensors that are compared.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BINS_PER_DECADE = 4
FIRST_EDGE = 10
BLOCK_ITEMS = 512
"""Items that count as one sample of a mean; neighbours are too much alike to count alone."""


def edges(length: int) -> tuple[int, ...]:
    """Return where the ranges end: 10, 18, 32, 56, 100, … and at last `length`.

    A last range that would be less than half as wide as the others joins the one before.

    Examples:
        >>> edges(100)
        (10, 18, 32, 56, 100)
    """
    steps = range(math.ceil(BINS_PER_DECADE * math.log10(max(length, 1) / FIRST_EDGE)))
    rising = [round(FIRST_EDGE * 10 ** (step / BINS_PER_DECADE)) for step in steps]
    if rising and length < rising[-1] * 10 ** (0.5 / BINS_PER_DECADE):
        rising.pop()
    return (*rising, length)


def ratio(error: Floats, scale: Floats) -> Floats:
    """Return `error / scale` per place; 0 / 0 is 0, and anything else over 0 counts as 1.

    Examples:
        >>> ratio(np.array([1.0, 0.0, 3.0]), np.array([2.0, 0.0, 0.0])).tolist()
        [0.5, 0.0, 1.0]
    """
    safe = np.where(scale > 0, scale, 1.0)
    return np.where(scale > 0, error / safe, (error > 0).astype(np.float64))


def mean_of(error: Floats, scale: Floats, root: bool) -> float:
    """Return the mean over `O` of the ratios of two sums `[O]`, or the root of that mean."""
    mean = float(np.mean(ratio(error, scale)))
    return math.sqrt(mean) if root else mean


class Sums(NamedTuple):
    """What was summed over one range of positions.

    `error` `[O]` is over items of what is compared, `scale` `[O]` what it is divided by; `losses`
    are of the reference and of the other, in nats.
    """

    error: Floats
    scale: Floats
    losses: Floats
    items: int


class Bins:
    """Ranges of positions, of which each ends where `ends` says.

    Memory does not depend on how much is added. The value of a range is the mean over `O` of
    error / scale, or the root of that.

    Examples:
        >>> bins = Bins(edges(20), 1, root=False)
        >>> bins.add(0, np.arange(20.0)[:, None], np.ones((20, 1)), None)
        >>> bins.close()
        >>> [bins.value(where) for where in range(len(bins.ends))]
        [4.5, 14.5]
    """

    __slots__ = ("_block", "_places", "_root", "_samples", "_sums", "_where", "ends")

    def __init__(self, ends: tuple[int, ...], places: int, root: bool) -> None:
        self.ends, self._places, self._root, self._where = ends, places, root, 0
        self._sums = np.zeros((len(ends), 2 * places + 3))  # error, scale, two losses, items
        self._block = np.zeros(2 * places + 3)
        # of the blocks' values v and weights w: how many, and the sums of w, wv, w², w²v, w²v²
        self._samples = np.zeros((len(ends), 6))

    def add(self, start: int, error: Floats, scale: Floats, losses: Floats | None) -> None:
        """Add items `start .. start + n`: `error` and `scale` `[n, O]`, `losses` `[n, 2]`."""
        count = len(error)
        two = np.zeros((count, 2)) if losses is None else losses
        each = np.concatenate([error, scale, two, np.ones((count, 1))], axis=1)
        done = 0
        while done < count:
            where = int(np.searchsorted(self.ends, start + done, side="right"))
            if where == len(self.ends):
                return
            if where != self._where or self._block[-1] >= BLOCK_ITEMS:
                self.close()
                self._where = where
            end = min(count, self.ends[where] - start)
            self._block += each[done:end].sum(axis=0)
            done = end

    def close(self) -> None:
        """End the block of neighbours: what comes next is read elsewhere."""
        if weight := float(self._block[-1]):
            value = self._mean(self._block)
            square = weight * weight
            first = (1.0, weight, weight * value)
            self._samples[self._where] += (*first, square, square * value, square * value * value)
            self._sums[self._where] += self._block
        self._block[:] = 0.0

    def sums(self, where: int) -> Sums:
        """Return the sums over one range, as far as its blocks are closed."""
        row, places = self._sums[where], self._places
        return Sums(row[:places], row[places : 2 * places], row[2 * places : -1], int(row[-1]))

    def value(self, where: int) -> float:
        """Return the mean over one range; 0 where nothing was added."""
        return self._mean(self._sums[where]) if self._sums[where, -1] else 0.0

    def whole(self) -> float:
        """Return the mean over all ranges."""
        return self._mean(self._sums.sum(axis=0))

    def error(self, where: int) -> float | None:
        """Return the standard error of that weighted mean; None for fewer than two blocks."""
        count, weight, first, squares, wide_first, wide_second = map(float, self._samples[where])
        if count < 2:
            return None
        mean = first / weight
        spread = wide_second - 2 * mean * wide_first + mean * mean * squares
        return math.sqrt(max(spread, 0.0) * count / (count - 1)) / weight

    def _mean(self, row: Floats) -> float:
        places = self._places
        return mean_of(row[:places], row[places : 2 * places], self._root)
