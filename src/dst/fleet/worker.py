"""One worker of a fleet: a pool, and a store on its own disk.

A stream's state after its update `seq` is stored under the name `key#0` or `key#1`, by turns: the
state that was last acknowledged is never overwritten before the next one is acknowledged, so an
update that was cut off can be done again from exactly there.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import ray

from dst.runtime import Saved, Session, SlotError, StateStore, StreamPool
from dst.runtime.errors import DstError, StreamNotFoundError

Outputs = dict[str, npt.NDArray[np.generic]]


class Update(NamedTuple):
    """What one stream is to read: after its update `seq` came `items`, and perhaps the end."""

    seq: int
    items: Any
    flush: bool


class Answer(NamedTuple):
    """What came of one call: outputs by stream, errors by stream, and whether the copy is safe."""

    outputs: dict[str, Outputs]
    failed: dict[str, Exception]
    copied: bool


def stored_name(key: str, seq: int) -> str:
    """Return the name under which the state after update `seq` is stored."""
    return f"{key}#{seq % 2}"


class Worker:
    """Steps its streams, and keeps copies of others' states."""

    def __init__(self, bundle: str, folder: str, slots: int, durable: bool) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._session = Session.open(bundle, lowering="fused")
        self._pool = StreamPool(self._session, slots)
        self._store = StateStore(Path(folder) / "states.db", history_bytes=0, durable=durable)
        self._seats: dict[str, tuple[int, int]] = {}  # stream -> slot, update; least recent first
        self._free = [*range(slots)]

    def advance(
        self,
        updates: Mapping[str, Update],
        copy_to: Sequence[Any],
        last: bool,
        outputs: Sequence[str] | None,
    ) -> Answer:
        """Step some streams, at most as many as there are slots; answer when all is stored.

        `copy_to` holds for each stream the worker that keeps its copy, or None.
        """
        failed: dict[str, Exception] = {}
        slots: dict[str, int] = {}
        for key in [key for key in updates if key in self._seats]:
            self._seats[key] = self._seats.pop(key)  # these are not to lose their slot
        for key, update in updates.items():
            try:
                slots[key] = self._seat(key, update.seq, updates)
            except DstError as error:
                failed[key] = error
        keys = {slot: key for key, slot in slots.items()}
        try:
            found = self._pool.advance(
                {slots[key]: updates[key].items for key in slots},
                last=last,
                outputs=outputs,
                flush=[slots[key] for key in slots if updates[key].flush],
            )
        except SlotError as error:
            found = error.outputs
            failed |= {keys[slot]: why for slot, why in error.failed.items()}
        answers = {keys[slot]: value for slot, value in found.items()}
        try:
            where = dict(zip(updates, copy_to, strict=True))
            copied = self._keep(answers, failed, slots, updates, where)
        except DstError as error:
            failed |= dict.fromkeys(answers, error)
            answers, copied = {}, True
        for key in failed:
            self._leave(key)  # what is in the slot may be ahead, or gone back
        return Answer(answers, failed, copied)

    def _keep(
        self,
        answers: dict[str, Outputs],
        failed: dict[str, Exception],
        slots: Mapping[str, int],
        updates: Mapping[str, Update],
        copy_to: Mapping[str, Any],
    ) -> bool:
        """Store the new states here and at the workers that hold the copies."""
        states: dict[str, Saved] = {}
        copies: dict[Any, dict[str, bytes]] = {}
        for key in [*answers]:
            seq = updates[key].seq + 1
            try:
                name, saved = stored_name(key, seq), self._pool.swap_out(slots[key])
            except DstError as error:  # it is not finite
                failed[key] = error
                del answers[key]
                continue
            states[name] = saved
            self._seats[key] = (slots[key], seq)
            if copy_to[key] is not None:
                copies.setdefault(copy_to[key], {})[name] = saved.to_bytes()
        waiting = [worker.put.remote(some) for worker, some in copies.items()]
        self._store.put_many(states)
        try:
            ray.get(waiting)
        except ray.exceptions.RayActorError:
            return False
        return True

    def _seat(self, key: str, seq: int, busy: Mapping[str, Update]) -> int:
        slot, held = self._seats.get(key, (-1, -1))
        if held == seq:
            return slot
        if slot < 0:
            if not self._free:
                self._leave(next(name for name in self._seats if name not in busy))
            slot = self._free[-1]  # taken when the state is in it
        if seq:
            self._pool.swap_in(slot, self._store.get(stored_name(key, seq)))
        else:
            self._pool.reset(slot)
        if key not in self._seats:
            self._free.remove(slot)
        self._seats[key] = (slot, seq)
        return slot

    def drop(self, keys: Sequence[str]) -> None:
        """Forget streams and their states."""
        for key in keys:
            self._leave(key)
            for seq in (0, 1):
                with suppress(StreamNotFoundError):
                    self._store.delete(stored_name(key, seq))

    def _leave(self, key: str) -> None:
        slot, _ = self._seats.pop(key, (-1, -1))
        if slot >= 0:
            self._free.append(slot)

    # --- copies; these run beside the steps

    @ray.method(concurrency_group="store")
    def put(self, states: Mapping[str, bytes]) -> None:
        """Store states that another worker sends."""
        self._store.put_many({name: Saved.from_bytes(data) for name, data in states.items()})

    @ray.method(concurrency_group="store")
    def send(self, names: Sequence[str], to: Any) -> None:
        """Send states to another worker, and wait until it has stored them."""
        ray.get(to.put.remote({name: self._store.get(name).to_bytes() for name in names}))

    @ray.method(concurrency_group="store")
    def get(self, name: str) -> bytes:
        """Return a state."""
        return self._store.get(name).to_bytes()

    @ray.method(concurrency_group="store")
    def names(self) -> dict[str, tuple[int, int]]:
        """Return the states that are here: name -> items in it, when it was stored."""
        return {e.name: (e.items_consumed, e.saved_at_ms) for e in self._store.list()}

    @ray.method(concurrency_group="store")
    def pid(self) -> int:
        """Return the process id, when the worker is ready."""
        return os.getpid()
