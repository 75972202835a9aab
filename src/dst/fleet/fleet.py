"""Partition streams over Ray actors, call them in batches, and go on when one of them dies.

Ray starts the workers, carries the calls and says who died. The program that makes the `Fleet` is
the only one that decides who holds which stream.

A stream's states are stored under the names `key#0` and `key#1` by turns: the one that was last
acknowledged is never overwritten before the next one is acknowledged, so an update that was cut
off can be done again from exactly there.
"""

import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import ray

from dst.fleet.worker import Answer, Outputs, Update, Worker
from dst.runtime.errors import ServingError, StoreError, StreamNotFoundError
from dst.runtime.state.record import Saved

_DEAD = (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError)
_IN_FLIGHT = 2  # calls that a worker has at once
_ROUNDS = 10  # that deaths may cut short before a call gives up
_Asked = dict[str, tuple[Any, bool]]  # stream -> items, None to move it only; its input ends there


def holders(key: str, workers: Iterable[str]) -> list[str]:
    """Return who holds a stream: the worker that steps it, then the one that keeps a copy.

    Rendezvous hashing: where a worker goes, only its own streams move, and each of them to the
    worker that holds its copy; where one comes, it takes an equal share of all.
    """
    return sorted(workers, key=lambda worker: blake2b(f"{worker}\0{key}".encode()).digest())[:2]


class FleetError(ServingError, code="streams-failed"):
    """Some streams failed and are as they were before; the others went on.

    `failed` says by stream what went wrong there (code `stream-lost`: both its holders have died),
    `outputs` what the others were answered.
    """

    def __init__(self, failed: dict[str, Exception], outputs: dict[str, Outputs]) -> None:
        self.failed, self.outputs = failed, outputs
        name, why = next(iter(failed.items()))
        super().__init__(
            f"{len(failed)} streams failed, {len(outputs)} went on, with their answers in "
            f"`outputs`. Stream {name!r:.80}: {why}"
        )


class Fleet(AbstractContextManager["Fleet"]):
    """Streams over several workers, each with a pool and a store on its own disk.

    Every stream has two holders: the worker that steps it, and one that keeps a copy of each
    state. An update is acknowledged when both have stored it. When a worker dies, the holder of
    the copy goes on from exactly the last acknowledged update, and another worker gets a copy.

    One program has a fleet at a time; its methods are called by one thread, after `ray.init()`.

    Attributes:
        workers: name -> Ray actor.
        where: stream -> the workers that hold it, the first steps it; none where it is lost.
    """

    def __init__(
        self, bundle: str | Path, folder: str | Path, *, workers: int, slots: int = 64,
        durable: bool = True, replace: bool = True, num_cpus: float = 1,
    ) -> None:  # fmt: skip
        """Start the workers; streams that an earlier fleet has left in `folder` go on.

        Args:
            bundle: as for `Session.open`, on every machine of the cluster.
            folder: each worker makes a folder of its own in it, on the disk of its machine.
            workers: how many to start; one alone keeps no copies.
            slots: streams that a worker steps together, 2 or more.
            durable: as for `StateStore`: without it, a loss of power may take the last updates.
            replace: start a new worker where one has died.
            num_cpus: CPUs that Ray gives each worker.

        Raises:
            ray.exceptions.RayError: a worker cannot open the bundle, or Ray has no CPUs for it.
        """
        self._actor = ray.remote(
            num_cpus=num_cpus, max_task_retries=-1, concurrency_groups={"store": 1}
        )(Worker)
        self._folder, self._given = Path(folder).absolute(), (str(bundle), slots, durable)
        self._slots, self._replace = slots, replace
        self.workers: dict[str, Any] = {}
        self._members: list[str] = []  # the workers over which all streams were last spread
        self._names: dict[str, str] = {}  # of each stream's last acknowledged state
        self.where: dict[str, list[str]] = {}  # who holds that state
        found = sorted(path.name for path in self._folder.glob("worker-*"))
        self._start(max(1, workers) - len(found), found)
        lists = {name: ray.get(w.store.remote("list")) for name, w in self.workers.items()}
        ages = [(e.items_consumed, e.saved_at_ms, e.name, w) for w, es in lists.items() for e in es]
        for *_, stored, worker in sorted(ages):  # of each stream the state that is furthest
            key = stored.rpartition("#")[0]
            self._names[key], self.where[key] = stored, [worker]
        self._run({})

    def advance(
        self, items: Mapping[str, Any], *, flush: Iterable[str] = (), last: bool = False,
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Outputs]:  # fmt: skip
        """Let some streams read items, as `StreamPool.advance` does; a new name is a new stream.

        It returns when all updates are stored at both holders, and blocks until then: that is
        the back-pressure. A worker that dies on the way costs time, not results.

        Args:
            items: stream -> `[n, ...]` as for `Stream.advance`.
            flush: those of these streams whose input ends here.
            last: answer for the last item that is stepped only.
            outputs: names of the outputs to return; None for all.

        Raises:
            FleetError: some streams failed; it says which, and has the others' outputs.
            ServingError: `no-workers`: worker after worker died of this call.
            StoreError: `stream-name`: a stream cannot have such a name; nothing was read.
        """
        for key in items:
            if not (isinstance(key, str) and 0 < len(key) <= 190 and key.isprintable()):
                raise StoreError(
                    f"no stream can be named {key!r:.80}; expected 1 to 190 printable characters",
                    code="stream-name",
                )
        ending = {*flush}
        found = self._run({k: (v, k in ending) for k, v in items.items()}, last, outputs)
        return {key: found[key] for key in items}

    def get(self, key: str) -> Saved:
        """Return the last acknowledged state of a stream; `StreamNotFoundError` without one."""
        while where := self.where.get(key):
            try:
                saved: Saved = ray.get(self.workers[where[0]].store.remote("get", self._names[key]))
                return saved
            except _DEAD:
                self._run({})
        raise StreamNotFoundError(f"this fleet holds no stream {key!r}")

    def delete(self, key: str) -> None:
        """Forget a stream, at every worker."""
        self.where.pop(key, None)
        self._names.pop(key, None)
        self._drop([(name, key) for name in self.workers])

    def add_worker(self) -> str:
        """Start one more worker and give it its share of the streams; return its name."""
        self._start(1)
        self._run({})
        return self._members[-1]

    def remove_worker(self, name: str) -> None:
        """Give a worker's streams to the others, and end it; the only one cannot be removed."""
        if [*self.workers] == [name]:
            raise ServingError(f"{name} is the only worker; add another first", code="no-workers")
        self._run({}, leaving=name)
        if name in self.workers:  # else it has died by itself
            ray.kill(self.workers.pop(name))
        self._run({})

    def close(self, *_: object) -> None:
        """End all workers; the streams stay in their folders."""
        for worker in self.workers.values():
            ray.kill(worker)

    __exit__ = close

    def _run(
        self, todo: _Asked, last: bool = False, outputs: Sequence[str] | None = None,
        leaving: str = "",
    ) -> dict[str, Outputs]:  # fmt: skip
        """Do updates, and move states where workers came or went, whoever dies on the way."""
        answers: dict[str, Outputs] = {}
        failed: dict[str, Exception] = {}
        stale: list[tuple[str, str]] = []
        for _ in range(_ROUNDS):
            self._bury()
            members = [name for name in self.workers if name != leaving]
            if members != self._members:
                wrong = [k for k, w in self.where.items() if w and w != holders(k, members)]
                todo = {key: (None, False) for key in wrong if key not in failed} | todo
            for key in [key for key in todo if self.where.get(key) == []]:
                failed[key] = ServingError(f"{key!r}: both holders died", code="stream-lost")
                del todo[key]
            if not todo:
                break
            for done, bad in self._round(todo, members, last, outputs):
                answers = done | answers  # who moves after his update has nothing more to say
                failed |= bad
                for key in done:
                    there = holders(key, members)
                    stale += [(name, key) for name in self.where.get(key, []) if name not in there]
                    self._names[key], self.where[key] = self._next_name(key), there
                for key in (*done, *bad):
                    del todo[key]
        else:
            why = f"workers died {_ROUNDS} times in this call; have they memory enough for a step?"
            raise ServingError(why, code="no-workers")
        self._members = members
        self._drop((name, key) for name, key in stale if name not in self.where[key])
        for path in self._folder.glob("worker-*") if all(self.where.values()) else ():
            if path.name not in self.workers:  # and no stream is lost whose last state is there
                shutil.rmtree(path, ignore_errors=True)
        if failed:
            raise FleetError(failed, answers)
        return answers

    def _round(
        self, todo: _Asked, members: list[str], last: bool, outputs: Sequence[str] | None
    ) -> Iterator[Answer]:
        """Send every update to its worker, and yield what is answered; the dead answer nothing."""
        groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for key in todo:
            worker, copy_to, *_ = *holders(key, members), ""
            here = self.where.get(key, [worker])
            groups[worker, "" if worker in here else here[0], copy_to].append(key)
        waiting: dict[str, list[tuple[object, ...]]] = defaultdict(list)
        for (worker, *others), keys in groups.items():
            for i in range(0, len(keys), self._slots):
                some = {
                    key: Update(*todo[key], self._names.get(key), self._next_name(key))
                    for key in keys[i : i + self._slots]
                }
                waiting[worker].append((some, *map(self.workers.get, others), last, outputs))
        running: dict[Any, str] = {}

        def send(worker: str) -> None:
            if waiting[worker]:
                call = self.workers[worker].advance.remote(*waiting[worker].pop())
                running[call] = worker

        for worker in [*waiting] * _IN_FLIGHT:
            send(worker)
        while running:
            (call,), _ = ray.wait([*running])
            worker = running.pop(call)
            try:
                yield ray.get(call)
            except _DEAD:
                waiting[worker] = []
            send(worker)

    def _next_name(self, key: str) -> str:
        return f"{key}#{int(self._names.get(key) == f'{key}#0')}"

    def _start(self, count: int, names: Sequence[str] = ()) -> None:
        """Start workers of these names and some more."""
        names = [*names, *(f"worker-{uuid.uuid4().hex[:12]}" for _ in range(count))]
        new = {name: self._actor.remote(str(self._folder / name), *self._given) for name in names}
        ray.get([worker.__ray_ready__.remote() for worker in new.values()], timeout=300)
        self.workers |= new

    def _bury(self) -> None:
        """Go on without those who have died."""
        calls = {name: worker.__ray_ready__.remote() for name, worker in self.workers.items()}
        for name, call in calls.items():
            try:
                ray.get(call)
            except _DEAD:  # or perhaps only the way to it has broken
                ray.kill(self.workers.pop(name))
                self.where = {k: [n for n in w if n != name] for k, w in self.where.items()}
                self._start(1 if self._replace or not self.workers else 0)

    def _drop(self, states: Iterable[tuple[str, str]]) -> None:
        """Delete states: worker, stream."""
        calls = [self.workers[name].store.remote("delete", f"{key}#{n}")
                 for name, key in states if name in self.workers for n in (0, 1)]  # fmt: skip
        for call in calls:
            with suppress(StreamNotFoundError, *_DEAD):
                ray.get(call)
