"""Small bundles go in; `dst bench` and `dst report` measure them and say so in every form."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from dst.cli.verbs.bench import usual_sizes
from dst.evaluate import BenchResult, measure
from dst.evaluate.inputs import feed_of
from dst.evaluate.process import probed
from dst.evaluate.quality import Report
from dst.evaluate.speed import _Lane
from dst.runtime import SessionError, open_bundle, write_bundle
from dst.runtime.install import install_line

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command
QUICK = ("--rounds", "3", "--slot-ms", "1", "--starts", "0")


def result_of(text: str) -> BenchResult:
    return msgspec.json.decode(text, type=BenchResult)


def test_every_bundle_is_measured_at_every_t(dst: Dst, shelf: Path) -> None:
    paths = [shelf / name for name in ("text", "single", "sensor")]
    done = dst("bench", *paths, "--t", "8,1", *QUICK, "--json", "-")
    assert done.code == 0
    result = result_of(done.out)
    assert [entry.label for entry in result.bundles] == ["text", "single", "sensor"]
    assert result.sizes == (1, 8)
    for entry in result.bundles:
        assert [cell.t for cell in entry.cells] == [1, 8]
        bundle = open_bundle(shelf / entry.label)
        assert entry.bundle_id == bundle.manifest.bundle_id
        assert entry.file_bytes == sum(f.size for f in bundle.manifest.files.values())
        for cell in entry.cells:
            if entry.label == "single" and cell.t == 8:
                assert cell.why == "runs T = 1"
                assert (cell.items_per_s, cell.ratio, cell.p50_us) == (None, None, None)
                continue
            assert cell.why is None
            assert cell.items_per_s is not None
            assert 0 < cell.items_per_s.low <= cell.items_per_s.median <= cell.items_per_s.high
            assert cell.p50_us is not None
            assert cell.p99_us is not None
            assert 0 < cell.p50_us <= cell.p99_us
            assert cell.steps >= 2 * 3
    first = result.bundles[0].cells[0].ratio
    assert first is not None
    assert (first.low, first.median, first.high) == (1.0, 1.0, 1.0)


def test_a_t_that_does_not_run_shows_as_a_dash(dst: Dst, shelf: Path) -> None:
    done = dst("bench", shelf / "text", shelf / "single", "--t", "8", *QUICK)
    assert done.code == 0
    row = next(line for line in done.out.splitlines() if line.startswith("single"))
    assert row.split() == ["single", "–"]
    assert "single: runs T = 1" in done.out


def test_one_is_told_as_one(dst: Dst, shelf: Path) -> None:
    options = ("--t", "8", "--rounds", "1", "--slot-ms", "1", "--starts", "0")
    told = " ".join(dst("bench", shelf / "text", *options).out.split())
    assert "1 round in turns" in told
    assert "text: load time and memory were not asked for" in told
    assert "the golden run reproduced" in dst("verify", shelf / "single").out


def test_a_t_that_only_later_bundles_run_is_compared_with_the_first_of_them(shelf: Path) -> None:
    result = measure([shelf / "single", shelf / "text", shelf / "twin"], (8,), 3, starts=0)
    cells = [entry.cells[0] for entry in result.bundles]
    assert cells[0].ratio is None
    assert cells[1].ratio is not None
    assert cells[1].ratio.median == 1.0
    assert cells[2].ratio is not None


def test_a_fresh_process_tells_what_it_took(shelf: Path) -> None:
    ballast = np.ones(40_000_000)  # 320 MB of this process, which are none of the child's
    found = probed(shelf / "text", 8, 1, "cpu", 1)
    assert not isinstance(found, str)
    assert 0 < found.load_ms <= found.first_output_ms
    assert 0 < found.base_rss_bytes <= found.peak_rss_bytes < ballast.nbytes


def test_a_fresh_process_that_fails_says_why(shelf: Path) -> None:
    found = probed(shelf / "text", 5, 1, "cpu", 1)
    assert isinstance(found, str)
    assert "no graph runs T = 5" in found


def test_a_step_that_fails_costs_its_cell_only(
    dst: Dst, tmp_path: Path, make: Callable[..., Path]
) -> None:
    path = make(tmp_path / "broken", features=True)
    model = onnx.load(str(path / "step.onnx"))
    zero = next(node for node in model.graph.node if node.op_type == "Sub")
    zero.output[0] = "zero"
    model.graph.node.append(onnx.helper.make_node("Div", ["zero", "zero"], ["log_std"]))
    manifest = open_bundle(path).manifest
    write_bundle(path, manifest, {"step.onnx": model.SerializeToString()}, overwrite=True)
    done = dst("bench", path, "--t", "8", *QUICK, "--json", "-")
    assert done.code == 0
    (cell,) = result_of(done.out).bundles[0].cells
    assert cell.items_per_s is None
    assert cell.why is not None
    assert "NaN" in cell.why


def test_chunks_are_those_of_the_golden_run(shelf: Path) -> None:
    bundle = open_bundle(shelf / "text")
    feed = feed_of(bundle)
    assert feed.what == "golden run"
    assert feed.chunks(bundle, 4, 3)[1].tolist() == [[4, 5, 6, 7]]
    assert feed.chunks(bundle, 4, 3)[2].tolist() == [[0, 1, 2, 3]]


def test_without_a_golden_run_chunks_are_drawn_within_the_contract(shelf: Path) -> None:
    bundle = open_bundle(shelf / "sensor")
    feed = feed_of(bundle)
    assert feed.what == "random features"
    (chunk,) = feed.chunks(bundle, 8, 1)
    assert (chunk.shape, chunk.dtype) == ((1, 8, 2), np.dtype(np.float32))
    assert np.isfinite(chunk).all()


def test_files_are_written_whole(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = [tmp_path / name for name in ("b.json", "b.html", "b.png")]
    options = [w for f in files for w in (f"--{f.suffix[1:]}", f)]
    assert dst("bench", shelf / "text", shelf / "twin", "--t", "1,8", *QUICK, *options).code == 0
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert result_of(files[0].read_text()).rounds == 3
    assert files[1].read_text().startswith("<!doctype html>")
    assert files[2].read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_rest_is_done(
    dst: Dst, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    files = tmp_path / "b.png", tmp_path / "b.html"
    done = dst("bench", shelf / "text", "--t", "8", *QUICK, "--png", files[0], "--html", files[1])
    assert done.code == 0
    assert install_line("plot") in done.err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == [files[1]]


def test_an_interrupted_bench_leaves_no_file(
    dst: Dst, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []

    def stop(lane: object, slot_s: float, meter: object) -> None:
        taken.append(lane)
        if len(taken) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Lane, "take", stop)
    done = dst("bench", shelf / "text", *QUICK, "--html", tmp_path / "b.html")
    assert done.code == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("t", ["", "0", "1,x", "-4", "1.5", "9" * 5000])
def test_a_t_that_is_no_number_is_refused(dst: Dst, shelf: Path, t: str) -> None:
    done = dst("bench", shelf / "text", f"--t={t}")
    assert done.code == 2
    assert "--t" in done.err
    assert len(done.err) < 200
    assert len(done.err.splitlines()) == 1


def test_wrong_use_is_told_in_one_line(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    for arguments in (
        ("bench", tmp_path / "none"),
        ("bench", shelf / "text", "--html", tmp_path / "no" / "b.html"),
        *(("bench", shelf / "text", "--slot-ms", ms) for ms in ("0", "nan", "inf")),
        ("bench",),
    ):
        done = dst(*arguments)
        assert done.code == 2
        assert len(done.err.splitlines()) == 1
    with pytest.raises(SessionError, match="0 rounds"):
        measure([shelf / "text"], (1,), 0)
    with pytest.raises(SessionError, match="slot_ms nan"):
        measure([shelf / "text"], (1,), 1, slot_ms=math.nan)


# --- dst report


def called_quantized(path: Path) -> Path:
    """Write a bundle anew as one that was quantized, its graph as it is."""
    bundle = open_bundle(path)
    manifest = replace(bundle.manifest, precision="int8", recipe="as-it-was")
    files: dict[str, bytes | Path] = {n: (path / n).read_bytes() for n in manifest.files}
    write_bundle(path, manifest, files, overwrite=True)
    return path


def test_a_report_compares_two_bundles(
    dst: Dst, shelf: Path, tmp_path: Path, make: Callable[..., Path]
) -> None:
    same = called_quantized(make(tmp_path / "same"))
    text = tmp_path / "notes.txt"
    text.write_bytes(bytes(range(256)) * 8)
    arguments = ("--items", "1000", "--heads", "1", "--drift-items", "0", "--json", "-")
    done = dst("report", shelf / "text", same, text, *arguments)
    assert done.code == 0
    made = msgspec.json.decode(done.out, type=Report)
    assert made.data == "notes.txt"
    assert made.items == 1_000
    assert {found.divergence for found in made.ranges} == {0.0}
    assert made.passed is None
    assert any("horizon was not judged" in note for note in made.notes)


def test_a_failed_gate_is_exit_code_one(
    dst: Dst, shelf: Path, tmp_path: Path, make: Callable[..., Path]
) -> None:
    path = make(tmp_path / "worse")
    model = onnx.load(str(path / "step.onnx"))
    head = next(t for t in model.graph.initializer if t.name == "head")
    spoilt = 3 * onnx.numpy_helper.to_array(head)
    head.CopyFrom(onnx.numpy_helper.from_array(spoilt, "head"))
    manifest = open_bundle(path).manifest
    files = {
        "step.onnx": model.SerializeToString(),
        "golden.safetensors": (path / "golden.safetensors").read_bytes(),
    }
    write_bundle(path, manifest, files, overwrite=True)
    called_quantized(path)
    arguments = ("--items", "2000", "--heads", "0", "--drift-items", "0", "--attach")
    done = dst("report", shelf / "text", path, *arguments)
    assert done.code == 1
    assert "✗ loss" in done.out
    quality = open_bundle(path).manifest.quality
    assert quality is not None
    assert quality.passed is False
    shown = dst("bench", path, "--t", "8", *QUICK)
    assert "failed" in shown.out
    assert json.loads((path / "report.json").read_bytes())["passed"] is False


def test_two_models_are_not_compared(dst: Dst, shelf: Path) -> None:
    done = dst("report", shelf / "text", shelf / "twin", "--items", "100")
    assert done.code == 2
    assert "two precisions of one model" in done.err


def test_full_precision_comes_first_and_a_quantized_bundle_second(
    dst: Dst, shelf: Path, tmp_path: Path, make: Callable[..., Path]
) -> None:
    quantized = called_quantized(make(tmp_path / "quantized"))
    manifests = [path / "manifest.json" for path in (quantized, shelf / "text")]
    before = [path.read_bytes() for path in manifests]
    for pair, words in (
        ((quantized, shelf / "text"), "first bundle quantized: is as-it-was"),
        ((quantized, quantized), "first bundle quantized"),
        ((shelf / "text", shelf / "text"), "second bundle text: is float32, not quantized"),
    ):
        done = dst("report", *pair, "--items", "100", "--attach")
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
        assert words in done.err
    assert [path.read_bytes() for path in manifests] == before


@pytest.mark.parametrize("option", ["--budget", "--error-budget"])
@pytest.mark.parametrize("value", ["nan", "-1", "inf"])
def test_a_budget_that_is_no_number_is_refused(dst: Dst, option: str, value: str) -> None:
    done = dst("report", "text", "text-int8", f"{option}={value}")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert f"{option} {value}: expected a number of 0 or more" in done.err


def test_a_report_without_onnx_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['onnx'] = None\nfrom dst.cli.app import call\n"
        "sys.exit(call(['report', 'text', 'text-int8']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"report needs onnx, which is not installed: {install_line('onnx')}" in done.stderr


def test_data_with_nothing_to_read_is_refused(
    dst: Dst, shelf: Path, tmp_path: Path, make: Callable[..., Path]
) -> None:
    (tmp_path / "empty").write_bytes(b"")
    same = called_quantized(make(tmp_path / "same"))
    done = dst("report", shelf / "text", same, tmp_path / "empty")
    assert done.code == 2
    assert "at least 2 items" in done.err


def test_what_is_written_lies_in_no_bundle_and_on_nothing_that_is_read(
    dst: Dst, shelf: Path, tmp_path: Path
) -> None:
    manifest, data = shelf / "text/manifest.json", tmp_path / "data.npy"
    np.save(data, np.zeros(64, np.int64))
    before = manifest.read_bytes(), data.read_bytes()
    for arguments, words in (
        (("bench", shelf / "text", "--html", shelf / "text/b.html"), "lies in bundle"),
        (("bench", shelf / "text", "--json", manifest), "lies in bundle"),
        (("report", shelf / "text", shelf / "twin", "--png", manifest), "lies in FULL"),
        (("report", shelf / "text", shelf / "twin", data, "--json", data), "DATA too"),
        (("soak", shelf / "text", "--steps", 9, "--data", data, "--json", data), "--data too"),
        (("quantize", shelf / "text", "--recipe", "int8-weights", "--out", tmp_path / "q",
          "--json", manifest), "lies in BUNDLE"),
        (("adopt", data, "--out", tmp_path / "a", "--json", data), "is FILE too"),
        (("export", "--size", "tiny", "--checkpoint", data, "--out", tmp_path / "e",
          "--json", data), "is --checkpoint too"),
    ):  # fmt: skip
        done = dst(*arguments)
        assert (done.code, done.out) == (2, "")
        assert words in done.err
    assert (manifest.read_bytes(), data.read_bytes()) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.npy"]


def test_by_default_only_sizes_that_run_are_measured(shelf: Path) -> None:
    assert usual_sizes([str(shelf / "pad")]) == (8,)
    assert usual_sizes([str(shelf / "pad"), "text"]) == (1, 8, 16, 32, 64, 256)
