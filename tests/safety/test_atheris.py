"""The laws of our parsers under atheris; `pytest -m soak`, where atheris is installed.

Set `DST_FUZZ_PYTHON` to the Python of another environment that has atheris and this package.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.safety.laws import LAWS

HARNESS = Path(__file__).resolve().parents[2] / "examples" / "fuzz" / "fuzz.py"


@pytest.mark.soak
@pytest.mark.parametrize("law", LAWS)
def test_a_law_holds_for_two_minutes(law: str, tmp_path: Path) -> None:
    python = os.environ.get("DST_FUZZ_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import atheris"], capture_output=True).returncode:
        pytest.skip("atheris is not installed; see examples/fuzz/fuzz.py")
    command = [python, str(HARNESS), law, "--seconds", "120", "--corpus", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    runs = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
    print(f"\n{law}: {runs[-1]}")
    assert len(list(tmp_path.iterdir())) > 4  # it found inputs of its own
