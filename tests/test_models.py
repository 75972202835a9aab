"""The page of models: what it prints runs, and its table tells of every model."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "models.md").read_text("utf-8")


def sections() -> dict[str, str]:
    """Heading of each kind of model -> what stands below it."""
    found = re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return dict(found)


@pytest.mark.parametrize("title", sections())
def test_no_model_needs_more_than_five_lines(title: str) -> None:
    *_, last = re.findall(r"^```\w+\n(.*?)^```$", sections()[title], re.DOTALL | re.MULTILINE)
    assert 1 <= sum(bool(line.strip()) for line in last.splitlines()) <= 5


def test_the_table_tells_of_every_model() -> None:
    rows = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| ")]
    assert [title for title in sections() if not any(r.startswith(title) for r in rows)] == []


@pytest.mark.models
def test_every_model_runs_as_printed_and_survives_a_kill() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "models.py", "--check"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| equal |") >= len(sections())
