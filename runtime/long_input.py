"""Advance a stream over a long input, one chunk at a time.

Shape letters: `T` items per chunk, `n` items of any number.
"""

import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import DeadlineError, StepError
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.inputs import Items, check_items

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
    if isinstance(items, memoryview):
        items = bytes(items)  # its length may count something else
    sliceable = isinstance(items, np.ndarray | bytes | bytearray)
    check_items(chunk, items[:0] if sliceable else items)  # dtype and shape, before any work
    end = None if deadline_ms is None else time.monotonic() + deadline_ms / 1000
    for start in range(0, len(items), nominal):
        if cancel is not None and cancel.is_set():
            raise StepError(f"{_where(start, len(items))}; cancelled", code="cancelled")
        if end is not None and time.monotonic() >= end:
            raise DeadlineError(f"{_where(start, len(items))} when {deadline_ms} ms were over")
        before = stream.items_consumed
        outputs = advance(items[start : start + nominal])
        if stream.items_consumed > before:
            yield outputs


def _where(done: int, count: int) -> str:
    return f"{done} of {count} items were read; go on with items[{done}:]"
