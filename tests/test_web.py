"""The shipped bundles run in a browser: examples/web in headless Chromium, against Python here.

Needs node with npm, and Chromium (`CHROMIUM` names it, /usr/bin/chromium by default).
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dst.runtime import Session
from dst.runtime.scoring import surprise_bits

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "src/dst/shipped"
TEXT = ROOT / "src/dst/heldout/stdlib.txt"
BYTES = 65536
GRAPHS = {"step.onnx", "any_t1.onnx", "step_t32.onnx", "step_t1.onnx"}
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with what npm brings."""
    for needed in ("node", "npm", CHROMIUM):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not here")
    folder = tmp_path_factory.mktemp("web") / "web"
    shutil.copytree(ROOT / "examples/web", folder, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder


def drive(
    page: Path, bundle: Path, count: int, provider: str = "wasm"
) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of `drive.mjs`."""
    done = subprocess.run(
        [
            *("node", "drive.mjs", str(bundle), str(TEXT)),
            *("--bytes", str(count), "--provider", provider),
        ],
        cwd=page,
        capture_output=True,
        text=True,
        timeout=900,
    )
    return done.returncode, json.loads(done.stdout)


def bits_here(name: str, count: int) -> float:
    """Bits per byte of the same bytes, the first one apart."""
    data = TEXT.read_bytes()[:count]
    logits = Session.open(name).stream().advance(data)["logits"][0]
    return float(surprise_bits(logits[:-1], np.frombuffer(data, np.uint8)[1:]).mean())


@pytest.mark.parametrize(
    ("name", "near"),
    [("text", 1e-6), ("text-int8", 5e-4), ("text-int4", 1e-3)],
)
def test_a_browser_computes_the_same(page: Path, name: str, near: float) -> None:
    code, found = drive(page, SHIPPED / name, BYTES)
    assert code == 0, found
    assert {check["graph"] for check in found["checks"]} == GRAPHS
    assert found["scored"]["bytes"] == BYTES
    assert abs(found["scored"]["bits_per_byte"] - bits_here(name, BYTES)) < near


def test_webgpu_computes_the_same(page: Path) -> None:
    """In software here, hence a few bytes only."""
    code, found = drive(page, SHIPPED / "text", 64, "webgpu")
    assert code == 0, found
    assert {check["graph"] for check in found["checks"]} == GRAPHS
    assert abs(found["scored"]["bits_per_byte"] - bits_here("text", 64)) < 1e-5


def test_a_browser_refuses_an_altered_bundle(page: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "altered"
    shutil.copytree(SHIPPED / "text-int8", bundle)
    weights = bytearray((bundle / "weights.bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    (bundle / "weights.bin").write_bytes(weights)
    code, found = drive(page, bundle, 32)
    assert code == 1
    assert "weights.bin has SHA-256" in found["error"]
