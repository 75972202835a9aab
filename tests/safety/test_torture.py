"""Laws of saving under SIGKILL: what loads is the newest acknowledged state or a newer one.

Four processes save as fast as they can and are killed at random instants, 52 times in the default
run and 1,000 times with `pytest -m soak`. Each says over a pipe what it begins to save and what
it has saved.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.safety.writer import items, synthetic

from dst.runtime import Session, Stream
from dst.runtime.errors import StateNotFoundError
from dst.runtime.state.file import previous_of, read_record, write_record
from dst.runtime.state.record import Saved, pack
from dst.runtime.store import StateStore

ROOT = Path(__file__).resolve().parents[2]
WRITERS = 4

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and fork are POSIX")


@dataclass(slots=True)
class Said:
    """What writers said about one target: (writer, number) of saves begun and done, in order."""

    lines: list[tuple[str, tuple[int, int]]] = field(default_factory=list)

    def begun(self) -> set[tuple[int, int]]:
        return {save for word, save in self.lines if word == "begun"}

    def done(self) -> list[tuple[int, int]]:
        return [save for word, save in self.lines if word == "done"]

    def overtaken(self, save: tuple[int, int]) -> bool:
        """Say whether another save was begun after this one was done, and was done itself."""
        if ("done", save) not in self.lines:
            return False
        later = self.lines[self.lines.index(("done", save)) + 1 :]
        return any(w == "begun" and ("done", other) in later for w, other in later)


class Writers:
    """The process that forks writers, and the next number that each of them may take."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        self._next = dict.fromkeys(range(WRITERS), 1)
        self._save_s = 0.01  # how long a save takes, more or less
        self.kills = 0
        self.saves = 0
        self.cut_short = 0

    def round(self, pauses: random.Random) -> dict[str, Said]:
        """Let every writer save, kill each at a random instant, and return what they said."""
        for writer, first in self._next.items():
            self._ask(f"go {writer} {first}")
        heard: dict[str, Said] = {}
        alive: dict[int, int] = {}
        while len(alive) < WRITERS:
            self._hear(heard, alive)
        started, before, wanted = time.monotonic(), self.saves, pauses.randrange(WRITERS + 1)
        while self.saves < before + wanted:
            self._hear(heard, alive)
        if wanted:
            self._save_s = (time.monotonic() - started) / wanted * WRITERS
        for writer in pauses.sample(sorted(alive), WRITERS):
            time.sleep(pauses.uniform(0, self._save_s))
            os.kill(alive[writer], signal.SIGKILL)
            self.kills += 1
            self._ask(f"reap {writer}")
        while alive:
            self._hear(heard, alive)
        self.cut_short += sum(len(said.begun()) - len(said.done()) for said in heard.values())
        return heard

    def _ask(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n".encode())
        self._child.stdin.flush()

    def _hear(self, heard: dict[str, Said], alive: dict[int, int]) -> None:
        assert self._child.stdout is not None
        word, text, number, *target = self._child.stdout.readline().decode().split()
        writer = int(text)
        if word == "here":
            alive[writer] = int(number)
        elif word == "gone":
            assert int(number) == -signal.SIGKILL, f"writer {writer} ended by itself"
            del alive[writer]
        else:
            save = (writer, int(number))
            heard.setdefault(target[0], Said()).lines.append((word, save))
            self.saves += word == "done"
            self._next[writer] = max(self._next[writer], save[1] + 1)


@contextmanager
def writers(kind: str, target: Path, bundle: Path) -> Iterator[Writers]:
    """Start the process that forks writers."""
    script = Path(__file__).with_name("writer.py")
    path = os.pathsep.join([str(ROOT), *(p for p in sys.path if p)])
    child = subprocess.Popen(
        [sys.executable, str(script), kind, str(target), str(bundle)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    too_long = threading.Timer(3600, child.kill)  # a child that hangs fails the test
    too_long.start()
    try:
        yield Writers(child)
    finally:
        too_long.cancel()
        child.kill()
        child.communicate()


def may_load(said: Said, known: tuple[int, int] | None) -> set[tuple[int, int] | None]:
    """Return the saves that may be the newest now, `known` having been the newest before."""
    fresh: set[tuple[int, int] | None] = {s for s in said.begun() if not said.overtaken(s)}
    return fresh if said.done() else fresh | {known}


def which(saved: Saved) -> tuple[int, int]:
    """Return which save this is, having compared every byte."""
    assert saved.seed is not None
    writer, number = saved.seed, saved.items_consumed
    assert pack(saved) == pack(synthetic(number, writer=writer))
    return writer, number


def torture_files(root: Path, killed: Writers, rounds: int) -> int:
    """Kill writers of files for some rounds; return how many temporary files kills have left."""
    pauses = random.Random(0)
    lines: dict[str, list[tuple[int, int]]] = {}
    left_over = 0
    for _ in range(rounds):
        heard = killed.round(pauses)
        for writer in range(WRITERS):
            name = f"{writer}.state"
            said, line = heard.get(name, Said()), lines.setdefault(name, [])
            allowed = may_load(said, line[-1] if line else None)
            try:
                found = which(read_record(root / name))
            except StateNotFoundError:
                assert None in allowed
                continue
            assert found in allowed
            line += said.done()
            line += [found] if found not in line else []
            before = line[:-1][-1:]
            copy = previous_of(root / name)
            if copy.exists():
                assert which(read_record(copy)) in {found, *before}
            else:
                assert not before
        names = {path.name for path in root.iterdir()}
        plain = {f"{n}.state{end}" for n in range(WRITERS) for end in ("", ".previous")}
        hidden = {f".{name}.tmp" for name in plain}
        assert names <= plain | hidden
        left_over += len(names & hidden)
    return left_over


def tidy(root: Path) -> None:
    """A last save of each file leaves nothing but the file and the copy before."""
    for writer in range(WRITERS):
        write_record(root / f"{writer}.state", synthetic(1))
    assert not [path.name for path in root.iterdir() if path.name.startswith(".")]


def files_survive(root: Path, bundle: Path, rounds: int) -> None:
    root.mkdir()
    with writers("files", root, bundle) as killed:
        left_over = torture_files(root, killed, rounds)
    assert killed.kills == WRITERS * rounds
    assert killed.cut_short > 0  # kills did fall into saves
    assert left_over > 0  # and into writing the temporary file
    tidy(root)
    print(f"\nfiles: {killed.kills} kills, {killed.saves} saves, {killed.cut_short} cut short")


def test_files_survive_52_kills(tmp_path: Path, bundle: Path) -> None:
    files_survive(tmp_path / "saved", bundle, 13)


@pytest.mark.soak
def test_files_survive_1000_kills(tmp_path: Path, bundle: Path) -> None:
    files_survive(tmp_path / "saved", bundle, 250)


def streams_survive(root: Path, bundle: Path, rounds: int) -> None:
    root.mkdir()
    session = Session.open(bundle)

    def identify(saved: Saved) -> int:
        stream = Stream.resume(session, saved)
        number = stream.items_consumed + stream.pending
        by_hand = session.stream()
        by_hand.advance(items(0, number))
        assert pack(by_hand.saved()) == pack(saved)
        return number

    with writers("stream", root, bundle) as killed:
        pauses = random.Random(0)
        newest: dict[str, int] = {}
        for _ in range(rounds):
            for name, said in killed.round(pauses).items():
                numbers = [newest.get(name, 0), *(number for _, number in said.done())]
                if not (root / name).exists():
                    assert numbers == [0]
                    continue
                newest[name] = identify(read_record(root / name))
                assert newest[name] >= numbers[-1]
                assert newest[name] <= max(number for _, number in said.begun())
    assert newest
    assert killed.cut_short > 0
    tidy(root)


def test_real_streams_survive_kills_and_equal_the_uninterrupted_ones(
    tmp_path: Path, bundle: Path
) -> None:
    streams_survive(tmp_path / "saved", bundle, 5)


def store_survives(path: Path, bundle: Path, rounds: int) -> None:
    newest: dict[str, tuple[int, int] | None] = {}
    pauses = random.Random(0)
    with writers("store", path, bundle) as killed:
        for _ in range(rounds):
            for name, said in killed.round(pauses).items():
                with StateStore(path) as store:
                    allowed = may_load(said, newest.get(name))
                    if name not in {entry.name for entry in store.list()}:
                        assert None in allowed
                        continue
                    newest[name] = which(store.get(name))
                    assert newest[name] in allowed
    with StateStore(path) as store:
        for entry in store.list():
            for kept in store.history(entry.name):
                assert which(store.get(entry.name, kept.record))[1] == kept.items_consumed
    assert killed.kills == WRITERS * rounds
    assert killed.cut_short > 0
    assert sorted(newest) == ["own-0", "own-1", "own-2", "own-3", "shared"]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    print(f"\nstore: {killed.kills} kills, {killed.saves} puts, {killed.cut_short} cut short")


def test_a_store_survives_52_kills(tmp_path: Path, bundle: Path) -> None:
    store_survives(tmp_path / "memory.db", bundle, 13)


@pytest.mark.soak
def test_a_store_survives_1000_kills(tmp_path: Path, bundle: Path) -> None:
    store_survives(tmp_path / "memory.db", bundle, 250)
