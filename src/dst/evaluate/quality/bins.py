"""Average a quantity per item over log-spaced ranges of positions in a stream.

Shape letters: `n` items, `O` outputs or tensors that are compared.
"""

import math
from dataclasses import dataclass, field

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


@dataclass(slots=True)
class _Spread:
    """Weighted samples of a mean, kept as sums: from them comes its standard error."""

    count: int = 0
    weight: float = 0.0
    first: float = 0.0
    squares: float = 0.0
    square_first: float = 0.0
    square_second: float = 0.0

    def add(self, value: float, weight: float) -> None:
        """Count one sample."""
        self.count += 1
        self.weight += weight
        self.first += weight * value
        self.squares += weight * weight
        self.square_first += weight * weight * value
        self.square_second += weight * weight * value * value

    @property
    def error(self) -> float | None:
        """The standard error of the weighted mean; None for fewer than two samples."""
        if self.count < 2:
            return None
        mean = self.first / self.weight
        spread = self.square_second - 2 * mean * self.square_first + mean * mean * self.squares
        return math.sqrt(max(spread, 0.0) * self.count / (self.count - 1)) / self.weight


@dataclass(slots=True)
class Sums:
    """What was summed over one range of positions, or over one block of it.

    Attributes:
        error: sums over items of what is compared, `[O]`.
        scale: what they are divided by, `[O]`.
        items: how many items.
        losses: summed loss of the reference and of the other, in nats.
    """

    error: Floats
    scale: Floats
    items: int = 0
    losses: Floats = field(default_factory=lambda: np.zeros(2))

    def take(self, other: "Sums") -> None:
        """Add other sums to these."""
        self.error += other.error
        self.scale += other.scale
        self.items += other.items
        self.losses += other.losses


class Bins:
    """Ranges of positions; memory does not depend on how much is added.

    Attributes:
        ends: where each range ends.

    Examples:
        >>> bins = Bins(edges(20), 1, root=False)
        >>> bins.add(0, np.arange(20.0)[:, None], np.ones((20, 1)), None)
        >>> bins.close()
        >>> [bins.value(where) for where in range(len(bins.ends))]
        [4.5, 14.5]
    """

    __slots__ = ("_block", "_root", "_spread", "_sums", "_where", "ends")

    def __init__(self, ends: tuple[int, ...], places: int, root: bool) -> None:
        """Start with nothing.

        Args:
            ends: where each range ends.
            places: `O`, how many things are compared.
            root: whether the value of a range is the root of its mean ratio.
        """
        self.ends = ends
        self._root = root
        self._sums = [Sums(np.zeros(places), np.zeros(places)) for _ in ends]
        self._spread = [_Spread() for _ in ends]
        self._block = Sums(np.zeros(places), np.zeros(places))
        self._where = 0

    def add(self, start: int, error: Floats, scale: Floats, losses: Floats | None) -> None:
        """Add items `start .. start + n`: `error` and `scale` `[n, O]`, `losses` `[n, 2]`."""
        done = 0
        while done < len(error):
            where = int(np.searchsorted(self.ends, start + done, side="right"))
            if where == len(self.ends):
                return
            if where != self._where or self._block.items >= BLOCK_ITEMS:
                self.close()
                self._where = where
            end = min(len(error), self.ends[where] - start)
            part = slice(done, end)
            block = self._block
            block.error += error[part].sum(axis=0)
            block.scale += scale[part].sum(axis=0)
            block.items += end - done
            if losses is not None:
                block.losses += losses[part].sum(axis=0)
            done = end

    def close(self) -> None:
        """End the block of neighbours: what comes next is read elsewhere."""
        block = self._block
        if block.items:
            value = mean_of(block.error, block.scale, self._root)
            self._spread[self._where].add(value, float(block.items))
            self._sums[self._where].take(block)
        self._block = Sums(np.zeros_like(block.error), np.zeros_like(block.scale))

    def sums(self, where: int) -> Sums:
        """Return the sums over one range, as far as its blocks are closed."""
        return self._sums[where]

    def value(self, where: int) -> float:
        """Return the mean over one range; 0 where nothing was added."""
        held = self._sums[where]
        return mean_of(held.error, held.scale, self._root) if held.items else 0.0

    def error(self, where: int) -> float | None:
        """Return the standard error of that mean; None where too little was added."""
        return self._spread[where].error
