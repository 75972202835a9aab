"""Judge whether memory was flat over a long run, and keep a histogram of step times.

Memory is a staircase: it moves by whole pages, and by whole arenas of an allocator, at rare steps,
and stays where it went. The errors of a line fitted through it therefore hang together, and the
textbook interval around such a line, which takes them for independent, is far too narrow. What is
nearly independent is how much memory **moved** in one stretch and in the next. So the samples are
cut into twenty blocks; the median of a block is its level (which drops what came and went); the
nineteen differences between neighbours are averaged, and Student's t gives the interval. A jump
enters one difference: one jump widens the interval, many raise the mean. Noise that comes and goes
makes neighbouring differences opposed, and the interval too wide rather than too narrow.

Nothing is forgiven but the warm-up, the first tenth of the samples. A single jump of J bytes after
it, in a run of N steps, gives an upper bound of about 3.6 J / N: from one event nobody can tell a
late warm-up from the first step of a leak.
"""

import math
import mmap
from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

BLOCKS = 20
STUDENT_T = 2.1009  # the 97.5 % point for the 18 degrees of freedom of 19 differences
WARM_SHARE = 0.1

LONG_STEPS = 10_000_000
SLOPE_LIMIT = 0.1
GROWTH_LIMIT = 1 << 20

_PER_OCTAVE = 32
_OCTAVES = 45


class Times:
    """A histogram of times in fixed memory: 32 bins per doubling, from 1 ns to 9 hours.

    Attributes:
        count: times added.
        max_ns: the longest, exactly.
        total_ns: their sum, exactly.

    Example:
        >>> times = Times()
        >>> for micros in range(1, 101):
        ...     times.add(1000 * micros)
        >>> round(times.percentile_ns(50) / 50_000, 1)
        1.0
        >>> times.max_ns
        100000
    """

    __slots__ = ("_bins", "count", "max_ns", "total_ns")

    def __init__(self) -> None:
        self._bins = array("Q", bytes(8 * _PER_OCTAVE * _OCTAVES))
        self.count = 0
        self.max_ns = 0
        self.total_ns = 0

    def add(self, time_ns: int) -> None:
        """Count one time; below 1 ns counts as 1 ns."""
        place = int(_PER_OCTAVE * math.log2(time_ns)) if time_ns > 1 else 0
        self._bins[min(place, len(self._bins) - 1)] += 1
        self.count += 1
        self.total_ns += time_ns
        if time_ns > self.max_ns:
            self.max_ns = time_ns

    def percentile_ns(self, percent: float) -> float:
        """Return a time that at least `percent` % of all times do not exceed.

        It is the upper edge of a bin, so up to 2.2 % above the exact one, and never below it.

        Args:
            percent: above 0, at most 100.

        Returns:
            Nanoseconds; 0 where nothing was added.
        """
        wanted = math.ceil(self.count * percent / 100)
        seen = 0
        for place, held in enumerate(self._bins):
            seen += held
            if seen >= wanted and held:
                return min(math.exp2((place + 1) / _PER_OCTAVE), float(self.max_ns))
        return 0.0


@dataclass(frozen=True, slots=True)
class Slope:
    """How fast memory grows, in bytes per step: the estimate and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Growth:
    """What memory did after the warm-up.

    Attributes:
        steps: steps between the first sample after the warm-up and the last.
        growth_bytes: the most that a sample was above the first one, at least 0.
        slope: None where there are fewer than 40 samples, two to a block.
        judged_by_slope: whether the run was long enough for the limit on the slope to count.
        flat: whether the limits that count were kept.
    """

    steps: int
    growth_bytes: int
    slope: Slope | None
    judged_by_slope: bool
    flat: bool


def slope(steps: Integers, resident: Integers) -> Slope | None:
    """Estimate how fast resident memory grows: see the head of this module.

    Args:
        steps: `[n]`, evenly spaced and rising.
        resident: `[n]`, resident bytes at these steps.

    Returns:
        None where n is below 40. The interval is never narrower than one page to each side
        over the whole run: nothing finer can be seen.
    """
    each = len(steps) // BLOCKS
    if each < 2:
        return None
    kept = each * BLOCKS  # the oldest samples go if they do not fill the blocks
    levels = np.median(resident[-kept:].reshape(BLOCKS, each), axis=1)
    moved = np.diff(levels)
    span = float(steps[-1] - steps[-kept]) * (BLOCKS - 1) * each / (kept - 1)
    error = float(np.std(moved, ddof=1)) * math.sqrt(len(moved))
    half = max(STUDENT_T * error, mmap.PAGESIZE) / span
    mean = float(moved.sum()) / span
    return Slope(mean, mean - half, mean + half)


def judge(steps: Integers, resident: Integers) -> Growth:
    """Say whether memory was flat.

    After the first tenth of the samples, resident memory may rise by 1 MiB at most above what it
    was there; and in a run of 10 million steps or more the upper bound of its slope may be 0.1
    byte per step at most. In a shorter run that bound says more about the run than about the
    memory: it is given and does not count.

    Args:
        steps: `[n]`, evenly spaced and rising; the last is the length of the run. n is 1 or more.
        resident: `[n]`, resident bytes at these steps.

    Example:
        >>> steps = np.arange(1000) * 10
        >>> judge(steps, np.full(1000, 50 << 20)).flat
        True
        >>> judge(steps, (50 << 20) + 4096 * np.arange(1000)).flat
        False
    """
    warm = int(len(steps) * WARM_SHARE)
    after, held = steps[warm:], resident[warm:]
    growth = int(held.max() - held[0])
    found = slope(after, held)
    by_slope = found is not None and bool(steps[-1] >= LONG_STEPS)
    steep = by_slope and found is not None and found.high > SLOPE_LIMIT
    return Growth(
        steps=int(after[-1] - after[0]),
        growth_bytes=growth,
        slope=found,
        judged_by_slope=by_slope,
        flat=growth <= GROWTH_LIMIT and not steep,
    )
