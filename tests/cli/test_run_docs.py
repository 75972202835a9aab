"""The commands of docs/run.md run as printed, and print what the page shows."""

import os
import shlex
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.numeric import running_sums
from tests.test_docs import ROOT, fenced

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command

PAGE = ROOT / "docs/run.md"
BASH = Path("/bin/bash")


def blocks(language: str) -> list[str]:
    """The blocks of one language, each as one text."""
    found: list[list[str]] = [[]]
    for kind, line in fenced(PAGE.read_text("utf-8")):
        if kind == language:
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return ["\n".join(lines) for lines in found if lines]


@pytest.mark.skipif(not BASH.exists(), reason="no bash")
def test_the_page_runs_as_printed(
    dst: Dst, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = ""
    running_sums(tmp_path / "sensor")
    running_sums(tmp_path / "vad", names=("x",), width=1, rate_hz=16000, last=False)
    (tmp_path / "feed.csv").write_text("left,right\n0.5,1\n1,0\n")
    (tmp_path / "logged.csv").write_text("when,right,left\n8:00,1,2\n8:01,3,4\n")
    (tmp_path / "holes.csv").write_text("left,right\n1,2\n\nNA,3\n")
    for day in ("monday", "tuesday"):
        (tmp_path / f"{day}.csv").write_text("1,2\n3,4\n")
    for name in ("notes.txt", "server.log"):
        (tmp_path / name).write_text("a line of text\n" * 30)
    (tmp_path / "cpu.csv").write_text("time,load\n2026-01-05 00:00,1\n2026-01-05 00:01,2\n")
    sound = np.zeros(200, "<i2").tobytes()
    (tmp_path / "sound.raw").write_bytes(sound)
    with wave.open(str(tmp_path / "sound.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(sound)
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in "\n".join(blocks("sh")).splitlines():
        if line.startswith("dst ") and "|" not in line:
            done = dst(*shlex.split(line)[1:])
            assert done.code == 0, f"{line}: {done.err}"
            continue
        shell = subprocess.run(
            [BASH, "-ec", f"set -o pipefail\n{line}"],
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert shell.returncode == 0, f"{line}: {shell.stderr}"
        if line.startswith("head"):
            printed = shell.stdout
    (shown,) = blocks("text")
    assert printed.rstrip() == shown
    assert (tmp_path / "week.csv").read_text().splitlines()[-1].startswith("4,")
