"""Cut items into chunks, step each chunk, and join the outputs.

A chunk is stepped as soon as its T items and the A items of its look-ahead are there; the next one
begins T items later.

Shape letters: `T` items per chunk, `A` look-ahead, `n` items of any number.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Contract, Output
from dst.runtime.errors import PartialChunkError, SessionError, StepError
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.recurrence import Backup, BadStateError, Recurrence
from dst.runtime.execution.step import Row
from dst.runtime.state.sampler import Sampler

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]
Result = TypeVar("Result")
Choose = Callable[[Outputs, Sampler | None], tuple[int, Sampler | None]]


class ChunkPlan:
    """How one stream's pending and new items are cut into chunks, and how far that is done.

    For each of `sizes` in turn: `fill`, a step of the recurrence, `take`; then `end`, once.

    Attributes:
        sizes: the T of every chunk.
        done: how many of them were taken.
        last: only the last of these items is answered for.
    """

    __slots__ = (
        "_answered",
        "_at",
        "_backup",
        "_contract",
        "_core",
        "_firm",
        "_items",
        "_outputs",
        "_read",
        "_waiting",
        "_wanted",
        "done",
        "last",
        "sizes",
    )

    def __init__(
        self,
        core: Recurrence,
        contract: Contract,
        items: Array,
        sizes: Sequence[int],
        padded: int = 0,
        last: bool = False,
        outputs: Sequence[str] | None = None,
    ) -> None:
        """Plan chunks of these sizes over the items that wait and then `items` `[n, ...]`.

        `outputs` names those that are answered, None means all.

        With `padded`, chunks of the nominal T follow for so many more items, which are all that
        there are, and padding behind them. These items are answered for, but they go on waiting,
        and the state after these chunks is dropped.
        """
        self._core = core
        self._contract = contract
        self._waiting = core.pending()
        self._items = items
        self._backup: Backup | None = None
        self._firm = len(sizes)
        self._read = sum(sizes)
        self._answered = self._read + padded
        self._at = 0
        self.last = last and not padded  # the last item before padding is not the chunk's last
        nominal = contract.chunk.nominal_t
        self.sizes = [*sizes, *[nominal] * -(-padded // nominal)]
        self.done = 0
        self._outputs: Outputs = {}
        self._wanted = contract.outputs if outputs is None else chosen(contract, outputs)
        for o in self._wanted:
            per_chunk = (len(self.sizes), *sized(o.shape, 0))
            count = min(1, self._answered) if self.last else self._answered
            shape = sized(o.shape, count) if o.per == "item" else per_chunk
            self._outputs[o.name] = np.empty(shape, o.dtype)

    @property
    def t(self) -> int:
        """The T of the next chunk, 0 after the last."""
        return self.sizes[self.done] if self.done < len(self.sizes) else 0

    def fill(self, row: Row) -> None:
        """Copy the items of the next chunk to a row of a step."""
        room = row.items
        if self.done >= self._firm:
            if self.done == self._firm:
                self._backup = self._core.hold()
            left = len(self._waiting) + len(self._items) - self._at
            pad = self._contract.chunk.pad_value or 0
            np.copyto(room[left:], pad, casting="unsafe")
            room = room[:left]
        waiting = self._waiting[self._at : self._at + len(room)]
        room[: len(waiting)] = waiting
        skip = max(0, self._at - len(self._waiting))
        room[len(waiting) :] = self._items[skip : skip + len(room) - len(waiting)]

    def take(self, row: Row) -> None:
        """Copy the outputs of the row, when the step is done."""
        count = min(self.sizes[self.done], self._answered - self._at)
        for o in self._wanted:
            value, target = row.answers[o.name], self._outputs[o.name]
            if o.time_axis is None:
                target[self.done] = value
                continue
            before = (slice(None),) * o.time_axis
            if self.last:  # the rows of a pool answer for every item
                target[...] = value[(*before, slice(-1, None))]
            else:
                place = slice(self._at, self._at + count)
                target[(*before, place)] = value[(*before, slice(count))]
        self._at += count
        self.done += 1
        if self._backup is not None and self.done == len(self.sizes):
            self._core.release(self._backup)

    def end(self) -> Outputs:
        """Let the items that filled no chunk wait, and return all outputs."""
        if self._read:
            rest = self._items[max(0, self._read - len(self._waiting)) :]
            self._core.leave(self._waiting[self._read :], rest)
        elif len(self._items):
            self._core.append(self._items, self._core.position.sampler)
        return self._outputs


def plan_chunks(
    core: Recurrence,
    contract: Contract,
    items: Array,
    last: bool = False,
    outputs: Sequence[str] | None = None,
) -> ChunkPlan:
    """Plan every chunk of the nominal T that pending and new items `[n, ...]` fill."""
    count = _whole_chunks(contract, core.position.waiting + len(items))
    sizes = [contract.chunk.nominal_t] * count
    return ChunkPlan(core, contract, items, sizes, last=last, outputs=outputs)


def plan_tail(
    core: Recurrence,
    contract: Contract,
    chunk_sizes: Sequence[int],
    last: bool = False,
    outputs: Sequence[str] | None = None,
    items: Array | None = None,
) -> ChunkPlan:
    """Plan every chunk of pending and new items `[n, ...]`, the rest by the contract's tail rule.

    Raises:
        PartialChunkError: the rule is `refuse`, and items wait.
        SessionError: `chunk-size`: the session does not run a T that is needed.
    """
    chunk = contract.chunk
    items = core.pending()[:0] if items is None else items
    count = core.position.waiting + len(items)
    sizes = [chunk.nominal_t] * _whole_chunks(contract, count)
    rest = count - sum(sizes)
    if rest and chunk.tail == "refuse":
        behind = f" with {chunk.lookahead} items of look-ahead behind" if chunk.lookahead else ""
        raise PartialChunkError(
            f"{rest} items wait and this model takes whole chunks of {chunk.nominal_t} only{behind}"
            f"; give {chunk.nominal_t + chunk.lookahead - rest} more, or reset the stream"
        )
    if rest and chunk.tail == "pad":
        return ChunkPlan(core, contract, items, sizes, padded=rest, last=last, outputs=outputs)
    for t in sorted(chunk_sizes, reverse=True):  # the largest chunks that fit, repeatedly
        sizes += [t] * (rest // t)
        rest %= t
    if rest:
        raise SessionError(
            f"{rest} items are left that no chunk of T = {sorted(chunk_sizes)} can hold; "
            "open the session with T = 1 among its chunk_sizes",
            code="chunk-size",
        )
    return ChunkPlan(core, contract, items, sizes, last=last, outputs=outputs)


def read(
    core: Recurrence,
    engine: Engine,
    items: Array,
    last: bool = False,
    outputs: Sequence[str] | None = None,
) -> Outputs:
    """Step every full chunk of pending and new items `[n, ...]`."""
    return take_steps(core, plan_chunks(core, engine.contract, items, last, outputs))


def read_tail(
    core: Recurrence, engine: Engine, last: bool = False, outputs: Sequence[str] | None = None
) -> Outputs:
    """Answer for the items that wait, by the contract's tail rule."""
    return take_steps(core, plan_tail(core, engine.contract, engine.chunk_sizes, last, outputs))


def read_token(core: Recurrence, engine: Engine, items: Array, choose: Choose) -> int:
    """Read items, choose a token by the last answers and let it wait."""
    outputs = read(core, engine, items, last=True), read_tail(core, engine, last=True)
    token, sampler = choose(join(engine.contract, *outputs), core.position.sampler)
    core.append(np.array([token], engine.contract.chunk.dtype), sampler)
    return token


def in_one_call(core: Recurrence, work: Callable[[], Result]) -> Result:
    """Do some steps as one call: all of them, or none."""
    before = core.begin()
    try:
        result = work()
        core.settle()
        return result
    except BadStateError as bad:
        raise core.recover(before, bad) from None
    except BaseException:
        try:
            core.undo(before)
        except BaseException:  # an interrupt that came while this was being undone
            core.undo(before)
            raise
        raise


def take_steps(core: Recurrence, plan: ChunkPlan) -> Outputs:
    """Take every step of a plan, and return the outputs that it wants.

    Raises:
        SessionError: `chunk-size`: the session does not run a T that is needed.
        StepError: a step was refused or failed.
        BadStateError: the state after a step was checked and is not finite.
    """
    steps = {t: core.step_for(t, plan.last) for t in set(plan.sizes)}
    for t in plan.sizes:
        step = steps[t]
        plan.fill(step.row)
        core.step_once(step)
        plan.take(step.row)
    return plan.end()


def chosen(contract: Contract, names: Sequence[str]) -> tuple[Output, ...]:
    """Return the outputs of these names.

    Raises:
        StepError: `no-such-output`: the model has none of that name, or `names` is one string.
    """
    known = {o.name: o for o in contract.outputs}
    for name in [names] if isinstance(names, str) else names:
        if name not in known or isinstance(names, str):
            raise StepError(
                f"outputs={names!r}: expected a list of names from {[*known]}",
                code="no-such-output",
            )
    return tuple(known[name] for name in dict.fromkeys(names))


def overtaking(waiting: int) -> StepError:
    """Say that a chunk given to `step` would overtake the items that wait."""
    return StepError(
        f"{waiting} items from advance() wait, and step() would overtake them; "
        "call flush() first, or go on with advance()",
        code="items-pending",
    )


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
