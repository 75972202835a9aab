"""Check that the way in which a stream is cut into chunks does not matter (`cut-matters`).

The same items are stepped over at two T that the contract allows; answers and the next state must
be the same. See ``dst.export.checks.recurrence``.
"""

import math

import torch

from dst.export.checks.repeats import Finding
from dst.export.errors import StepFaultError
from dst.export.infer.call import Tensors
from dst.export.infer.probe import Pairs, Probe, beyond, furthest, nudged

CUT_ITEMS = 1024
"""Items over which two cuts are compared, at most."""


def check_cut(probe: Probe, share: float) -> list[Finding]:
    """Step over the same items at two T: answers and the next state must be the same."""
    findings: list[Finding] = []
    if not probe.contract.chunk.causal:
        return findings
    small, *larger = probe.sizes
    for large in larger:
        common = math.lcm(small, large)
        if common > max(CUT_ITEMS, large):
            continue
        # differences are largest in mid-stream; the longest chunk is also compared elsewhere
        for stream in probe.streams[:2] if large == larger[-1] else probe.streams[:1]:
            starts = [(-(-2 * large // common) * common, probe.late(stream, large, 2))]
            if large == larger[-1]:
                starts.append((0, probe.start()))
            for origin, state in starts:
                items = origin, common
                findings += _compare_cuts(probe, stream, (small, large), items, state, share)
    return list(dict.fromkeys(findings))


def _compare_cuts(
    probe: Probe,
    stream: str,
    sizes: tuple[int, int],
    items: tuple[int, int],
    state: Tensors,
    share: float,
) -> list[Finding]:
    small, large = sizes
    whole, pieces = (_walk(probe, stream, t, items, state) for t in (large, small))
    count = 3 if probe.contract.chunk.tail == "exact" else 2

    def moved() -> Pairs:
        start = {name: nudged(v, i) for i, (name, v) in enumerate(state.items())}
        return zip(_walk(probe, stream, small, items, start, nudge=True), pieces, strict=True)

    apart = beyond(zip(pieces[:count], whole[:count], strict=True), share, moved)
    if apart:
        name, by = furthest(apart)
        raise StepFaultError(
            f"the cut matters: over the same {items[1]} items `{name}` differs {by} "
            f"between chunks of T = {small} and of T = {large} (B = 1). The "
            "answers on a device would depend on how the input happens to arrive. Carry over "
            "everything that a chunk needs of the ones before: every tensor of a recurrence's "
            "state, the last k-1 inputs of a convolution, a position or a count; or allow one T "
            "only (`t=...`, tail `pad` or `refuse`)",
            code="cut-matters",
        )
    told = "has one value for a chunk and depends on the chunk's length"
    lone = beyond([(pieces[2], whole[2])], share)
    return [Finding("cut-matters", f"output `{name}` {told}") for name in lone]


def _walk(
    probe: Probe, stream: str, t: int, items: tuple[int, int], state: Tensors, nudge: bool = False
) -> tuple[Tensors, Tensors, Tensors]:
    """Step over some items: outputs joined along time, the next state, last outputs of a chunk."""
    origin, count = items
    parts: list[Tensors] = []
    for number in range(origin // t, (origin + count) // t):
        chunk = probe.chunk(stream, number, t)
        outputs, state = probe.call(nudged(chunk) if nudge else chunk, state)
        parts.append(outputs)
    joined, last = {}, {}
    for output in probe.contract.outputs:
        if output.time_axis is None:
            last[output.name] = parts[-1][output.name]
        else:
            joined[output.name] = torch.cat([p[output.name] for p in parts], output.time_axis)
    return joined, {f"next state {name}": value for name, value in state.items()}, last
