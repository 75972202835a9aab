"""Recurrent and convolutional files are adopted and quantized: never worse than the budget."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from tests.steps import Floats, info, model_bytes

from dst.cli.app import call
from dst.evaluate import Spread
from dst.quantize.autotune import Speed, Trial
from dst.runtime import Bundle, Session, open_bundle

WIDTH, HIDDEN, CLASSES, T = 32, 64, 128, 8
GATES = {"GRU": 3, "LSTM": 4}
FORMS = {
    ("gru", "int8-rows"): "int8-stored",
    ("gru", "int8-dynamic"): "int8-stored",
    ("lstm", "int8-rows"): "int8-stored",
    ("lstm", "int8-dynamic"): "int8-dynamic",
    ("convolution", "int8-rows"): "int8-stored",
    ("convolution", "int8-dynamic"): "int8-stored",
}
MODELS = ("gru", "lstm", "convolution")
RECURRENT = ("gru", "lstm")
MOST = 0.03
"""Relative error: 8 bits keep it and 4 bits do not."""


def drawn(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape, scale=0.2).astype(np.float32)


def recurrent(path: Path, operator: str) -> None:
    """Take x [B, T, 32] through a GRU or an LSTM and a head that can be quantized."""
    state = ["h"] if operator == "GRU" else ["h", "c"]
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        helper.make_node(
            operator,
            ["xt", "w", "r", "", "", *state],
            ["yt", *(f"{name}_out" for name in state)],
            "cell",
            hidden_size=HIDDEN,
        ),
        helper.make_node("Squeeze", ["yt", "one"], ["ys"]),
        helper.make_node("Transpose", ["ys"], ["yb"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["yb", "head"], ["y"], "head"),
    ]
    rows = GATES[operator] * HIDDEN
    step = model_bytes(
        nodes,
        [info("x", ["B", "T", WIDTH]), *(info(n, [1, "B", HIDDEN]) for n in state)],
        [info("y", ["B", "T", CLASSES]), *(info(f"{n}_out", [1, "B", HIDDEN]) for n in state)],
        {
            "w": drawn(1, rows, WIDTH),
            "r": drawn(1, rows, HIDDEN, seed=1),
            "head": drawn(HIDDEN, CLASSES, seed=2),
            "one": np.array([1]),
        },
    )
    path.write_bytes(step)


def convolution(path: Path) -> None:
    """Take x [B, 32, T] and the four frames before it through two convolutions."""
    nodes = [
        helper.make_node("Concat", ["cache", "x"], ["whole"], axis=2),
        helper.make_node("Conv", ["whole", "first"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["y"]),
        helper.make_node("Slice", ["whole", "from", "to", "axis"], ["cache_out"]),
    ]
    step = model_bytes(
        nodes,
        [info("x", ["B", WIDTH, "T"]), info("cache", ["B", WIDTH, 4])],
        [info("y", ["B", WIDTH, "T"]), info("cache_out", ["B", WIDTH, 4])],
        {
            "first": drawn(HIDDEN, WIDTH, 5),
            "second": drawn(WIDTH, HIDDEN, 1, seed=1),
            "from": np.array([-4]),
            "to": np.array([2**31]),
            "axis": np.array([2]),
        },
    )
    path.write_bytes(step)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adopted bundles, and rows of features to read."""
    root = tmp_path_factory.mktemp("adopted")
    recurrent(root / "gru.onnx", "GRU")
    recurrent(root / "lstm.onnx", "LSTM")
    convolution(root / "convolution.onnx")
    for name in RECURRENT:
        words = ["--t", f"1,{T}", "--out", str(root / name)]
        assert call(["adopt", str(root / f"{name}.onnx"), *words]) == 0
    words = ["--t", str(T), "--tail", "refuse", "--out", str(root / "convolution")]
    assert call(["adopt", str(root / "convolution.onnx"), *words]) == 0
    np.save(root / "rows.npy", drawn(2000, WIDTH, seed=5) * 5)
    return root


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which every candidate is faster, whatever this machine thinks."""

    def raced(full: Bundle, candidate: Bundle, trial: Trial, told: object) -> tuple[Speed, ...]:
        ratio = Spread(median=2.0, low=1.9, high=2.1)
        return (Speed(t=candidate.manifest.contract.chunk.nominal_t, ratio=ratio),)

    monkeypatch.setattr("dst.quantize.autotune.verdict.measure_speed", raced)
    monkeypatch.setattr("dst.quantize.autotune.mixed.measure_speed", raced)


def error_of(shelf: Path, name: str, quantized: Path) -> float:
    """Relative error of the outputs over a stream, by running both bundles."""
    items = np.load(shelf / "rows.npy")[:800]
    full, other = (Session.open(p).stream().advance(items)["y"] for p in (shelf / name, quantized))
    off, right = np.float64(other) - np.float64(full), np.float64(full)
    return float(np.linalg.norm(off) / np.linalg.norm(right))


def quantized(
    capsys: pytest.CaptureFixture[str], shelf: Path, name: str, *words: str | Path
) -> tuple[int, Any, str]:
    """Call the verb twice over: its exit code, its JSON, and all that it prints for people."""
    capsys.readouterr()
    told = shelf / f"{name}.json"
    code = call(["quantize", str(shelf / name), *map(str, words), "--json", str(told)])
    shown = capsys.readouterr()
    return code, json.loads(told.read_text("utf-8")), " ".join((shown.out + shown.err).split())


@pytest.mark.parametrize(("name", "recipe"), FORMS)
def test_a_recipe_holds_every_weight_and_keeps_close(
    name: str, recipe: str, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "q"
    code, told, _ = quantized(capsys, shelf, name, "--recipe", recipe, "--out", out)
    assert code == 0
    forms = {w["form"] for w in told["weights"] if w["role"] in ("cell", "filter")}
    assert forms == {FORMS[name, recipe]}
    assert told["weights_bytes"] < 0.3 * told["weights_bytes_before"]
    assert 0.0 < error_of(shelf, name, out) < MOST
    words = ["--items", "800", "--heads", "0", "--drift-items", "0", "--error-budget", str(MOST)]
    assert call(["report", str(shelf / name), str(out), str(shelf / "rows.npy"), *words]) == 0


@pytest.mark.usefixtures("faster")
@pytest.mark.parametrize(("name", "goal"), [("gru", "size"), ("lstm", "speed")])
def test_what_is_picked_keeps_the_budget(
    name: str, goal: str, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "q"
    words = ("--auto", "--budget", f"error<{MOST}", "--goal", goal, "--items", "800")
    code, told, shown = quantized(
        capsys, shelf, name, *words, "--input", shelf / "rows.npy", "--out", out
    )
    assert code == 0
    assert told["why"] in shown
    broken = {c["recipe"] for c in told["candidates"] if c["refusals"]}
    assert "int4-weights" in broken  # the budget is one that a recipe can break
    assert told["recipe"] not in broken
    assert open_bundle(out).manifest.bundle_id == told["bundle_id"]
    assert 0.0 < error_of(shelf, name, out) < MOST


def test_a_budget_that_nothing_keeps_gives_no_bundle(
    shelf: Path, tmp_path: Path, faster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--auto", "--budget", "error<1e-9", "--items", "400", "--out", tmp_path / "q")
    code, told, shown = quantized(capsys, shelf, "gru", *words)
    assert code == 1
    assert "nothing holds" in shown
    assert told["why"].startswith("no recipe was chosen")
    assert told["recipe"] is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", MODELS)
def test_whatever_this_machine_picks_keeps_the_budget(
    name: str,
    shelf: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the real clock, if a hasty one: a bundle within the budget, or none at all."""
    monkeypatch.setattr("dst.cli.autotune.Trial", partial(Trial, rounds=3, slot_ms=1.0))
    out = tmp_path / "q"
    words = ("--auto", "--budget", f"error<{MOST}", "--items", "400", "--out", out)
    code, told, _ = quantized(capsys, shelf, name, *words, "--input", shelf / "rows.npy")
    assert code == (1 if told["recipe"] is None else 0)
    assert out.exists() == (code == 0)
    assert code == 1 or error_of(shelf, name, out) < MOST
