"""Partition streams over Ray actors, call them in batches, and go on when one of them dies.

Ray starts the workers, carries the calls and says who died. The program that makes the `Fleet` is
the only one that decides who holds which stream.

A stream's states are stored under the names `key#0` and `key#1` by turns: the one that was last
acknowledged is never overwritten before the next one is acknowledged, so an update that was cut
off can be done again from exactly there.

The file `fleet.json` beside the workers' folders names the workers whose folders count. One that
has died leaves it when its streams are elsewhere, and before anything is acknowledged that its
folder does not know: whenever that folder is seen again, nothing in it is taken for the newest.
"""

import os
import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import ray

from dst.fleet.worker import Answer, Outputs, Update, Worker, answer, survey
from dst.runtime.errors import DstError, ServingError, StoreError, StreamNotFoundError
from dst.runtime.files import sync_directory, write_synced
from dst.runtime.serving.lock import StoreLock
from dst.runtime.state.record import Saved

_DEAD = (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError)
_IN_FLIGHT = 2  # calls that a worker has at once
_ROUNDS = 10  # that deaths may cut short before a call gives up
_Asked = dict[str, tuple[Any, bool | None]]  # stream -> what it reads, as in `Update`
_MOVE = (None, None)


def holders(key: str, workers: Iterable[str], count: int = 2) -> list[str]:
    """Return who holds a stream: the worker that steps it, then the one that keeps a copy.

    Rendezvous hashing: where a worker goes, only its own streams move, and each of them to the
    worker that holds its copy; where one comes, it takes an equal share of all.
    """
    return sorted(workers, key=lambda worker: blake2b(f"{worker}\0{key}".encode()).digest())[:count]


class _Homes(dict[str, list[str]]):
    """Who is to hold each stream; remembered, since every call asks it of every stream."""

    def __init__(self, workers: list[str]) -> None:
        super().__init__()
        self.workers = workers

    def __missing__(self, key: str) -> list[str]:
        self[key] = holders(key, self.workers)
        return self[key]


class _Record(msgspec.Struct):
    """What `fleet.json` holds."""

    workers: list[str]  # whose folders count
    lost: list[str]  # streams of which no worker has a state: in other folders only these count


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

        To know the newest state of each stream, all states there are read once.

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
            StoreBusyError: `store-served`: another fleet uses this folder.
        """
        self._actor = ray.remote(
            num_cpus=num_cpus, max_task_retries=-1, concurrency_groups={"store": 1}
        )(Worker)
        self._folder, self._given = Path(folder).absolute(), (str(bundle), slots, durable)
        self._slots, self._replace = slots, replace
        self.workers: dict[str, Any] = {}
        self._homes = _Homes([])  # where each stream is to lie, over the workers there are
        self._names: dict[str, str] = {}  # of each stream's last acknowledged state
        self.where: dict[str, list[str]] = {}  # who holds that state
        self._stale: set[tuple[str, str]] = set()  # worker, stream: it may have an older state
        self._closed = False
        self._file = self._folder / "fleet.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = StoreLock(self._file)
        self._lock.take()
        try:
            self._open(max(1, workers), num_cpus)
        except BaseException:
            self.close()  # else this folder stays locked for as long as the error is kept
            raise

    def _open(self, workers: int, num_cpus: float) -> None:
        """Start the workers, and take the newest state of each stream from their folders."""
        found = sorted(path.name for path in self._folder.glob("worker-*"))
        self._record = _Record(found, [])  # without the file every folder counts
        if self._file.exists():
            self._record = msgspec.json.decode(self._file.read_bytes(), type=_Record)
            found = [name for name in found if name in self._record.workers or self._record.lost]
        look, counted = ray.remote(num_cpus=num_cpus)(survey), {*self._record.workers}
        calls = {name: look.remote(str(self._folder / name), None if name in counted
                                   else self._record.lost) for name in found}  # fmt: skip
        lists = {name: answer(call) for name, call in calls.items()}
        found = [name for name in found if name in counted or lists[name]]
        self._start(workers - len(found), found)
        self.where = {key: [] for key in self._record.lost}
        ages: dict[str, dict[tuple[Any, str], list[str]]] = defaultdict(lambda: defaultdict(list))
        for name, states in lists.items():
            for stored, age in states.items():
                key = stored.rpartition("#")[0]
                ages[key][age, stored].append(name)
                self._stale.add((name, key))
        for key, states in ages.items():  # of each stream the state that is furthest
            (_, stored), there = max(states.items(), key=lambda s: (s[0][0], len(s[1])))
            self._names[key], self.where[key] = stored, holders(key, there, len(there))
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
            ServingError: `no-workers`: worker after worker died of this call; `fleet-closed`.
            StepError: `outputs` names one that there is not.
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
        """Return the last acknowledged state of a stream.

        Raises:
            StreamNotFoundError: there is no such stream.
            ServingError: `stream-lost`: both its holders have died.
        """
        self._check_open()
        while where := self.where.get(key):
            try:
                saved: Saved = answer(self.workers[where[0]].store.remote("get", self._names[key]))
                return saved
            except _DEAD:
                self._run({})
        if where is None:
            raise StreamNotFoundError(f"this fleet holds no stream {key!r}")
        raise _lost(key)

    def delete(self, key: str) -> None:
        """Forget a stream, at every worker; those that have died are not listened to again."""
        self._check_open()
        for known in (self.where, self._names, self._homes):
            known.pop(key, None)
        self._drop([(name, key) for name in self.workers])
        self._run({})

    def add_worker(self) -> str:
        """Start one more worker and give it its share of the streams; return its name."""
        self._check_open()
        (name,) = self._start(1)
        self._run({})
        return name

    def remove_worker(self, name: str) -> None:
        """Give a worker's streams to the others, and end it; the only one cannot be removed.

        Raises:
            FleetError: a stream could not be moved; the worker goes on.
            ServingError: `no-workers`: it is the only one that lives.
        """
        self._run({}, leaving=name)
        if name in self.workers:  # else it has died by itself
            ray.kill(self.workers.pop(name))
        self._run({})

    def close(self, *_: object) -> None:
        """End all workers; the streams stay in their folders."""
        self._closed = True
        for worker in self.workers.values():
            ray.kill(worker)
        self._lock.release()

    __exit__ = close

    def _check_open(self) -> None:
        if self._closed:
            raise ServingError(
                "this fleet is closed; make a Fleet with the same folder, and its streams go on",
                code="fleet-closed",
            )

    def _run(
        self, todo: _Asked, last: bool = False, outputs: Sequence[str] | None = None,
        leaving: str = "",
    ) -> dict[str, Outputs]:  # fmt: skip
        """Do updates, and move states where workers came or went, whoever dies on the way."""
        self._check_open()
        asked, todo = todo, {**todo}
        answers: dict[str, Outputs] = {}
        failed: dict[str, Exception] = {}
        stuck: set[str] = set()  # streams that cannot even be moved; the next call tries again
        for _ in range(_ROUNDS):
            self._bury()
            members = [name for name in self.workers if name != leaving]
            if not members:
                only = f"{leaving} is the only worker; add another first"
                raise ServingError(only, code="no-workers")
            if members != self._homes.workers:
                self._homes = _Homes(members)
            homes = self._homes
            wrong = [k for k, w in self.where.items() if w != homes[k] and w and k not in stuck]
            todo = dict.fromkeys(wrong, _MOVE) | todo
            for key in [key for key in todo if self.where.get(key) == []]:
                failed[key] = _lost(key)
                del todo[key]
            if not todo:
                break
            for key in todo:  # an update that is cut off or fails may leave a state anywhere here
                if (there := self.where.get(key, [])) != homes[key]:
                    self._stale |= {(name, key) for name in (*there, *homes[key])}
            for done, bad in self._round(todo, last, outputs):
                for key in done:
                    self._names[key], self.where[key] = self._next_name(key), homes[key]
                answers |= {key: found for key, found in done.items() if todo[key] is not _MOVE}
                stuck |= {key for key in bad if todo[key] is _MOVE}
                failed = bad | failed
                for key in (*done, *bad):
                    del todo[key]
        else:
            why = f"workers died {_ROUNDS} times in this call; have they memory enough for a step?"
            raise ServingError(why, code="no-workers")
        self._sweep()
        if failed := {key: why for key, why in failed.items() if key in asked or leaving}:
            raise FleetError(failed, answers)
        return answers

    def _sweep(self) -> None:
        """Delete what is not needed any more: older states, and folders of workers that died."""
        settled = {(name, key) for name, key in self._stale
                   if key not in self.where or self.where[key] == self._homes[key]}  # fmt: skip
        with suppress(DstError):  # a store is busy, say: the next call tries again
            self._drop((name, key) for name, key in settled if name not in self.where.get(key, []))
            self._stale -= settled
        self._note(_Record(sorted(self.workers), [key for key, w in self.where.items() if not w]))
        for path in self._folder.glob("worker-*") if not self._record.lost else ():
            if path.name not in self.workers:
                shutil.rmtree(path, ignore_errors=True)

    def _note(self, record: _Record) -> None:
        """Write `fleet.json`, in one rename, where it says something else."""
        if record == self._record and self._file.exists():
            return
        fresh = self._file.with_suffix(".tmp")
        fresh.unlink(missing_ok=True)
        write_synced(fresh, [msgspec.json.encode(record)])
        os.replace(fresh, self._file)
        sync_directory(self._folder)
        self._record = record

    def _round(self, todo: _Asked, last: bool, outputs: Sequence[str] | None) -> Iterator[Answer]:
        """Send every update to its worker, and yield what is answered; the dead answer nothing."""
        groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for key in todo:
            worker, copy_to, *_ = *self._homes[key], ""
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
                yield answer(call)
            except _DEAD:
                waiting[worker] = []
            send(worker)

    def _next_name(self, key: str) -> str:
        return f"{key}#{int(self._names.get(key) == f'{key}#0')}"

    def _start(self, count: int, names: Sequence[str] = ()) -> list[str]:
        """Start workers of these names and some more; return the names of all."""
        names = [*names, *(f"worker-{uuid.uuid4().hex[:12]}" for _ in range(count))]
        new = {name: self._actor.remote(str(self._folder / name), *self._given) for name in names}
        ray.get([worker.__ray_ready__.remote() for worker in new.values()], timeout=300)
        self._note(_Record(sorted({*self._record.workers, *names}), self._record.lost))
        self.workers |= new
        return names

    def _bury(self) -> None:
        """Go on without those who have died."""
        calls = {name: worker.__ray_ready__.remote() for name, worker in self.workers.items()}
        for name, call in calls.items():
            try:
                ray.get(call)
            except _DEAD:
                self._lose(name)

    def _lose(self, name: str) -> None:
        """Go on without one that does not answer; perhaps only the way to it has broken."""
        if name in self.workers:
            ray.kill(self.workers.pop(name))
            self.where = {k: [n for n in w if n != name] for k, w in self.where.items()}
            self._start(1 if self._replace or not self.workers else 0)

    def _drop(self, states: Iterable[tuple[str, str]]) -> None:
        """Delete states: worker, stream."""
        calls = [(name, self.workers[name].store.remote("delete", f"{key}#{n}"))
                 for name, key in states if name in self.workers for n in (0, 1)]  # fmt: skip
        for name, call in calls:
            try:
                with suppress(StreamNotFoundError):
                    answer(call)
            except _DEAD:
                self._lose(name)


def _lost(key: str) -> DstError:
    return ServingError(f"{key!r}: both holders died", code="stream-lost")
