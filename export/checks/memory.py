"""Check that every tensor of the state moves, and is read.

`state-never-updated`, `state-never-read`; see ``dst.export.checks.recurrence``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from dst.export.checks.repeats import Finding
from dst.export.errors import StepFaultError
from dst.export.infer.call import Answer, Tensors
from dst.export.infer.probe import Probe, other_weights, same
from dst.runtime.bundle.manifest import Stored

PHASES = 24
"""Steps at which a state tensor is looked at before it counts as never read."""
STILL_STEPS = 40
"""Steps over each stream before a state tensor counts as never updated."""


# --- the state moves ------------------------------------------------------------------------


def check_updates(probe: Probe) -> list[Finding]:
    """Step over every stream: each state tensor must move some time.

    Raises:
        StepFaultError: the state, or a tensor of it, never does (`state-never-updated`).
    """
    still = _still(probe, set(probe.names), 4, ("data",))
    still = _still(probe, still, STILL_STEPS, probe.streams) if still else still
    if not still:
        return []
    findings: list[Finding] = []
    with other_weights(probe.step):
        frozen = _still(probe, still, 8, probe.streams)
    findings += [
        Finding(
            "state-never-updated",
            f"state `{name}` does not move with these weights, though it would with others",
        )
        for name in sorted(still - frozen)
    ]
    states = {s.input: s for s in probe.contract.state}
    kept = {n for n in frozen if isinstance(states[n].init, Stored) or not _floats(probe, n)}
    if len(frozen) < len(states):
        findings += [
            Finding("state-never-updated", f"state `{name}` never moves from its start", name)
            for name in sorted(kept)
        ]
        frozen -= kept
    if frozen:
        whole = len(frozen) == len(states)
        what = "the state" if whole else "state"
        raise StepFaultError(
            f"{what} {_listed(frozen)} never changes: after {STILL_STEPS} steps over the data and "
            f"over other values (T = {_listed_sizes(probe)}) the next state still equals the one "
            "given, so nothing of the stream is remembered there. Return the new value, not the "
            f"one that came in: `return outputs, {{'{min(frozen)}': new}}`; where it shall be "
            "fixed, keep it as a buffer of the module instead",
            code="state-never-updated",
        )
    return findings


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


# --- the state is read ----------------------------------------------------------------------


def check_reads(probe: Probe) -> list[Finding]:
    """Give other states: outputs must answer to them, and no tensor may be overwritten unread.

    Raises:
        StepFaultError: outputs never depend on the state, or a tensor is overwritten without
            being read (`state-never-read`).
    """
    if not probe.names:
        return []
    reads = _Reads(probe)
    reads.look(PHASES)
    unread = set(probe.names) - reads.live
    if not unread:
        return []
    if not reads.live and not reads.outputs_move():
        return [
            Finding("state-never-read", "no output moves with the chunk or with the state at all")
        ]
    with other_weights(probe.step):
        other = _Reads(probe)
        other.look(4)
    closed = unread & other.live
    findings = [
        Finding(
            "state-never-read",
            f"state `{name}` has no effect with these weights, though it would with others",
        )
        for name in sorted(closed)
    ]
    unread -= closed
    counters = {n for n in unread if not _floats(probe, n)}
    if unread and not reads.live and not closed and not _only_counters(probe, unread):
        raise StepFaultError(
            f"no output depends on the state ({_listed(unread)}): in {reads.looked} steps "
            f"(T = {_listed_sizes(probe)}) each was put to its start, to another stream's value "
            "and to random values, and every output stayed the same bit for bit. The model "
            "answers as if each chunk were the first: use `state` in `forward`, for example "
            "`y, h = self.rnn(x, state['h'])`",
            code="state-never-read",
        )
    dropped = {n for n in unread - counters if n not in reads.own}
    if dropped:
        raise StepFaultError(
            f"state {_listed(dropped)} is overwritten without being read: in {reads.looked} steps "
            f"(T = {_listed_sizes(probe)}) no output and no next state depended on the value "
            "given, so that each chunk forgets what came before it. Start from the value in "
            "`state`, not from zeros, for example `lstm(x, (state['h'], state['c']))`",
            code="state-never-read",
        )
    return findings + [
        Finding("state-never-read", f"state `{name}` moves and changes no output", name)
        for name in sorted(unread)
    ]


class _Reads:
    """Which tensors of the state move which outputs and which next tensors.

    Attributes:
        outputs: tensors that move an output by themselves.
        feeds: tensor -> the next tensors, other than its own, that it moves.
        own: tensors whose next value depends on the value given.
        looked: steps looked at.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self.outputs: set[str] = set()
        self.feeds: dict[str, set[str]] = {n: set() for n in probe.names}
        self.own: set[str] = set()
        self.looked = 0

    @property
    def live(self) -> set[str]:
        """Tensors that move an output, by themselves or through others."""
        live = set(self.outputs)
        while True:
            more = {n for n, fed in self.feeds.items() if fed & live} - live
            if not more:
                return live
            live |= more

    def look(self, phases: int) -> None:
        """Try every tensor at each step until all are known to be read."""
        probe = self._probe
        for t in probe.sizes:
            others = [probe.start(), probe.late(probe.streams[-1], t)]
            state = probe.late("data", t, 2)
            for number in range(2, 2 + phases):
                if self.live == set(probe.names):
                    return
                chunk = probe.chunk("data" if number % 2 else probe.streams[-1], number, t)
                base = probe.call(chunk, state)
                self.looked += 1
                for name in set(probe.names) - self.live:
                    for other in self._others(state[name], [o[name] for o in others], number):
                        self._try(name, other, chunk, state, base)
                state = base[1]

    def _others(self, value: Tensor, reached: list[Tensor], number: int) -> Iterator[Tensor]:
        yield from reached
        if value.is_floating_point():
            source = torch.Generator().manual_seed(number)
            ordinary = value[value.abs() < 1e15]
            spread = float(ordinary.float().std(correction=0)) if ordinary.numel() else 0.0
            drawn = torch.randn(value.shape, generator=source, dtype=torch.float32)
            for scale in (max(spread, 1e-3), 10.0):
                yield (drawn * scale).to(value.dtype)

    def _try(self, name: str, other: Tensor, chunk: Tensor, state: Tensors, base: Answer) -> None:
        if other.shape != state[name].shape or same({name: other}, {name: state[name]}):
            return
        try:
            outputs, after = self._probe.call(chunk, {**state, name: other})
        except StepFaultError:  # no value that the step could have reached; but it was read
            return
        if not same(outputs, base[0]):
            self.outputs.add(name)
        for key, value in base[1].items():
            if not same({key: after[key]}, {key: value}):
                if key == name:
                    self.own.add(name)
                else:
                    self.feeds[name].add(key)

    def outputs_move(self) -> bool:
        """Whether any output answers to the chunk."""
        probe = self._probe
        t, start = probe.sizes[-1], probe.start()
        chunks = [probe.chunk(stream, n, t) for stream in probe.streams for n in (1, 2)]
        answers = [probe.call(chunk, start)[0] for chunk in chunks]
        return any(not same(a, answers[0]) for a in answers[1:])


def _floats(probe: Probe, name: str) -> bool:
    return next(s for s in probe.contract.state if s.input == name).dtype.startswith("float")


def _only_counters(probe: Probe, names: set[str]) -> bool:
    return all(s.role == "counter" for s in probe.contract.state if s.input in names)


def _listed(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _listed_sizes(probe: Probe) -> str:
    return ", ".join(map(str, probe.sizes))
