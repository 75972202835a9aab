"""`dst report` is called as from a shell; exit codes, what it attaches and a signal are held."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dst.command.app import call
from dst.quantize import quantize_bundle
from dst.quantize.report import report
from dst.quantize.report.attach import REPORT_FILE
from dst.runtime import Session, open_bundle

FEW = ["--items", "2000", "--heads", "0", "--drift-items", "0"]


@pytest.fixture
def pair(text_bundle: Path, tmp_path: Path) -> tuple[str, str]:
    """A bundle and the same in int8."""
    quantize_bundle(text_bundle, tmp_path / "q", "int8-rows")
    return str(text_bundle), str(tmp_path / "q")


@pytest.fixture
def data(tmp_path: Path) -> str:
    """A file of bytes for them to read."""
    (tmp_path / "items").write_bytes(np.random.default_rng(0).bytes(3000))
    return str(tmp_path / "items")


def test_it_measures_prints_and_attaches(
    pair: tuple[str, str], data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["report", *pair, data, *FEW, "--attach", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["items"], told["quantized"]["recipe"]) == (2000, "int8-rows")
    attached = open_bundle(pair[1])
    assert attached.manifest.quality is not None
    assert json.loads((attached.root / REPORT_FILE).read_bytes())["items"] == 2000


def test_a_budget_that_is_broken_is_a_failed_check(pair: tuple[str, str], tmp_path: Path) -> None:
    """Full precision reads what it finds likeliest itself: no other can lose less."""
    stream, items = Session.open(pair[0]).stream(), [0]
    for _ in range(2000):
        items.append(int(stream.step(np.array([items[-1:]]))["logits"].argmax()))
    (tmp_path / "own").write_bytes(bytes(items))
    assert call(["report", *pair, str(tmp_path / "own"), *FEW, "--budget", "0"]) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_before_anything_is_attached(
    pair: tuple[str, str], data: str, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    measure: Callable[..., object] = report

    def struck(*arguments: object) -> object:
        os.kill(os.getpid(), number)
        return measure(*arguments)

    monkeypatch.setattr("dst.command.report.measure", struck)
    before = sorted((p.name, p.read_bytes()) for p in Path(pair[1]).iterdir())
    assert call(["report", *pair, data, *FEW, "--attach"]) == 128 + number
    assert sorted((p.name, p.read_bytes()) for p in Path(pair[1]).iterdir()) == before
