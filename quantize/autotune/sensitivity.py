"""Measure how much each weight harms the outputs when it alone is quantized.

Every weight is put into its form while all others stay float32, and a short rollout sums up how
far the outputs part from full precision: KL in nats per item, or the error over their rms.
Unlike a difference of losses this is never below zero and hardly noisy, so that a short run ranks.
"""

import math
from collections.abc import Mapping, Sequence
from glob import escape
from types import MappingProxyType

import msgspec
import numpy as np

from dst.evaluate.quality.bins import Floats, mean_of
from dst.evaluate.quality.rollout import BrokeAtOnceError, Walk, rollout
from dst.quantize.autotune.candidate import Task
from dst.quantize.autotune.trial import part
from dst.quantize.quantize import Progress
from dst.quantize.recipe import Form, Override, Recipe
from dst.quantize.record import WeightRecord
from dst.runtime import Bundle, Session

HEADS = 3
SHARE = 16
"""A rollout reads one in so many of a trial's items, and so does each of its heads."""
LEAST_ITEMS = 256
WIDER: Mapping[Form, Form] = MappingProxyType({"int4-block": "int8-block"})
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
    """Rank the weights of a recipe, the most harmful first.

    Args:
        task: The bundle, the items and where to write.
        recipe: The recipe.
        records: What it made of every weight.
        progress: Told of the share done.

    Raises:
        StepError: items cannot be read, or full precision failed on them.
    """
    quantized = {r.weight: r for r in records if r.weight and r.form != "float32"}
    found = []
    for number, record in enumerate(quantized.values()):
        count = len(quantized)
        told = part(
            progress, f"{number + 1} of {count} alone", number / count, (number + 1) / count
        )
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
    threads = task.trial.threads
    right, found = (
        Session.open(bundle.root, threads=threads, chunk_sizes=[t], verify="size")
        for bundle in (task.full, other)
    )
    length = max(LEAST_ITEMS, task.trial.items // SHARE)
    walk = Walk(length=length, t=t, heads=HEADS, head_items=length, inject=False)
    try:
        ran = rollout(right, found, task.items, walk, progress)
    except BrokeAtOnceError:
        return math.inf
    if ran.broke_at is not None:
        return math.inf
    sums = [ran.free.sums(where) for where in range(len(ran.free.ends))]
    error: Floats = np.sum([held.error for held in sums], axis=0)
    scale: Floats = np.sum([held.scale for held in sums], axis=0)
    return mean_of(error, scale, root=ran.unit == "relative")
