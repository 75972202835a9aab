"""Find out whether it matters how a stream is cut into chunks, and why.

Two things make it matter. Later items of a chunk move the outputs of earlier ones (a backward
recurrence, a normalisation over the chunk): then the model is not causal, and each T is another
model. Or something that an uncut run carries on is lost at the end of a chunk.

Shape letters: `T` items per chunk, `L` lookback, `A` look-ahead.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dst.export.adopt.reference import Plain, Run
from dst.export.curves import error_of_peak
from dst.export.errors import AdoptCheckError
from dst.runtime.bundle.layout import Array
from dst.runtime.golden import relative_error

Answer = tuple[Mapping[str, Array], Mapping[str, Array]]

CUT_BOUND = 1e-5
"""Largest max|d|/rms of an output, and max|d|/max|x| of a state, between two ways to cut."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that running the file has shown; what is not fine deserves a second look."""

    text: str
    fine: bool


class _Moved(NamedTuple):
    """The tensor that differs most, and by how much."""

    name: str
    error: float

    @property
    def matters(self) -> bool:
        return not self.error <= CUT_BOUND

    def __str__(self) -> str:
        return f"`{self.name}` differs by {self.error:.1e}"


def prove_cut(
    plain: Plain, runs: Mapping[int, Run], items: Array, exact: bool
) -> tuple[list[Finding], bool]:
    """Compare the runs at each T over the same items, and try another T where the file has it.

    Where ``exact``, the tail rule is to be that, so that no cut may matter. Return what was found,
    and whether outputs are causal within a chunk.

    Raises:
        AdoptCheckError: the cut matters, and a contract of several T promises that it does not.
    """
    looks_ahead = _worst(moved for run in runs.values() for moved in _moved_by_later(plain, run))
    *shorter, nominal = plain.plan.sizes
    causal, whole = looks_ahead is None, runs[nominal]
    findings = _check_read(plain, whole, items)
    if not causal:
        findings.append(
            Finding(
                f"non-causal: later items of a chunk move earlier outputs ({looks_ahead} of its "
                "rms), so each T is another model",
                False,
            )
        )
    compared = [_between(plain, runs[t], whole, per_chunk=exact) for t in shorter]
    for t, moved in zip(shorter, compared, strict=True):
        if not moved.matters:
            continue
        if not exact and not causal:
            findings.append(Finding(f"T = {t} and T = {nominal}: {moved}", False))
            continue
        why = "no later item moves an earlier output, so something is lost at the end of a chunk"
        if not causal:
            why = f"later items of a chunk move earlier outputs ({looks_ahead})"
        raise AdoptCheckError(
            f"the cut matters: {moved} between T = {t} and T = {nominal}, {CUT_BOUND:.0e} is "
            f"allowed; {why}; give --t one size, and --tail pad or --tail refuse unless that is 1",
            code="cut-matters" if causal else "not-causal",
        )
    if exact and not causal:
        raise AdoptCheckError(
            f"later items of a chunk move earlier outputs ({looks_ahead}), so --tail exact, which "
            f"cuts chunks short at the end, is refused; give --t {nominal} and --tail pad or "
            "--tail refuse",
            code="not-causal",
        )
    if not compared:
        findings += _at_another_t(plain, whole, items, causal)
    elif not any(moved.matters for moved in compared):
        worst = max(moved.error for moved in compared)
        told = "bit for bit" if worst == 0 else f"to {worst:.0e}"
        sizes = ", ".join(map(str, plain.plan.sizes))
        findings.append(Finding(f"T = {sizes} give the same, {told}", True))
    return findings, causal


def _check_read(plain: Plain, run: Run, items: Array) -> list[Finding]:
    """Say so where the last items of a chunk change nothing."""
    ahead = plain.plan.lookahead
    count, read = run.t + ahead, _read(plain, run)
    if run.t == 1 or read in (0, count):
        return []
    told = f"of the {count} items that a step takes only the first {read} make a difference"
    if plain.plan.chunk.free_time:
        try:
            larger = plain.carry([items], 2 * run.t)
        except AdoptCheckError:
            larger = None
        if larger is not None and larger.windows and _read(plain, larger) == read:
            raise AdoptCheckError(
                f"{told}: the file was traced with {read} items and reads no others, whatever T "
                f"is. Say --t {read - ahead}, or export the model again with T free or "
                "with the T that you want",
                code="items-not-read",
            )
    return [Finding(f"{told}: does the file take them?", False)]


def _read(plain: Plain, run: Run) -> int:
    """Of the items that a step takes, how many make a difference, counted from the first?"""
    for kept in range(run.t + plain.plan.lookahead - 1, -1, -1):
        for number in _some(run):
            changed = _changed(plain, run, number, kept)
            if differ(run.answer(number), plain.step(changed, run.states[number], run.given)):
                return kept + 1
    return 0


def differ(one: Answer, other: Answer) -> bool:
    """Say whether an output or a next state of two steps differs."""
    return any(
        not np.array_equal(value, there[name])
        for here, there in zip(one, other, strict=True)
        for name, value in here.items()
    )


def _at_another_t(plain: Plain, run: Run, items: Array, causal: bool) -> list[Finding]:
    """Try a T that was not asked for, where the file leaves it open; it may well not run."""
    t, timed = run.t, plain.timed
    if not plain.plan.chunk.free_time:
        return []
    for other in (2, 3) if t == 1 else (*([t // 2] if t % 2 == 0 else []), 1, 2 * t):
        try:
            cut = plain.carry([items], other)
            if any(cut.outputs[name][0].shape[axis] != other for name, axis in timed.items()):
                continue  # an output has not one answer for each item: this T is not meant
            moved = _between(plain, cut, run, per_chunk=False)
        except (AdoptCheckError, ValueError):  # it does not run, or other shapes come of it
            continue
        if not moved.matters:
            return [Finding(f"T = {other}, which was tried too, gives the same", True)]
        if t == 1:
            told = f"T = {other} would answer otherwise ({moved}): chunks of one item only"
        elif not timed:
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


def _between(plain: Plain, some: Run, other: Run, *, per_chunk: bool) -> _Moved:
    """Compare two runs over the items that both have read: shapes first."""
    period = math.lcm(some.t, other.t)
    items = min(len(run.chunks) * run.t for run in (some, other)) // period * period
    if not items:
        raise ValueError("the runs have no step in common")
    found = []
    for name, placed in plain.outputs.items():
        axis = placed.time_axis
        if per_chunk or axis is not None:  # else it is another thing at another T
            one, two = (_joined(run.outputs[name][: items // run.t], axis) for run in (some, other))
            error = relative_error(one, two) if one.shape == two.shape else np.inf
            found.append(_Moved(name, error))
    state = some.states[items // some.t]
    for name, value in other.states[items // other.t].items():
        found.append(_Moved(name, error_of_peak(state[name], value)))
    return max(found, key=lambda moved: moved.error)


def _joined(values: list[Array], axis: int | None) -> Array:
    """An output over a whole run: along time; where it has none, what the last step answered."""
    return values[-1] if axis is None else np.concatenate(values, axis)


def _moved_by_later(plain: Plain, run: Run) -> Iterator[_Moved]:
    """Change the later items of some chunks: by how much does each earlier output move?"""
    timed = plain.timed
    if run.t == 1 or not timed:
        return
    for number in _some(run):
        for kept in sorted({1, run.t // 2, run.t - 1}):
            changed = _changed(plain, run, number, kept + plain.plan.lookahead)
            answers = plain.step(changed, run.states[number], run.given)[0]
            for name, axis in timed.items():
                new, old = answers[name], run.outputs[name][number]
                first = [np.take(value, range(kept), axis) for value in (new, old)]
                yield _Moved(name, relative_error(*first))


def _some(run: Run) -> list[int]:
    """The first, the middle and the last chunk."""
    return sorted({0, len(run.windows) // 2, len(run.windows) - 1})


def _changed(plain: Plain, run: Run, number: int, first: int) -> Array:
    """A chunk of a run with other items from its own item ``first`` on."""
    axis, at = plain.plan.chunk.shape.index("T"), plain.plan.lookback + first
    kept = np.take(run.windows[number], range(at), axis)
    other = _others(run.windows, number)
    return np.concatenate([kept, np.take(other, range(at, other.shape[axis]), axis)], axis)


def _others(windows: list[Array], number: int) -> Array:
    """Other items for a chunk: those of another chunk, or its own in another order."""
    window = windows[number]
    other = windows[(number + max(1, len(windows) // 2)) % len(windows)]
    if not np.array_equal(other, window):
        return other
    wide = window.astype(np.float64)
    changed = wide * 1.25 if window.dtype.kind == "f" else np.where(wide > 0, wide - 1, wide + 1)
    return changed.astype(window.dtype)


def _worst(found: Iterable[_Moved]) -> _Moved | None:
    """Return what differs most, None where nothing differs by more than the bound."""
    moved = (one for one in found if one.matters)
    return max(moved, key=lambda one: one.error, default=None)
