"""Another project's voice detector goes in through `dst adopt` and answers as it does there."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "adopt" / "silero.py"
ABSENT = [name for name in ("torch", "packaging", "silero_vad") if find_spec(name) is None]


@pytest.mark.peers
@pytest.mark.skipif(
    bool(ABSENT), reason=f"no {', '.join(ABSENT)}: pip install --no-deps silero-vad packaging"
)
def test_silero_vad_answers_as_its_own_package() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--minutes", "2"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "within 1e-05" in done.stdout
    assert done.stdout.count("3750 chunks") == 2
