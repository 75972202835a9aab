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
        done: items read so far.
        parts: what was answered so far.
        picked: a turn was taken, or is being taken; the scheduler then sees to its end.
        begun: the user's state before it is known.
        taken: the caller has his answer; it cannot be taken back.
        prior: what the user had before it, where its work may have to be taken back.
    """

    user: "User"
    future: "asyncio.Future[object]"
    items: Array | bytes
    flush: bool
    wish: Wish
    task: "Callable[[User], object] | None"
    since: float
    done: int = 0
    parts: list[Outputs] = field(default_factory=list)
    picked: bool = False
    begun: bool = False
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


@dataclass(slots=True)
class Turn:
    """What one request does in one turn of the batch, and what came of it."""

    request: Request
    piece: Array | bytes
    ends: bool  # with this piece all of the request is read
    answer: object = None
    error: DstError | None = None
    failure: Exception | None = None  # of the machine or of this program


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
    elif not isinstance(items, bytes | bytearray | memoryview):
        check_items(chunk, items)  # which refuses them
    count = items.nbytes if isinstance(items, memoryview) else len(items)
    if count > most:
        raise StepError(
            f"the request has {count} items, this scheduler takes {most} at once; use "
            "iter_advance()",
            code="request-too-large",
        )
    return items.copy() if isinstance(items, np.ndarray) else bytes(items)


def join_parts(contract: Contract, parts: Sequence[Outputs], wish: Wish) -> Outputs:
    """Join what the turns of one request answered, as one call of `Stream.advance` answers."""
    if len(parts) == 1 and not wish.last and wish.outputs is None:
        return parts[0]
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
