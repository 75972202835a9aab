"""The grid: pending and new items in, whole chunks through the recurrence, joined outputs out.

Shape letters: `T` items per chunk, `n` items of any number.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import ChunkSizeError, PartialChunkError
from dst.runtime.manifest import Chunk, Contract
from dst.runtime.plan import Plan
from dst.runtime.recurrence import Recurrence
from dst.runtime.state import sized

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]


def advance(core: Recurrence, contract: Contract, items: Array) -> Outputs:
    """Step every chunk of the nominal T that pending and new items `[n, ...]` fill."""
    nominal = contract.chunk.nominal_t
    steps = (core.mark.waiting + len(items)) // nominal
    return _consume(core, contract, items, [nominal] * steps)


def flush(core: Recurrence, contract: Contract, chunk_sizes: Sequence[int]) -> Outputs:
    """Answer for the items that wait, by the contract's tail rule.

    Raises:
        PartialChunkError: the rule is `refuse`, and items wait.
        ChunkSizeError: the session does not run a T that is needed.
    """
    chunk = contract.chunk
    nothing = core.pending()[:0]
    full, rest = divmod(core.mark.waiting, chunk.nominal_t)
    sizes = [chunk.nominal_t] * full
    if rest and chunk.tail == "refuse":
        raise PartialChunkError(
            f"{rest} items wait and this model takes whole chunks of {chunk.nominal_t} only; "
            f"give {chunk.nominal_t - rest} more, or reset()"
        )
    if rest and chunk.tail == "pad":
        whole = _consume(core, contract, nothing, sizes)
        return join(contract, whole, _padded(core, contract))
    return _consume(core, contract, nothing, sizes + _split(rest, chunk_sizes))


def join(contract: Contract, first: Outputs, second: Outputs) -> Outputs:
    """Join two results along their time axes, or along the first axis for outputs per chunk."""
    return {
        o.name: np.concatenate([first[o.name], second[o.name]], axis=o.time_axis or 0)
        for o in contract.outputs
    }


def _split(count: int, chunk_sizes: Sequence[int]) -> list[int]:
    """Cut `count` items into the largest chunks that fit, repeatedly."""
    parts: list[int] = []
    for t in sorted(chunk_sizes, reverse=True):
        parts += [t] * (count // t)
        count %= t
    if count:
        raise ChunkSizeError(
            f"{count} items are left that no chunk of T = {sorted(chunk_sizes)} can hold; "
            "open the session with T = 1 among its chunk_sizes"
        )
    return parts


def _consume(core: Recurrence, contract: Contract, items: Array, sizes: Sequence[int]) -> Outputs:
    """Step chunks of these sizes over pending and new items; what is left waits."""
    waiting = core.pending()
    plans = {t: core.plan(t) for t in set(sizes)}
    outputs = _room(contract, len(sizes), sum(sizes))
    at = 0
    for step, t in enumerate(sizes):
        _gather(plans[t].items, waiting, items, at)
        core.step_once(plans[t])
        _collect(contract, outputs, plans[t], step, at, t)
        at += t
    if at:
        core.leave(waiting[at:], items[max(0, at - len(waiting)) :])
    elif len(items):
        core.append(items, core.mark.sampler)
    return outputs


def _padded(core: Recurrence, contract: Contract) -> Outputs:
    """Answer for the pending items as if padding followed; state and items stay."""
    chunk: Chunk = contract.chunk
    waiting = core.pending()
    plan = core.plan(chunk.nominal_t)
    outputs = _room(contract, 1, len(waiting))
    before = core.mark
    plan.items[: len(waiting)] = waiting
    np.copyto(plan.items[len(waiting) :], chunk.pad_value or 0, casting="unsafe")
    core.step_once(plan)
    _collect(contract, outputs, plan, 0, 0, len(waiting))
    core.mark = before  # a step writes the other arena: the state of `before` is still there
    return outputs


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
    contract: Contract, outputs: Outputs, plan: Plan, step: int, at: int, count: int
) -> None:
    """Copy the first `count` items of a step's outputs to their place."""
    for o in contract.outputs:
        value = plan.outputs[o.name]
        if o.time_axis is None:
            outputs[o.name][step] = value
        else:
            before = (slice(None),) * o.time_axis
            outputs[o.name][(*before, slice(at, at + count))] = value[(*before, slice(count))]
