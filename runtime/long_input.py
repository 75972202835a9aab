"""Advance a stream over a long input, one chunk at a time.

Shape letters: `T` items per chunk, `n` items of any number.
"""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.manifest import Chunk
from dst.runtime.errors import DeadlineError, StepError
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.inputs import Items, check_items
from dst.runtime.execution.step import check_deadline

Outputs = dict[str, npt.NDArray[np.generic]]


class Cancel(Protocol):
    """Whatever says whether work is to stop, such as `threading.Event`."""

    def is_set(self) -> bool:
        """Say whether it is."""
        ...


class Advancing(Protocol):
    """What is moved: a stream."""

    @property
    def engine(self) -> Engine:
        """Its session."""
        ...

    @property
    def items_consumed(self) -> int:
        """Items in its state."""
        ...


def advance_in_chunks(
    stream: Advancing,
    items: Items,
    deadline_ms: float | None,
    cancel: Cancel | None,
    advance: Callable[[Items], Outputs],
) -> Iterator[Outputs]:
    """Give the items to `advance`, at most T at a time, and yield what each full chunk answers.

    Raises:
        DeadlineError: the time was up before a chunk began.
        StepError: `cancelled`: `cancel` was set before a chunk began.
    """
    chunk = stream.engine.contract.chunk
    nominal = chunk.nominal_t
    limit = Limit(chunk, items, deadline_ms, cancel)
    for start in range(0, limit.count, nominal):
        limit.check(start)
        before = stream.items_consumed
        outputs = advance(limit.items[start : start + nominal])
        if stream.items_consumed > before:
            yield outputs


class Limit:
    """A long input that is checked before any work, and when reading it is to stop.

    Attributes:
        items: what is to be read; it can be sliced by items.
        count: how many there are.
    """

    __slots__ = ("_cancel", "_deadline_ms", "_end", "count", "items")

    def __init__(
        self, chunk: Chunk, items: Items, deadline_ms: float | None, cancel: Cancel | None
    ) -> None:
        if deadline_ms is not None:
            check_deadline(deadline_ms)
        if isinstance(items, memoryview):
            items = bytes(items)  # its length may count something else
        sliceable = isinstance(items, bytes | bytearray)
        sliceable = sliceable or (isinstance(items, np.ndarray) and items.ndim > 0)
        check_items(chunk, items[:0] if sliceable else items)  # dtype and shape
        self.items, self.count = items, len(items)
        self._deadline_ms, self._cancel = deadline_ms, cancel
        self._end = None if deadline_ms is None else time.monotonic() + deadline_ms / 1000

    def check(self, done: int) -> float | None:
        """Return how many milliseconds are left, or None for no limit.

        Raises:
            DeadlineError: none.
            StepError: `cancelled`: `cancel` was set.
        """
        if self._cancel is not None and self._cancel.is_set():
            raise StepError(f"{self.where(done)}; cancelled", code="cancelled")
        if self._end is None:
            return None
        left_ms = (self._end - time.monotonic()) * 1000
        if left_ms <= 0:
            raise self.late(done)
        return left_ms

    def late(self, done: int) -> DeadlineError:
        """Return the error that the time was up."""
        return DeadlineError(f"{self.where(done)} when {self._deadline_ms} ms were over")

    def where(self, done: int) -> str:
        """Say how far it was read."""
        return f"{done} of {self.count} items were read; go on with items[{done}:]"
