"""Run a torch step on streams of several kinds and measure how far two answers are apart.

The checks of a step (``dst.export.checks.recurrence``) ask their questions through a ``Probe``. It
hands out fresh copies of every tensor, so that a step may write into the state it is given, and it
seeds the random numbers before each call, so that a step that draws some still answers the same.
"""

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

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

Pairs = Iterable[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]
"""Tensors that were found, with those that were expected."""
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

    ``sizes`` are the T that the checks use, rising, and ``batches`` the batch sizes that the step
    is to run, empty for any; ``streams`` are those that give finite answers.
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
        if (stream, t) not in self._chunks:
            self._chunks[stream, t] = Chunks(self.contract, self._items[stream], t)
        return torch.from_numpy(self._chunks[stream, t][number])

    def start(self, batch: int = 1) -> Tensors:
        """A fresh initial state."""
        try:
            with torch.no_grad():
                return copied(self.step.initial_state(batch))
        except Exception as error:
            raise StepFaultError(f"initial_state({batch}) raised {first_line(error)}") from error

    def call(self, chunk: Tensor, state: Mapping[str, Tensor], seed: int = 0) -> Answer:
        """Take one step; nothing that is returned or given is shared with the module."""
        answer = call_step(self.step, chunk, state, seed)
        check_sizes(self.step, chunk, state, answer[1])
        batch = chunk.shape[self.contract.chunk.batch_axis]
        check_answer(self.contract, *answer, items_of(self.contract, chunk), batch)
        return answer

    def carry(self, stream: str, t: int, steps: int) -> list[Answer]:
        """Step over the first chunks of a stream, each from the state that the last one left."""
        state, answers = self.start(), []
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
    return all(
        torch.equal(a := found[name], b)
        or (
            a.shape == b.shape
            and b.is_floating_point()
            and bool(((a == b) | (a.isnan() & b.isnan())).all())
        )
        for name, b in expected.items()
    )


def finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity."""
    return all(bool(torch.isfinite(v).all()) for v in tensors.values() if v.is_floating_point())


def gap(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the largest difference and its peak; whole numbers differ by 0, or by all there is."""
    if found.shape != expected.shape:
        return math.inf, 1.0
    if not expected.is_floating_point() or not expected.numel():
        return (0.0 if torch.equal(found, expected) else math.inf), 1.0
    a, b = found.double(), expected.double()
    unequal = ~((a == b) | (a.isnan() & b.isnan()))
    difference, ordinary = (a - b).abs(), b.abs() < HUGE
    peak = float(torch.where(ordinary, b.abs(), 0.0).max())
    large = unequal & ~ordinary
    if not bool((difference[large] / b[large].abs() <= 1e-6).all()):
        return math.inf, peak
    most = float(torch.where(unequal & ordinary, difference, 0.0).max())
    return (most if math.isfinite(most) else math.inf), peak


def gaps(pairs: Pairs) -> dict[str, tuple[float, float]]:
    """The largest difference of each tensor over some comparisons, and its peak."""
    largest: dict[str, tuple[float, float]] = {}
    for found, expected in pairs:
        for name, value in expected.items():
            difference, peak = gap(found[name], value)
            most, highest = largest.get(name, (0.0, 0.0))
            largest[name] = max(most, difference), max(highest, peak)
    return largest


def beyond(
    pairs: Pairs, share: float, moved: Callable[[], Pairs] | None = None
) -> dict[str, float]:
    """Tensors that differ by more than a share of their peak, and by which share.

    Where there are some, ``moved`` compares answers to inputs that are a rounding error apart:
    what these differ by is noise, which a difference must exceed as well.
    """
    apart = {name: seen for name, seen in gaps(pairs).items() if seen[0] > share * seen[1]}
    if apart and moved is not None:
        noise = gaps(moved())
        apart = {n: seen for n, seen in apart.items() if seen[0] > NOISE_FACTOR * noise[n][0]}
    return {name: most / peak if peak else math.inf for name, (most, peak) in apart.items()}


def furthest(apart: Mapping[str, float]) -> tuple[str, str]:
    """Name the tensor that is furthest off, and spell how far."""
    name = max(apart, key=lambda key: apart[key])
    share = apart[name]
    return name, "entirely" if math.isinf(share) else f"by {share:.1e} of its peak"


def nudged(value: Tensor, seed: int = 2) -> Tensor:
    """The same values, each float a rounding error away: what float noise makes of them."""
    if not value.is_floating_point():
        return value
    source = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, value.shape, generator=source).to(value.dtype) * 2 - 1
    return value * (1 + signs * torch.finfo(value.dtype).eps)


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
    source, content = np.random.default_rng(3), contract.chunk.content
    n, columns = max(len(items), 512), items.reshape(len(items), -1)
    if name == MIXED and (isinstance(content, Tokens) or (columns != columns[:1]).any()):
        picks = source.integers(0, len(columns), (n, columns.shape[1]))
        return np.take_along_axis(columns, picks, 0).reshape(n, *items.shape[1:])
    if isinstance(content, Tokens):
        return source.integers(0, content.vocabulary, n).astype(items.dtype)
    wide = items.astype(np.float64)
    mean, std = wide.mean(0), wide.std(0)
    drawn = source.normal(size=(n, *items.shape[1:]))
    spread = np.where(std > 0, std, 1.0) * (3.0 if name == WIDE else 1.0)
    return np.asarray(mean + drawn * spread, dtype=items.dtype)
