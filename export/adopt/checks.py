"""Find out from runs of a plain ONNX file what it is as a stateful step."""

import numpy as np

from dst.export.adopt.cut import Finding, differ
from dst.export.adopt.layout import Placed
from dst.export.adopt.reference import Plain, Run
from dst.export.errors import AdoptCheckError
from dst.runtime.bundle.layout import Array
from dst.runtime.golden import relative_error

ROW_BOUND = 1e-5
"""Largest max|d|/rms of a row of a batch against the same row alone."""


def prove_state(plain: Plain, run: Run) -> list[Finding]:
    """Step once more with each state tensor put back to its start: does it make a difference?"""
    plain.check_again(run)
    states, steps = plain.plan.states, len(run.chunks)
    first, last, end = run.states[0], run.states[-2], run.states[-1]
    carried = run.answer(steps - 1)
    still: list[str] = []
    idle: list[str] = []
    for name in (state.before.port.name for state in states):
        if np.array_equal(last[name], first[name]):
            (still if np.array_equal(last[name], end[name]) else idle).append(name)
            continue
        put_back = {**last, name: first[name]}
        if not differ(carried, plain.step(run.windows[-1], put_back, run.given)):
            idle.append(name)
    used = len(states) - len(still) - len(idle)
    if not used:
        names = ", ".join(f"`{s.before.port.name}={s.after.name}`" for s in states)
        raise AdoptCheckError(
            f"after {steps} steps it makes no difference whether the state was carried ({names}); "
            "is it paired with the right outputs?",
            code="state-never-updated" if len(still) == len(states) else "state-never-read",
        )
    return [
        Finding(f"{steps} carried steps are finite and keep shapes and dtypes", True),
        Finding(f"{used} of {len(states)} state tensors make a difference", True),
        *(Finding(f"state `{name}` never moves from its start", False) for name in still),
        *(Finding(f"state `{name}` moves and changes nothing", False) for name in idle),
    ]


def prove_rows(plain: Plain, items: Array) -> tuple[tuple[int, ...], list[Finding]]:
    """Find out whether any batch runs: two streams in one batch against each alone.

    Return the batch sizes that run, empty for any; and what is to be said of it.
    """
    plan, outputs = plain.plan, plain.outputs
    t = plan.sizes[-1]
    count = 2 * t + plan.lookahead
    rows = [items[:count], items[-count:]]
    inputs = [plan.chunk, *(s.before for s in plan.states)]
    without = [s.port.name for s in plan.stream_inputs if "B" not in s.shape]
    ports = [plan.chunk, *outputs.values(), *inputs[1:]]
    without += [p.port.name for p in ports if p.batch_axis in p.added]
    if without:
        return _one(f"`{without[0]}` has no batch axis")
    ones = [p.port.name for p in inputs if p.port.dims[p.own_shape.index("B")] == 1]
    if ones:
        return _one(f"the file fixes B = 1 in `{ones[0]}`")
    try:
        both = plain.carry(rows, t)
    except AdoptCheckError as error:
        return _one(_why_not(plain, rows, t) or f"two in a batch do not run: {error}")
    worst = 0.0
    for number, row in enumerate(rows):
        own = {
            s.port.name: np.take(both.given[s.port.name], [number], s.shape.index("B"))
            for s in plan.stream_inputs
        }
        alone = plain.carry([row], t, own)
        compared = [(p, both.outputs[n], alone.outputs[n]) for n, p in outputs.items()]
        for p in inputs[1:]:
            name = p.port.name
            compared.append((p, [both.states[-1][name]], [alone.states[-1][name]]))
        for placed, found, expected in compared:
            for pair in zip(found, expected, strict=True):
                worst = max(worst, _row_error(placed, number, *pair))
    if worst > ROW_BOUND:
        told = f"one stream at a time: in a batch of 2 a stream differs by {worst:.0e}"
        return (1,), [Finding(told, False)]
    told = "bit for bit" if worst == 0 else f"to {worst:.0e}"
    return (), [Finding(f"any batch: a stream in a batch of 2 equals the same alone, {told}", True)]


def prove_stream_inputs(plain: Plain, run: Run) -> list[Finding]:
    """Give another value: does it make a difference?"""
    findings: list[Finding] = []
    number = len(run.windows) // 2
    for name in (s.port.name for s in plain.plan.stream_inputs):
        value = run.given[name]
        wide = value.astype(np.float64)
        other = wide * 2 + 1 if value.dtype.kind == "f" else np.where(wide > 0, 0, 1)
        given = {**run.given, name: other.astype(value.dtype)}
        try:
            found = plain.step(run.windows[number], run.states[number], given)
        except AdoptCheckError as error:
            findings.append(Finding(f"`{name}` takes no other value: {error}", False))
            continue
        moved = differ(run.answer(number), found)
        told = "is given once per stream, and makes a difference"
        findings.append(Finding(f"`{name}` {told if moved else 'changes nothing'}", moved))
    return findings


def _one(why: str) -> tuple[tuple[int, ...], list[Finding]]:
    return (1,), [Finding(f"one stream at a time: {why}", True)]


def _why_not(plain: Plain, rows: list[Array], t: int) -> str | None:
    """Say which constant, being given for one stream, keeps a batch of 2 from running."""
    for port in plain.plan.constant_ports:
        value = plain.plan.constants[port.name]
        for axis in [axis for axis in port.free if value.shape[axis] == 1][:1]:
            twice = {**plain.plan.constants, port.name: np.repeat(value, 2, axis)}
            try:
                plain.carry(rows, t, constants=twice)
            except AdoptCheckError:
                continue
            return (
                f"the constant `{port.name}` {list(value.shape)} is for one; where it differs "
                f"between streams, say --stream-input {port.name}"
            )
    return None


def _row_error(placed: Placed, row: int, found: Array, expected: Array) -> float:
    """Error of one row of a batch against the same alone; infinite if its shape is another."""
    axis = placed.batch_axis
    if found.ndim != expected.ndim or row >= found.shape[axis]:
        return np.inf
    own = np.take(found, [row], axis)
    return relative_error(own, expected) if own.shape == expected.shape else np.inf
