"""Check that a torch step is the stateful step that its contract says, before it is traced.

Each check looks for one kind of fault, runs the step at sizes that the contract allows and no
other, and raises ``StepFaultError`` with the code of the fault: what was seen, where, what it
would mean on a stream, and how it is mended.

| code | what is wrong |
|---|---|
| ``step-failed`` | the module raised |
| ``state-grows`` | a state tensor changes its size from step to step |
| ``random`` | the same chunk and state give different answers, by random numbers |
| ``hidden-state`` | the same, by a memory that the module keeps on itself |
| ``state-never-updated`` | the state, or a tensor of it, never moves |
| ``state-never-read`` | outputs never depend on the state, or a tensor is overwritten unread |
| ``data-dependent`` | Python code decides by the values of a tensor |
| ``rows-mixed`` | one row of a batch moves another |
| ``not-causal`` | later items move the answers for earlier ones |
| ``cut-matters`` | another cut into chunks gives other answers |
"""

import contextlib
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dst.export.certify import Progress
from dst.export.checks.branch import check_branches
from dst.export.checks.cut import check_cut
from dst.export.checks.memory import check_reads, check_updates
from dst.export.checks.own_memory import Operators
from dst.export.checks.repeats import Finding, check_counters, check_repeats, first_answers
from dst.export.errors import StepFaultError
from dst.export.infer.call import Answer, Tensors, check_step, where
from dst.export.infer.probe import Pairs, Probe, beyond, finite, furthest, kept_randomness, nudged
from dst.export.step import Step

__all__ = ["Finding", "check_recurrence"]

CHECKING = "checking the step"
SAME_SHAPE_SHARE = 1e-5
"""Share of a tensor's peak that rounding may move between two calls of the same shapes."""
OTHER_SHAPE_SHARE = 1e-4
"""The same where shapes differ, and with them the order of sums; the certificates are finer."""


def check_recurrence(
    step: Step,
    data: npt.NDArray[np.generic],
    *,
    batches: Sequence[int] = (),
    bound: float = 0.0,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """Check a step for every fault that would make its bundle wrong on a stream.

    Args:
        step: the module, in the mode in which it is to be exported (``eval()``).
        data: real items, ``[n]`` or ``[n, ...]``, as the stream brings them.
        batches: the batch sizes that the step is to run; empty for any.
        bound: the largest error that the certificates will allow, where it was raised; two cuts
            may then differ by as much.
        progress: called with a label and the share done.

    Returns:
        What was seen that is no fault and yet deserves a word.

    Raises:
        StepFaultError: the step has a fault; its ``code`` names the kind.
        ExportError: `step-contract`: a tensor has another name, shape or dtype than the contract
            says.
    """
    probe = Probe(step, data, batches)
    findings: list[Finding] = []
    tell = progress or (lambda what, share: None)
    with kept_randomness():
        tell(CHECKING, 0 / 8)
        _check_runs(probe)
        asked = first_answers(probe)
        tell(CHECKING, 1 / 8)
        check_repeats(probe, asked)
        findings += check_counters(probe, asked)
        tell(CHECKING, 2 / 8)
        check_branches(probe)  # before states that no stream reaches: a loop may not end on them
        tell(CHECKING, 3 / 8)
        findings += check_updates(probe)
        tell(CHECKING, 4 / 8)
        findings += check_reads(probe)
        tell(CHECKING, 5 / 8)
        _check_rows(probe)
        tell(CHECKING, 6 / 8)
        _check_causal(probe)
        tell(CHECKING, 7 / 8)
        findings += _check_cut(probe, max(bound, OTHER_SHAPE_SHARE), findings)
        check_repeats(probe, asked, seeds=1)  # once more, now that much else has run
        tell(CHECKING, 8 / 8)
    return tuple(findings)


def _check_cut(probe: Probe, share: float, findings: list[Finding]) -> list[Finding]:
    """Check the cut; where a tensor never moves, or none reads it, that is why it matters."""
    try:
        return check_cut(probe, share)
    except StepFaultError as fault:
        floats = {s.input for s in probe.contract.state if s.dtype.startswith("float")}
        for seen in findings:
            cure = "return its next value, not the one that came in"
            if seen.code == "state-never-read" and seen.state in floats:
                cure = "read it in `forward`, instead of zeros"
            elif seen.code != "state-never-updated" or not seen.state:
                continue
            if fault.code == "cut-matters":
                raise StepFaultError(
                    f"{seen.text}, and the stream misses it: {cure}. Seen in that {fault}",
                    code=seen.code,
                ) from fault
        raise


def _check_runs(probe: Probe) -> None:
    """Run at every size, and find out which streams give finite answers."""
    try:
        check_step(probe.step)
        for t in probe.sizes:
            probe.carry("data", t, 4)
    except StepFaultError as fault:
        if fault.code == "step-failed" and _two_rows_run(probe):
            _check_rows(probe)  # a statistic over the batch may fail at one row of one item
        raise
    usable = ["data"]
    for stream in probe.streams[1:]:
        try:
            answers = [answer for t in probe.sizes for answer in probe.carry(stream, t, 4)]
        except StepFaultError as fault:
            if probe.contract.chunk.dtype.startswith("float") and fault.code == "step-failed":
                continue  # values that the data never shows; the contract promises no more
            raise
        if all(finite(part) for answer in answers for part in answer):
            usable.append(stream)
    probe.streams = tuple(usable)


def _two_rows_run(probe: Probe) -> bool:
    if probe.batches and max(probe.batches) < 2:
        return False
    with contextlib.suppress(StepFaultError):
        for t in probe.sizes:
            probe.call(_rows(probe, "data", t, 0), probe.start(2))
        return True
    return False


def _check_rows(probe: Probe) -> None:
    """Change one row of a batch of two: the other may not move, and must equal itself alone."""
    if probe.batches and max(probe.batches) < 2:
        return
    axis = probe.contract.chunk.batch_axis
    for t in sorted({probe.sizes[0], probe.sizes[-1]}):
        state = probe.start(2)
        for number in range(3):
            chunk = _rows(probe, "data", t, number)
            operators = Operators()
            with operators:
                base = probe.call(chunk, state)
            new = probe.chunk(probe.streams[-1], number + 7, t)
            new = 3 * new if new.is_floating_point() else new
            for row in (0, 1):
                changed = _with_row(chunk, axis, 1 - row, new)
                found = probe.call(changed, _other_state(probe, state, 1 - row))
                mine = _row(probe, base, row)
                pairs = zip(_row(probe, found, row), mine, strict=True)
                noise = partial(_noise, probe, chunk, state, row, mine)
                if apart := beyond(pairs, SAME_SHAPE_SHARE, noise):
                    _rows_fault(probe, apart, chunk, operators)
            if number == 0:
                _check_alone(probe, chunk, state, base)
            state = base[1]


def _check_alone(probe: Probe, chunk: Tensor, state: Tensors, base: Answer) -> None:
    """Each row of the batch must answer as it does alone."""
    if probe.batches and 1 not in probe.batches:
        return
    for row in (0, 1):
        own = chunk.narrow(probe.contract.chunk.batch_axis, row, 1)
        single = {
            s.input: state[s.input].narrow(s.batch_axis, row, 1) for s in probe.contract.state
        }
        try:
            alone = probe.call(own, single)
        except StepFaultError:
            return  # told by the check that runs one row
        pairs = zip(_row(probe, base, row), alone, strict=True)
        noise = partial(_noise, probe, own, single, 0, alone)
        if apart := beyond(pairs, OTHER_SHAPE_SHARE, noise):
            _rows_fault(probe, apart, chunk, None)


def _rows_fault(
    probe: Probe, apart: dict[str, float], chunk: Tensor, operators: Operators | None
) -> None:
    name, by = furthest(apart)
    if operators is not None and not operators.batch_norm:
        _check_causal(probe)  # a mean over everything mixes items too, and that shows at B = 1
    norm = operators is not None and operators.batch_norm
    how = "a row runs alone" if operators is None else "one row is changed"
    raise StepFaultError(
        f"rows of a batch are mixed: `{name}` of another row moves {by} when {how} "
        f"({where(probe.contract, chunk)}). Streams that share a batch on a device would leak "
        "into each other. "
        + (
            "A batch normalisation takes its statistics from the batch: use the trained ones "
            "(`model.eval()` with `track_running_stats=True`) or a LayerNorm"
            if norm
            else "Take no mean, sum, softmax or attention over the batch axis (look at `dim=` and "
            "`batch_first=`), or allow one stream at a time"
        ),
        code="rows-mixed",
    )


def _rows(probe: Probe, stream: str, t: int, number: int) -> Tensor:
    """Two different chunks as two rows."""
    pair = [probe.chunk(stream, number, t), probe.chunk(probe.streams[-1], number + 1, t)]
    return torch.cat(pair, probe.contract.chunk.batch_axis)


def _with_row(both: Tensor, axis: int, row: int, new: Tensor) -> Tensor:
    """Two rows, with another in the place of one."""
    kept = both.narrow(axis, 1 - row, 1)
    return torch.cat([kept, new] if row else [new, kept], axis)


def _other_state(probe: Probe, state: Tensors, row: int) -> Tensors:
    """The state of two rows, with one of them where another stream led."""
    late = probe.start(2)
    for number in range(2):
        chunk = _rows(probe, probe.streams[-1], probe.sizes[0], number + 3)
        late = probe.call(chunk, late)[1]
    axes = {s.input: s.batch_axis for s in probe.contract.state}
    return {n: _with_row(state[n], a, row, late[n].narrow(a, row, 1)) for n, a in axes.items()}


def _row(probe: Probe, answer: Answer, row: int) -> Answer:
    """What a step answers for one row."""
    (outputs, after), contract = answer, probe.contract
    return (
        {o.name: outputs[o.name].narrow(o.batch_axis, row, 1) for o in contract.outputs},
        {s.input: after[s.input].narrow(s.batch_axis, row, 1) for s in contract.state},
    )


def _noise(
    probe: Probe, chunk: Tensor, state: Tensors, row: int, expected: Answer
) -> list[tuple[Tensors, Tensors]]:
    moved = _row(probe, probe.call(nudged(chunk), state), row)
    return list(zip(moved, expected, strict=True))


def _check_causal(probe: Probe) -> None:
    """Change the later items of a chunk: outputs of the earlier ones may not move."""
    c = probe.contract.chunk
    timed = {o.name: o.time_axis for o in probe.contract.outputs if o.time_axis is not None}
    if not c.causal or not timed:
        return

    def before(chunk: Tensor, state: Tensors, p: int, expected: Tensors) -> Pairs:
        outputs = probe.call(chunk, state)[0]
        return [({n: outputs[n].narrow(axis, 0, p) for n, axis in timed.items()}, expected)]

    for t in probe.sizes:
        for number, stream in enumerate(probe.streams):
            places = sorted({p for p in (1, t // 2, t - 1) if 0 < p < t})
            if not places:
                continue
            state = probe.start() if number == 0 else probe.late(stream, t, 2)
            chunk = probe.chunk(stream, 2, t)
            base = probe.call(chunk, state)[0]
            for p in places:
                expected = {n: base[n].narrow(axis, 0, p) for n, axis in timed.items()}
                noise = partial(before, nudged(chunk), state, p, expected)
                for other in _later(probe, chunk, p + c.lookahead, t):
                    pairs = before(other, state, p, expected)
                    if apart := beyond(pairs, SAME_SHAPE_SHARE, noise):
                        _causal_fault(probe, apart, chunk, p)


def _later(probe: Probe, chunk: Tensor, cut: int, t: int) -> list[Tensor]:
    """The chunk with other items from item ``cut`` on: other values, and much larger ones."""
    c = probe.contract.chunk
    first = c.lookback + cut
    length = chunk.shape[c.time_axis] - first
    kept = chunk.narrow(c.time_axis, 0, first)
    new = [probe.chunk(stream, 9, t).narrow(c.time_axis, first, length) for stream in probe.streams]
    if chunk.is_floating_point():
        new.append(-4 * chunk.narrow(c.time_axis, first, length) - 1)
    return [torch.cat([kept, items], c.time_axis) for items in new]


def _causal_fault(probe: Probe, apart: dict[str, float], chunk: Tensor, p: int) -> None:
    name, by = furthest(apart)
    ahead = probe.contract.chunk.lookahead
    seen = f" more than the {ahead} of its look-ahead" if ahead else ""
    raise StepFaultError(
        f"later items move earlier answers: `{name}` of items 0 to {p - 1} differs "
        f"{by} when items from {p + ahead} on{seen} are changed "
        f"({where(probe.contract, chunk)}). On a stream the future is not there, and each T would "
        "be another model. Mask what comes later (`is_causal=True`), pad a convolution on the "
        "left only, use a recurrence of one direction, and normalise over features, not over the "
        "chunk; a model that looks a few items ahead says so by `lookahead`, and one that shall "
        "see its whole chunk is labelled `causal=False` with one T and tail `pad` or `refuse`",
        code="not-causal",
    )
