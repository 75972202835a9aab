"""The comparison with other engines runs, and its ratios follow from the times it wrote."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, str(ROOT / "examples/bench/peers")]
WORK = Path(os.environ.get("DST_PEERS_WORK", ROOT / "runs/peers"))  # builds are kept there
PEERS = ("dst", "naive", "llama", "eager", "openvino")
TURN = {1: 4, 8: 15}  # samples of one turn, by T


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peers") / "peers.json"
    smallest = ["--sizes", "tiny", "--t", "1", "8", "--threads", "1", "--rounds", "2"]
    asked = ["--work", str(WORK), "--out", str(path), "--peers", *PEERS, "--idle", "0"]
    done = subprocess.run(
        [*COMMAND, *smallest, *asked], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny, T = 8, 1 thread" in done.stdout
    return path


@pytest.fixture(scope="module")
def result(out: Path) -> dict[str, Any]:
    read = json.loads(out.read_bytes())
    assert isinstance(read, dict)
    return read


def cells_of(result: dict[str, Any], t: int, engine: str | None = None) -> list[dict[str, Any]]:
    return [c for c in result["cells"] if c["t"] == t and engine in (None, c["engine"])]


def flat(turns: Iterable[Iterable[float]]) -> list[float]:
    return list(chain.from_iterable(turns))


@pytest.mark.peers
@pytest.mark.parametrize("t", TURN)
def test_everyone_took_part_or_is_named_with_a_reason(result: dict[str, Any], t: int) -> None:
    assert {c["engine"] for c in cells_of(result, t)} >= {"dst", "naive", "llama", "eager"}
    told = {out["contestant"].split()[0] for out in result["left_out"] if out["why"]}
    assert {c["engine"] for c in cells_of(result, t)} | told >= set(PEERS)
    ways = {(c["precision"], c["way"]) for c in cells_of(result, t, "dst")}
    assert {("float32", "stream"), ("float32", "bare")} <= ways
    assert all(c["facts"]["graph"].endswith(".onnx") for c in cells_of(result, t, "dst"))
    quants = {c["precision"] for c in cells_of(result, t, "llama")}
    assert quants >= {"f32", "Q8_0", "Q4_0"}


@pytest.mark.peers
@pytest.mark.parametrize("t", TURN)
def test_figures_follow_from_the_times(result: dict[str, Any], t: int) -> None:
    rivals = [flat(c["times_ms"]) for c in cells_of(result, t, "llama")]
    for cell in cells_of(result, t):
        assert [len(turn) for turn in cell["times_ms"]] == [TURN[t]] * 2, cell["label"]
        times = flat(cell["times_ms"])
        assert cell["median_ms"] == median(times)
        assert cell["minimum_ms"] == min(times)
        assert cell["ratio_of_medians"] == min(map(median, rivals)) / median(times)
        assert cell["ratio_of_minima"] == min(map(min, rivals)) / min(times)
        limit = result["limits"]["1"]
        peak = limit["float32_gflop_s" if cell["precision"] in ("f32", "float32") else "int8_gop_s"]
        if peak:
            products = 2 * cell["multiply_adds"] / (cell["median_ms"] / 1e3)
            assert cell["share_of_products"] == pytest.approx(products / (1e9 * peak))
    best = max(c["ratio_of_medians"] for c in cells_of(result, t, "llama"))
    assert best == 1


@pytest.mark.peers
def test_the_models_have_equal_parameters(result: dict[str, Any]) -> None:
    (ours,) = {c["parameters_read"] for c in cells_of(result, 1, "dst")}
    theirs = {c["parameters_read"] for c in cells_of(result, 1, "llama")}
    assert all(0.85 < n / ours < 1.15 for n in theirs), (ours, theirs)


@pytest.mark.peers
def test_the_machine_is_described_and_a_picture_drawn(result: dict[str, Any], out: Path) -> None:
    assert result["machine"]["cpu"]
    assert result["machine"]["onnxruntime"]
    assert result["kernels"] in ("AVX2", "AVX512-VNNI", "other")
    assert {int(mib) for mib in result["limits"]["1"]["read_gb_s"]} >= {1, 256}
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_help_builds_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--help"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout.startswith("usage: ")) == (0, True), done.stderr
    assert list(tmp_path.iterdir()) == []
