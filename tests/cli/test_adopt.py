"""`dst adopt`: what is not known is asked in one message, and what is wrong is refused."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper
from tests.steps import INT64, info, model_bytes

from dst.runtime.install import install_line

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, npt.NDArray[np.int64]] | None = None,
) -> Path:
    more = {"one": np.array([1], np.int64), **(weights or {})}
    path.write_bytes(model_bytes(nodes, inputs, outputs, more))
    return path


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    """Take x [B, T], rate, foo [B] -> y = (foo + running sum) * rate, bar = foo + sum."""
    return save(
        tmp_path / "sums.onnx",
        [
            helper.make_node("Squeeze", ["one"], ["one_"]),
            helper.make_node("CumSum", ["x", "one_"], ["sums"]),
            helper.make_node("Unsqueeze", ["foo", "one"], ["before"]),
            helper.make_node("Add", ["sums", "before"], ["all"]),
            helper.make_node("Mul", ["all", "rate"], ["y"]),
            helper.make_node("ReduceSum", ["x", "one"], ["gain"], keepdims=0),
            helper.make_node("Add", ["foo", "gain"], ["bar"]),
        ],
        [info("x", ["B", "T"]), info("rate", []), info("foo", ["B"])],
        [info("y", ["B", "T"]), info("bar", ["B"])],
    )


KNOWN = ("--constant", "rate=2", "--state", "foo=bar", "--t", "4", "--tail", "pad")


def test_every_open_question_is_asked_at_once_with_its_option(
    dst: Dst, sums: Path, tmp_path: Path
) -> None:
    asked = dst("adopt", sums, "--out", tmp_path / "b")
    assert (asked.code, asked.out) == (2, "")
    assert "4 questions are open" in asked.err
    options = re.findall(r"^  (--\w+) (\w+)", asked.err, re.MULTILINE)
    assert options == [
        ("--constant", "rate"),
        ("--constant", "foo"),
        ("--t", "N"),
        ("--tail", "pad"),
    ]
    assert "--state foo=OUTPUT   (bar)" in asked.err
    assert not (tmp_path / "b").exists()
    assert dst("adopt", sums, "--out", tmp_path / "b", *KNOWN).code == 0
    assert dst("verify", tmp_path / "b").code == 0
    less = dst("adopt", sums, "--out", tmp_path / "c", *KNOWN[2:])
    assert re.findall(r"^  (--\w+)", less.err, re.MULTILINE) == ["--constant"]


def test_json_tells_the_contract_and_what_was_found(dst: Dst, sums: Path, tmp_path: Path) -> None:
    done = dst("adopt", sums, "--out", tmp_path / "b", *KNOWN, "--json", "-")
    assert (done.code, done.err) == (0, "")
    result = json.loads(done.out)
    assert (result["name"], result["worst"]) == ("b", 0)
    assert all(finding["fine"] for finding in result["findings"])
    assert result["contract"]["chunk"]["allowed_t"] == [4]
    assert result["contract"]["constants"][0]["values"] == [2.0]
    shown = dst("show", tmp_path / "b", "--json", "-")
    assert json.loads(shown.out)["manifest"]["bundle_id"] == result["bundle_id"]
    assert "horizon: not known" in dst("show", tmp_path / "b").out


def test_a_run_reads_an_adopted_model(dst: Dst, sums: Path, tmp_path: Path) -> None:
    assert dst("adopt", sums, "--out", tmp_path / "b", *KNOWN).code == 0
    np.save(tmp_path / "x.npy", np.arange(10, dtype=np.float32))
    done = dst("run", tmp_path / "b", tmp_path / "x.npy", "--json", "-")
    assert (done.code, json.loads(done.out)["items"]) == (0, 10)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ["--constant rate=VALUE"]),
        (("--constant", "rate=two"), ["rate=two", ".npy"]),
        (("--constant", "rate"), ["--constant rate", "`=`"]),
        (("--constant", "rate=1,2"), ["[2]", "`rate` float32 []"]),
        (("--constant", "rate=nan"), ["rate", "NaN"]),
        (("--constant", "rate=2", "--constant", "rate=3"), ["given before"]),
        (("--constant", "hz=2"), ["`hz`", "no input", "`rate`"]),
        (("--constant", "rate=no.npy"), ["no.npy", "No such file"]),
        (("--constant", "rate=2", "--state", "rate=y"), ["`rate`", "not two"]),
        (("--constant", "rate=2", "--state", "x=bar"), ["--state x=bar", "keeps its dtype"]),
        (("--constant", "rate=2", "--state", "foo=bar", "--init", "x=1"), ["`x` is no state"]),
        (("--constant", "rate=2", "--init", "foo=1,2"), ["[2]", "[1]"]),
        (("--constant", "rate=2", "--init", "foo=inf"), ["foo", "infinity"]),
        (("--constant", "rate=2", "--init", "foo=1e40"), ["--init foo", "float32 cannot hold"]),
        (("--constant", f"rate={10**30}"), ["--constant rate", "no tensor"]),
        (("--constant", "rate=1e40"), ["--constant rate", "float32 cannot hold 1e+40"]),
        (("--constant", "rate=2", "--lookback-fill", "nan"), ["--lookback-fill nan", "finite"]),
        (("--constant", "rate=2", "--pad", "inf"), ["--pad inf", "finite"]),
        (("--constant", "rate=2", "--sample-rate", "nan"), ["--sample-rate nan", "above 0"]),
        (("--constant", "rate=2", "--lookback", "9" * 11), ["--lookback 99999999999", "65,536"]),
        (("--constant", "rate=2", "--meaning", "y=logits"), ["y=logits", "`x`", "features"]),
        (("--constant", "rate=2", "--meaning", "y=gaussian"), ["y=gaussian", "`log_std`"]),
        (("--constant", "rate=2", "--shape", "x=B,T,3"), ["B,T,3", "2 axes"]),
        (("--constant", "rate=2", "--shape", "x=B,Q"), ["x=B,Q", "B,T,80"]),
        (("--constant", "rate=2", "--shape", "y=4,B"), ["--shape y", "[1, 4]", "[4, 1]"]),
        (("--constant", "rate=2", "--t", "0"), ["--t 0"]),
        (("--constant", "rate=2", "--t", "1,1009,1013"), ["[1, 1009, 1013]", "4,088,468 items"]),
        (("--constant", "rate=2", "--tail", "exact"), ["--tail exact", "1 among"]),
        (("--constant", "rate=2", "--drop", "bar"), ["--drop bar", "exclude"]),
        (("--constant", "rate=2", "--meaning", "y=words"), ["y=words", "logits"]),
        (("--constant", "rate=2", "--data", "no.npy"), ["no.npy"]),
        (("--constant", "rate=2", "--pad", "1", "--tail", "refuse"), ["--pad 1", "--tail pad"]),
        (("--constant", "rate=2", "--lookback-fill", "1"), ["--lookback-fill 1", "--lookback"]),
        (("--constant", "rate=2", "--vocabulary", "4"), ["`x`", "no vocabulary"]),
        (("--constant", "rate=2", "--shape", "rate="), ["--shape rate", "constant"]),
        (("--constant", "rate=2", "--shape", "bar=B"), ["--shape bar", "input"]),
        (("--constant", "rate=2", "--state", "foo=bar", "--meaning", "bar=logits"), ["bar"]),
        (("--constant", "rate=2", "--out", "no/such/b"), ["--out no/such/b"]),
    ],
)
def test_answers_that_cannot_be(
    dst: Dst, sums: Path, tmp_path: Path, options: tuple[str, ...], words: list[str]
) -> None:
    usual = {"--out": tmp_path / "b", "--t": "4", "--tail": "pad"}
    known = [part for pair in usual.items() if pair[0] not in options for part in pair]
    if not any("=bar" in option for option in options):
        known += ["--state", "foo=bar"]
    done = dst("adopt", sums, *known, *options)
    assert (done.code, done.out) == (2, "")
    assert [word for word in words if word not in done.err] == [], done.err
    assert done.err.startswith("dst: ")
    assert not (tmp_path / "b").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("bad", "words"), [(np.nan, "NaN"), (np.inf, "infinity"), (1e40, "too large for float32")]
)
def test_data_that_is_not_finite_is_told_by_its_place(
    dst: Dst, sums: Path, tmp_path: Path, bad: float, words: str
) -> None:
    np.save(tmp_path / "x.npy", np.array([1.0, 2.0, bad, 4.0]))
    done = dst("adopt", sums, "--out", tmp_path / "b", *KNOWN, "--data", tmp_path / "x.npy")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert [word for word in ("--data: item 3", words) if word not in done.err] == [], done.err


def test_what_stands_there_is_kept(dst: Dst, sums: Path, tmp_path: Path) -> None:
    adopt = ("adopt", sums, "--out", tmp_path / "b", *KNOWN)
    assert dst(*adopt).code == 0
    assert "exists" in dst(*adopt).err
    assert dst(*adopt, "--overwrite").code == 0


@pytest.mark.parametrize("content", [b"", b"no model at all", bytes(100)])
def test_files_that_are_no_models(dst: Dst, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    done = dst("adopt", tmp_path / "m.onnx", "--out", tmp_path / "b")
    assert done.code == 2
    assert "is no ONNX model" in done.err


def test_a_missing_file(dst: Dst, tmp_path: Path) -> None:
    done = dst("adopt", tmp_path / "m.onnx", "--out", tmp_path / "b")
    assert (done.code, "No such file" in done.err) == (2, True)


# Windows, inputs per stream, and other forms of one model


@pytest.fixture
def tinted(tmp_path: Path) -> Path:
    """Take x [B, 6], tint [B] -> y = the last 4 of (x + tint + foo), foo faded and moved by x."""
    return save(
        tmp_path / "tinted.onnx",
        [
            helper.make_node("ReduceMean", ["x", "one"], ["mean"], keepdims=0),
            helper.make_node("Add", ["foo", "mean"], ["foo_out"]),
            helper.make_node("Add", ["foo_out", "tint"], ["both"]),
            helper.make_node("Unsqueeze", ["both", "one"], ["row"]),
            helper.make_node("Slice", ["x", "one", "five", "one"], ["inner"]),
            helper.make_node("Add", ["inner", "row"], ["y"]),
        ],
        [info("x", ["B", 6]), info("tint", ["B"]), info("foo", ["B"])],
        [info("y", ["B", 4]), info("foo_out", ["B"])],
        {"five": np.array([5], np.int64)},
    )


def test_windows_and_inputs_per_stream_by_options(dst: Dst, tinted: Path, tmp_path: Path) -> None:
    window = ("--lookback", "1", "--lookahead", "1", "--tail", "refuse")
    adopt = ("adopt", tinted, "--out", tmp_path / "b", *window)
    asked = dst(*adopt)
    assert (asked.code, asked.err.count("--stream-input tint")) == (2, 2)
    done = dst(*adopt, "--stream-input", "tint=0.5")
    assert (done.code, done.err) == (0, "")
    assert "look-ahead 1, non-causal" in done.out
    assert "`tint` float32 [B], given once per stream" in done.out
    chunk = json.loads(dst("show", tmp_path / "b", "--json", "-").out)["manifest"]["contract"]
    assert (chunk["chunk"]["lookahead"], chunk["chunk"]["causal"]) == (1, False)
    assert dst(*adopt, "--overwrite", "--stream-input", "tint").code == 0
    assert dst("verify", tmp_path / "b").code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stream-input", "tint=a"), ["--stream-input tint=a", ".npy"]),
        (("--stream-input", ""), ["--stream-input", "a name"]),
        (("--stream-input", "tint", "--stream-input", "tint=1"), ["tint", "once"]),
        (("--stream-input", "tint", "--constant", "tint=1"), ["`tint`", "not two"]),
        (("--stream-input", "tint", "--shape", "tint=T"), ["--shape tint", "no T"]),
        (("--stream-input", "tint", "--lookahead", "99999999"), ["--lookahead 99999999"]),
        (("--stream-input", "tint", "--lookahead", "6"), ["--lookahead 6", "no room"]),
        (("--stream-input", "tint", "--model-of", "no/such"), ["no/such"]),
        (("--stream-input", "tint", "--within", "0.1"), ["--within 0.1", "--model-of"]),
    ],
)
def test_such_options_that_cannot_be(
    dst: Dst, tinted: Path, tmp_path: Path, options: tuple[str, ...], words: list[str]
) -> None:
    known = ("--t", "6", "--tail", "refuse") if "--lookahead" not in options else ()
    done = dst("adopt", tinted, "--out", tmp_path / "b", *known, *options)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert [word for word in words if word not in done.err] == [], done.err
    assert not (tmp_path / "b").exists()


def test_a_bundle_keeps_the_id_of_another_export(dst: Dst, sums: Path, tmp_path: Path) -> None:
    known = ("--state", "foo=bar", "--t", "4", "--tail", "pad")
    assert dst("adopt", sums, "--out", tmp_path / "old", *known, "--constant", "rate=2").code == 0
    adopt = ("adopt", sums, "--out", tmp_path / "new", *known, "--model-of", tmp_path / "old")
    done = dst(*adopt, "--constant", "rate=2")
    assert (done.code, done.err) == (0, "")
    assert "is the model of bundle old/, and keeps its id" in done.out
    other = dst(*adopt, "--constant", "rate=3", "--overwrite")
    assert (other.code, "--model-of: constants" in other.err) == (2, True)


# What running it shows


def faded(nodes: Sequence[onnx.NodeProto], path: Path, window: str | int = 6) -> Path:
    """Take x [1, T], h [1, window] -> y [1, T], h_out, by nodes of one's own."""
    return save(
        path,
        nodes,
        [info("x", [1, "T"]), info("h", [1, window])],
        [info("y", [1, "T"]), info("h_out", [1, window])],
    )


LEVEL = [
    helper.make_node("ReduceMean", ["x", "one"], ["mean"]),
    helper.make_node("Add", ["h", "mean"], ["h_out"]),
    helper.make_node("ReduceMax", ["h_out", "one"], ["top"]),
]


def refused(dst: Dst, path: Path, *words: str, options: tuple[str, ...] = ()) -> None:
    out = path.with_suffix("")
    done = dst("adopt", path, "--out", out, "--t", "4", "--tail", "refuse", *options)
    assert (done.code, done.out) == (1, "")
    assert [word for word in words if word not in done.err] == [], done.err
    assert not out.exists()


def test_a_state_that_makes_no_difference(dst: Dst, tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Sub", ["h", "h"], ["h_out"])]
    refused(dst, faded(nodes, tmp_path / "idle.onnx"), "no difference", "`h=h_out`")


GROWING = [
    helper.make_node("Concat", ["h", "x"], ["h_out"], axis=1),
    helper.make_node("ReduceMax", ["h_out", "one"], ["top"]),
    helper.make_node("Mul", ["x", "top"], ["y"]),
]


@pytest.mark.parametrize("options", [(), ("--shape", "h=B,6"), ("--chunk", "x", "--t", "4")])
@pytest.mark.parametrize(
    ("window", "after"), [("W", "W"), ("past", "past + T"), ("W", None), (6, 10)]
)
def test_a_state_that_grows_is_told_first(
    dst: Dst, tmp_path: Path, window: str | int, after: str | int | None, options: tuple[str, ...]
) -> None:
    path = save(
        tmp_path / "grows.onnx",
        GROWING,
        [info("x", [1, "T"]), info("h", [1, window])],
        [info("y", [1, "T"]), info("h_out", [1, after])],
    )
    done = dst("adopt", path, "--out", tmp_path / "b", *options)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    for word in ("`h`", "grows", "static cache", "fixed size"):
        assert word in done.err
    assert "open; answer" not in done.err
    assert not (tmp_path / "b").exists()


def test_a_state_that_is_found_to_grow(dst: Dst, tmp_path: Path) -> None:
    path = save(
        tmp_path / "grows.onnx",
        GROWING,
        [info("x", [1, "T"]), info("h", [1, 6])],
        [info("y", [1, "T"]), info("h_out", [1, None])],
    )
    refused(dst, path, "[1, 6]", "[1, 10]", "grows", "static cache")


def test_a_cut_that_matters(dst: Dst, tmp_path: Path) -> None:
    path = faded([*LEVEL, helper.make_node("Mul", ["x", "top"], ["y"])], tmp_path / "level.onnx")
    done = dst("adopt", path, "--out", tmp_path / "b", "--t", "1,4")
    assert (done.code, "the cut matters" in done.err, "T = 1" in done.err) == (1, True, True)
    assert dst("adopt", path, "--out", tmp_path / "b", "--t", "4", "--tail", "refuse").code == 0


def test_noise_that_a_model_cannot_read(dst: Dst, tmp_path: Path) -> None:
    nodes = [helper.make_node("Sqrt", ["x"], ["root"]), *LEVEL]
    path = faded([*nodes, helper.make_node("Mul", ["root", "top"], ["y"])], tmp_path / "root.onnx")
    refused(dst, path, "`y`", "NaN", "--data")
    np.save(tmp_path / "data.npy", np.linspace(1, 2, 7))
    options = ("--t", "4", "--tail", "refuse", "--data", tmp_path / "data.npy")
    assert dst("adopt", path, "--out", tmp_path / "b", *options).code == 0


def test_a_state_that_never_moves_is_remarked(dst: Dst, tmp_path: Path) -> None:
    path = save(
        tmp_path / "still.onnx",
        [
            *LEVEL,
            helper.make_node("Add", ["x", "top"], ["y"]),
            helper.make_node("Identity", ["c"], ["c_out"]),
        ],
        [info("x", [1, 4]), info("h", [1, 6]), info("c", [1], INT64)],
        [info("y", [1, 4]), info("h_out", [1, 6]), info("c_out", [1], INT64)],
    )
    done = dst("adopt", path, "--out", tmp_path / "b", "--tail", "refuse", "--t", "4")
    assert done.code == 0
    assert "! state `c` never moves" in done.out


def test_a_model_without_state_is_none(dst: Dst, tmp_path: Path) -> None:
    path = save(
        tmp_path / "plain.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        [info("x", ["B", "T"])],
        [info("y", ["B", "T"])],
    )
    done = dst("adopt", path, "--out", tmp_path / "b")
    assert (done.code, "no state to carry" in done.err) == (2, True)


# What must be installed


@pytest.mark.parametrize(
    ("missing", "code"), [(["torch", "onnxscript", "transformers", "optimum"], 0), (["onnx"], 2)]
)
def test_onnx_is_needed_and_torch_is_not(
    sums: Path, tmp_path: Path, missing: list[str], code: int
) -> None:
    script = (
        f"import sys\nfor name in {missing!r}: sys.modules[name] = None\n"
        "from dst.cli.app import call\nsys.exit(call(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "adopt", str(sums), "--out", str(tmp_path / "b"), *KNOWN],
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert (install_line("onnx") in done.stderr) == (code == 2)
    assert (tmp_path / "b").exists() == (code == 0)
