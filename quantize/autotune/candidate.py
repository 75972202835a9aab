"""Make a bundle by a recipe in a temporary folder, and judge it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dst.quantize.assign import NothingQuantizedError, WeightRecord
from dst.quantize.autotune.trial import Trial, part
from dst.quantize.autotune.verdict import Refusal, Verdict, judge
from dst.quantize.quantize import Progress, Quantized, quantize_bundle
from dst.quantize.recipe import Override, Recipe
from dst.runtime import Bundle, SessionError, StepError

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Task:
    """What all candidates have in common.

    Attributes:
        full: full precision.
        items: ``[n]`` or ``[n, F]``, to measure quality on.
        trial: budget, and how long to measure.
        folder: where candidates are written.
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


def discard(done: Quantized) -> None:
    """Delete a candidate's files: together they may be larger than the model."""
    shutil.rmtree(done.bundle.root, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe that was tried.

    Attributes:
        recipe: the recipe.
        verdict: what was found of it.
        quantized: its bundle, whose files are there if it holds; None where it could not be made.
        records: what became of every weight.
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
    try:
        done = task.made(recipe, recipe.name, part(progress, "quantizing", 0.0, 0.1))
    except (SessionError, StepError) as error:
        why = Refusal(rule="unable", why=f"does not run here: {error}")
        return Candidate(recipe, _unmeasured(task.full, recipe, why), None, ())
    except NothingQuantizedError as nothing:
        why = Refusal(rule="unchanged", why="nothing could be quantized")
        return Candidate(recipe, _unmeasured(task.full, recipe, why), None, nothing.records)
    judged = judge(
        task.full, done.bundle, task.items, task.trial, part(progress, "measuring", 0.1, 1.0)
    )
    if not judged.holds:
        discard(done)
    return Candidate(recipe, judged, done, done.records)


def _unmeasured(full: Bundle, recipe: Recipe, why: Refusal) -> Verdict:
    return Verdict(
        recipe=recipe.label,
        t=full.manifest.contract.chunk.nominal_t,
        weights_bytes=full.manifest.weights_bytes,
        weights_share=1.0,
        speeds=(),
        report=None,
        refusals=(why,),
    )
