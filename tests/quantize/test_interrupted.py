"""`dst quantize` and `dst bench` run in a child that real signals hit at any moment; none is hurt.

The child calls one verb again and again; what a call leaves at ``--out``, beside it and among the
temporary files is looked at after each. Where a signal ends the child itself, another is started.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from dst.runtime import open_bundle

CHILD = """
import sys
from functools import partial
import dst.cli.verbs.bench, dst.cli.autotune, dst.cli.verbs.quantize
from dst.cli.app import call
auto = dst.cli.autotune
auto.Trial = partial(auto.Trial, rounds=2, slot_ms=1.0)
print("ready", flush=True)
for line in sys.stdin:
    print("begin", flush=True)
    print("end", call(sys.argv[1:]), flush=True)
"""
VERBS = {
    "recipe": ("quantize", "--recipe", "int8-rows", "--out", "out"),
    "auto": ("quantize", "--auto", "--items", "100", "--goal", "size", "--out", "out"),
    "bench": ("bench", "--t", "8", "--rounds", "9", "--slot-ms", "9", "--starts", "1"),
}
LAST_LINE = b"</html>"
MORE = 40  # signals at most, until one has hit the work and not what comes before or after it


@dataclass(slots=True)
class Child:
    """A process that calls a verb whenever it is told to, in a folder of its own."""

    folder: Path
    words: tuple[str, ...]
    process: subprocess.Popen[str] | None = None
    codes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "work").mkdir()
        (self.folder / "temporary").mkdir()

    def ready(self) -> subprocess.Popen[str]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CHILD, *self.words],
                cwd=self.folder / "work",
                env={**os.environ, "TMPDIR": str(self.folder / "temporary")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self.until("ready")
        return self.process

    def until(self, word: str) -> str | None:
        """Read on to a line that begins with a word; None where the child ended before."""
        if self.process is None or self.process.stdout is None:
            return None
        for line in self.process.stdout:
            if line.startswith(word):
                return line
        return None

    def call(self, delay_s: float | None, number: signal.Signals) -> float:
        """Let it call its verb, and send it a signal after a while; returns how long it took."""
        process = self.ready()
        if process.stdin is None:
            raise TypeError("a child is told by its standard input")
        process.stdin.write("\n")
        process.stdin.flush()
        self.until("begin")
        begin = time.perf_counter()
        if delay_s is not None:
            time.sleep(delay_s)
            process.send_signal(number)
        line = self.until("end")
        took = time.perf_counter() - begin
        if line is None:
            self.codes.append(process.wait())
            self.process = None
        else:
            self.codes.append(int(line.split()[1]))
        return took

    def check(self) -> None:
        """Nothing is half written, and nothing is left."""
        work = self.folder / "work"
        left = {path.name for path in work.iterdir()}
        assert left <= {"out", "page.html"}
        if "out" in left:
            assert open_bundle(work / "out").manifest.precision in ("int8", "int4")
            shutil.rmtree(work / "out")
        if "page.html" in left:
            page = work / "page.html"
            assert page.read_bytes().rstrip().endswith(LAST_LINE)
            page.unlink()
        assert list((self.folder / "temporary").iterdir()) == []

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def interrupted(verb: str, bundle: Path, folder: Path, count: int, number: signal.Signals) -> None:
    first, *rest = VERBS[verb]
    named = [str(bundle)] * 2 + ["--html", "page.html"] if verb == "bench" else [str(bundle)]
    child = Child(folder, (first, *named, *rest))
    try:
        child.call(None, number)  # loads what is loaded once
        child.check()
        whole = child.call(None, number)
        child.check()
        assert set(child.codes) <= {0, 1}
        if verb != "auto":  # what the picker finds fast enough depends on the clock
            assert child.codes[0] == child.codes[1]
        random, at_work = np.random.default_rng(count), 128 + number  # as a shell says it
        for done in range(count + MORE):
            if done >= count and at_work in child.codes:
                break
            if child.process is None:  # a new one, whose first call is longer than `whole`
                child.call(None, number)
                child.check()
            child.call(random.uniform() * whole, number)
            child.check()
        assert at_work in child.codes
    finally:
        child.end()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_written(
    verb: str, number: signal.Signals, feature_bundle: Path, tmp_path: Path
) -> None:
    interrupted(verb, feature_bundle, tmp_path, 5, number)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_signal_of_a_hundred_leaves_anything_half_written(
    verb: str, number: signal.Signals, feature_bundle: Path, tmp_path: Path
) -> None:
    interrupted(verb, feature_bundle, tmp_path, 100, number)
