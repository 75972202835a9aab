"""Judgements and a goal in, the best of them out."""

from collections.abc import Sequence
from typing import Literal

from dst.quantize.pick.verdict import Judgement

Goal = Literal["speed", "size"]
"""What is wanted of those that hold.

- ``speed``: the fastest at the nominal T. Those whose interval reaches into the fastest one's count
  as equally fast.
- ``size``: the least weights.

Among equals the smaller wins, to a hundredth of full precision's bytes; then one that is causal
within a chunk; then the faster.
"""


def best(pool: Sequence[Judgement], goal: Goal) -> Judgement | None:
    """Choose one of those whose speed was measured, None where there is none."""
    able = [found for found in pool if found.speed(found.t) is not None]
    if not able:
        return None
    if goal == "speed":
        least = _spread(max(able, key=lambda found: _spread(found)[0]))[1]
        able = [found for found in able if _spread(found)[2] >= least]
    return min(
        able,
        key=lambda found: (round(found.weights_share, 2), not found.causal, -_spread(found)[0]),
    )


def in_order(pool: Sequence[Judgement], goal: Goal) -> list[Judgement]:
    """Those whose speed was measured, the best first."""
    left, order = list(pool), list[Judgement]()
    while (first := best(left, goal)) is not None:
        order.append(first)
        left = [found for found in left if found is not first]
    return order


def _spread(found: Judgement) -> tuple[float, float, float]:
    """Median, low and high of the speed at the nominal T."""
    speed = found.speed(found.t)
    if speed is None:
        return 0.0, 0.0, 0.0
    return speed.ratio.median, speed.ratio.low, speed.ratio.high
