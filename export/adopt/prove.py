"""Runs of a plain ONNX file in, what they show of it as a stateful step out.

Shape letters: `B` batch, `T` items per chunk, `n` items of any number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dst.export.adopt.infer_contract import Draft
from dst.export.adopt.layout import Placed
from dst.export.adopt.plain import Plain, Run
from dst.export.errors import AdoptCheckError
from dst.runtime.golden import relative_error

Array = npt.NDArray[np.generic]
Outputs = Mapping[str, Placed]

CUT_BOUND = 1e-5
"""Largest max|d|/rms of an output, and max|d|/max|x| of a state, between two ways to cut."""
ROW_BOUND = 1e-5
"""Largest max|d|/rms of a row of a batch against the same row alone."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that running the file has shown.

    Attributes:
        text: what was found, in a few words.
        fine: False where it deserves a second look.
    """

    text: str
    fine: bool


def prove_state(plan: Draft, plain: Plain, run: Run, outputs: Outputs) -> list[Finding]:
    """Step once more with each state tensor put back to its start: does it make a difference?

    Raises:
        AdoptCheckError: no state tensor does.
    """
    window = run.windows[-1]
    carried = plain.step(window, run.states[-2], outputs)
    still: list[str] = []
    idle: list[str] = []
    for state in plan.states:
        name = state.before.port.name
        before, after = run.states[-2][name], run.states[-1][name]
        if np.array_equal(before, run.states[0][name]):
            (still if np.array_equal(before, after) else idle).append(name)
            continue
        fresh = plain.step(window, {**run.states[-2], name: run.states[0][name]}, outputs)
        others = [{k: v for k, v in part[1].items() if k != name} for part in (carried, fresh)]
        moved = _differ(carried[0], fresh[0]) or _differ(*others)
        if not moved and np.array_equal(carried[1][name], fresh[1][name]):
            idle.append(name)
    steps = len(run.chunks)
    if len(still) + len(idle) == len(plan.states):
        names = ", ".join(f"`{s.before.port.name}={s.after.name}`" for s in plan.states)
        raise AdoptCheckError(
            f"after {steps} steps it makes no difference whether the state was carried ({names}); "
            "is it paired with the right outputs?"
        )
    findings = [Finding(f"{steps} carried steps are finite and keep shapes and dtypes", True)]
    used = len(plan.states) - len(still) - len(idle)
    findings.append(Finding(f"{used} of {len(plan.states)} state tensors make a difference", True))
    findings += [Finding(f"state `{name}` never moves from its start", False) for name in still]
    findings += [Finding(f"state `{name}` moves and changes nothing", False) for name in idle]
    return findings


def prove_cut(plan: Draft, runs: Mapping[int, Run], outputs: Outputs) -> Finding:
    """Compare the same items cut into chunks of each T: outputs, and the state at the end.

    Raises:
        AdoptCheckError: they differ; the cut matters, and the tail cannot be `exact`.
    """
    *smaller, nominal = plan.sizes
    whole, worst = runs[nominal], 0.0
    for t in smaller:
        cut = runs[t]
        errors = {
            name: relative_error(*(_joined(placed, r.outputs[name]) for r in (cut, whole)))
            for name, placed in outputs.items()
        }
        for name, value in whole.states[-1].items():
            errors[name] = _error_of_peak(cut.states[-1][name], value)
        name = max(errors, key=lambda key: errors[key])
        if errors[name] > CUT_BOUND:
            raise AdoptCheckError(
                f"the cut matters: `{name}` differs by {errors[name]:.1e} between T = {t} and "
                f"T = {nominal}, {CUT_BOUND:.0e} is allowed; give --t one size, and --tail pad or "
                "--tail refuse"
            )
        worst = max(worst, errors[name])
    told = "bit for bit" if worst == 0 else f"to {worst:.0e}"
    return Finding(f"T = {', '.join(map(str, plan.sizes))} give the same, {told}", True)


def prove_rows(
    plan: Draft, plain: Plain, items: Array, outputs: Outputs
) -> tuple[tuple[int, ...], list[Finding]]:
    """Find out whether any batch runs: two streams in one batch against each alone.

    Returns:
        The batch sizes that run, empty for any; and what is to be said of it.
    """
    one = ((1,), [Finding("one stream at a time: the file fixes B = 1", True)])
    ports = [plan.chunk, *outputs.values(), *(s.before for s in plan.states)]
    if any(p.batch_axis in p.added for p in ports):
        return one
    t = plan.sizes[-1]
    rows = [items[: 2 * t], items[-2 * t :]]
    try:
        both = plain.carry(rows, t, outputs)
    except AdoptCheckError:
        return one
    worst = 0.0
    for number, row in enumerate(rows):
        alone = plain.carry([row], t, outputs)
        for name, placed in outputs.items():
            for found, expected in zip(both.outputs[name], alone.outputs[name], strict=True):
                worst = max(worst, _row_error(placed, number, found, expected))
        for state in plan.states:
            name = state.before.port.name
            found, expected = both.states[-1][name], alone.states[-1][name]
            worst = max(worst, _row_error(state.before, number, found, expected))
    if worst > ROW_BOUND:
        told = f"one stream at a time: in a batch of 2 a stream differs by {worst:.0e}"
        return (1,), [Finding(told, False)]
    told = "bit for bit" if worst == 0 else f"to {worst:.0e}"
    return (), [Finding(f"any batch: a stream in a batch of 2 equals the same alone, {told}", True)]


def _differ(some: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return any(not np.array_equal(value, other[name]) for name, value in some.items())


def _joined(placed: Placed, values: list[Array]) -> Array:
    """An output over a whole run: along time; where it has none, what the last step answered."""
    axis = placed.time_axis
    return values[-1] if axis is None else np.concatenate(values, axis)


def _error_of_peak(found: Array, expected: Array) -> float:
    """max|found - expected| / max|expected|, in float64."""
    wide, right = found.astype(np.float64), expected.astype(np.float64)
    difference = float(np.abs(wide - right).max(initial=0.0))
    peak = float(np.abs(right).max(initial=0.0))
    return difference / peak if peak else (np.inf if difference else 0.0)


def _row_error(placed: Placed, row: int, found: Array, expected: Array) -> float:
    """Error of one row of a batch against the same alone; infinite if its shape is another."""
    own = (
        np.take(found, [row], placed.batch_axis) if row < found.shape[placed.batch_axis] else found
    )
    return relative_error(own, expected) if own.shape == expected.shape else np.inf
