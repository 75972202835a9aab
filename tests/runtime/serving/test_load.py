"""The example server under load, ended by SIGTERM and by SIGKILL: nothing promised is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("aiohttp")

pytestmark = pytest.mark.server

LOAD = Path(__file__).resolve().parents[3] / "examples/server/load.py"


@pytest.mark.parametrize(
    ("save_every_s", "cached", "port"), [(0, 0, 8791), (2, 0, 8792), (2, 100, 8793)]
)
def test_a_killed_server_has_kept_its_promise(
    tmp_path: Path, save_every_s: float, cached: int, port: int
) -> None:
    """No lost or mixed update; with `save_every_s` only of that time before SIGKILL."""
    done = subprocess.run(
        [
            sys.executable, LOAD, "--users", "60", "--concurrent", "16", "--slots", "8",
            "--minutes", "0.5", "--sigterm", "--sigkill", "--port", str(port),
            "--save-every-s", str(save_every_s), "--cached", str(cached),
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert [stop["signal"] for stop in figures["stops"]] == ["SIGTERM", "SIGKILL", "SIGTERM"]
    assert figures["states_that_differ"] == 0
    assert figures["users_served"] == 60
    if cached:  # else nearly every answer is stored, since its user loses the slot to the next one
        assert figures["stops"][1]["acknowledged_and_missing"] > 0  # so the bound was put to a test
