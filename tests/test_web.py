"""The page of examples/web in headless Chromium: what it promises, and its figures against Python.

Needs node with npm, and Chromium (`CHROMIUM` names it, /usr/bin/chromium by default).
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.npm import CHROMIUM, NPM_INSTALL, needing, run

from dst.cli.answers.lines import Line, Lines, Top
from dst.runtime import Session
from dst.runtime.scoring import surprise_bits

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "src/dst/shipped"
TEXT = ROOT / "src/dst/heldout/stdlib.txt"
BYTES = 60_000


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with what npm brings, and the package that it uses."""
    needing("node", "npm", CHROMIUM)
    work = tmp_path_factory.mktemp("web")
    skipped = shutil.ignore_patterns("node_modules", "site", "build", "dist")
    for name in ("examples/web", "runtime/js"):
        shutil.copytree(ROOT / name, work / name, ignore=skipped)
    run(*NPM_INSTALL, cwd=work / "runtime/js")
    run("npm", "run", "build", cwd=work / "runtime/js")
    run(*NPM_INSTALL, cwd=work / "examples/web")
    return work / "examples/web"


def drive(page: Path, models: Path, site: Path) -> dict[str, Any]:
    """Make the site and drive it; what `drive.mjs` has found."""
    run("node", "site.mjs", str(site), "--models", str(models), cwd=page)
    found = json.loads(
        run("node", "drive.mjs", str(site), str(TEXT), "--bytes", str(BYTES), cwd=page)
    )
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def found(page: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return drive(page, SHIPPED, tmp_path_factory.mktemp("site") / "site")


@pytest.mark.parametrize(
    ("precision", "name", "near"), [("float32", "log", 1e-3), ("int8", "log-int8", 2e-2)]
)
def test_the_page_is_as_surprised_as_python(
    found: dict[str, Any], precision: str, name: str, near: float
) -> None:
    told = found["whole"][precision]
    assert told["Read"] == f"{BYTES:,} B"
    assert abs(float(told["Bits per byte"]) - bits_of(name).mean()) < near


def bits_of(name: str) -> npt.NDArray[np.float64]:
    """What Python's runtime says of each byte of the text but the first."""
    data = TEXT.read_bytes()[:BYTES]
    stream = Session.open(name).stream()
    parts = [stream.advance(data)["logits"][0], stream.flush()["logits"][0]]
    logits = np.concatenate(parts)
    return surprise_bits(logits[:-1], np.frombuffer(data, np.uint8)[1:])


def test_the_list_holds_the_lines_that_the_command_would_name(found: dict[str, Any]) -> None:
    ids = np.frombuffer(TEXT.read_bytes()[:BYTES], np.uint8)
    lines, top = Lines(), Top[Line](10)
    for line in lines.feed(ids, np.concatenate([np.zeros(1), bits_of("log")])):
        if line.text.strip():  # the page leaves out those that show nothing
            top.offer(line.rate, line.number, line)
    if rest := lines.rest():
        top.offer(rest.rate, rest.number, rest)
    listed = {row["line"]: row for row in found["whole"]["odd"]}
    assert len(listed) == 10
    for line in top.best():
        row = listed[line.number]
        assert abs(row["rate"] - line.rate) < 0.01
        assert abs(row["bits"] - line.bits) < 0.6  # it is shown without decimals
        assert row["text"] == line.text


def test_an_odd_line_far_back_is_listed_and_still_there_when_the_tab_is_opened_again(
    found: dict[str, Any],
) -> None:
    planted = found["planted"]
    assert planted["bytes"] > 19_000
    (row,) = [row for row in planted["listed"] if row["line"] == planted["line"]]
    assert row["text"] == planted["text"]
    assert len(planted["listed"]) == 10
    assert planted["again"] == planted["listed"]


def test_a_closed_tab_goes_on_to_the_same_states(found: dict[str, Any]) -> None:
    stood = found["interrupted"]["stood"]["Read"]
    assert found["interrupted"]["state"] == "paused"
    assert 0 < int(stood.removesuffix(" B").replace(",", "")) < BYTES
    # of each model the state, and what was noted of the stream: among it the list of lines
    assert found["interrupted"]["states"] == found["whole"]["states"]
    assert len(found["whole"]["states"]) == 4
    assert found["interrupted"]["odd"] == found["whole"]["odd"]


def test_it_works_offline_and_asks_nobody_else(found: dict[str, Any]) -> None:
    assert found["offline"]["float32"]["Bits per byte"] != "–"
    assert found["offline"]["said"] == []
    assert found["whole"]["elsewhere"] == []
    assert found["whole"]["said"] == []


def test_it_is_used_by_the_keyboard_on_a_narrow_screen(found: dict[str, Any]) -> None:
    assert found["accessible"]["faults"] == []
    assert found["accessible"]["width"] <= 360
    assert "disk failure on /dev/sda1\n" in found["accessible"]["shown"]


def test_an_altered_bundle_is_refused(page: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(SHIPPED, models)
    weights = models / "log-int8/weights.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert hashlib.sha256(data).hexdigest() not in (models / "log-int8/manifest.json").read_text()
    assert drive(page, models, tmp_path / "site")["whole"]["error"] == "file-hash"
