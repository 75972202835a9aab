"""What a scheduler keeps of each request and of each user.

Shape letters: `n` items of any number.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.manifest import Chunk, Contract
from dst.runtime.errors import DstError, StepError
from dst.runtime.execution.inputs import Items, check_items
from dst.runtime.state.record import Saved

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]


@dataclass(slots=True, frozen=True)
class Wish:
    """What of the answers a caller wants: of the last item only, and which outputs."""

    last: bool = False
    outputs: tuple[str, ...] | None = None


ALL = Wish()


@dataclass(slots=True, eq=False)
class Request:
    """One call of a user, from its coming to its end.

    Attributes:
        user: whose it is.
        future: what the caller waits for.
        items: `[n, ...]`, what is to be read.
        flush: the input ends behind them.
        wish: what of the answers is wanted.
        task: other work than reading, done by the worker's thread; None for reading.
        since: when it came.
        piece: what of the items is read in this turn.
        ends: with this piece all of them are read.
        done: items read so far.
        parts: what was answered so far.
        answer: what the caller gets.
        error: why it gets none.
        failure: the same, where it is a fault of the machine or of this program.
        picked: a turn was taken, or is being taken; the scheduler then sees to its end.
        taken: the caller has his answer; it cannot be taken back.
        prior: what the user had before it, from its first turn until it is taken back.
    """

    user: "User"
    future: "asyncio.Future[object]"
    items: Array | bytes
    flush: bool
    wish: Wish
    task: "Callable[[User], object] | None"
    since: float
    piece: Array | bytes = b""
    ends: bool = False
    done: int = 0
    parts: list[Outputs] = field(default_factory=list)
    answer: object = None
    error: DstError | None = None
    failure: Exception | None = None
    picked: bool = False
    taken: bool = False
    prior: "Prior | None" = None


class Prior(NamedTuple):
    """What a user had before a request: his record, if known, and whether he had a state."""

    record: Saved | None
    exists: bool
    dirty: bool


@dataclass(slots=True, eq=False)
class User:
    """A user who has a slot or a request; the others are in the store only.

    Attributes:
        name: the name of his stream in the store.
        queue: his requests, the first of them may be under way.
        slot: where he sits, or None.
        record: his state as of the last answer, where it is at hand.
        seen: the number of the last turn that he read in.
        exists: he has a state; None where the store was not asked yet.
        dirty: the store holds an older state, or none.
        since: when that began.
        reading: the first request has read a part, so that his slot is ahead of `record`.
        partial: the state of that, while he has no slot.
    """

    name: str
    queue: deque[Request] = field(default_factory=deque)
    slot: int | None = None
    seen: int = 0
    record: Saved | None = None
    exists: bool | None = None
    dirty: bool = False
    since: float = 0.0
    reading: bool = False
    partial: Saved | None = None


def own(chunk: Chunk, items: Items, empty: Array, most: int) -> Array | bytes:
    """Return a copy of items that nobody else writes to; the pool checks the rest of them later.

    Args:
        chunk: the contract's chunk.
        items: `[n, ...]` as for `Stream.advance`.
        empty: no items, of the right shape and dtype.
        most: how many a request may have. No copy is made before it is known what it takes.

    Raises:
        StepError: `request-too-large`, `chunk-type`, `chunk-shape`.
    """
    if isinstance(items, np.ndarray):
        fits = items.ndim == empty.ndim and items.shape[1:] == empty.shape[1:]
        if not fits or items.dtype != empty.dtype:
            check_items(chunk, items[:0] if items.ndim else items)
        if len(items) <= most:
            return items.copy()
    elif not isinstance(items, bytes | bytearray | memoryview):
        check_items(chunk, items)  # which refuses them
    count = items.nbytes if isinstance(items, memoryview) else len(items)
    if count > most:
        raise StepError(
            f"the request has {count} items, this scheduler takes {most} at once; use "
            "iter_advance()",
            code="request-too-large",
        )
    return bytes(items)


def join_parts(contract: Contract, parts: Sequence[Outputs], wish: Wish) -> Outputs:
    """Join what the turns of one request answered, as one call of `Stream.advance` answers."""
    joined: Outputs = {}
    for o in contract.outputs:
        if wish.outputs is not None and o.name not in wish.outputs:
            continue
        values = [part[o.name] for part in parts]
        axis = o.time_axis or 0
        if wish.last and o.time_axis is not None:
            values = [v for v in values if v.shape[axis]][-1:] or values[-1:]
            end = (slice(None),) * axis + (slice(-1, None),)
            joined[o.name] = values[0] if values[0].shape[axis] < 2 else values[0][end].copy()
        else:
            joined[o.name] = values[0] if len(values) == 1 else np.concatenate(values, axis)
    return joined
