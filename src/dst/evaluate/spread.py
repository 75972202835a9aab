"""Spread: numbers of many rounds in, their median and how sure it is out."""

from collections.abc import Sequence

import numpy as np

from dst.evaluate.result import Spread

_DRAWS = 2000


def spread_of(values: Sequence[float]) -> Spread:
    """Return the median of one or more numbers with its 95 % bootstrap interval.

    Rounds are drawn with replacement, always in the same way, so that equal numbers give equal
    intervals.
    """
    held = np.asarray(values, np.float64)
    drawn = np.random.default_rng(0).choice(held, (_DRAWS, len(held)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return Spread(median=float(np.median(held)), low=float(low), high=float(high))
