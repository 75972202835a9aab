"""A candidate that breaks only the budget in, the same with its worst weights wider out.

Its weights are ranked by how much each harms alone (``dst.quantize.pick.sensitivity``). Then the
least number of them is sought, by halving, that must be held wider, the worst first, for the
budget to hold. What is found was measured to hold it; that fewer would not is taken from the
halves, since a model with more weights wider is seldom worse. Equal data give an equal result.
"""

from dataclasses import replace

import msgspec

from dst.quantize.apply import Progress, Quantized
from dst.quantize.pick.candidate import Candidate, Task, discard
from dst.quantize.pick.sensitivity import Harm, harms
from dst.quantize.pick.speed import raced
from dst.quantize.pick.trial import part
from dst.quantize.pick.verdict import BUDGET_RULES, judgement_of, quality
from dst.quantize.recipe import Recipe
from dst.quantize.report import Report


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """So many of the worst weights held wider, and the loss or error then.

    ``value`` is null where the outputs broke at once, or where nothing was quantized any more.
    """

    widened: int
    value: float | None
    holds: bool


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """A search for a mixed recipe.

    ``harms`` are all its weights, the worst first; of these, the first ``widened`` are held in
    their wider form. That is null where no number of them holds the budget.
    """

    recipe: str
    harms: tuple[Harm, ...]
    attempts: tuple[Attempt, ...]
    widened: int | None


def mixed(task: Task, candidate: Candidate, progress: Progress) -> tuple[Search, Candidate | None]:
    """Search for the mixed recipe that holds the budget, and judge it.

    Args:
        task: The bundle, the items and where to write.
        candidate: A recipe that breaks only the budget.
        progress: Told of what is being done and of the share done.

    Returns:
        How it went, and the mixed recipe's candidate; None where none holds the budget.

    Raises:
        SessionError, StepError: a graph cannot be run here, or full precision failed.
    """
    ranked = harms(task, candidate.recipe, candidate.records, part(progress, "harm", 0.0, 0.5))
    low, high = 0, len(ranked) + 1  # `low` breaks the budget; `high` holds it, or is too many
    attempts: list[Attempt] = []
    held: tuple[Recipe, Quantized, Report] | None = None
    most = high.bit_length()  # attempts
    while high - low > 1:
        count = (low + high) // 2
        begin, end = (0.5 + 0.4 * (len(attempts) + more) / most for more in (0, 1))
        told = part(progress, f"{count} wider", begin, end)
        attempt, made = _attempt(task, candidate.recipe, ranked[:count], told)
        attempts.append(attempt)
        if attempt.holds and made is not None:
            if held is not None:
                discard(held[1])
            high, held = count, made
        else:
            low = count
    search = Search(
        recipe=candidate.judgement.recipe,
        harms=ranked,
        attempts=tuple(attempts),
        widened=None if held is None else high,
    )
    if held is None:
        return search, None
    recipe, done, found = held
    speeds = raced(task.full, done.bundle, task.trial, part(progress, "speed", 0.9, 1.0))
    judged = judgement_of(task.full, done.bundle, found, speeds)
    return search, Candidate(recipe, judged, done)


def _attempt(
    task: Task, recipe: Recipe, worst: tuple[Harm, ...], progress: Progress
) -> tuple[Attempt, tuple[Recipe, Quantized, Report] | None]:
    """Hold some weights wider and measure quality."""
    wide = replace(recipe, name=f"{recipe.name}, {len(worst)} wider")
    told = part(progress, "quantizing", 0.0, 0.1)
    done = task.made(wide, wide.name, told, [harm.widened() for harm in worst])
    if not done.changed:  # nothing is left to gain
        return Attempt(widened=len(worst), value=None, holds=False), None
    found = quality(
        task.full, done.bundle, task.items, task.trial, part(progress, "quality", 0.1, 1.0)
    )
    if isinstance(found, str):
        return Attempt(widened=len(worst), value=None, holds=False), None
    value = next((g.value for g in found.gates if g.name in BUDGET_RULES), None)
    holds = found.passed is not False
    if not holds:
        discard(done)
    return Attempt(widened=len(worst), value=value, holds=holds), (wide, done, found)
