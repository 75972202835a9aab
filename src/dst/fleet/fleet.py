"""Partition streams over Ray actors, call them in batches, and go on when one of them dies.

Ray starts the workers, carries the calls and says who died. The program that makes the `Fleet` is
the only one that decides who holds which stream.
"""

import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import ray

from dst.fleet.placing import FleetError, fits, holders
from dst.fleet.worker import Answer, Update, Worker, stored_name
from dst.runtime.errors import DstError, ServingError, StoreError, StreamNotFoundError
from dst.runtime.state.record import Saved

Outputs = dict[str, npt.NDArray[np.generic]]
_DEAD = (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError)
_SENT = 256  # states that one message carries
_START_S = 300


class Fleet:
    """Streams over several workers, each with a pool and a store on its own disk.

    Every stream has two holders: the worker that steps it, and one that keeps a copy of each
    state. An update is acknowledged when both have stored it. When a worker dies, the holder of
    the copy goes on from exactly the last acknowledged update, and another worker gets a copy.

    One program has a fleet at a time; its methods are called by one thread.

    Examples:
        In a program that has called `ray.init()`::

            with Fleet("text", "states", workers=3, slots=64) as fleet:
                answers = fleet.advance({"ann": b"hello", "bob": b"hi"}, flush=["ann"])
    """

    def __init__(
        self,
        bundle: str | Path,
        folder: str | Path,
        *,
        workers: int,
        slots: int = 64,
        durable: bool = True,
        replace: bool = True,
        in_flight: int = 2,
        num_cpus: float = 1,
    ) -> None:
        """Start the workers; streams that an earlier fleet has left in `folder` go on.

        Args:
            bundle: as for `Session.open`, on every machine of the cluster.
            folder: each worker makes a folder of its own in it, on the disk of its machine.
            workers: how many to start, 1 or more; one alone keeps no copies.
            slots: streams that a worker steps together.
            durable: as for `StateStore`: without it, a loss of power may take the last updates.
            replace: start a new worker where one has died.
            in_flight: calls that a worker has at once; the rest of an `advance` waits here.
            num_cpus: CPUs that Ray gives each worker.

        Raises:
            ServingError: `argument`: a number is out of range.
            DstError: a worker cannot open the bundle.
        """
        if workers < 1 or slots < 2 or in_flight < 1:
            raise ServingError(
                f"workers is {workers}, slots {slots}, in_flight {in_flight}; expected at least "
                "1, 2 and 1",
                code="argument",
            )
        self._bundle, self._folder = str(bundle), Path(folder).absolute()
        self._slots, self._durable, self._replace = slots, durable, replace
        self._in_flight, self._num_cpus = in_flight, num_cpus
        self._workers: dict[str, Any] = {}
        self._seqs: dict[str, int] = {}  # acknowledged updates of each stream, or their parity
        self._where: dict[str, list[str]] = {}  # who holds the last acknowledged state
        found = sorted(p.name for p in self._folder.glob("worker-*") if p.is_dir())
        self._start([*found, *(_new_name() for _ in range(workers - len(found)))])
        self._find()
        self._settle()

    # --- calls

    def advance(
        self,
        items: Mapping[str, Any],
        *,
        flush: Iterable[str] = (),
        last: bool = False,
        outputs: Sequence[str] | None = None,
    ) -> dict[str, Outputs]:
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
        """
        ending = {*flush}
        todo = {k: Update(self._seqs.get(k, 0), v, k in ending) for k, v in items.items()}
        answers: dict[str, Outputs] = {}
        failed: dict[str, Exception] = {}
        for key in [key for key in todo if not fits(key)]:
            failed[key] = StoreError(
                f"no stream can be named {key!r:.80}; expected 1 to 190 printable characters",
                code="stream-name",
            )
            del todo[key]
        while todo:
            lost = [key for key in todo if todo[key].seq and not self._where.get(key)]
            for key in lost:
                failed[key] = ServingError(
                    f"stream {key!r} is lost: both workers that held it have ended",
                    code="stream-lost",
                )
                del todo[key]
            before = len(todo)
            dead = self._round(todo, answers, failed, last, outputs)
            for name in dead:
                self._bury(name)
            if todo and not dead and len(todo) == before:
                raise ServingError("no worker answered", code="no-workers")
        if failed:
            raise FleetError(failed, answers)
        return answers

    def _round(
        self,
        todo: dict[str, Update],
        answers: dict[str, Outputs],
        failed: dict[str, Exception],
        last: bool,
        outputs: Sequence[str] | None,
    ) -> set[str]:
        """Send every update to its worker; return the workers that were found dead."""
        queues: dict[str, list[list[str]]] = {}
        by_worker: dict[str, list[str]] = defaultdict(list)
        for key in todo:
            by_worker[holders(key, self._workers)[0]].append(key)
        for name, keys in by_worker.items():
            queues[name] = [keys[i : i + self._slots] for i in range(0, len(keys), self._slots)]
        running: dict[Any, tuple[str, list[str]]] = {}
        dead: set[str] = set()

        def send(name: str) -> None:
            if queues[name] and name not in dead:
                keys = queues[name].pop()
                pairs = [holders(key, self._workers) for key in keys]
                copies = [self._workers[pair[1]] if len(pair) > 1 else None for pair in pairs]
                some = {key: todo[key] for key in keys}
                ref = self._workers[name].advance.remote(some, copies, last, outputs)
                running[ref] = (name, keys)

        for name in queues:
            for _ in range(self._in_flight):
                send(name)
        while running:
            (ref, *_), _ = ray.wait([*running], num_returns=1)
            name, keys = running.pop(ref)
            try:
                answer: Answer = ray.get(ref)
            except _DEAD:
                dead.add(name)
                continue
            if not answer.copied:  # who holds the copies is dead: `_bury` makes new ones
                dead |= self._find_dead()
            for key in keys:
                if key in answer.failed:
                    failed[key] = answer.failed[key]
                else:
                    answers[key] = answer.outputs[key]
                    self._seqs[key] = todo[key].seq + 1
                    self._where[key] = [w for w in holders(key, self._workers) if w not in dead]
                del todo[key]
            send(name)
        return dead

    def get(self, key: str) -> Saved:
        """Return the last acknowledged state of a stream.

        Raises:
            StreamNotFoundError: there is no such stream.
        """
        while self._where.get(key):
            name = self._where[key][0]
            try:
                state = self._workers[name].get.remote(stored_name(key, self._seqs[key]))
                return Saved.from_bytes(ray.get(state))
            except _DEAD:
                self._bury(name)
        raise StreamNotFoundError(f"this fleet holds no stream {key!r}")

    def delete(self, key: str) -> None:
        """Forget a stream, at every worker."""
        self._where.pop(key, None)
        self._seqs.pop(key, None)
        ray.get([worker.drop.remote([key]) for worker in self._workers.values()])

    @property
    def streams(self) -> list[str]:
        """The names of all streams."""
        return sorted(self._seqs)

    # --- workers

    @property
    def workers(self) -> dict[str, int]:
        """The workers, each with its process id."""
        for name in self._find_dead():
            self._bury(name)
        pids = ray.get([worker.pid.remote() for worker in self._workers.values()])
        return dict(zip(self._workers, pids, strict=True))

    def add_worker(self) -> str:
        """Start one more worker and give it its share of the streams; return its name."""
        (name,) = self._start([_new_name()])
        self._settle()
        return name

    def remove_worker(self, name: str) -> None:
        """Give a worker's streams to the others, and end it."""
        worker = self._workers.pop(name)
        self._settle({name: worker})
        ray.kill(worker)
        self._remove(name)

    def close(self) -> None:
        """End all workers; the streams stay in their folders."""
        for worker in self._workers.values():
            ray.kill(worker)
        self._workers = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- inside

    def _start(self, names: Sequence[str]) -> Sequence[str]:
        actor = ray.remote(
            num_cpus=self._num_cpus, concurrency_groups={"store": 1}, max_restarts=0
        )(Worker)
        new = {
            name: actor.remote(self._bundle, str(self._folder / name), self._slots, self._durable)
            for name in names
        }
        try:
            ray.get([worker.pid.remote() for worker in new.values()], timeout=_START_S)
        except ray.exceptions.GetTimeoutError:
            raise ServingError(
                f"Ray did not start {len(new)} workers of {self._num_cpus} CPUs each in "
                f"{_START_S} s; give it more CPUs, or the fleet a smaller num_cpus",
                code="worker-failed",
            ) from None
        except ray.exceptions.ActorDiedError as error:
            cause = error.cause if hasattr(error, "cause") else None
            raise (
                cause
                if isinstance(cause, DstError)
                else ServingError(f"a worker did not start: {error}", code="worker-failed")
            ) from error
        self._workers |= new
        return names

    def _find(self) -> None:
        """Take over what the workers' stores hold; of each stream the state that is furthest."""
        best: dict[str, tuple[tuple[int, int], int]] = {}
        for name, worker in self._workers.items():
            for stored, age in ray.get(worker.names.remote()).items():
                key, _, parity = stored.rpartition("#")
                if key not in best or age > best[key][0]:
                    best[key], self._where[key] = (age, 2 + int(parity)), [name]
                elif age == best[key][0] and int(parity) == best[key][1] - 2:
                    self._where[key].append(name)
        self._seqs = {key: seq for key, (_, seq) in best.items()}

    def _find_dead(self) -> set[str]:
        dead = set()
        for name, worker in self._workers.items():
            try:
                ray.get(worker.pid.remote())
            except _DEAD:
                dead.add(name)
        return dead

    def _bury(self, name: str) -> None:
        """Go on without a worker that has died."""
        if self._workers.pop(name, None) is None:
            return
        if self._replace or not self._workers:
            self._start([_new_name()])
        self._settle()
        if all(self._where.values()):  # else it may hold the last copy of a stream that is lost
            self._remove(name)

    def _remove(self, name: str) -> None:
        """Delete the folder of a worker that has ended, where this program sees it."""
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _settle(self, leaving: Mapping[str, Any] | None = None) -> None:
        """Copy the last state of every stream to where it belongs, and drop it elsewhere."""
        known = {**self._workers, **(leaving or {})}
        moves: dict[tuple[str, str], list[str]] = defaultdict(list)
        drops: dict[str, list[str]] = defaultdict(list)
        settled: dict[str, list[str]] = {}
        for key, where in self._where.items():
            here = [worker for worker in where if worker in known]
            there = holders(key, self._workers) if here else []
            for worker in set(there) - set(here):
                moves[here[0], worker].append(stored_name(key, self._seqs[key]))
            for worker in set(here) - set(there) - set(leaving or {}):
                drops[worker].append(key)
            settled[key] = there
        try:
            for (source, target), names in moves.items():
                for i in range(0, len(names), _SENT):
                    ray.get(known[source].send.remote(names[i : i + _SENT], known[target]))
            self._where = settled
            ray.get([known[worker].drop.remote(keys) for worker, keys in drops.items()])
        except _DEAD:
            for name in self._find_dead():
                self._bury(name)


def _new_name() -> str:
    return f"worker-{uuid.uuid4().hex[:12]}"
