"""Find out from runs of a plain ONNX file what it is as a stateful step.

Shape letters: `B` batch, `T` items per chunk, `n` items of any number.
"""

from collections.abc import Mapping

import numpy as np

from dst.export.adopt.contract import Draft
from dst.export.adopt.cut import Finding, Outputs
from dst.export.adopt.layout import Placed
from dst.export.adopt.reference import Plain, Run
from dst.export.errors import AdoptCheckError
from dst.runtime.bundle.layout import Array
from dst.runtime.golden import relative_error

ROW_BOUND = 1e-5
"""Largest max|d|/rms of a row of a batch against the same row alone."""


def prove_state(plan: Draft, plain: Plain, run: Run, outputs: Outputs) -> list[Finding]:
    """Step once more with each state tensor put back to its start: does it make a difference?

    Raises:
        AdoptCheckError: no state tensor does; or a step taken again gives something else.
    """
    plain.check_again(run, outputs)
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
            "is it paired with the right outputs?",
            code="state-never-updated" if len(still) == len(plan.states) else "state-never-read",
        )
    findings = [Finding(f"{steps} carried steps are finite and keep shapes and dtypes", True)]
    used = len(plan.states) - len(still) - len(idle)
    findings.append(Finding(f"{used} of {len(plan.states)} state tensors make a difference", True))
    findings += [Finding(f"state `{name}` never moves from its start", False) for name in still]
    findings += [Finding(f"state `{name}` moves and changes nothing", False) for name in idle]
    return findings


def prove_rows(
    plan: Draft, plain: Plain, items: Array, outputs: Outputs
) -> tuple[tuple[int, ...], list[Finding]]:
    """Find out whether any batch runs: two streams in one batch against each alone.

    Returns:
        The batch sizes that run, empty for any; and what is to be said of it.
    """
    t = plan.sizes[-1]
    count = 2 * t + plan.lookahead
    rows = [items[:count], items[-count:]]
    fixed = [s.port.name for s in plan.stream_inputs if "B" not in s.shape]
    if fixed:
        return _one(f"`{fixed[0]}` has no batch axis")
    ports = [plan.chunk, *outputs.values(), *(s.before for s in plan.states)]
    without = [p.port.name for p in ports if p.batch_axis in p.added]
    if without:
        return _one(f"`{without[0]}` has no batch axis")
    inputs = [plan.chunk, *(s.before for s in plan.states)]
    ones = [p.port.name for p in inputs if p.port.dims[p.batch_axis_in_file] == 1]
    if ones:
        return _one(f"the file fixes B = 1 in `{ones[0]}`")
    try:
        both = plain.carry(rows, t, outputs)
    except AdoptCheckError as error:
        return _why_not(plan, plain, rows, t, outputs, error)
    worst = 0.0
    for number, row in enumerate(rows):
        own = {
            s.port.name: np.take(both.given[s.port.name], [number], s.shape.index("B"))
            for s in plan.stream_inputs
        }
        alone = plain.carry([row], t, outputs, own)
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


def prove_stream_inputs(plan: Draft, plain: Plain, run: Run, outputs: Outputs) -> list[Finding]:
    """Give another value: does it make a difference?"""
    findings: list[Finding] = []
    number = len(run.windows) // 2
    for s in plan.stream_inputs:
        name = s.port.name
        value = run.given[name]
        wide = value.astype(np.float64)
        other = wide * 2 + 1 if value.dtype.kind == "f" else np.where(wide > 0, 0, 1)
        try:
            found = plain.step(
                run.windows[number],
                run.states[number],
                outputs,
                {**run.given, name: other.astype(value.dtype)},
            )
        except AdoptCheckError as error:
            findings.append(Finding(f"`{name}` takes no other value: {error}", False))
            continue
        moved = _differ(found[0], {n: run.outputs[n][number] for n in outputs})
        moved = moved or _differ(found[1], run.states[number + 1])
        told = "is given once per stream, and makes a difference"
        findings.append(Finding(f"`{name}` {told if moved else 'changes nothing'}", moved))
    return findings


def _one(why: str) -> tuple[tuple[int, ...], list[Finding]]:
    return (1,), [Finding(f"one stream at a time: {why}", True)]


def _why_not(
    plan: Draft, plain: Plain, rows: list[Array], t: int, outputs: Outputs, error: AdoptCheckError
) -> tuple[tuple[int, ...], list[Finding]]:
    """Say why a batch of 2 does not run: a constant that is given for one stream, or the file."""
    ports = {port.name: port for port in plan.constant_ports}
    for name, value in plan.constants.items():
        open_ones = [axis for axis in ports[name].free if value.shape[axis] == 1]
        for axis in open_ones[:1]:
            twice = {**plan.constants, name: np.repeat(value, 2, axis)}
            try:
                plain.carry(rows, t, outputs, constants=twice)
            except AdoptCheckError:
                continue
            return _one(
                f"the constant `{name}` {list(value.shape)} is for one; where it differs between "
                f"streams, say --stream-input {name}"
            )
    return _one(f"two in a batch do not run: {error}")


def _differ(some: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return any(not np.array_equal(value, other[name]) for name, value in some.items())


def _row_error(placed: Placed, row: int, found: Array, expected: Array) -> float:
    """Error of one row of a batch against the same alone; infinite if its shape is another."""
    axis = placed.batch_axis
    if found.ndim != expected.ndim or row >= found.shape[axis]:
        return np.inf
    own = np.take(found, [row], axis)
    return relative_error(own, expected) if own.shape == expected.shape else np.inf
