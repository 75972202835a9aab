"""Judge whether a quantized bundle is worth having on this machine, and say why not.

A bundle is refused that is not smaller than full precision; that is surely slower at its nominal
T; that is not surely faster at its nominal T or at T = 1, unless size is the goal; that fails a
gate of the horizon report; or that breaks the budget. *Surely* is: the whole 95 % interval of the
ratio of speeds. Of those that hold, the best for a goal is chosen.
"""

from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from dst.evaluate import Spread, measure
from dst.evaluate.quality import Report, horizon_report
from dst.evaluate.quality.rollout import BrokeAtOnceError
from dst.evaluate.quality.sizes import parts_of
from dst.quantize.autotune.trial import USUAL, Goal, Trial, part
from dst.quantize.quantize import Progress
from dst.runtime import Bundle, open_bundle
from dst.runtime.bundle.manifest import Gate

Array = npt.NDArray[np.generic]

BUDGET_RULES = ("loss", "error")
"""The gates that hold a budget: what breaks them alone may be mended by wider weights."""
LEAST_GAIN = 1.01
"""A clock that is asked often enough finds a thousandth somewhere; less than this is no gain,
and no loss."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Speed over full precision's at one T: the median of all rounds and its 95 % interval."""

    t: int
    ratio: Spread

    @property
    def faster(self) -> bool:
        """Whether it is surely faster: the whole interval is above ``LEAST_GAIN``."""
        return self.ratio.low > LEAST_GAIN

    @property
    def slower(self) -> bool:
        """Whether it is surely slower: full precision is faster by ``LEAST_GAIN`` for sure."""
        return self.ratio.high < 1.0 / LEAST_GAIN


def measure_speed(
    full: Bundle, candidate: Bundle, trial: Trial, progress: Progress
) -> tuple[Speed, ...]:
    """Run two bundles in turns at T = 1 and the candidate's nominal T, as far as both run these."""
    chunk = candidate.manifest.contract.chunk
    common = set(chunk.allowed_t) & set(full.manifest.contract.chunk.allowed_t)
    sizes = sorted({1, chunk.nominal_t} & common)
    result = measure(
        [full.root, candidate.root],
        sizes,
        trial.rounds,
        threads=trial.threads,
        slot_ms=trial.slot_ms,
        starts=0,
        progress=progress,
    )
    right, found = (entry.cells for entry in result.bundles)
    return tuple(
        Speed(t=cell.t, ratio=cell.ratio)
        for base, cell in zip(right, found, strict=True)
        if cell.ratio is not None and base.ratio is not None
    )


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """One reason not to take a bundle.

    ``rule`` is ``unchanged``, ``unable``, ``size``, ``speed``, or the name of the gate that failed.
    """

    rule: str
    why: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one bundle; it holds where there is no refusal.

    ``weights_share`` is of the bytes that full precision's graph holds. ``report`` is null where
    quality was not measured, and then a refusal says why.
    """

    recipe: str
    t: int
    weights_bytes: int
    weights_share: float
    speeds: tuple[Speed, ...]
    report: Report | None
    refusals: tuple[Refusal, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.refusals

    @property
    def breaks_only_budget(self) -> bool:
        """Whether it is refused, and for its loss or error alone."""
        return bool(self.refusals) and all(r.rule in BUDGET_RULES for r in self.refusals)

    @property
    def causal(self) -> bool:
        """Whether no output moved when a later item of its chunk changed."""
        return self.report is not None and self.report.causality.causal

    def speed(self, t: int) -> Speed | None:
        """The speed at one T, None where it was not measured."""
        return next((speed for speed in self.speeds if speed.t == t), None)

    def gate(self, *names: str) -> Gate | None:
        """The first gate of one of these names, None where quality was not measured."""
        gates = () if self.report is None else self.report.gates
        return next((gate for gate in gates if gate.name in names), None)


def judge(
    full: str | Path | Bundle,
    candidate: str | Path | Bundle,
    items: Array,
    trial: Trial = USUAL,
    progress: Progress | None = None,
) -> Verdict:
    """Judge any bundle against full precision of the same model, as the picker does.

    Args:
        full: The bundle of full precision.
        candidate: Another precision, whoever made it.
        items: ``[n]`` or ``[n, F]`` as callers give them, to measure quality on.
        trial: Budget, and how long to measure.
        progress: Told of what is being done and of the share done.

    Raises:
        BundleError: a bundle is broken.
        StateMismatchError: `other-model`, `other-state-layout`: they are not two precisions of one
            model.
        SessionError: a graph cannot be run here.
        StepError: items cannot be read, or full precision failed on them.
    """
    right = full if isinstance(full, Bundle) else open_bundle(full)
    other = candidate if isinstance(candidate, Bundle) else open_bundle(candidate)
    found = quality(right, other, items, trial, part(progress, "quality", 0.0, 0.7))
    speeds = measure_speed(right, other, trial, part(progress, "speed", 0.7, 1.0))
    return verdict_of(right, other, found, speeds, trial.goal)


def quality(
    full: Bundle, candidate: Bundle, items: Array, trial: Trial, progress: Progress
) -> Report | str:
    """Make the horizon report of a trial's length, or say why the candidate broke at once."""
    try:
        return horizon_report(
            full.root, candidate.root, items, trial.items, trial.settings, progress
        )
    except BrokeAtOnceError as broke:
        return str(broke)


def verdict_of(
    full: Bundle,
    candidate: Bundle,
    found: Report | str,
    speeds: Sequence[Speed],
    goal: Goal = "speed",
) -> Verdict:
    """Hold what was measured against the rules; ``found`` is the report, or why there is none."""
    manifest = candidate.manifest
    nominal = manifest.contract.chunk.nominal_t
    sizes = []
    for bundle in (full, candidate):  # tensor by tensor, whatever the manifest says
        t = bundle.manifest.contract.chunk.nominal_t
        graph = next(g for g in bundle.manifest.graphs if t in g.allowed_t)
        sizes.append(parts_of(bundle, graph).weights_size)
    before, after = sizes
    report = found if isinstance(found, Report) else None
    gates = () if report is None else report.gates
    broke = [Refusal(rule="finite", why=found)] if isinstance(found, str) else []
    return Verdict(
        recipe=manifest.recipe or manifest.precision,
        t=nominal,
        weights_bytes=after,
        weights_share=after / before if before else 1.0,
        speeds=tuple(speeds),
        report=report,
        refusals=(
            *size_refusals(before, after),
            *speed_refusals(speeds, nominal, goal),
            *(refused for gate in gates if (refused := gate_refusal(gate)) is not None),
            *broke,
        ),
    )


def size_refusals(before: int, after: int) -> list[Refusal]:
    """Refuse what is not smaller, in bytes of weights."""
    why = f"not smaller: {after:,} bytes of weights, full precision has {before:,}"
    return [] if after < before else [Refusal(rule="size", why=why)]


def speed_refusals(speeds: Sequence[Speed], nominal: int, goal: Goal = "speed") -> list[Refusal]:
    """Refuse what is surely slower at the nominal T, or faster at none where speed is wanted."""
    own = next((speed for speed in speeds if speed.t == nominal), None)
    faster = [_told(speed) for speed in speeds if speed.faster]
    if own is None:
        why = f"does not run T = {nominal}, so its speed is unknown"
    elif own.slower:
        but = f", though faster at {'; '.join(faster)}" if faster else ""
        why = f"slower than full precision at {_told(own)}{but}"
    elif goal == "speed" and not faster:
        why = f"not surely faster than full precision at {'; '.join(map(_told, speeds))}"
    else:
        return []
    return [Refusal(rule="speed", why=why)]


def _told(speed: Speed) -> str:
    ratio = speed.ratio
    return f"T = {speed.t}: {ratio.median:.2f}× ({ratio.low:.2f}–{ratio.high:.2f})"


def gate_refusal(gate: Gate) -> Refusal | None:
    """Refuse what fails a gate; one that was not judged refuses nothing."""
    if gate.verdict != "failed" or gate.value is None:
        return None
    told = {
        "loss": f"loss {gate.value:.2g} nats per item, the budget is {gate.bound:g}",
        "error": f"error {gate.value:.2g}, the budget is {gate.bound:g}",
        "growth-per-decade": f"its error grows: up to {gate.value:.0%} per tenfold of items",
        "finite": "gave a NaN or an infinity",
    }
    why = told.get(gate.name, f"{gate.name} is {gate.value:.3g}, at most {gate.bound:g}")
    return Refusal(rule=gate.name, why=why)


def best(pool: Sequence[Verdict], goal: Goal) -> Verdict | None:
    """Choose one of those whose speed was measured, None where there is none."""
    able = [found for found in pool if found.speed(found.t) is not None]
    if able and goal == "speed":
        least = max(map(_spread, able), key=itemgetter(0))[1]
        able = [found for found in able if _spread(found)[2] >= least]
    return min(
        able,
        key=lambda found: (round(found.weights_share, 2), not found.causal, -_spread(found)[0]),
        default=None,
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
    """Say in one sentence why a recipe was chosen of all verdicts, or why none was."""
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
    why = "is causal within a chunk" if chosen.causal and not rival.causal else "is faster"
    if round(chosen.weights_share, 2) < round(rival.weights_share, 2):
        sizes = f"{chosen.weights_share:.2f} of full precision's bytes, {rival.weights_share:.2f}"
        why = f"is smaller ({sizes} for the other)"
    return (
        f"{about} ({_numbers(chosen)}) before {rival.recipe} ({_numbers(rival)}), which is "
        f"{equal}; {chosen.recipe} {why}"
    )


def _numbers(found: Verdict) -> str:
    median, low, high = _spread(found)
    return f"{median:.2f}× ({low:.2f}–{high:.2f}) at T = {found.t}"
