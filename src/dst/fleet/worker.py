"""What runs in a worker: streams of a fleet with their states, or recorded streams alone."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import ray

from dst.runtime import Saved, Session, SlotError, StateStore, StreamPool
from dst.runtime.errors import DstError

Outputs = dict[str, npt.NDArray[np.generic]]
Answer = tuple[dict[str, Outputs], dict[str, Exception]]  # by stream; the second are failures


class Update(NamedTuple):
    """What a stream reads, and the names of its state before and after."""

    items: Any
    flush: bool | None  # its input ends here; None to move it only
    old: str | None
    new: str


def answer(call: Any) -> Any:
    """Return what a call has answered, and raise this package's errors as what they are."""
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DstError):
            raise error.cause from None
        raise


def survey(folder: str, only: Collection[str] | None) -> dict[str, tuple[int, int]]:
    """Return the states in a folder of which the worker has ended, each with how far it is.

    Of two states with as many items consumed, the later one has more that wait. With `only`, all
    other streams are deleted there.
    """
    found = {}
    with StateStore(Path(folder) / "states.db", history_bytes=0, durable=False) as store:
        for entry in store.list():
            if only is not None and entry.name.rpartition("#")[0] not in only:
                store.delete(entry.name)
                continue
            waiting = -1  # it cannot be read: any other is better
            with suppress(DstError):
                waiting = len(store.get(entry.name).pending)
            found[entry.name] = entry.items_consumed, waiting
    return found


class Worker:
    """Steps its streams, and keeps copies of others' states, in a store on its own disk."""

    def __init__(self, folder: str, bundle: str, slots: int, durable: bool) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._pool = StreamPool(Session.open(bundle, lowering="fused"), slots)
        self._store = StateStore(Path(folder) / "states.db", history_bytes=0, durable=durable)

    def advance(
        self, updates: Mapping[str, Update], source: Any, copy_to: Any, last: bool,
        outputs: Sequence[str] | None,
    ) -> Answer:  # fmt: skip
        """Step some streams, at most as many as there are slots; answer when all is stored.

        `source` is the worker that holds their states, where that is another one; `copy_to` the
        one that keeps a copy of the new states, if any.
        """
        failed: dict[str, Exception] = {}
        states: dict[str, Saved] = {}
        slots = {key: slot for slot, key in enumerate(updates)}
        for key, update in updates.items():
            try:
                if update.old is None:
                    self._pool.reset(slots[key])
                elif source is None:
                    self._pool.swap_in(slots[key], self._store.get(update.old))
                else:
                    saved = answer(source.store.remote("get", update.old))
                    self._pool.swap_in(slots[key], saved)
            except DstError as error:
                failed[key] = error
        ready = [key for key in updates if key not in failed and updates[key].flush is not None]
        try:
            found = self._pool.advance(
                {slots[key]: updates[key].items for key in ready},
                last=last,
                outputs=outputs,
                flush=[slots[key] for key in ready if updates[key].flush],
            )
        except SlotError as error:
            found = error.outputs
            failed |= {key: error.failed[slots[key]] for key in ready if slots[key] not in found}
        for key in [key for key in updates if key not in failed]:
            try:
                states[updates[key].new] = self._pool.swap_out(slots[key])
            except DstError as error:  # it is not finite
                failed[key] = error
        try:
            copied = copy_to and copy_to.store.remote("put_many", states)
            self._store.put_many(states)
            with suppress(ray.exceptions.RayActorError):  # it is dead: the fleet will see to that
                copied and answer(copied)
        except DstError as error:
            failed = dict.fromkeys(updates, error) | failed
        return {key: found.get(slots[key], {}) for key in updates if key not in failed}, failed

    @ray.method(concurrency_group="store")
    def store(self, method: str, *given: object) -> Any:
        """Call a method of the store, beside the steps."""
        return getattr(self._store, method)(*given)


class StreamMap:
    """Reads recorded streams from beginning to end, one in each row of a data set.

    For `Dataset.map_batches`, which makes one of these per worker (docs/fleet.md has an example).
    `column` holds each row's items, as for `Stream.advance`; `last` keeps the last item's outputs.
    """

    def __init__(self, bundle: str, column: str = "items", *, last: bool = True) -> None:
        session = Session.open(bundle, lowering="fused")
        self._pool, self._dtype = StreamPool(session, 64), np.dtype(session.contract.chunk.dtype)
        self._column, self._last = column, last

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        """Return the batch without the column of items, with a column per output (B = 1 gone)."""
        rows = [v if isinstance(v, bytes) else self._array(v) for v in batch[self._column]]
        found: dict[str, list[npt.NDArray[Any]]] = {}
        for start in range(0, len(rows), len(self._pool)):
            some = dict(enumerate(rows[start : start + len(self._pool)]))
            for slot in some:
                self._pool.reset(slot)
            try:
                answers = self._pool.advance(some, last=self._last, flush=some)
            except SlotError as error:
                slot, why = next(iter(error.failed.items()))
                raise why.within(self._row(batch, start + slot)) from None
            for answer in answers.values():
                for name, value in answer.items():
                    found.setdefault(name, []).append(value[0])
        return {name: v for name, v in batch.items() if name != self._column} | found

    def _row(self, batch: dict[str, npt.NDArray[Any]], number: int) -> str:
        """Say which row it is: Ray may have put the rows in another order."""
        others = {name: column[number] for name, column in batch.items() if name != self._column}
        return f"row {number} of this batch, {others!s:.200}"

    def _array(self, items: Any) -> npt.NDArray[Any]:
        """Return a row's items in the model's dtype; data sets keep numbers in 64 bits.

        Numbers that are not whole stay as they are where the model reads whole ones, and the pool
        refuses them.
        """
        value = np.asarray(items)
        if value.dtype.kind not in "iuf":
            return value
        with np.errstate(invalid="ignore", over="ignore"):  # the pool looks at what comes of it
            found = value.astype(self._dtype)
        return found if self._dtype.kind == "f" or (found == value).all() else value
