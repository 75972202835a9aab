"""Importing the package goes in; no thread that reports and no file that identifies comes out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDED = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMPDIR")  # by a process to start

SCRIPT = """
import time, psutil
from dst.runtime import Session
time.sleep(0.5)
print(psutil.Process().num_threads())
"""


def threads_after_import(home: Path, told: str | None) -> int:
    """Threads of a fresh process that has imported the runtime, with an empty home folder.

    It sees little of this environment: ONNX Runtime also keeps quiet where a variable such as
    `CI` tells of a build server, and then nothing would be proved here.
    """
    kept = {k: os.environ[k] for k in NEEDED if k in os.environ}
    more = {"HOME": str(home), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if told is not None:
        more["ORT_DISABLE_TELEMETRY"] = told
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=kept | more, capture_output=True, text=True, check=True
    )
    return int(ran.stdout)


def test_the_runtime_reports_nothing_and_leaves_no_trace(tmp_path: Path) -> None:
    assert threads_after_import(tmp_path, None) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(sys.platform != "linux", reason="the trace lies elsewhere")
def test_who_wants_the_reports_of_onnxruntime_gets_them(tmp_path: Path) -> None:
    """What the user has set stands; and so the law above is one that can fail."""
    assert threads_after_import(tmp_path, "0") > 1
