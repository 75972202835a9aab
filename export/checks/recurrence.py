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

from collections.abc import Sequence

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
from dst.export.infer.probe import Gaps, Probe, finite, kept_randomness, nudged_chunk, said
from dst.export.step import Step

__all__ = ["Finding", "check_recurrence"]

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

    def tell(done: int) -> None:
        if progress is not None:
            progress("checking the step", done / 8)

    with kept_randomness():
        tell(0)
        _check_runs(probe)
        asked = first_answers(probe)
        tell(1)
        check_repeats(probe, asked)
        findings += check_counters(probe, asked)
        tell(2)
        check_branches(probe)  # before states that no stream reaches: a loop may not end on them
        tell(3)
        findings += check_updates(probe)
        tell(4)
        findings += check_reads(probe)
        tell(5)
        _check_rows(probe)
        tell(6)
        _check_causal(probe)
        tell(7)
        findings += _check_cut(probe, max(bound, OTHER_SHAPE_SHARE), findings)
        check_repeats(probe, asked, seeds=1)  # once more, now that much else has run
        tell(8)
    return tuple(findings)


def _check_cut(probe: Probe, share: float, findings: list[Finding]) -> list[Finding]:
    """Check the cut; where a tensor never moves, or none reads it, that is why it matters.

    Raises:
        StepFaultError: it matters: `cut-matters`, `state-never-updated` or `state-never-read`.
    """
    try:
        return check_cut(probe, share)
    except StepFaultError as fault:
        floats = {s.input for s in probe.contract.state if s.dtype.startswith("float")}
        unused = [
            finding
            for finding in findings
            if (finding.code == "state-never-updated" and finding.state)
            or (finding.code == "state-never-read" and finding.state in floats)
        ]
        if fault.code != "cut-matters" or not unused:
            raise
        first = unused[0]
        cure = (
            "return its next value, not the one that came in"
            if first.code == "state-never-updated"
            else "read it in `forward`, instead of zeros"
        )
        raise StepFaultError(
            f"{first.text}, and the stream misses it: {cure}. Seen in that {fault}", code=first.code
        ) from fault


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
            finite_all = all(
                finite(a[0]) and finite(a[1])
                for t in probe.sizes
                for a in probe.carry(stream, t, 4)
            )
        except StepFaultError as fault:
            if probe.contract.chunk.dtype.startswith("float") and fault.code == "step-failed":
                continue  # values that the data never shows; the contract promises no more
            raise
        if finite_all:
            usable.append(stream)
    probe.streams = tuple(usable)


def _two_rows_run(probe: Probe) -> bool:
    if probe.batches and max(probe.batches) < 2:
        return False
    try:
        for t in probe.sizes:
            probe.call(_rows(probe, "data", t, 0), probe.start(2))
    except StepFaultError:
        return False
    return True


# --- rows of a batch ------------------------------------------------------------------------


def _check_rows(probe: Probe) -> None:
    """Change one row of a batch of two: the other may not move, and must equal itself alone.

    Raises:
        StepFaultError: it does (`rows-mixed`).
    """
    if probe.batches and max(probe.batches) < 2:
        return
    for t in sorted({probe.sizes[0], probe.sizes[-1]}):
        state = probe.start(2)
        for number in range(3):
            chunk = _rows(probe, "data", t, number)
            operators = Operators()
            with operators:
                base = probe.call(chunk, state)
            for row in (0, 1):
                other = 1 - row
                changed = _with_row(probe, chunk, other, _other_row(probe, t, number))
                found = probe.call(changed, _other_state(probe, state, other))
                gaps = _row_gaps(probe, found, base, row)
                if gaps.beyond(SAME_SHAPE_SHARE):
                    noise = _row_gaps(probe, probe.call(nudged_chunk(chunk), state), base, row)
                    if apart := gaps.beyond(SAME_SHAPE_SHARE, noise.worst):
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
        gaps = _row_gaps(probe, base, alone, row, alone=True)
        if gaps.beyond(OTHER_SHAPE_SHARE):
            noise = _row_gaps(probe, probe.call(nudged_chunk(own), single), alone, 0)
            if apart := gaps.beyond(OTHER_SHAPE_SHARE, noise.worst):
                _rows_fault(probe, apart, chunk, None)


def _rows_fault(
    probe: Probe, apart: dict[str, float], chunk: Tensor, operators: Operators | None
) -> None:
    name = max(apart, key=lambda key: apart[key])
    if operators is not None and not operators.batch_norm:
        _check_causal(probe)  # a mean over everything mixes items too, and that shows at B = 1
    how = "one row is changed" if operators is not None else "a row runs alone"
    norm = operators is not None and operators.batch_norm
    raise StepFaultError(
        f"rows of a batch are mixed: `{name}` of another row moves {said(apart[name])} when {how} "
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


def _other_row(probe: Probe, t: int, number: int) -> Tensor:
    chunk = probe.chunk(probe.streams[-1], number + 7, t)
    return 3 * chunk if chunk.is_floating_point() else chunk


def _with_row(probe: Probe, chunk: Tensor, row: int, new: Tensor) -> Tensor:
    axis = probe.contract.chunk.batch_axis
    rows = [chunk.narrow(axis, i, 1) for i in range(2)]
    rows[row] = new
    return torch.cat(rows, axis)


def _other_state(probe: Probe, state: Tensors, row: int) -> Tensors:
    """The state of two rows, with one of them where another stream led."""
    moved = {}
    late = probe.start(2)
    for number in range(2):
        chunk = _rows(probe, probe.streams[-1], probe.sizes[0], number + 3)
        late = probe.call(chunk, late)[1]
    for s in probe.contract.state:
        rows = [state[s.input].narrow(s.batch_axis, i, 1) for i in range(2)]
        rows[row] = late[s.input].narrow(s.batch_axis, row, 1)
        moved[s.input] = torch.cat(rows, s.batch_axis)
    return moved


def _row_gaps(
    probe: Probe, found: Answer, expected: Answer, row: int, *, alone: bool = False
) -> Gaps:
    """The gaps of one row; ``alone`` where what is expected holds that row only."""
    axes = {o.name: o.batch_axis for o in probe.contract.outputs}
    states = {s.input: s.batch_axis for s in probe.contract.state}
    return Gaps(
        *(
            (
                {n: part[n].narrow(axis, row, 1) for n, axis in places.items()},
                other if alone else {n: other[n].narrow(a, row, 1) for n, a in places.items()},
            )
            for part, other, places in zip(found, expected, (axes, states), strict=True)
        )
    )


# --- later items ----------------------------------------------------------------------------


def _check_causal(probe: Probe) -> None:
    """Change the later items of a chunk: outputs of the earlier ones may not move.

    Raises:
        StepFaultError: they do (`not-causal`), and the contract does not say so.
    """
    c = probe.contract.chunk
    timed = {o.name: o.time_axis for o in probe.contract.outputs if o.time_axis is not None}
    if not c.causal or not timed:
        return
    for t in probe.sizes:
        places = sorted({p for p in (1, t // 2, t - 1) if 0 < p < t})
        if not places:
            continue
        for number, stream in enumerate(probe.streams):
            state = probe.start() if number == 0 else probe.late(stream, t, 2)
            chunk = probe.chunk(stream, 2, t)
            base = probe.call(chunk, state)[0]
            for p in places:
                cut = p + c.lookahead  # the first item that outputs before p may not see
                expected = _before(base, timed, p)
                for found in (probe.call(o, state)[0] for o in _later(probe, chunk, cut, t)):
                    gaps = Gaps((_before(found, timed, p), expected))
                    if gaps.beyond(SAME_SHAPE_SHARE):
                        moved = probe.call(nudged_chunk(chunk), state)[0]
                        noise = Gaps((_before(moved, timed, p), expected))
                        if apart := gaps.beyond(SAME_SHAPE_SHARE, noise.worst):
                            _causal_fault(probe, apart, chunk, p)


def _later(probe: Probe, chunk: Tensor, cut: int, t: int) -> list[Tensor]:
    """The chunk with other items from item ``cut`` on: other values, and much larger ones."""
    c = probe.contract.chunk
    first = c.lookback + cut
    length = chunk.shape[c.time_axis] - first
    kept = chunk.narrow(c.time_axis, 0, first)
    changed = []
    for stream in probe.streams:
        new = probe.chunk(stream, 9, t).narrow(c.time_axis, first, length)
        changed.append(torch.cat([kept, new], c.time_axis))
    if chunk.is_floating_point():
        new = -4 * chunk.narrow(c.time_axis, first, length) - 1
        changed.append(torch.cat([kept, new], c.time_axis))
    return changed


def _before(outputs: Tensors, timed: dict[str, int], p: int) -> Tensors:
    return {name: outputs[name].narrow(axis, 0, p) for name, axis in timed.items()}


def _causal_fault(probe: Probe, apart: dict[str, float], chunk: Tensor, p: int) -> None:
    name = max(apart, key=lambda key: apart[key])
    ahead = probe.contract.chunk.lookahead
    seen = f" more than the {ahead} of its look-ahead" if ahead else ""
    raise StepFaultError(
        f"later items move earlier answers: `{name}` of items 0 to {p - 1} differs "
        f"{said(apart[name])} when items from {p + ahead} on{seen} are changed "
        f"({where(probe.contract, chunk)}). On a stream the future is not there, and each T would "
        "be another model. Mask what comes later (`is_causal=True`), pad a convolution on the "
        "left only, use a recurrence of one direction, and normalise over features, not over the "
        "chunk; a model that looks a few items ahead says so by `lookahead`, and one that shall "
        "see its whole chunk is labelled `causal=False` with one T and tail `pad` or `refuse`",
        code="not-causal",
    )
