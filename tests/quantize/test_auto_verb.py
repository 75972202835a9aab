"""`dst quantize --auto` is called as from a shell; table, JSON and exit codes are held."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.quantize.conftest import Plant, refused

from dst.cli.app import call
from dst.quantize.autotune import CANDIDATES
from dst.runtime import open_bundle

SHORT = ["--auto", "--items", "200"]


@pytest.fixture
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.random.default_rng(8).normal(size=(500, 64)).astype(np.float32))
    return str(path)


def test_the_choice_is_explained_and_written(
    feature_bundle: Path,
    rows: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    clock: Plant,
) -> None:
    clock(dict.fromkeys(CANDIDATES, 0.5) | {"int8-rows": 1.5, "int4-weights": 1.25})
    told = tmp_path / "told.json"
    words = ["--budget", "error<0.05", "--input", rows, "--json", str(told)]
    words += ["--goal", "size", "--out", str(tmp_path / "q")]
    assert call(["quantize", str(feature_bundle), *SHORT, *words]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    result: Any = json.loads(told.read_text("utf-8"))
    made = open_bundle(tmp_path / "q").manifest
    assert (result["bundle_id"], result["recipe"]) == (made.bundle_id, made.recipe)
    assert result["items"] == 200
    assert result["relative_error"] == 0.05
    found = {c["recipe"].removesuffix(", non-causal"): c for c in result["candidates"]}
    assert [*CANDIDATES, made.recipe] == list(found)
    assert [r["rule"] for r in found["int8-dynamic"]["refusals"]] == ["speed"]
    assert "error" in [r["rule"] for r in found["int4-weights"]["refusals"]]
    (search,) = result["searches"]
    assert search["sensitivities"][0]["weight"] == "w_mid"
    for words_shown in (
        "speed at T = 8",
        "1.50× 1.48–1.52",
        "slower than full precision",
        "the budget is 0.05",
        "✓ chosen",
        "int4-weights, each of 3 weights alone: the budget holds with",
        "w_mid",
        "the horizon was not judged",
    ):
        assert words_shown in shown, words_shown


def test_nothing_that_holds_is_exit_code_1(
    feature_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    clock: Plant,
) -> None:
    clock(dict.fromkeys(CANDIDATES, 0.5))
    out = tmp_path / "q"
    assert call(["quantize", str(feature_bundle), *SHORT, "--out", str(out), "--json", "-"]) == 1
    result: Any = json.loads(capsys.readouterr().out)
    assert (result["path"], result["bundle_id"], result["recipe"]) == (None, None, None)
    assert all(c["refusals"] for c in result["candidates"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected either --recipe NAME or --auto"),
        (["--auto", "--recipe", "int8-rows"], "expected either --recipe NAME or --auto"),
        (["--auto", "--keep", "w_in"], "--keep goes without --auto"),
        (["--auto", "--calibrate", "x"], "--calibrate goes without --auto"),
        (["--recipe", "int8-rows", "--budget", "error<1"], "--budget goes with --auto"),
        (["--recipe", "int8-rows", "--goal", "size"], "--goal goes with --auto"),
        (["--recipe", "int8-rows", "--items", "9"], "--items goes with --auto"),
        (["--auto", "--budget", "small"], "budget 'small': expected nats<X"),
        (["--auto", "--budget", "nats<0.005"], "judged in error"),
        (["--auto", "--input", "missing.npy"], "missing.npy"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    words: list[str],
    message: str,
    feature_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(feature_bundle, words, message, tmp_path, capsys)
