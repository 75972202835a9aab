"""Time the contestants in turns on an idle machine, and say how they compare.

Shape letter: `T` items per chunk.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import psutil
from examples.bench.peers.building import HERE, LeftOutError, Llama
from examples.bench.peers.cells import Cell
from examples.bench.peers.contestants import NETWORKS, Contestant, LeftOut, Tell

from dst.evaluate.machine import pinned

LOOK_S = 0.3
"""How long one look at the machine takes."""


@dataclass(frozen=True, slots=True)
class Turn:
    """How much is timed when a contestant has its turn: `samples`, each the mean of `steps`."""

    samples: int
    steps: int

    @staticmethod
    def of(size: str, t: int) -> "Turn":
        """Long enough to be timed well; the same for all contestants."""
        large = size == "130m"
        if t == 1:
            return Turn(4, 24 if large else 128)
        return Turn(3, 1) if large else Turn(15, 1)


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets a turn begin when the machine is idle.

    Attributes:
        need: idle cores.
        wait_s: how long to wait for them.
    """

    need: float
    wait_s: float

    def passed(self) -> bool:
        """Wait; False if the machine was busy all the time."""
        end = time.monotonic() + self.wait_s
        cores = os.cpu_count() or 1
        while self.need > 0:
            if cores * (1 - psutil.cpu_percent(LOOK_S) / 100) >= self.need:
                return True
            if time.monotonic() > end:
                return False
        return True


class Ready(msgspec.Struct):
    """What `worker.py` tells first; `why` says why it cannot run."""

    ways: list[str] = []
    facts: dict[str, str] = {}
    why: str = ""


class Timed(msgspec.Struct):
    """One turn: milliseconds per step of each sample, on the wall and of the thread."""

    wall_ms: list[float]
    thread_ms: list[float] = []


class Worker:
    """A contestant in a process of its own (`worker.py`), ready to step.

    Raises:
        LeftOutError: it cannot run this T.
    """

    def __init__(self, contestant: Contestant, size: str, t: int, threads: int) -> None:
        asked = {
            "kind": contestant.engine,
            "model": contestant.model,
            "size": NETWORKS[size],
            "t": t,
            "threads": threads,
        }
        self._process = subprocess.Popen(
            [contestant.python or sys.executable, "-P", HERE / "worker.py", json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        try:
            ready = msgspec.json.decode(self._answer(), type=Ready)
            if ready.why:
                raise LeftOutError(ready.why)
        except BaseException:
            self.close()
            raise
        self.ways, self.facts = ready.ways, ready.facts

    def _answer(self) -> str:
        """Read the next line that tells something; libraries print lines of their own."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return line
        raise LeftOutError(f"the process ended with {self._process.wait()}")

    def take(self, way: str, turn: Turn) -> Timed:
        """Have a turn."""
        assert self._process.stdin is not None
        print(way, turn.samples, turn.steps, file=self._process.stdin, flush=True)
        return msgspec.json.decode(self._answer(), type=Timed)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


class LlamaBench:
    """llama.cpp's own `llama-bench`, started anew for each turn.

    Its step of T = 1 generates an item behind those before; its chunk is a prompt of T items. Both
    begin with an empty memory, or behind `depth` items.
    """

    def __init__(
        self, contestant: Contestant, build: Llama, t: int, threads: int, depth: int
    ) -> None:
        self.ways = ["llama-bench"]
        self.facts: dict[str, str] = {}
        self._t = t
        self._command: list[str | Path] = [build.bench, "-m", contestant.model]
        self._command += ["-t", str(threads), "-o", "json", "-ub", "512"]
        self._command += [*(("-d", str(depth)) if depth else ()), *contestant.options]

    def take(self, way: str, turn: Turn) -> Timed:
        """Have a turn.

        Raises:
            LeftOutError: the program failed.
        """
        prompt, generate = (0, turn.steps) if self._t == 1 else (self._t, 0)
        amounts = ["-r", str(turn.samples), "-p", str(prompt), "-n", str(generate)]
        done = subprocess.run([*self._command, *amounts], capture_output=True, text=True)
        try:
            (result,) = json.loads(done.stdout)
        except ValueError:
            lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            raise LeftOutError(f"llama-bench: {lines[-1]}") from None
        steps = generate or 1
        return Timed([spent / 1e6 / steps for spent in result["samples_ns"]])

    def close(self) -> None:
        """Nothing is left running."""


@dataclass(slots=True)
class Racer:
    """One way of one contestant, with its times.

    Attributes:
        contestant: who.
        way: how the step is taken.
        runner: takes the step.
        turns: those it has had.
        why: why there are none.
    """

    contestant: Contestant
    way: str
    runner: Worker | LlamaBench
    turns: list[Timed] = field(default_factory=list)
    why: str = ""

    @property
    def label(self) -> str:
        """Engine, model, precision and way, for a reader."""
        way = f" ({self.way})" if len(self.runner.ways) > 1 else ""
        return f"{self.contestant.name} {self.contestant.precision}{way}"

    def have_turn(self, turn: Turn, gate: Gate) -> None:
        """Wait for an idle machine and add times, or note why there are none."""
        if not gate.passed():
            self.why = f"fewer than {gate.need:.1f} cores were idle for {gate.wait_s:.0f} s"
            return
        try:
            self.turns.append(self.runner.take(self.way, turn))
        except (LeftOutError, OSError) as error:
            self.why = str(error)


class Round:
    """The contestants of one size, T and number of threads, all ready; a context that ends them.

    Args:
        contestants: who.
        size: a key of `NETWORKS`.
        t: T.
        threads: of each; the processes are held to as many cores.
        build: of llama.cpp.
        depth: items in llama.cpp's memory before a step.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        size: str,
        t: int,
        threads: int,
        build: Llama | None,
        depth: int,
    ) -> None:
        self.size, self.t, self.threads = size, t, threads
        self.racers: list[Racer] = []
        self.left_out: list[LeftOut] = []
        self._open = ExitStack()
        with self._open:
            self._open.enter_context(pinned(threads))
            for contestant in contestants:
                runner: Worker | LlamaBench
                try:
                    if contestant.engine == "llama":
                        assert build is not None
                        runner = LlamaBench(contestant, build, t, threads, depth)
                    else:
                        runner = Worker(contestant, size, t, threads)
                except LeftOutError as error:
                    self._leave_out(f"{contestant.name} {contestant.precision}", str(error))
                    continue
                self._open.callback(runner.close)
                self.racers += [Racer(contestant, way, runner) for way in runner.ways]
            self._open = self._open.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def _leave_out(self, label: str, why: str) -> None:
        self.left_out.append(LeftOut(self.size, label, why, self.t, self.threads))

    def race(self, rounds: int, minutes: float, gate: Gate, tell: Tell) -> list[Cell]:
        """Give everyone a turn per round, in another order each time.

        Args:
            rounds: at most so many.
            minutes: no round begins later, except the first.
            gate: when a turn may begin.
            tell: is told which round begins.
        """
        end = time.monotonic() + 60 * minutes
        turn = Turn.of(self.size, self.t)
        for number in range(rounds):
            if number and time.monotonic() > end:
                break
            tell(f"{self.size} T={self.t} threads={self.threads}: round {number + 1}")
            for racer in random.Random(number).sample(self.racers, len(self.racers)):
                racer.have_turn(turn, gate)
        for racer in self.racers:
            if not racer.turns:
                self._leave_out(racer.label, racer.why)
        return [self._cell(racer) for racer in self.racers if racer.turns]

    def _cell(self, racer: Racer) -> Cell:
        who, times = racer.contestant, [turn.wall_ms for turn in racer.turns]
        own_thread = self.threads == 1 and who.engine not in ("llama", "openvino")
        last = who.logits == "last" or racer.way.endswith("last")
        body = who.parameters_read - who.parameters_of_head
        threads = [turn.thread_ms for turn in racer.turns] if own_thread else None
        every = [*chain.from_iterable(times)]
        return Cell(
            size=self.size,
            t=self.t,
            threads=self.threads,
            label=racer.label,
            engine=who.engine,
            precision=who.precision,
            way=racer.way,
            facts=racer.runner.facts,
            logits="last" if last and self.t > 1 else "all",
            parameters=who.parameters,
            parameters_read=who.parameters_read,
            weights_bytes=who.weights_bytes,
            multiply_adds=self.t * body + (1 if last else self.t) * who.parameters_of_head,
            times_ms=times,
            thread_ms=threads,
            median_ms=statistics.median(every),
            minimum_ms=min(every),
            thread_median_ms=statistics.median(chain.from_iterable(threads)) if threads else None,
        )
