"""The examples run as their first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize(
    "name", ["bench/block_size", "bench/kernel_widths", "native/compare_gemm", "train/corpus"]
)
def test_help_runs_nothing(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), "--help"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.startswith("usage: ")) == (0, True), done.stderr


def test_a_step_of_ones_own_goes_all_the_way() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_step.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "torch-whole-vs-chunked" in done.stdout
    assert "reading 15000: vibration stands out" in done.stdout


def test_an_lstm_of_ones_own_runs_in_five_lines() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_lstm.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "state `h`: float32 [2, B, 32], from zeros" in done.stdout
    assert "1000 readings, largest difference " in done.stdout
    assert float(done.stdout.split()[-1]) <= 1e-5
