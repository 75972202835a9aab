"""Run a torch step on streams of several kinds and measure how far two answers are apart.

The checks of a step (``dst.export.checks.recurrence``) ask their questions through a ``Probe``. It
hands out fresh copies of every tensor, so that a step may write into the state it is given, and it
seeds the random numbers before each call, so that a step that draws some still answers the same.

Shape letters: ``B`` batch, ``T`` items per chunk, ``n`` items of any number.
"""

import contextlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dst.export.certify import Chunks
from dst.export.errors import StepFaultError
from dst.export.infer.call import (
    Answer,
    Tensors,
    call_step,
    check_answer,
    check_sizes,
    copied,
    first_line,
    items_of,
)
from dst.export.step import Step
from dst.runtime.bundle.layout import Array
from dst.runtime.bundle.manifest import Contract, Tokens

HUGE = 1e15
"""Beyond it a number stands for an infinity (a state may start at -1e30); compared by itself."""
NOISE_FACTOR = 10.0
"""How many times its own float noise a tensor may differ before the difference means anything."""
ITEMS = 4096
"""Items of the data that the checks read."""
MIXED, WIDE = "mixed", "wide"
STREAMS = ("data", MIXED, WIDE)


class Probe:
    """One step, the sizes it may run at, and streams of items to run it on.

    Attributes:
        step: the module.
        contract: what it signed.
        sizes: the values of T that the checks use, rising; all are allowed by the contract.
        batches: the batch sizes that the step is to run; empty for any.
        streams: names of the streams that give finite answers.
    """

    def __init__(self, step: Step, data: Array, batches: Sequence[int] = ()) -> None:
        self.step = step
        self.contract: Contract = step.contract
        self.batches = tuple(batches)
        self.sizes = _sizes(self.contract.chunk.allowed_t, self.contract.chunk.nominal_t)
        self._items = {name: _stream(name, data, self.contract) for name in STREAMS}
        self.streams: tuple[str, ...] = STREAMS
        self._chunks: dict[tuple[str, int], Chunks] = {}

    @property
    def names(self) -> list[str]:
        """The state tensors, by the contract's names."""
        return [s.input for s in self.contract.state]

    def chunk(self, stream: str, number: int, t: int) -> Tensor:
        """Chunk ``number`` of a stream as the step sees it, B = 1."""
        cut = self._chunks.get((stream, t))
        if cut is None:
            cut = self._chunks[stream, t] = Chunks(self.contract, self._items[stream], t)
        return torch.from_numpy(cut[number])

    def start(self, batch: int = 1) -> Tensors:
        """A fresh initial state."""
        with torch.no_grad():
            try:
                state = self.step.initial_state(batch)
            except Exception as error:
                raise StepFaultError(
                    f"initial_state({batch}) raised {first_line(error)}", code="step-failed"
                ) from error
        return copied(state)

    def call(self, chunk: Tensor, state: Mapping[str, Tensor], seed: int = 0) -> Answer:
        """Take one step; nothing that is returned or given is shared with the module.

        Raises:
            StepFaultError: the module raised (`step-failed`), or a state tensor changed its size
                (`state-grows`).
            ExportError: `step-contract`: a tensor has another name, shape or dtype than the
                contract says.
        """
        answer = call_step(self.step, chunk, state, seed)
        check_sizes(self.step, chunk, state, answer[1])
        batch = chunk.shape[self.contract.chunk.batch_axis]
        check_answer(self.contract, *answer, items_of(self.contract, chunk), batch)
        return answer

    def carry(self, stream: str, t: int, steps: int, state: Tensors | None = None) -> list[Answer]:
        """Step over the first chunks of a stream, each from the state that the last one left."""
        state = self.start() if state is None else state
        answers: list[Answer] = []
        for number in range(steps):
            answers.append(self.call(self.chunk(stream, number, t), state))
            state = answers[-1][1]
        return answers

    def late(self, stream: str, t: int, steps: int = 3) -> Tensors:
        """The state after a few steps over a stream."""
        return self.carry(stream, t, steps)[-1][1]


@contextlib.contextmanager
def kept_randomness() -> Iterator[None]:
    """Leave the caller's random numbers as they were."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])


@contextlib.contextmanager
def other_weights(step: Step) -> Iterator[None]:
    """Move every parameter a little, and put it back.

    A module whose weights are zero by choice (a gate that starts closed) hides what it does.
    """
    source = torch.Generator().manual_seed(1)
    floats = [p for p in step.parameters() if p.is_floating_point()]
    kept = [p.detach().clone() for p in floats]
    try:
        for p in floats:
            spread = float(p.detach().float().std(correction=0)) if p.numel() > 1 else 0.0
            noise = torch.randn(p.shape, generator=source) * max(0.3 * spread, 0.05)
            p.data.add_(noise.to(p.dtype))
        yield
    finally:
        for p, value in zip(floats, kept, strict=True):
            p.data.copy_(value)


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether all tensors are equal bit for bit; a NaN equals a NaN."""
    return all(_equal(found[name], value) for name, value in expected.items())


def finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(v).all()) for v in tensors.values() if v.is_floating_point())


def gap(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the largest difference and the peak it is to be seen against.

    Whole numbers and truth values differ by 0 or, anywhere, by all there is.
    """
    if found.shape != expected.shape:
        return math.inf, 1.0
    if not expected.is_floating_point():
        return (0.0 if torch.equal(found, expected) else math.inf), 1.0
    a, b = found.double(), expected.double()
    unequal = ~((a == b) | (a.isnan() & b.isnan()))
    ordinary = b.abs() < HUGE
    peak = float(b[ordinary].abs().max()) if bool(ordinary.any()) else 0.0
    if not bool(unequal.any()):
        return 0.0, peak
    difference = (a - b).abs()
    large = unequal & ~ordinary
    if bool(large.any()):
        share = float((difference[large] / b[large].abs()).max())
        if not share <= 1e-6:
            return math.inf, peak
    rest = difference[unequal & ordinary]
    most = float(rest.max()) if rest.numel() else 0.0
    return (most if math.isfinite(most) else math.inf), peak


class Gaps:
    """The largest difference of each tensor over some comparisons, and its peak."""

    def __init__(self, *compared: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]) -> None:
        """Compare tensors that were found with those that were expected, pair by pair."""
        self.worst: dict[str, float] = {}
        self.peak: dict[str, float] = {}
        for found, expected in compared:
            for name, value in expected.items():
                difference, peak = gap(found[name], value)
                self.worst[name] = max(self.worst.get(name, 0.0), difference)
                self.peak[name] = max(self.peak.get(name, 0.0), peak)

    def beyond(self, share: float, noise: Mapping[str, float] | None = None) -> dict[str, float]:
        """Tensors that differ by more than a share of their peak and more than their noise."""
        found = {}
        for name, worst in self.worst.items():
            allowed = max(share * self.peak[name], NOISE_FACTOR * (noise or {}).get(name, 0.0))
            if worst > allowed:
                found[name] = worst / self.peak[name] if self.peak[name] else math.inf
        return found


def nudged(tensors: Mapping[str, Tensor]) -> Tensors:
    """The same values, each float a rounding error away: what float noise makes of them."""
    source = torch.Generator().manual_seed(2)
    moved = {}
    for name, value in tensors.items():
        if value.is_floating_point():
            signs = torch.randint(0, 2, value.shape, generator=source).to(value.dtype) * 2 - 1
            value = value * (1 + signs * torch.finfo(value.dtype).eps)
        moved[name] = value
    return moved


def nudged_chunk(chunk: Tensor) -> Tensor:
    """The chunk, each float a rounding error away."""
    return nudged({"chunk": chunk})["chunk"]


def said(share: float) -> str:
    """Spell how far two answers are apart."""
    return "entirely" if math.isinf(share) else f"by {share:.1e} of its peak"


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    return torch.equal(a, b) or (
        a.is_floating_point() and bool(((a == b) | (a.isnan() & b.isnan())).all())
    )


def _sizes(allowed: Sequence[int], nominal: int) -> tuple[int, ...]:
    """All allowed T where they are few, else the least, the nominal and some between and above."""
    if len(allowed) <= 4:
        return tuple(allowed)
    above = [t for t in allowed if nominal < t <= 4 * nominal]
    return tuple(sorted({allowed[0], allowed[1], nominal, *above[-1:]}))


def _stream(name: str, data: Array, contract: Contract) -> Array:
    """Items of one kind: the data itself, its values mixed, or values far and wide."""
    items = np.asarray(data)[:ITEMS].astype(contract.chunk.dtype)
    if name == "data":
        return items
    source = np.random.default_rng(3)
    content = contract.chunk.content
    n = max(len(items), 512)
    if name == MIXED:
        columns = items.reshape(len(items), -1)
        if isinstance(content, Tokens) or (columns != columns[:1]).any():
            picks = source.integers(0, len(columns), (n, columns.shape[1]))
            mixed = np.take_along_axis(columns, picks, 0)
            return mixed.reshape(n, *items.shape[1:])
    if isinstance(content, Tokens):
        return source.integers(0, content.vocabulary, n).astype(items.dtype)
    wide = items.astype(np.float64)
    mean, std = wide.mean(0), wide.std(0)
    drawn = source.normal(size=(n, *items.shape[1:]))
    spread = np.where(std > 0, std, 1.0) * (3.0 if name == WIDE else 1.0)
    return np.asarray(mean + drawn * spread, dtype=items.dtype)
