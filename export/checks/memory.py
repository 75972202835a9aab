"""Check that every tensor of the state moves, and is read.

`state-never-updated`, `state-never-read`; see ``dst.export.checks.recurrence``.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dst.export.checks.repeats import Finding
from dst.export.errors import StepFaultError
from dst.export.infer.call import Answer, Tensors
from dst.export.infer.probe import Probe, other_weights, same
from dst.runtime.bundle.manifest import Stored

OUTPUT = ""
"""Stands for any output among the tensors that a state moves."""
PHASES = 24
"""Steps at which a state tensor is looked at before it counts as never read."""
STILL_STEPS = 40
"""Steps over each stream before a state tensor counts as never updated."""


def check_updates(probe: Probe) -> list[Finding]:
    """Step over every stream: each state tensor must move some time."""
    still = _still(probe, set(probe.names), 4, ("data",))
    still = _still(probe, still, STILL_STEPS, probe.streams) if still else still
    if not still:
        return []
    with other_weights(probe.step):
        frozen = _still(probe, still, 8, probe.streams)
    told = "does not move with these weights, though it would with others"
    findings = _each("state-never-updated", still - frozen, told)
    states = {s.input: s for s in probe.contract.state}
    if len(frozen) < len(states):
        kept = {n for n in frozen if isinstance(states[n].init, Stored) or not _floats(probe, n)}
        told = "never moves from its start"
        findings += _each("state-never-updated", kept, told, named=True)
        frozen -= kept
    if frozen:
        what = "the state" if len(frozen) == len(states) else "state"
        raise StepFaultError(
            f"{what} {_listed(frozen)} never changes: after {STILL_STEPS} steps over the data and "
            f"over other values (T = {_listed_sizes(probe)}) the next state still equals the one "
            "given, so nothing of the stream is remembered there. Return the new value, not the "
            f"one that came in: `return outputs, {{'{min(frozen)}': new}}`; where it shall be "
            "fixed, keep it as a buffer of the module instead",
            code="state-never-updated",
        )
    return findings


def _each(code: str, states: set[str], told: str, named: bool = False) -> list[Finding]:
    return [Finding(code, f"state `{n}` {told}", n if named else "") for n in sorted(states)]


def _still(probe: Probe, names: set[str], steps: int, streams: tuple[str, ...]) -> set[str]:
    """Those of the tensors that stay as they start, over some steps of each stream and T."""
    left = set(names)
    for stream in streams:
        for t in probe.sizes:
            state = probe.start()
            for number in range(steps):
                if not left:
                    return left
                _, after = probe.call(probe.chunk(stream, number, t), state)
                left = {n for n in left if same({n: after[n]}, {n: state[n]})}
                state = after
    return left


def check_reads(probe: Probe) -> list[Finding]:
    """Give other states: outputs must answer to them, and no tensor may be overwritten unread."""
    if not probe.names:
        return []
    feeds, looked = _reads(probe, PHASES)
    live = _live(feeds)
    unread = feeds.keys() - live
    if not unread:
        return []
    if live == {OUTPUT}:
        t, start = probe.sizes[-1], probe.start()
        chunks = [probe.chunk(stream, n, t) for stream in probe.streams for n in (1, 2)]
        first, *others = [probe.call(chunk, start)[0] for chunk in chunks]
        if all(same(answer, first) for answer in others):
            told = "no output moves with the chunk or with the state at all"
            return [Finding("state-never-read", told)]
    with other_weights(probe.step):
        closed = unread & _live(_reads(probe, 4)[0])
    told = "has no effect with these weights, though it would with others"
    findings = _each("state-never-read", closed, told)
    unread -= closed
    seen = f"in {looked} steps (T = {_listed_sizes(probe)})"
    only_counters = all(s.role == "counter" for s in probe.contract.state if s.input in unread)
    if unread and live == {OUTPUT} and not closed and not only_counters:
        raise StepFaultError(
            f"no output depends on the state ({_listed(unread)}): {seen} each was put to its "
            "start, to another stream's value "
            "and to random values, and every output stayed the same bit for bit. The model "
            "answers as if each chunk were the first: use `state` in `forward`, for example "
            "`y, h = self.rnn(x, state['h'])`",
            code="state-never-read",
        )
    dropped = {n for n in unread if n not in feeds[n] and _floats(probe, n)}
    if dropped:
        raise StepFaultError(
            f"state {_listed(dropped)} is overwritten without being read: {seen} no output and no "
            "next state depended on the value "
            "given, so that each chunk forgets what came before it. Start from the value in "
            "`state`, not from zeros, for example `lstm(x, (state['h'], state['c']))`",
            code="state-never-read",
        )
    told = "moves and changes no output"
    return findings + _each("state-never-read", unread, told, named=True)


def _reads(probe: Probe, phases: int) -> tuple[dict[str, set[str]], int]:
    """Try every tensor at each step until all are known to be read.

    Return for each tensor of the state the next tensors that it moves, with ``OUTPUT`` where it
    moves an output by itself; and the number of steps that were looked at.
    """
    feeds: dict[str, set[str]] = {name: set() for name in probe.names}
    looked = 0
    for t in probe.sizes:
        others = [probe.start(), probe.late(probe.streams[-1], t)]
        state = probe.late("data", t, 2)
        for number in range(2, 2 + phases):
            unread = feeds.keys() - _live(feeds)
            if not unread:
                return feeds, looked
            chunk = probe.chunk("data" if number % 2 else probe.streams[-1], number, t)
            base = probe.call(chunk, state)
            looked += 1
            for name in unread:
                for other in (*(o[name] for o in others), *_drawn(state[name], number)):
                    feeds[name] |= _moved(probe, {**state, name: other}, chunk, state, base)
            state = base[1]
    return feeds, looked


def _live(feeds: Mapping[str, set[str]]) -> set[str]:
    """Tensors that move an output, by themselves or through others."""
    live = {OUTPUT}
    while more := {name for name, fed in feeds.items() if fed & live} - live:
        live |= more
    return live


def _drawn(value: Tensor, number: int) -> Iterator[Tensor]:
    """Random values in the place of a tensor of the state, as large as it and larger."""
    if value.is_floating_point():
        source = torch.Generator().manual_seed(number)
        ordinary = value[value.abs() < 1e15]
        spread = float(ordinary.float().std(correction=0)) if ordinary.numel() else 0.0
        drawn = torch.randn(value.shape, generator=source, dtype=torch.float32)
        for scale in (max(spread, 1e-3), 10.0):
            yield (drawn * scale).to(value.dtype)


def _moved(probe: Probe, other: Tensors, chunk: Tensor, state: Tensors, base: Answer) -> set[str]:
    """What another state moves: next tensors by name, and ``OUTPUT``."""
    if same(other, state) or any(v.shape != state[n].shape for n, v in other.items()):
        return set()
    try:
        outputs, after = probe.call(chunk, other)
    except StepFaultError:  # no value that the step could have reached; but it was read
        return set()
    moved = {n for n, value in base[1].items() if not same({n: after[n]}, {n: value})}
    return moved if same(outputs, base[0]) else moved | {OUTPUT}


def _floats(probe: Probe, name: str) -> bool:
    return next(s for s in probe.contract.state if s.input == name).dtype.startswith("float")


def _listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _listed_sizes(probe: Probe) -> str:
    return ", ".join(map(str, probe.sizes))
