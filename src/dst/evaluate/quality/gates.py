"""Judge the curves of a rollout by the conditions that a quantized bundle must hold.

Four gates. `last-over-early`: divergence in the last range of positions over that of items 1,000
to 10,000. `growth-per-decade`: the upper 95 % bound of its growth per tenfold position.
`loss`: the loss that quantization adds in the worst range, or the relative error where outputs
predict nothing. `finite`: how often the quantized stream gave a NaN or an infinity.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from dst.evaluate.quality.bins import Floats
from dst.evaluate.quality.rollout import Rollout
from dst.runtime.bundle.manifest import Gate
from dst.runtime.bundle.validation import judged_gate

HORIZON_ITEMS = 1_000_000
"""A shorter run does not pass `last-over-early`, and is not failed for a wide bound of growth."""
HINT_ITEMS = 100_000
"""A run of so many items can fail `last-over-early`."""
EARLY = (1_000, 10_000)
LAST_OVER_EARLY_BOUND = 2.0
GROWTH_BOUND = 0.10
LEAST_RANGES = 5
"""Ranges of positions that a slope is fitted to, at least."""
POOLED_ITEMS = 1_000
"""Ranges of fewer items are judged together: a mean over a few items says little of loss."""
FLOOR = 1e-9
"""Divergence below this is the rounding of float32, and does not grow."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be lost.

    Attributes:
        nats_per_item: loss over full precision, where the outputs predict the next item.
        relative_error: error of the outputs over their rms, where they do not.
    """

    nats_per_item: float = 0.02
    relative_error: float = 0.05


class Growth(NamedTuple):
    """How the divergence goes on, from item 1,000 on.

    `last_over_early` is the last range over items 1,000 to 10,000, None for a run that ends there;
    `per_decade` the growth per tenfold position, 0.1 for 10 %, with its one-sided 95 % bounds, None
    where there are too few ranges.
    """

    last_over_early: float | None
    per_decade: float | None
    per_decade_lower: float | None
    per_decade_upper: float | None


def growth_of(ran: Rollout) -> Growth:
    """Measure growth: a ratio, and a fitted line.

    The line is through the logarithms of divergence and position. Each range counts by its own
    standard error and by how much ranges differ beyond that, since some texts are harder than
    others (DerSimonian and Laird's estimate of the variance between).
    """
    free, ends = ran.free, ran.free.ends
    starts = (0, *ends[:-1])
    judged = [i for i, start in enumerate(starts) if start >= EARLY[0]]
    early = [i for i in judged if ends[i] <= EARLY[1]]
    ratio = None
    if early and ends[-1] > EARLY[1]:
        counts = [free.sums(i).items for i in early]
        total = sum(free.value(i) * count for i, count in zip(early, counts, strict=True))
        mean = total / max(sum(counts), 1)
        ratio = max(free.value(len(ends) - 1), FLOOR) / max(mean, FLOOR)
    points = []
    for i in judged:
        if (error := free.error(i)) is not None:
            value = max(free.value(i), FLOOR)
            place = math.log10(math.sqrt(starts[i] * ends[i]))
            points.append((place, math.log(value), (error / value) ** 2))
    if len(points) < LEAST_RANGES:
        return Growth(ratio, None, None, None)
    slope, error = _line(*np.array(points).T)
    margin = _t95(len(points) - 2) * error
    return Growth(ratio, math.expm1(slope), math.expm1(slope - margin), math.expm1(slope + margin))


def worst_loss(ran: Rollout) -> float:
    """Return the added loss, or the relative error, of the worst range of positions.

    A range of fewer than 1,000 items is judged together with those after it.
    """
    pooled: list[tuple[float, int]] = []
    total, items = 0.0, 0
    for i in range(len(ran.free.ends)):
        held = ran.free.sums(i)
        before, after = held.losses
        total += float(after - before if ran.judges_loss else ran.free.value(i) * held.items)
        items += held.items
        if items >= POOLED_ITEMS:
            pooled.append((total, items))
            total, items = 0.0, 0
    if items:
        whole, count = pooled.pop() if pooled else (0.0, 0)
        pooled.append((whole + total, count + items))
    return max(gain / count for gain, count in pooled)


def gates_of(ran: Rollout, growth: Growth, budget: Budget) -> tuple[Gate, ...]:
    """Judge a rollout.

    One of less than 1,000,000 items can fail the gates on the horizon, but it cannot pass the
    first, and where its growth is uncertain the second is not judged.
    """
    ratio, upper = growth.last_over_early, growth.per_decade_upper
    if ran.items < HORIZON_ITEMS:
        if ratio is not None and (ran.items < HINT_ITEMS or ratio <= LAST_OVER_EARLY_BOUND):
            ratio = None
        lower = growth.per_decade_lower
        if upper is not None and lower is not None and lower <= GROWTH_BOUND < upper:
            upper = None
    allowed = budget.nats_per_item if ran.judges_loss else budget.relative_error
    return (
        judged_gate("last-over-early", ratio, LAST_OVER_EARLY_BOUND),
        judged_gate("growth-per-decade", upper, GROWTH_BOUND),
        judged_gate("loss" if ran.judges_loss else "error", worst_loss(ran), allowed),
        judged_gate("finite", 0.0 if ran.broke_at is None else 1.0, 0.0),
    )


def _line(places: Floats, values: Floats, variances: Floats) -> tuple[float, float]:
    """Fit a line; return its slope and the standard error of that."""
    least = float(variances[variances > 0].min()) if (variances > 0).any() else 1.0
    each = np.maximum(variances, least)
    weights = 1 / each
    _, _, rest = _fit(places, values, weights)
    spread = float(weights.sum() - (weights * weights).sum() / weights.sum())
    between = max(0.0, (rest - (len(places) - 2)) / spread)
    slope, error, _ = _fit(places, values, 1 / (each + between))
    return slope, error


def _fit(places: Floats, values: Floats, weights: Floats) -> tuple[float, float, float]:
    """Weighted least squares: slope, its standard error and the weighted squares that are left."""
    x = places - (weights * places).sum() / weights.sum()
    y = values - (weights * values).sum() / weights.sum()
    square = float((weights * x * x).sum())
    slope = float((weights * x * y).sum()) / square
    rest = float((weights * (y - slope * x) ** 2).sum())
    return slope, 1 / math.sqrt(square), rest


def _t95(freedom: int) -> float:
    """The 95 % quantile of Student's t for 3 or more degrees of freedom, to within 1 %.

    Cornish and Fisher's expansion (Abramowitz and Stegun 26.7.5).
    """
    z, n = NormalDist().inv_cdf(0.95), freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3
