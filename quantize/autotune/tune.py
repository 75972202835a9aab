"""Quantize a bundle by the recipe that serves best on this machine.

Every recipe that makes sense on a CPU is made and judged: weight bytes, speed in turns with full
precision, quality by the horizon report. Of those that hold, the best is taken. Where a recipe that
would be better is refused for its loss or error alone, its worst weights are held wider until the
budget holds, and that mixed recipe joins the others.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dst.evaluate.quality import attach
from dst.quantize.assign import WeightRecord
from dst.quantize.autotune.candidate import Candidate, Task, try_recipe
from dst.quantize.autotune.mixed import Search, mixed
from dst.quantize.autotune.trial import USUAL, Goal, Trial, part
from dst.quantize.autotune.verdict import Verdict, best, in_order, reason
from dst.quantize.quantize import Progress, check_source
from dst.quantize.recipe import RECIPES
from dst.runtime import Bundle, StepError, open_bundle, write_bundle
from dst.runtime.bundle.writer import check_target
from dst.runtime.execution.inputs import check_items

Array = npt.NDArray[np.generic]

CANDIDATES = (
    "int8-dynamic", "int8-rows", "int8-weights", "int4-weights", "int4-rows", "int4-mixed"
)  # fmt: skip
"""The recipes that are tried: no ``fp16``, which CPUs upcast, and no ``int8-static``, which is for
NPUs and as fast as ``int8-dynamic`` on CPUs."""
_PLAIN_SHARE = 0.6
"""Of the progress, what the plain recipes are counted as; the search takes the rest."""


@dataclass(frozen=True, slots=True)
class Autotuned:
    """What was picked.

    Attributes:
        bundle: the bundle that was written, its short report attached; None where nothing holds.
        chosen: its verdict, one of ``verdicts``.
        why: why it was chosen and not another, or why none was, in one sentence.
        records: what became of every weight in it; where nothing holds, in the last candidate that
            could be made.
        verdicts: of every candidate, mixed ones included, in the order they were tried.
        searches: of mixed recipes.
    """

    bundle: Bundle | None
    chosen: Verdict | None
    why: str
    records: tuple[WeightRecord, ...]
    verdicts: tuple[Verdict, ...]
    searches: tuple[Search, ...]


def autotune(
    source: str | Path | Bundle,
    path: str | Path,
    items: Array,
    goal: Goal = "speed",
    trial: Trial = USUAL,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Autotuned:
    """Quantize a bundle by the recipe that serves best on this machine, if any does.

    Args:
        source: The full-precision bundle: a directory, the name of a shipped one, or open.
        path: Directory to make; nothing is written where no candidate holds.
        items: ``[n]`` or ``[n, F]`` as callers give them: real ones, to measure quality on.
        goal: What is wanted of those that hold.
        trial: Budget, and how long to measure.
        overwrite: Replace a bundle that stands at ``path``.
        progress: Called with what is being done and the share done.

    Raises:
        QuantizeError: the source is not float32.
        BundleError: the source is broken, or the target cannot be written.
        SessionError: full precision cannot be run here.
        StepError: items cannot be read, or full precision failed on them.
    """
    full = source if isinstance(source, Bundle) else open_bundle(source)
    check_target(Path(path), overwrite)
    check_source(full)
    trial = replace(trial, goal=goal)
    if len(check_items(full.manifest.contract.chunk, items)) < 2:
        raise StepError(
            f"{full.label}: expected at least 2 items to measure on, {len(items)} came",
            code="argument",
        )
    with tempfile.TemporaryDirectory(prefix="dst-autotune-") as folder:
        task = Task(full, items, trial, Path(folder))
        share = _PLAIN_SHARE / len(CANDIDATES)
        candidates = [
            try_recipe(task, RECIPES[name], part(progress, name, share * n, share * (n + 1)))
            for n, name in enumerate(CANDIDATES)
        ]
        searches = []
        for search, found in _searches(task, candidates, goal, progress):
            searches.append(search)
            candidates += [] if found is None else [found]
        chosen = _best(candidates, goal)
        shown = chosen or next((c for c in reversed(candidates) if c.records), None)
        verdicts = tuple(candidate.verdict for candidate in candidates)
        held = None if chosen is None else chosen.verdict
        return Autotuned(
            bundle=None if chosen is None else _written(chosen, Path(path), overwrite, progress),
            chosen=held,
            why=reason(verdicts, held, goal),
            records=() if shown is None else shown.records,
            verdicts=verdicts,
            searches=tuple(searches),
        )


def _searches(
    task: Task, plain: Sequence[Candidate], goal: Goal, progress: Progress | None
) -> Iterator[tuple[Search, Candidate | None]]:
    """Search on from every recipe that would be better than the best, but for the budget."""
    held = _best(plain, goal)
    wanted = in_order([c.verdict for c in plain if c.verdict.breaks_only_budget], goal)
    for number, verdict in enumerate(wanted):
        if held is not None and best([held.verdict, verdict], goal) is held.verdict:
            continue
        candidate = next(c for c in plain if c.verdict is verdict)
        share = (1 - _PLAIN_SHARE) / len(wanted)
        begin, end = (_PLAIN_SHARE + share * n for n in (number, number + 1))
        told = part(progress, f"{candidate.recipe.name} mixed", begin, end)
        search, found = mixed(task, candidate, told)
        yield search, found
        held = _best([c for c in (held, found) if c is not None], goal)


def _best(candidates: Sequence[Candidate], goal: Goal) -> Candidate | None:
    first = best([c.verdict for c in candidates if c.verdict.holds], goal)
    return next((c for c in candidates if c.verdict is first), None)


def _written(
    chosen: Candidate, path: Path, overwrite: bool, progress: Progress | None
) -> Bundle | None:
    """Attach the report and copy the bundle to where it is wanted, in one rename."""
    if chosen.quantized is None or chosen.verdict.report is None:
        return None
    part(progress, chosen.recipe.name, 1.0, 1.0)("writing", 1.0)
    root = chosen.quantized.bundle.root
    manifest = attach(root, chosen.verdict.report)
    files: dict[str, bytes | Path] = {name: root / name for name in manifest.files}
    return Bundle(path, write_bundle(path, manifest, files, overwrite=overwrite))
