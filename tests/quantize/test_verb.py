"""`dst quantize` is called as from a shell; exit codes, messages and JSON are held."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.quantize.conftest import refused

from dst.cli.app import call
from dst.runtime import open_bundle

CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 400).astype(np.uint8))


def test_it_writes_a_bundle_and_tells_of_every_weight(
    text_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "q"
    code = call(["quantize", str(text_bundle), "--recipe", "int8-rows", "--out", str(out)])
    shown = capsys.readouterr().out
    assert code == 0
    assert "w_gate (decay and write strength stay float32)" in shown
    assert open_bundle(out).manifest.recipe == "int8-rows"


def test_json_holds_the_record(
    text_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--recipe", "int4-weights", "--block", "64", "--keep", "w_out", "--json", "-"]
    words += ["--form", "w_in=int8-block", "--out", str(tmp_path / "q")]
    assert call(["quantize", str(text_bundle), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    manifest = open_bundle(tmp_path / "q").manifest
    assert told["bundle_id"] == manifest.bundle_id
    assert told["recipe"] == manifest.recipe == "int4-weights, block 64, no weight in int4"
    assert told["weights_bytes"] == manifest.weights_bytes
    forms = {weight["weight"]: weight["form"] for weight in told["weights"]}
    assert (forms["w_out"], forms["w_in"]) == ("float32", "int8-block")


def test_calibration_reads_a_file(text_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "items").write_bytes(CONTENT)
    words = ["--recipe", "int8-static", "--calibrate", str(tmp_path / "items")]
    assert call(["quantize", str(text_bundle), *words, "--out", str(tmp_path / "q")]) == 0
    assert open_bundle(tmp_path / "q").manifest.recipe == "int8-static"


def test_what_is_forced_is_warned_of(
    text_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--recipe", "int8-rows", "--form", "w_gate=int8-rows", "--out", str(tmp_path / "q")]
    words += ["--json", str(tmp_path / "told")]
    assert call(["quantize", str(text_bundle), *words]) == 0
    warned = " ".join(capsys.readouterr().err.split())
    assert "w_gate: gate is quantized because you asked" in warned
    strayed = json.loads((tmp_path / "told").read_text())["strayed"]
    assert strayed["items"] >= 10_000
    assert min(strayed["divergence"]) > 0
    assert f"to {strayed['divergence'][1]:.1e} at the last" in warned


def test_what_is_not_forced_is_not_measured(text_bundle: Path, tmp_path: Path) -> None:
    words = ["--recipe", "int8-rows", "--out", str(tmp_path / "q")]
    assert call(["quantize", str(text_bundle), *words, "--json", str(tmp_path / "told")]) == 0
    assert json.loads((tmp_path / "told").read_text())["strayed"] is None


def test_optimum_is_asked_by_name(text_bundle: Path, tmp_path: Path) -> None:
    words = ["--recipe", "int8-dynamic", "--with", "optimum", "--out", str(tmp_path / "q")]
    assert call(["quantize", str(text_bundle), *words]) == 0
    assert "ort_config.json" in open_bundle(tmp_path / "q").manifest.files


def test_a_missing_optimum_is_told_with_what_to_install(
    text_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "optimum.onnxruntime.configuration", None)
    words = ["--recipe", "int8-dynamic", "--with", "optimum", "--out", str(tmp_path / "q")]
    assert call(["quantize", str(text_bundle), *words]) == 2
    error = capsys.readouterr().err
    assert "needs optimum, which is not installed: pip install torch==2.13.0" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "int3"], "no recipe 'int3'"),
        (["--recipe", "int8-static"], "needs to see real items"),
        (["--recipe", "int8-rows", "--keep", "nothing"], "names no weight and no node"),
        (["--recipe", "int8-rows", "--form", "w_in"], "expected PATTERN=FORM"),
        (["--recipe", "int8-rows", "--form", "w_in=int2"], "no form 'int2'"),
        (["--recipe", "int8-rows", "--block", "32"], "holds nothing in blocks"),
        (["--recipe", "int8-static", "--calibrate", "missing"], "missing"),
        (["--recipe", "int8-rows", "--with", "optimum"], "optimum has no int8-rows"),
        (["--recipe", "int8-rows", "--with", "openvino"], "'openvino' is not one of"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    words: list[str],
    message: str,
    text_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(text_bundle, words, message, tmp_path, capsys)
