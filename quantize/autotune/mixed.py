"""Hold the most harmful weights of a recipe in a wider form, until the budget holds.

The weights are ranked by how much each harms alone, all others in float32: a short rollout sums up
how far the outputs part from full precision (KL in nats per item, or the error over their rms).
Unlike a difference of losses this is never below zero and hardly noisy, so that a short run ranks.

Halving finds the least number of weights that must be wider, the worst first; it takes for granted
that a model with more wider weights is no worse. It ends just below the budget, where chance
decides. So the result must also hold the budget elsewhere in the data, or one more weight is held
wider. Equal data give an equal result.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from glob import escape
from types import MappingProxyType

import msgspec
import numpy as np
import numpy.typing as npt

from dst.evaluate.quality import Report
from dst.evaluate.quality.rollout import BrokeAtOnceError, Walk, rollout
from dst.quantize.assign import NothingQuantizedError, WeightRecord
from dst.quantize.autotune.candidate import Candidate, Task
from dst.quantize.autotune.trial import part
from dst.quantize.autotune.verdict import BUDGET_RULES, measure_speed, quality, verdict_of
from dst.quantize.quantize import Progress, Quantized
from dst.quantize.recipe import Form, Override, Recipe
from dst.runtime import Bundle, Session

Array = npt.NDArray[np.generic]

HEADS = 3
SHARE = 16
"""A rollout reads one in so many of a trial's items, and so does each of its heads."""
LEAST_ITEMS = 256
WIDER: Mapping[Form, Form] = MappingProxyType(
    {"int4-block": "int8-block", "int4-rows": "int8-rows"}
)
"""The next wider form; for all others it is float32."""


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """What quantizing one weight alone does to the outputs.

    ``divergence`` is the mean over all items, in the unit of the report; infinite (null in JSON)
    where the outputs were not finite. ``wider`` is the form that mends it.
    """

    weight: str
    role: str
    form: Form
    wider: Form
    divergence: float

    def widened(self) -> Override:
        """Hold the weight in the wider form."""
        return Override(escape(self.weight), self.wider)


def sensitivities(
    task: Task, recipe: Recipe, records: Sequence[WeightRecord], progress: Progress
) -> tuple[Sensitivity, ...]:
    """Rank the weights of a recipe, the most harmful first; ``records`` say what it made of each.

    Raises:
        StepError: items cannot be read, or full precision failed on them.
    """
    quantized = {r.weight: r for r in records if r.weight and r.form != "float32"}
    found, count = [], len(quantized)
    for number, record in enumerate(quantized.values(), 1):
        told = part(progress, f"{number} of {count} alone", (number - 1) / count, number / count)
        alone = [Override("*", "float32"), Override(escape(record.weight), record.form)]
        done = task.made(recipe, "alone", part(told, "quantizing", 0.0, 0.5), alone)
        harm = Sensitivity(
            weight=record.weight,
            role=record.role,
            form=record.form,
            wider=WIDER.get(record.form, "float32"),
            divergence=_apart(task, done.bundle, part(told, "harm", 0.5, 1.0)),
        )
        found.append(harm)
    return tuple(sorted(found, key=lambda harm: (-harm.divergence, harm.weight)))


def _apart(task: Task, other: Bundle, progress: Progress) -> float:
    """Mean divergence over a short rollout; infinite where the outputs broke."""
    t = other.manifest.contract.chunk.nominal_t
    right, found = (
        Session.open(bundle.root, threads=task.trial.threads, chunk_sizes=[t], verify="size")
        for bundle in (task.full, other)
    )
    length = max(LEAST_ITEMS, task.trial.items // SHARE)
    walk = Walk(length=length, t=t, heads=HEADS, head_items=length, inject=False)
    try:
        ran = rollout(right, found, task.items, walk, progress)
    except BrokeAtOnceError:
        return math.inf
    return ran.free.whole() if ran.broke_at is None else math.inf


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """So many of the worst weights held wider, and the loss or error then.

    ``value`` is null where the outputs broke at once, or where nothing was quantized any more.
    ``elsewhere``: on other places of the data, to confirm it.
    """

    widened: int
    value: float | None
    holds: bool
    elsewhere: bool = False


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """A search for a mixed recipe.

    ``sensitivities`` are all its weights, the worst first. The first ``widened`` are held in
    their wider form; null where no number of them holds the budget.
    """

    recipe: str
    sensitivities: tuple[Sensitivity, ...]
    attempts: tuple[Attempt, ...]
    widened: int | None


def mixed(task: Task, candidate: Candidate, progress: Progress) -> tuple[Search, Candidate | None]:
    """Search for the mixed recipe that holds the budget, and judge it.

    ``candidate`` is of a recipe that breaks only the budget.

    Returns:
        How it went, and the mixed recipe's candidate; None where none holds the budget.

    Raises:
        SessionError, StepError: a graph cannot be run here, or full precision failed.
    """
    told = part(progress, "harm", 0.0, 0.5)
    ranked = sensitivities(task, candidate.recipe, candidate.records, told)
    mixes = _MixedRecipes(task, candidate.recipe, ranked)
    count = _least(mixes, len(ranked), part(progress, "search", 0.5, 0.8))
    told = part(progress, "elsewhere", 0.8, 0.8)  # how often it is measured, nobody knows
    while count <= len(ranked) and not (
        mixes.measured(count, told).holds and mixes.measured(count, told, elsewhere=True).holds
    ):
        count += 1
    mix = mixes.made.get(count)
    search = Search(
        recipe=candidate.verdict.recipe,
        sensitivities=ranked,
        attempts=tuple(mixes.attempts.values()),
        widened=None if mix is None else count,
    )
    if mix is None:
        return search, None
    recipe, done, found = mix
    speeds = measure_speed(task.full, done.bundle, task.trial, part(progress, "speed", 0.8, 1.0))
    judged = verdict_of(task.full, done.bundle, found, speeds, task.trial.goal)
    return search, Candidate(recipe, judged, done, done.records)


def _least(mixes: "_MixedRecipes", most: int, progress: Progress) -> int:
    """The least number of weights that must be wider, by halving; ``most`` + 1 if none holds."""
    low, high, steps = 0, most + 1, 0  # `low` breaks the budget; `high` holds it, or is too many
    while high - low > 1:
        count = (low + high) // 2
        begin, end = ((steps + more) / (most + 1).bit_length() for more in (0, 1))
        holds = mixes.measured(count, part(progress, f"{count} wider", begin, end)).holds
        low, high, steps = (low, count, steps + 1) if holds else (count, high, steps + 1)
    return high


class _MixedRecipes:
    """Mixed recipes of one recipe, by how many of its worst weights are held wider.

    Attributes:
        attempts: what was measured, in order: by number of weights, and whether elsewhere.
        made: number of weights -> recipe, bundle and report of those that hold the budget.
    """

    def __init__(self, task: Task, recipe: Recipe, ranked: Sequence[Sensitivity]) -> None:
        self._task, self._recipe, self._ranked = task, recipe, ranked
        self.attempts: dict[tuple[int, bool], Attempt] = {}
        self.made: dict[int, tuple[Recipe, Quantized, Report]] = {}

    def measured(self, count: int, progress: Progress, elsewhere: bool = False) -> Attempt:
        """Hold the worst weights wider and measure quality, unless that was done before.

        ``elsewhere`` measures one that holds on other places of the data, and forgets it if it
        does not hold there.
        """
        if (known := self.attempts.get((count, elsewhere))) is not None:
            return known
        task, items = self._task, self._task.items
        wide = replace(self._recipe, name=f"{self._recipe.name}, {count} wider")
        if elsewhere:
            done = self.made[count][1]
            # from their middle on, then those before it: all streams begin elsewhere
            items = np.roll(items, -(len(items) // 2), axis=0)
        else:
            wider = [harm.widened() for harm in self._ranked[:count]]
            told = part(progress, "quantizing", 0.0, 0.1)
            try:
                done = task.made(wide, wide.name, told, wider)
            except NothingQuantizedError:
                return self._noted(count, elsewhere, None)
        told = part(progress, "quality", 0.1, 1.0)
        found = quality(task.full, done.bundle, items, task.trial, told)
        report = found if isinstance(found, Report) else None
        attempt = self._noted(count, elsewhere, report)
        if report is None or not attempt.holds:
            self.made.pop(count, None)
            shutil.rmtree(done.bundle.root, ignore_errors=True)
        elif not elsewhere:
            self.made[count] = wide, done, report
        return attempt

    def _noted(self, count: int, elsewhere: bool, report: Report | None) -> Attempt:
        gates = () if report is None else report.gates
        value = next((g.value for g in gates if g.name in BUDGET_RULES), None)
        holds = report is not None and report.passed is not False
        attempt = Attempt(widened=count, value=value, holds=holds, elsewhere=elsewhere)
        self.attempts[count, elsewhere] = attempt
        return attempt
