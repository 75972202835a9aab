"""Turn the raw scores of streams without trouble into a table of rates of false alerts.

Shape letters: n items.
"""

import numpy as np
import numpy.typing as npt

Knots = tuple[tuple[float, float], ...]
STEP = 0.5
"""Distance of two rates of the table, in powers of ten."""
LEAST_ITEMS = 8
"""The last rate of the table is seen in at least so many items; beyond it the line goes on."""
LEAST_APART = 0.03
"""Distance of two scores of the table, at least: a steeper table would multiply rounding errors."""
HIGHEST = 6.0
"""The highest level that is told: one false alert in a million items."""


def knots_of(scores: npt.NDArray[np.floating]) -> Knots:
    """Return pairs of a raw score and the ``-log10`` of the share of items that reach it.

    Args:
        scores: Raw scores of untroubled items, ``[n]``, each at least 0.

    Examples:
        >>> scores = np.zeros(1000)
        >>> scores[:100] = np.arange(1, 101) / 10
        >>> knots_of(scores)[:3]
        ((0.0, 0.0), (0.1, 1.0), (6.9, 1.5))
    """
    found = np.sort(np.asarray(scores, np.float64))[::-1]
    knots = [(0.0, 0.0)]
    level = STEP
    while 10.0**-level * len(found) >= LEAST_ITEMS and level <= HIGHEST:
        score = float(found[round(10.0**-level * len(found)) - 1])
        if score > knots[-1][0] + LEAST_APART:
            knots.append((round(score, 6), level))
        level += STEP
    if len(knots) == 1:
        return ((0.0, 0.0), (1.0, HIGHEST))
    (low, under), (high, over) = knots[-2:]
    if over < HIGHEST:
        knots.append((high + (high - low) * (HIGHEST - over) / (over - under), HIGHEST))
    return tuple(knots)
