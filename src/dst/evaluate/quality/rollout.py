"""Run two forms of one model side by side, and sum up how far they part.

The reference and the other each carry their own state from item 0 on. At some chunks, the same
at every run, a third stream reads the chunk with the other's graph from the reference's state:
what it gets wrong is the error of one chunk alone. Errors of the free stream over these are the
accumulation factor. Nothing here grows with the length.

Shape letters: `T` items per chunk, `n` items, `S` state tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt

from dst.evaluate.quality.bins import Bins, Floats, edges, mean_of
from dst.evaluate.quality.distance import divergence_for
from dst.runtime import Session
from dst.runtime.bundle.layout import rows_of, sized
from dst.runtime.errors import NonFiniteError, StateMismatchError, StepError
from dst.runtime.golden import golden_inputs

Array = npt.NDArray[np.generic]
Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done."""

DENSE_CHUNKS = 32
"""The first chunks of a stream, of which all are sampled."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Which streams are read.

    The long stream has `length` items from the first of the data, rounded up to chunks of T = `t`.
    The `heads`, of `head_items` each, begin at places spread evenly over the data, so that early
    positions are judged on as varied input as late ones. One of `sample_every` chunks is sampled
    for state distance (`states`; two files of one model may hold other ones) and for the injected
    stream (`inject`).
    """

    length: int
    t: int
    heads: int = 16
    head_items: int = 10_000
    sample_every: int = 16
    inject: bool = True
    states: bool = True


@dataclass(frozen=True, slots=True)
class Rollout:
    """What was measured in `nats` or `relative`, per range of positions.

    `free` is of the outputs of the free stream, `free_sampled` the same at sampled chunks, where
    `injected` is of those from the reference's state and `state` of the state tensors afterwards,
    whose roles are `roles`. `items` were read of the long stream; `judges_loss` says whether losses
    were summed. At item `broke_at` the other gave a NaN or an infinity; None if it never did.
    """

    unit: str
    items: int
    free: Bins
    free_sampled: Bins
    injected: Bins
    state: Bins
    roles: tuple[str, ...]
    judges_loss: bool
    broke_at: int | None = None

    def accumulation(self, where: int) -> float | None:
        """The error of the free stream over that of one chunk alone; None where none was seen."""
        alone = self.injected.value(where)
        return self.free_sampled.value(where) / alone if alone > 0 else None

    def state_distance(self, where: int, role: str | None = None) -> float | None:
        """Relative distance of the state tensors of a role, or of all; None where not sampled."""
        held = self.state.sums(where)
        kept = np.array([role in (None, name) for name in self.roles], bool)
        if not held.items or not kept.any():
            return None
        return mean_of(held.error[kept], held.scale[kept], root=True)


def check_pair(reference: Session, other: Session, other_file: bool = False) -> None:
    """Check that two sessions run one model over one kind of state.

    Where the two were adopted from different files (`other_file`), only what goes in and comes out
    must be the same, since nothing says whose weights and states they are.

    Raises:
        StateMismatchError: `other-model`, `other-state-layout`, `other-ends`: they do not.
    """
    left, right = reference.identity, other.identity
    this, that = other.bundle.label, reference.bundle.label
    if not other_file:
        if left.model_id != right.model_id:
            raise StateMismatchError(
                f"{this}: is of model {right.model_id[:16]}…, {that} of {left.model_id[:16]}…; "
                "compare two precisions of one model; for another file of it, such as one that "
                "was quantized elsewhere, give --other-file",
                code="other-model",
            )
        if left.state_hash != right.state_hash:
            raise StateMismatchError(
                f"{this}: its state tensors are not those of {that}; "
                "quantize without changing the state",
                code="other-state-layout",
            )
        return
    one, two = reference.contract, other.contract
    ends = [
        ("chunk", one.chunk.shape, two.chunk.shape),
        ("kind of items", type(one.chunk.content).__name__, type(two.chunk.content).__name__),
    ]
    shapes = {output.name: output.shape for output in one.outputs}
    ends += [(f"output `{o.name}`", shapes.get(o.name, "none"), o.shape) for o in two.outputs]
    for what, expected, found in ends:
        if expected != found:
            raise StateMismatchError(
                f"{this}: {what} is {found}, that of {that} is {expected}; two files of one model "
                "must take the same items and have the same outputs",
                code="other-ends",
            )


def rollout(
    reference: Session,
    other: Session,
    items: Array,
    walk: Walk,
    progress: Progress | None = None,
) -> Rollout:
    """Run two forms of one model side by side and sum up how far they part.

    The `reference` is taken as right; its state tensors have the names and shapes of the other's.
    `items`, `[n]` or `[n, F]` as callers give them, are read round and round, as `walk` says.

    Raises:
        BrokeAtOnceError: the other broke at its first chunk.
        StepError: an item cannot be read, or the reference broke.
        SessionError: `chunk-size`: a session does not run the T of the walk.
    """
    if len(items) < 2:
        raise StepError(
            f"a rollout needs at least 2 items to read, {len(items)} came", code="argument"
        )
    runs = _Runs(reference, other, items, walk)
    chunks = -(-walk.length // walk.t)
    head_chunks = min(chunks, -(-walk.head_items // walk.t))
    plan = [(0, chunks)] + [
        (len(items) * (head + 1) // (walk.heads + 1), head_chunks) for head in range(walk.heads)
    ]
    total, done = sum(count for _, count in plan), 0
    broken = []
    for start, count in plan:
        runs.reference.reset()
        runs.other.reset()
        for number in range(count):
            if (broke := runs.chunk(start, number)) is not None:
                if number == 0:
                    raise BrokeAtOnceError(f"{other.bundle.label}: {broke}")
                broken.append(number * walk.t)
                break
            if progress is not None and number % 32 == 0:
                progress("rollout", (done + number) / total)
        done += count
        for bins in (runs.ran.free, runs.ran.free_sampled, runs.ran.injected, runs.ran.state):
            bins.close()
    return replace(runs.ran, broke_at=min(broken, default=None))


class BrokeAtOnceError(StepError):
    """The other's graph gave a NaN or an infinity at its first chunk: there is nothing to judge."""


class _Runs:
    """The streams of a rollout and what they have summed up."""

    def __init__(self, reference: Session, other: Session, items: Array, walk: Walk) -> None:
        contract = other.contract
        self._items, self._walk = items, walk
        self._compare = compare = divergence_for(contract)
        given = golden_inputs(other.bundle)
        dtypes = {g.input: g.dtype for g in reference.contract.stream_inputs}
        wide = {name: value.astype(dtypes[name]) for name, value in given.items()}
        self.reference, self.other = reference.stream(inputs=wide), other.stream(inputs=given)
        self._injected = other.stream(inputs=given)
        self._behind = contract.chunk.lookahead
        shape = sized(contract.chunk.shape, walk.t + self._behind)
        self._chunk = np.empty(shape, contract.chunk.dtype)
        self._wide = np.empty(shape, reference.contract.chunk.dtype)
        self._rows = rows_of(contract.chunk.shape, self._chunk)
        states = contract.state if walk.states else ()
        self._floats = [s for s in states if s.dtype.startswith("float")]
        length = -(-walk.length // walk.t) * walk.t
        ends, root = edges(length), compare.unit == "relative"
        free, sampled, injected = (Bins(ends, compare.places, root) for _ in range(3))
        self.ran = Rollout(
            unit=compare.unit,
            items=length,
            free=free,
            free_sampled=sampled,
            injected=injected,
            state=Bins(ends, max(1, len(self._floats)), root=True),
            roles=tuple(s.role for s in self._floats),
            judges_loss=compare.judges_loss,
        )

    def chunk(self, start: int, number: int) -> str | None:
        """Step on chunk `number` of the stream that begins at item `start` of the data.

        The result says how the other's graph broke, by a NaN or an infinity, if it did.
        """
        walk, ran = self._walk, self.ran
        at = number * walk.t
        end = start + at + walk.t + max(1, self._behind)
        taken = self._items[np.arange(start + at, end) % len(self._items)]
        self._rows[...] = taken[: walk.t + self._behind]
        following = taken[1 : walk.t + 1]
        self._wide[...] = self._chunk
        sampled = number < DENSE_CHUNKS or number % walk.sample_every == 0
        before = self.reference.snapshot() if sampled and walk.inject else None
        right = self.reference.step(self._wide, copy=False)
        alone = None
        try:
            found = self.other.step(self._chunk, copy=False)
            if before is not None:  # the same chunk from the reference's state
                identity = self.other.engine.identity
                self._injected.restore(msgspec.structs.replace(before, identity=identity))
                alone = self._injected.step(self._chunk, copy=False)
        except NonFiniteError as broke:
            return str(broke)
        distance = self._compare.distance(right, found, following)
        ran.free.add(at, *distance)
        if not sampled:
            return None
        ran.free_sampled.add(at, distance.error, distance.scale, None)
        if alone is not None:
            distance = self._compare.distance(right, alone, following)
            ran.injected.add(at, distance.error, distance.scale, None)
        if self._floats:
            state, other = self.reference.state, self.other.state
            sums = np.array([_squares(state[s.input], other[s.input]) for s in self._floats])
            ran.state.add(at + walk.t - 1, sums[None, :, 0], sums[None, :, 1], None)
        return None


def _squares(right: Array, found: Array) -> tuple[float, float]:
    """Squared distance of a tensor, and the square of the right one."""
    wide: Floats = right.astype(np.float64).reshape(-1)
    off = found.astype(np.float64).reshape(-1) - wide
    return float(off @ off), float(wide @ wide)
