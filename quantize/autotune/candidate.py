"""Make a bundle by a recipe in a temporary folder, and judge it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dst.quantize.assign import NothingQuantizedError, WeightRecord
from dst.quantize.autotune.trial import Trial, part
from dst.quantize.autotune.verdict import Refusal, Verdict, judge
from dst.quantize.quantize import Progress, Quantized, quantize_bundle
from dst.quantize.recipe import Override, Recipe
from dst.runtime import Bundle, SessionError, StepError

Array = npt.NDArray[np.generic]


class Task(NamedTuple):
    """What all candidates have in common.

    They are made from the full precision `full`, judged on `items` (``[n]`` or ``[n, F]``) as
    `trial` says, and written in `folder`.
    """

    full: Bundle
    items: Array
    trial: Trial
    folder: Path

    def made(
        self, recipe: Recipe, name: str, progress: Progress, overrides: Sequence[Override] = ()
    ) -> Quantized:
        """Write a candidate under a name, in place of another of that name.

        Raises:
            QuantizeError: the recipe or an override does not fit the bundle.
            SessionError, StepError: what came of it does not run here.
        """
        return quantize_bundle(
            self.full,
            self.folder / name,
            recipe,
            overrides=overrides,
            overwrite=True,
            progress=progress,
        )


class Candidate(NamedTuple):
    """A recipe that was tried, what was found of it, and what became of every weight.

    The files of `quantized` are there if it holds; it is None where no bundle could be made.
    """

    recipe: Recipe
    verdict: Verdict
    quantized: Quantized | None
    records: tuple[WeightRecord, ...]


def try_recipe(task: Task, recipe: Recipe, progress: Progress) -> Candidate:
    """Make a candidate and judge it; one that cannot be made, or changes nothing, is refused.

    Raises:
        StepError: items cannot be read, or full precision failed on them.
    """
    full = task.full

    def refused(rule: str, why: str, records: tuple[WeightRecord, ...] = ()) -> Candidate:
        verdict = Verdict(
            recipe=recipe.label,
            t=full.manifest.contract.chunk.nominal_t,
            weights_bytes=full.manifest.weights_bytes,
            weights_share=1.0,
            speeds=(),
            report=None,
            refusals=(Refusal(rule=rule, why=why),),
        )
        return Candidate(recipe, verdict, None, records)

    try:
        done = task.made(recipe, recipe.name, part(progress, "quantizing", 0.0, 0.1))
    except (SessionError, StepError) as error:
        return refused("unable", f"does not run here: {error}")
    except NothingQuantizedError as nothing:
        return refused("unchanged", "nothing could be quantized", nothing.records)
    told = part(progress, "measuring", 0.1, 1.0)
    judged = judge(full, done.bundle, task.items, task.trial, told)
    if not judged.holds:
        shutil.rmtree(done.bundle.root, ignore_errors=True)  # together they may be very large
    return Candidate(recipe, judged, done, done.records)
