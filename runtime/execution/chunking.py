"""Cut items into chunks, step each chunk, and join the outputs.

A chunk is stepped as soon as its T items and the A items of its look-ahead are there; the next one
begins T items later.

Shape letters: `T` items per chunk, `A` look-ahead, `n` items of any number.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Contract
from dst.runtime.errors import PartialChunkError, SessionError
from dst.runtime.execution.recurrence import Kept, Recurrence

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]


class Buffers(Protocol):
    """Where one step takes its items `[T + A, ...]` from and leaves its outputs (B = 1)."""

    items: Array
    outputs: Outputs


class Walk:
    """One stream's way over its pending and new items, chunk by chunk.

    For each of `sizes` in turn: `fill`, a step of the recurrence, `take`; then `end`, once.

    Attributes:
        sizes: the T of every chunk.
        done: how many of them were taken.
    """

    __slots__ = (
        "_answered",
        "_at",
        "_contract",
        "_core",
        "_firm",
        "_items",
        "_kept",
        "_outputs",
        "_read",
        "_waiting",
        "done",
        "sizes",
    )

    def __init__(
        self,
        core: Recurrence,
        contract: Contract,
        items: Array,
        sizes: Sequence[int],
        padded: int = 0,
    ) -> None:
        """Plan chunks of these sizes over the items that wait and then `items` `[n, ...]`.

        With `padded`, chunks of the nominal T follow for so many more items, which are all that
        there are, and padding behind them. These items are answered for, but they go on waiting,
        and the state after these chunks is dropped.
        """
        self._core = core
        self._contract = contract
        self._waiting = core.pending()
        self._items = items
        self._kept: Kept | None = None
        self._firm = len(sizes)
        self._read = sum(sizes)
        self._answered = self._read + padded
        self._at = 0
        nominal = contract.chunk.nominal_t
        self.sizes = [*sizes, *[nominal] * -(-padded // nominal)]
        self.done = 0
        self._outputs = _room(contract, len(self.sizes), self._answered)

    @property
    def t(self) -> int:
        """The T of the next chunk, 0 after the last."""
        return self.sizes[self.done] if self.done < len(self.sizes) else 0

    def fill(self, step: Buffers) -> None:
        """Give the next chunk to a step."""
        room = step.items
        if self.done >= self._firm:
            if self.done == self._firm:
                self._kept = self._core.hold()
            left = len(self._waiting) + len(self._items) - self._at
            pad = self._contract.chunk.pad_value or 0
            np.copyto(room[left:], pad, casting="unsafe")
            room = room[:left]
        _gather(room, self._waiting, self._items, self._at)

    def take(self, step: Buffers) -> None:
        """Take the outputs of the step that was done."""
        count = min(self.sizes[self.done], self._answered - self._at)
        _collect(self._contract, self._outputs, step.outputs, self.done, self._at, count)
        self._at += count
        self.done += 1
        if self._kept is not None and self.done == len(self.sizes):
            self._core.release(self._kept)

    def end(self) -> Outputs:
        """Let the items that filled no chunk wait, and return all outputs."""
        if self._read:
            rest = self._items[max(0, self._read - len(self._waiting)) :]
            self._core.leave(self._waiting[self._read :], rest)
        elif len(self._items):
            self._core.append(self._items, self._core.mark.sampler)
        return self._outputs


def reading(core: Recurrence, contract: Contract, items: Array) -> Walk:
    """Plan every chunk of the nominal T that pending and new items `[n, ...]` fill."""
    count = _whole_chunks(contract, core.mark.waiting + len(items))
    return Walk(core, contract, items, [contract.chunk.nominal_t] * count)


def ending(core: Recurrence, contract: Contract, chunk_sizes: Sequence[int]) -> Walk:
    """Plan the answer for the items that wait, by the contract's tail rule.

    Raises:
        PartialChunkError: the rule is `refuse`, and items wait.
        SessionError: `chunk-size`: the session does not run a T that is needed.
    """
    chunk = contract.chunk
    nothing = core.pending()[:0]
    sizes = [chunk.nominal_t] * _whole_chunks(contract, core.mark.waiting)
    rest = core.mark.waiting - sum(sizes)
    if rest and chunk.tail == "refuse":
        behind = f" with {chunk.lookahead} items of look-ahead behind" if chunk.lookahead else ""
        raise PartialChunkError(
            f"{rest} items wait and this model takes whole chunks of {chunk.nominal_t} only{behind}"
            f"; give {chunk.nominal_t + chunk.lookahead - rest} more, or reset the stream"
        )
    if rest and chunk.tail == "pad":
        return Walk(core, contract, nothing, sizes, padded=rest)
    return Walk(core, contract, nothing, sizes + _split(rest, chunk_sizes))


def advance(core: Recurrence, contract: Contract, items: Array) -> Outputs:
    """Step every chunk of the nominal T that pending and new items `[n, ...]` fill."""
    return _step_all(core, reading(core, contract, items))


def flush(core: Recurrence, contract: Contract, chunk_sizes: Sequence[int]) -> Outputs:
    """Answer for the items that wait, by the contract's tail rule.

    Raises:
        PartialChunkError: the rule is `refuse`, and items wait.
        SessionError: `chunk-size`: the session does not run a T that is needed.
    """
    return _step_all(core, ending(core, contract, chunk_sizes))


def join(contract: Contract, first: Outputs, second: Outputs) -> Outputs:
    """Join two results along their time axes, or along the first axis for outputs per chunk."""
    return {
        o.name: np.concatenate([first[o.name], second[o.name]], axis=o.time_axis or 0)
        for o in contract.outputs
    }


def _whole_chunks(contract: Contract, items: int) -> int:
    """Count the chunks of the nominal T that so many items fill, look-ahead included."""
    chunk = contract.chunk
    return max(0, items - chunk.lookahead) // chunk.nominal_t


def _step_all(core: Recurrence, walk: Walk) -> Outputs:
    plans = {t: core.plan(t) for t in set(walk.sizes)}
    for t in walk.sizes:
        walk.fill(plans[t])
        core.step_once(plans[t])
        walk.take(plans[t])
    return walk.end()


def _split(count: int, chunk_sizes: Sequence[int]) -> list[int]:
    """Cut `count` items into the largest chunks that fit, repeatedly."""
    parts: list[int] = []
    for t in sorted(chunk_sizes, reverse=True):
        parts += [t] * (count // t)
        count %= t
    if count:
        raise SessionError(
            f"{count} items are left that no chunk of T = {sorted(chunk_sizes)} can hold; "
            "open the session with T = 1 among its chunk_sizes",
            code="chunk-size",
        )
    return parts


def _gather(room: Array, waiting: Array, items: Array, start: int) -> None:
    """Fill `room` with the items from `start` on, of `waiting` and then `items`."""
    held = waiting[start : start + len(room)]
    room[: len(held)] = held
    skip = max(0, start - len(waiting))
    room[len(held) :] = items[skip : skip + len(room) - len(held)]


def _room(contract: Contract, steps: int, items: int) -> Outputs:
    """Make the arrays that the outputs of `steps` steps over `items` items go to."""
    return {
        o.name: np.empty(
            sized(o.shape, items) if o.per == "item" else (steps, *sized(o.shape, 0)), o.dtype
        )
        for o in contract.outputs
    }


def _collect(
    contract: Contract, outputs: Outputs, found: Outputs, step: int, at: int, count: int
) -> None:
    """Copy the first `count` items of a step's outputs to their place."""
    for o in contract.outputs:
        value = found[o.name]
        if o.time_axis is None:
            outputs[o.name][step] = value
        else:
            before = (slice(None),) * o.time_axis
            outputs[o.name][(*before, slice(at, at + count))] = value[(*before, slice(count))]
