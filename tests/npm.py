"""What the tests of JavaScript share: npm, Node.js and Chromium."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
NPM_INSTALL = ("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")


def run(*command: str, cwd: Path) -> str:
    """Run a program that must succeed, and return what it prints."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def needing(*programs: str) -> None:
    """Skip a test where one of these programs is not here."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not here")
