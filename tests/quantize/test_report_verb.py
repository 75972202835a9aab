"""`dst report` is called as from a shell; exit codes, what it attaches and a signal are held."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from tests.raising import refused
from tests.steps import drawn, info, model_bytes

from dst.cli.app import call
from dst.evaluate.quality import Settings, horizon_report
from dst.evaluate.quality.attach import REPORT_FILE
from dst.quantize import quantize_bundle
from dst.runtime import Session, open_bundle
from dst.runtime.errors import StateMismatchError

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
    measure: Callable[..., object] = horizon_report

    def struck(*arguments: object) -> object:
        os.kill(os.getpid(), number)
        return measure(*arguments)

    monkeypatch.setattr("dst.evaluate.quality.horizon_report", struck)
    before = sorted((p.name, p.read_bytes()) for p in Path(pair[1]).iterdir())
    assert call(["report", *pair, data, *FEW, "--attach"]) == 128 + number
    assert sorted((p.name, p.read_bytes()) for p in Path(pair[1]).iterdir()) == before


@pytest.fixture
def made_elsewhere(tmp_path: Path) -> tuple[str, str, str, str]:
    """An LSTM's file and one that onnxruntime rounded, both adopted; rows; the folder."""
    x, y = info("x", ["time", "batch", 16]), info("y", ["time", "batch", 64])
    state = [info(name, [1, "batch", 64]) for name in ("h", "c")]
    after = [info(f"{name}_out", [1, "batch", 64]) for name in ("h", "c")]
    inputs = ["x", "w", "r", "", "", "h", "c"]
    nodes = [
        helper.make_node("LSTM", inputs, ["all", "h_out", "c_out"], hidden_size=64),
        helper.make_node("Squeeze", ["all", "one"], ["y"]),
    ]
    weights = {
        "w": drawn(1, 256, 16, seed=1),
        "r": drawn(1, 256, 64, seed=2),
        "one": np.array([1]),
    }
    file, other = tmp_path / "full.onnx", tmp_path / "rounded.onnx"
    file.write_bytes(model_bytes(nodes, [x, *state], [y, *after], weights, 17))
    # 7 bits: products of full 8-bit weights saturate on CPUs without VNNI
    kind = QuantType.QInt8
    quantize_dynamic(str(file), str(other), weight_type=kind, per_channel=True, reduce_range=True)
    for name in ("full", "rounded"):
        words = ["--out", str(tmp_path / name), "--t", "1"]
        assert call(["adopt", str(tmp_path / f"{name}.onnx"), *words]) == 0
    np.save(tmp_path / "rows.npy", drawn(400, 16, seed=3, scale=1.0))
    full, rounded, rows = (str(tmp_path / name) for name in ("full", "rounded", "rows.npy"))
    return full, rounded, rows, str(tmp_path)


def test_a_file_that_was_quantized_elsewhere_is_compared(
    made_elsewhere: tuple[str, str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    full, rounded, rows, folder = made_elsewhere
    words = ["--items", "400", "--heads", "0"]
    assert call(["report", full, rounded, rows, *words]) == 2
    assert "--other-file" in capsys.readouterr().err
    told = f"{folder}/told.json"
    assert call(["report", full, rounded, rows, *words, "--other-file", "--json", told]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "states were neither exchanged nor compared" in shown
    found = json.loads(Path(told).read_text("utf-8"))
    assert 0 < found["ranges"][0]["divergence"] < 0.05
    assert "does not run in float64" in found["drift_missing"]  # ONNX Runtime's LSTM does not
    assert {r["state"] for r in found["ranges"]} == {None}
    assert {r["accumulation"] for r in found["ranges"]} == {None}
    assert call(["report", full, rounded, rows, *words, "--other-file", "--attach"]) == 2
    assert "--attach goes without --other-file" in capsys.readouterr().err
    assert call(["report", rounded, full, rows, *words, "--other-file"]) == 2
    assert "full precision first" in capsys.readouterr().err


def test_such_a_file_is_not_quantized_again_and_the_reason_is_its_own(
    made_elsewhere: tuple[str, str, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    rounded, folder = made_elsewhere[1], made_elsewhere[3]
    out = f"{folder}/q"
    assert call(["quantize", rounded, "--recipe", "int8-rows", "--out", out]) == 2
    shown = capsys.readouterr().err
    assert "holds int8 weights already" in shown
    assert "None" not in shown
    assert not Path(out).exists()


def test_a_file_with_other_ends_is_refused(
    made_elsewhere: tuple[str, str, str, str], text_bundle: Path
) -> None:
    full, _, rows, _ = made_elsewhere
    with refused(
        StateMismatchError, "other-ends", match="two files of one model must take the same items"
    ):
        horizon_report(
            full, text_bundle, np.load(rows), 100, Settings(t=1, other_file=True, drift_items=0)
        )
