"""Choose the best of several verdicts for a goal, and say in a sentence why it is the best."""

from collections.abc import Sequence

from dst.quantize.autotune.trial import Goal
from dst.quantize.autotune.verdict import Verdict


def best(pool: Sequence[Verdict], goal: Goal) -> Verdict | None:
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


def in_order(pool: Sequence[Verdict], goal: Goal) -> list[Verdict]:
    """Those whose speed was measured, the best first."""
    left, order = list(pool), list[Verdict]()
    while (first := best(left, goal)) is not None:
        order.append(first)
        left = [found for found in left if found is not first]
    return order


def _spread(found: Verdict) -> tuple[float, float, float]:
    """Median, low and high of the speed at the nominal T."""
    speed = found.speed(found.t)
    if speed is None:
        return 0.0, 0.0, 0.0
    return speed.ratio.median, speed.ratio.low, speed.ratio.high


def reason(pool: Sequence[Verdict], chosen: Verdict | None, goal: Goal) -> str:
    """Say in one sentence why a recipe was chosen and not another, or why none was.

    Args:
        pool: All verdicts.
        chosen: The best of those that hold; None where none does.
        goal: What was wanted.
    """
    if chosen is None:
        refused = "; ".join(f"{j.recipe}: {', '.join(r.why for r in j.refusals)}" for j in pool)
        return f"no recipe was chosen, because each was refused ({refused})"
    others = [j for j in pool if j.holds and j is not chosen and j.speed(j.t) is not None]
    about = f"{chosen.recipe} was chosen"
    if not others:
        return f"{about}, the only one that holds: {_numbers(chosen)}"
    if goal == "size":
        rival = min(others, key=lambda found: (found.weights_share, -_spread(found)[0]))
        if round(rival.weights_share, 2) > round(chosen.weights_share, 2):
            return f"{about}, the smallest that holds: {_numbers(chosen)}"
        equal = "as small to a hundredth of full precision's bytes"
    else:
        rival = max(others, key=lambda found: _spread(found)[0])
        if _spread(rival)[0] <= _spread(chosen)[0]:
            return f"{about}, the fastest that holds: {_numbers(chosen)}"
        equal = "no faster for sure, since the 95 % intervals of their speeds overlap"
    if round(chosen.weights_share, 2) < round(rival.weights_share, 2):
        sizes = f"{chosen.weights_share:.2f} of full precision's bytes, {rival.weights_share:.2f}"
        why = f"is smaller ({sizes} for the other)"
    elif chosen.causal and not rival.causal:
        why = "is causal within a chunk"
    else:
        why = "is faster"
    return (
        f"{about} ({_numbers(chosen)}) before {rival.recipe} ({_numbers(rival)}), which is "
        f"{equal}; {chosen.recipe} {why}"
    )


def _numbers(found: Verdict) -> str:
    median, low, high = _spread(found)
    return f"{median:.2f}× ({low:.2f}–{high:.2f}) at T = {found.t}"
