"""Find out whether it matters how a stream is cut into chunks, and why.

Two things make it matter. Later items of a chunk move the outputs of earlier ones (a backward
recurrence, a normalisation over the chunk): then the model is not causal, and each T is another
model. Or something that an uncut run carries on is lost at the end of a chunk.

Shape letters: `T` items per chunk, `L` lookback, `A` look-ahead.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from dst.export.adopt.contract import Draft
from dst.export.adopt.layout import Placed
from dst.export.adopt.reference import Plain, Run
from dst.export.curves import error_of_peak
from dst.export.errors import AdoptCheckError
from dst.runtime.bundle.layout import Array
from dst.runtime.golden import relative_error

Outputs = Mapping[str, Placed]

CUT_BOUND = 1e-5
"""Largest max|d|/rms of an output, and max|d|/max|x| of a state, between two ways to cut."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that running the file has shown.

    Attributes:
        text: what was found, in a few words.
        fine: False where it deserves a second look.
    """

    text: str
    fine: bool


@dataclass(frozen=True, slots=True)
class _Moved:
    """The tensor that differs most, and by how much."""

    name: str
    error: float

    def __str__(self) -> str:
        return f"`{self.name}` differs by {self.error:.1e}"


def prove_cut(
    plan: Draft, plain: Plain, runs: Mapping[int, Run], outputs: Outputs, items: Array, exact: bool
) -> tuple[list[Finding], bool]:
    """Compare the same items cut into chunks of each T, and of another T where the file has it.

    Args:
        plan: what the graph and the caller said.
        plain: the file.
        runs: T -> a run over ``items``.
        outputs: where each output has its axes.
        items: what was run.
        exact: whether the tail rule is to be `exact`, so that no cut may matter.

    Returns:
        What was found, and whether outputs are causal within a chunk.

    Raises:
        AdoptCheckError: the cut matters, and a contract of several T promises that it does not.
    """
    looks_ahead = _worst(_moved_by_later(plan, plain, run, outputs, t) for t, run in runs.items())
    causal, nominal = looks_ahead is None, plan.sizes[-1]
    findings = _check_read(plan, plain, runs[nominal], outputs, items, nominal)
    if looks_ahead is not None:
        findings.append(
            Finding(
                f"non-causal: later items of a chunk move earlier outputs ({looks_ahead} of its "
                "rms), so each T is another model",
                False,
            )
        )
    compared = [
        (t, _between((runs[t], t), (runs[nominal], nominal), outputs, per_chunk=exact))
        for t in plan.sizes[:-1]
    ]
    for t, moved in compared:
        if _matters(moved) and (exact or causal):
            raise AdoptCheckError(_refused(moved, t, nominal, looks_ahead), code=_code(causal))
        if _matters(moved):
            findings.append(Finding(f"T = {t} and T = {nominal}: {moved}", False))
    if exact and not causal:
        raise AdoptCheckError(
            f"later items of a chunk move earlier outputs ({looks_ahead}), so --tail exact, which "
            f"cuts chunks short at the end, is refused; give --t {nominal} and --tail pad or "
            "--tail refuse",
            code="not-causal",
        )
    if not compared:
        findings += _at_another_t(plan, plain, runs[nominal], outputs, items, causal)
    elif not any(_matters(moved) for _, moved in compared):
        worst = max(moved.error for _, moved in compared)
        told = "bit for bit" if worst == 0 else f"to {worst:.0e}"
        sizes = ", ".join(map(str, plan.sizes))
        findings.append(Finding(f"T = {sizes} give the same, {told}", True))
    return findings, causal


def _matters(moved: _Moved) -> bool:
    return not moved.error <= CUT_BOUND


def _code(causal: bool) -> str:
    return "cut-matters" if causal else "not-causal"


def _refused(moved: _Moved, t: int, nominal: int, looks_ahead: _Moved | None) -> str:
    why = "no later item moves an earlier output, so something is lost at the end of a chunk"
    if looks_ahead is not None:
        why = f"later items of a chunk move earlier outputs ({looks_ahead})"
    return (
        f"the cut matters: {moved} between T = {t} and T = {nominal}, {CUT_BOUND:.0e} is allowed; "
        f"{why}; give --t one size, and --tail pad or --tail refuse unless that is 1"
    )


def _check_read(
    plan: Draft, plain: Plain, run: Run, outputs: Outputs, items: Array, t: int
) -> list[Finding]:
    """Say so where the last items of a chunk change nothing.

    Raises:
        AdoptCheckError: no more items are read at a larger T, so the file was traced with those.
    """
    count = t + plan.lookahead
    read = _read(plan, plain, run, outputs)
    if t == 1 or read in (0, count):
        return []
    told = f"of the {count} items that a step takes only the first {read} make a difference"
    chunk = plan.chunk
    if chunk.free_time:
        try:
            larger = plain.carry([items], 2 * t, outputs)
        except AdoptCheckError:
            larger = None
        if larger is not None and larger.windows and _read(plan, plain, larger, outputs) == read:
            raise AdoptCheckError(
                f"{told}: the file was traced with {read} items and reads no others, whatever T "
                f"is. Say --t {read - plan.lookahead}, or export the model again with T free or "
                "with the T that you want",
                code="items-not-read",
            )
    return [Finding(f"{told}: does the file take them?", False)]


def _read(plan: Draft, plain: Plain, run: Run, outputs: Outputs) -> int:
    """Of the items that a step takes, how many make a difference, counted from the first?"""
    axis = plan.chunk.shape.index("T")
    count = run.windows[0].shape[axis] - plan.lookback
    for kept in range(count - 1, -1, -1):
        for number in _some(run):
            changed = _changed(run, number, axis, plan.lookback + kept)
            answers, state = plain.step(changed, run.states[number], outputs, run.given)
            was = [run.outputs[name][number] for name in answers]
            was += [run.states[number + 1][name] for name in state]
            if any(map(_apart, was, (*answers.values(), *state.values()))):
                return kept + 1
    return 0


def _apart(one: Array, other: Array) -> bool:
    return not np.array_equal(one, other)


def _at_another_t(
    plan: Draft, plain: Plain, run: Run, outputs: Outputs, items: Array, causal: bool
) -> list[Finding]:
    """Try a T that was not asked for, where the file leaves it open; it may well not run."""
    chunk, (t,) = plan.chunk, plan.sizes
    if not chunk.free_time:
        return []
    tried = (2, 3) if t == 1 else (*([t // 2] if t % 2 == 0 else []), 1, 2 * t)
    for other in tried:
        try:
            cut = plain.carry([items], other, outputs)
            _check_lengths(cut, other, outputs)
            moved = _between((cut, other), (run, t), outputs, per_chunk=False)
        except (AdoptCheckError, ValueError):  # it does not run, or other shapes come of it
            continue
        if not _matters(moved):
            return [Finding(f"T = {other}, which was tried too, gives the same", True)]
        if t == 1:
            told = f"T = {other} would answer otherwise ({moved}): chunks of one item only"
        elif not any(placed.time_axis is not None for placed in outputs.values()):
            told = f"T = {other} answers otherwise ({moved}): once per chunk, so T is a part of it"
        elif causal:
            told = (
                f"the cut matters: {moved} between T = {other} and T = {t}, though no later item "
                "moves an earlier output: something is lost at the end of a chunk"
            )
        else:
            told = f"T = {other}, which was tried too, answers otherwise: {moved}"
        return [Finding(told, False)]
    return []


def _check_lengths(run: Run, t: int, outputs: Outputs) -> None:
    """Raise ValueError where an output per item has not one answer for each: T is not meant."""
    for name, placed in outputs.items():
        if placed.time_axis is not None and run.outputs[name][0].shape[placed.time_axis] != t:
            raise ValueError(f"`{name}` does not answer each of {t} items")


def _between(
    cut: tuple[Run, int], whole: tuple[Run, int], outputs: Outputs, *, per_chunk: bool
) -> _Moved:
    """Compare two runs, each with its T, over the items that both have read: shapes first."""
    (some, t), (other, long) = cut, whole
    period = math.lcm(t, long)
    items = min(len(some.chunks) * t, len(other.chunks) * long) // period * period
    if not items:
        raise ValueError("the runs have no step in common")
    pairs = [
        (name, _joined(placed, some.outputs[name][: items // t]), _joined(placed, values))
        for name, placed in outputs.items()
        if per_chunk or placed.time_axis is not None  # else it is another thing at another T
        for values in [other.outputs[name][: items // long]]
    ]
    found = [
        _Moved(name, relative_error(one, two) if one.shape == two.shape else np.inf)
        for name, one, two in pairs
    ]
    found += [
        _Moved(name, error_of_peak(some.states[items // t][name], value))
        for name, value in other.states[items // long].items()
    ]
    return max(found, key=lambda moved: moved.error)


def _moved_by_later(plan: Draft, plain: Plain, run: Run, outputs: Outputs, t: int) -> _Moved | None:
    """Change the later items of some chunks: which earlier output moves most, if one does?"""
    timed = {name: placed for name, placed in outputs.items() if placed.time_axis is not None}
    if t == 1 or not timed:
        return None
    axis = plan.chunk.shape.index("T")
    found: list[_Moved] = []
    for number in _some(run):
        for kept in sorted({1, t // 2, t - 1}):
            changed = _changed(run, number, axis, plan.lookback + kept + plan.lookahead)
            answers = plain.step(changed, run.states[number], timed, run.given)[0]
            for name, placed in timed.items():
                at = placed.shape.index("T")
                old, new = run.outputs[name][number], answers[name]
                first = [np.take(value, range(kept), at) for value in (new, old)]
                found.append(_Moved(name, relative_error(*first)))
    return _worst(found)


def _some(run: Run) -> list[int]:
    """The first, the middle and the last chunk."""
    return sorted({0, len(run.windows) // 2, len(run.windows) - 1})


def _changed(run: Run, number: int, axis: int, first: int) -> Array:
    """A chunk of a run with other items from item ``first`` on."""
    kept = np.take(run.windows[number], range(first), axis)
    other = _others(run.windows, number)
    return np.concatenate([kept, np.take(other, range(first, other.shape[axis]), axis)], axis)


def _others(windows: list[Array], number: int) -> Array:
    """Other items for a chunk: those of another chunk, or its own in another order."""
    window = windows[number]
    other = windows[(number + max(1, len(windows) // 2)) % len(windows)]
    if not np.array_equal(other, window):
        return other
    wide = window.astype(np.float64)
    changed = wide * 1.25 if window.dtype.kind == "f" else np.where(wide > 0, wide - 1, wide + 1)
    return changed.astype(window.dtype)


def _worst(found: Iterable[_Moved | None]) -> _Moved | None:
    """Return what differs most, None where nothing differs by more than the bound."""
    moved = [one for one in found if one is not None and _matters(one)]
    return max(moved, key=lambda one: one.error, default=None)


def _joined(placed: Placed, values: list[Array]) -> Array:
    """An output over a whole run: along time; where it has none, what the last step answered."""
    axis = placed.time_axis
    return values[-1] if axis is None else np.concatenate(values, axis)
