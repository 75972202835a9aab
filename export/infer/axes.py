"""Find which axes of a chunk and a state are batch and time, by running at other sizes.

A batch axis is one along which rows that run together answer as each row alone. A time axis is one
that may have other sizes while the state keeps its own.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dst.export.errors import ExportError, StepFaultError
from dst.export.infer.call import Tensors, spelled
from dst.export.infer.module import Caller, called
from dst.runtime.bundle.manifest import Tail

CLOSE = 1e-4
"""Two ways to compute the same are this near, in terms of the largest value; others are not."""
MAX_GUESSES = 64
"""Ways to place the batch axes of a state that are tried."""


@dataclass(frozen=True, slots=True)
class Axes:
    """Where batch and time lie in the chunk, and the batch axis of each state tensor; else None.

    A module or a state may know no batch, and a cell takes one item and has no time.

    Attributes:
        any_batch: Whether other batch sizes than 1 run.
        mixed: Whether a row answers otherwise in a batch than alone.
        free: Whether sizes of T other than the example's run.
    """

    batch: int | None
    time: int | None
    state: tuple[int | None, ...] = ()
    any_batch: bool = False
    mixed: bool = False
    free: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What a caller may say about a module; whatever is left out is found out.

    The fields are the arguments of ``dst.export.export_bundle``, which tells what each means.
    """

    t: tuple[int, ...] | None = None
    batch_axis: int | None = None
    time_axis: int | None = None
    lookback: int = 0
    lookback_fill: float = 0.0
    lookahead: int = 0
    causal: bool = True
    tail: Tail | None = None
    pad_value: float = 0.0
    vocabulary: int | None = None
    tokenizer: Literal["bytes", "none"] = "none"
    features: tuple[str, ...] = ()
    sample_rate_hz: float | None = None
    meanings: tuple[tuple[str, Literal["logits", "gaussian", "custom"]], ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """The T asked for; empty if not said."""
        return self.t or ()

    @property
    def extra(self) -> int:
        """Items that the module reads beside the T new ones."""
        return self.lookback + self.lookahead


class Prober:
    """Runs a module at chosen sizes on items drawn from the example."""

    def __init__(
        self, call: Caller, chunk: Tensor, state: Sequence[Tensor], vocabulary: int | None
    ) -> None:
        self.call = call
        self.chunk = chunk
        self.state = list(state)
        self._vocabulary = vocabulary
        self._random = torch.Generator().manual_seed(0)
        self._pool = chunk.flatten() if len(chunk.unique()) > 2 else None

    def items(self, shape: Sequence[int]) -> Tensor:
        """Draw items: ids below the vocabulary, values of the example, or normal numbers."""
        shape = tuple(shape)
        if self._vocabulary is not None:
            ids = torch.randint(self._vocabulary, shape, generator=self._random)
            return ids.to(self.chunk.dtype)
        if self._pool is None:
            return torch.randn(shape, generator=self._random).to(self.chunk.dtype)
        return self._pool[torch.randint(len(self._pool), shape, generator=self._random)]

    def resized(self, axes: Axes, batch: int | None = None, t: int | None = None) -> Tensor:
        """Draw a chunk of other sizes; ``t`` counts all items that are read."""
        shape = list(self.chunk.shape)
        if batch is not None and axes.batch is not None:
            shape[axes.batch] = batch
        if t is not None and axes.time is not None:
            shape[axes.time] = t
        return self.items(shape)

    def states(self, axes: Axes, batch: int | None = None) -> list[Tensor]:
        """The example state, its first row as often as a batch has rows."""
        if batch is None:
            return self.state
        return [
            tensor
            if axis is None
            else tensor.narrow(axis, 0, 1).repeat_interleave(batch, axis).contiguous()
            for tensor, axis in zip(self.state, axes.state, strict=True)
        ]


def find_axes(probe: Prober, known: Known) -> Axes:
    """Find the axes of a chunk and its state.

    Raises:
        StepFaultError: no way to place them runs.
        ExportError: two ways run equally well, or a hint is no axis; the message says what to give.
    """
    rank = probe.chunk.dim()
    for name, axis in (("batch_axis", known.batch_axis), ("time_axis", known.time_axis)):
        if axis is not None and not 0 <= axis < rank:
            raise ExportError(
                f"{name} is {axis}; the chunk {spelled(probe.chunk)} has the axes 0 to {rank - 1}"
            )
    found: list[tuple[int, Axes]] = []
    faults: list[tuple[int, ExportError]] = []
    for batch, time in _placements(rank, known):
        if time is not None and probe.chunk.shape[time] <= known.extra:
            continue
        fit = _preference(probe, known, time)
        try:
            axes = _try(probe, known, batch, time)
        except ExportError as error:
            faults.append((fit, error))
            continue
        if axes is not None:
            found.append((_level(axes) * 10 + fit, axes))
    if not found:
        raise _nothing_runs(probe, known, faults)
    best = min(rank for rank, _ in found)
    equal = [axes for rank, axes in found if rank == best]
    if len({axes.time for axes in equal}) > 1:
        equal = [axes for axes in equal if not axes.mixed] or equal
    if len({axes.time for axes in equal}) > 1:
        ways = " or ".join(f"batch_axis={a.batch}, time_axis={a.time}" for a in equal[:2])
        raise ExportError(
            f"the chunk {spelled(probe.chunk)} runs in {len(equal)} ways; say which axis is which, "
            f"e.g. {ways}",
            code="axes-open",
        )
    return equal[0]  # features that do not meet could be rows as well: batch comes first


def _placements(rank: int, known: Known) -> Iterator[tuple[int | None, int | None]]:
    batches = [axis for axis in range(rank) if known.batch_axis in (None, axis)]
    times = [axis for axis in range(rank) if known.time_axis in (None, axis)]
    yield from ((b, t) for b in batches for t in times if b != t)
    cell = known.sizes == (1,) or (not known.sizes and rank <= 2)
    cell = cell and known.time_axis is None and not known.extra
    if cell:
        yield from ((b, None) for b in batches)
    if known.batch_axis is None:
        yield from ((None, t) for t in times)
        if cell:
            yield None, None


def _preference(probe: Prober, known: Known, time: int | None) -> int:
    """Say how well the sizes fit what the caller said: 0 is best."""
    if time is None:
        return 1
    if not known.sizes:
        return 0
    size = probe.chunk.shape[time] - known.extra
    return 0 if size == max(known.sizes) else 1 if size in known.sizes else 2


def _level(axes: Axes) -> int:
    """Rank what a placement can do: rows, then time; mixed rows are a fault named elsewhere."""
    level = 2 if axes.batch is None else 0 if axes.any_batch else 1
    return 2 * level + (0 if axes.free else 1)


def _try(probe: Prober, known: Known, batch: int | None, time: int | None) -> Axes | None:
    """Find out what a placement can do; None where it can be ruled out."""
    axes = Axes(batch, time, tuple(None for _ in probe.state))
    if batch is not None:
        size = probe.chunk.shape[batch]
        rows = _rows(probe, axes, batch, 2 if size != 2 else 3)
        if rows is None and size != 1:
            return None
        axes = rows or axes
    if time is None:
        return axes
    here = probe.chunk.shape[time] - known.extra
    asked = [t for t in known.sizes if t != here]
    fits = not known.sizes or here in known.sizes
    one = 1 if axes.any_batch else None
    for t in (*asked, here + 1):
        chunk, state = probe.resized(axes, one, t + known.extra), probe.states(axes, one)
        try:
            _, after = probe.call(chunk, state)
        except ExportError:
            if t in asked or not fits:
                raise
            if asked:
                break
            # an axis may be time although it takes no other size, but for a cell's
            fixed = known.sizes or known.time_axis is not None or probe.chunk.dim() > 2
            return axes if fixed else None
        if [tensor.shape for tensor in after] != [tensor.shape for tensor in state]:
            return None
    return replace(axes, free=True)


def _rows(probe: Prober, axes: Axes, along: int, batch: int) -> Axes | None:
    """Place the batch axes of the state so that rows run together; None where nothing does."""
    size = probe.chunk.shape[along]
    shapes = list(dict.fromkeys(tuple(tensor.shape) for tensor in probe.state))
    options = [[i for i, length in enumerate(shape) if length == size] + [None] for shape in shapes]
    mixed: Axes | None = None
    for choice in itertools.islice(itertools.product(*options), MAX_GUESSES):
        of_shape = dict(zip(shapes, choice, strict=True))
        state = tuple(of_shape[tuple(tensor.shape)] for tensor in probe.state)
        place = replace(axes, state=state, any_batch=True)
        try:
            alone = _row_by_row(probe, place, along, batch)
        except ExportError:
            continue
        if alone:
            return place
        if alone is False and any(axis is not None for axis in state):
            mixed = mixed or replace(place, mixed=True)
    return mixed


def _row_by_row(probe: Prober, axes: Axes, along: int, batch: int) -> bool | None:
    """Say whether rows in a batch answer as they do alone; None where shapes do not fit."""
    chunks = [probe.resized(axes, batch) for _ in range(2)]
    together = _carried(probe, axes, batch, chunks)
    if together is None:
        return None
    for row in range(batch):
        alone = _carried(probe, axes, 1, [chunk.narrow(along, row, 1) for chunk in chunks])
        if alone is None:
            return None
        compared = list(zip(together[1], alone[1], axes.state, strict=True))
        for name, single in alone[0].items():
            whole = together[0][name]
            compared.append((whole, single, grown(single, whole, 1, batch)))
        for whole, single, axis in compared:
            if not close(whole if axis is None else whole.narrow(axis, row, 1), single):
                return False
    return True


def _carried(
    probe: Prober, axes: Axes, batch: int, chunks: Sequence[Tensor]
) -> tuple[Tensors, list[Tensor]] | None:
    """Step on chunks one after the other; None where a state changes its shape."""
    state = probe.states(axes, batch)
    shapes = [tensor.shape for tensor in state]
    outputs: Tensors = {}
    for chunk in chunks:
        outputs, state = probe.call(chunk, state)
        if [tensor.shape for tensor in state] != shapes:
            return None
    return outputs, state


def grown(small: Tensor, large: Tensor, before: int, after: int) -> int | None:
    """Return the axis that went from one size to the other between two runs; None if none did."""
    if small.dim() != large.dim():
        return None
    sizes = enumerate(zip(small.shape, large.shape, strict=True))
    changed = {axis: both for axis, both in sizes if both[0] != both[1]}
    return next(iter(changed)) if list(changed.values()) == [(before, after)] else None


def close(found: Tensor, expected: Tensor) -> bool:
    """Say whether two tensors are the same but for rounding; NaN equals NaN."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not found.is_floating_point():
        return torch.equal(found, expected)
    scale = float(expected.nan_to_num(0.0).abs().max()) if expected.numel() else 0.0
    return torch.allclose(found, expected, rtol=0.0, atol=CLOSE * scale + 1e-7, equal_nan=True)


def _nothing_runs(
    probe: Prober, known: Known, faults: Sequence[tuple[int, ExportError]]
) -> ExportError:
    for _, error in faults:
        if error.code == "hidden-state":
            return error  # all that failed after it may have failed for this reason
    best = min((rank for rank, _ in faults), default=0)
    why = next((str(error) for rank, error in faults if rank == best), "")
    asked = f" with T = {', '.join(map(str, known.sizes))}" if known.sizes else ""
    if "Expected more than 1 value per channel when training" in why:
        return StepFaultError(
            f"rows of a batch are mixed: {called(probe.call.module)} has a batch normalisation "
            "that takes its statistics from the batch, and cannot run one item of one stream "
            f"({why}); "
            "use the trained ones (`track_running_stats=True`), or a LayerNorm",
            code="rows-mixed",
        )
    reason = f": {why}" if why else ": the state changes its shape, or its batch is not the chunk's"
    return StepFaultError(
        f"{called(probe.call.module)}: no axes of the chunk {spelled(probe.chunk)} can be batch "
        f"and time{asked}{reason}",
    )
