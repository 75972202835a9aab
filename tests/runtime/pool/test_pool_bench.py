"""Many streams through few slots and a store: as alone, bit for bit; and memory stays flat."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[3] / "examples" / "bench" / "pool.py"


def run(*arguments: str) -> str:
    """The command's output; it must succeed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_forty_streams_through_four_slots(shelf: Path) -> None:
    sizes = ("--streams", "40", "--chunks", "12", "--slots", "4", "--most-mib", "64")
    figures = json.loads(run(str(BENCH), "streams", str(shelf / "text"), *sizes))
    assert figures["streams_compared"] == 40
    assert figures["streams_that_differ"] == 0
    assert figures["visits"] > 40  # streams left their slots and came back


@pytest.mark.soak
def test_ten_thousand_streams_through_64_slots(tmp_path: Path) -> None:
    run("-m", "dst", "export", "--size", "tiny", "--seed", "0", "--out", str(tmp_path / "tiny"))
    figures = json.loads(run(str(BENCH), "streams", str(tmp_path / "tiny")))
    assert figures["streams_compared"] == 10_000
    assert figures["chunks"] == 100
    assert figures["streams_that_differ"] == 0
    assert figures["passed"]
