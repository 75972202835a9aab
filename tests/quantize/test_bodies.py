"""Weights inside If, Loop and Scan are quantized; an If that a constant decides is folded.

Folding must never change a result: what comes of it is compared bit for bit.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.steps import Floats, drawn, info

from dst.cli.app import call
from dst.graphs.load import drop_unused, load
from dst.graphs.walk import distinct, nodes_of
from dst.quantize import quantize_bundle
from dst.runtime import Session

Array = npt.NDArray[np.generic]
WIDTH = 64


def named(*names: str) -> list[onnx.ValueInfoProto]:
    return [info(name, ["B", WIDTH]) for name in names]


def tensors(weights: Mapping[str, Array]) -> list[TensorProto]:
    return [numpy_helper.from_array(array, name) for name, array in weights.items()]


def saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array],
    inputs: Sequence[onnx.ValueInfoProto],
    opset: int = 17,
) -> Path:
    """Save a step x, h -> y, h_out over [B, 64], with further inputs."""
    outputs = named("y", "h_out")
    graph = helper.make_graph(nodes, "g", [*named("x", "h"), *inputs], outputs, tensors(weights))
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def branch(name: str, seed: int, nested: onnx.NodeProto | None = None) -> onnx.GraphProto:
    """Multiply h by a weight of its own; the names inside are those of every other branch."""
    inner = "deep" if nested is not None else "h"
    nodes = [nested] if nested is not None else []
    nodes += [
        helper.make_node("MatMul", [inner, "w"], ["p"], "product"),
        helper.make_node("Add", ["p", "x"], ["s"], "sum"),
        helper.make_node("Tanh", ["s"], ["t"], "tanh"),
    ]
    weights = tensors({"w": drawn(WIDTH, WIDTH, seed=seed)})
    return helper.make_graph(nodes, name, [], named("t"), weights)


def choice(
    condition: str, output: str, then: onnx.GraphProto, other: onnx.GraphProto
) -> onnx.NodeProto:
    return helper.make_node("If", [condition], [output], then_branch=then, else_branch=other)


def handed(*results: str) -> onnx.GraphProto:
    """A branch that gives back a value from outside, or a constant of its own, as it is."""
    weights = tensors({"own": drawn(1, WIDTH, seed=9)} if "own" in results else {})
    nodes = [
        helper.make_node("Identity", [name], [f"{name}_{place}"])
        for place, name in enumerate(results)
    ]
    outputs = named(*(f"{name}_{place}" for place, name in enumerate(results)))
    return helper.make_graph(nodes, "handed", [], outputs, weights)


def deciding(path: Path) -> Path:
    """Ifs side by side and one inside another, decided by `sr`; their names clash."""
    inner = choice("c", "deep", branch("a", 3), branch("b", 4))
    nodes = [
        helper.make_node("Equal", ["sr", "rate"], ["c"]),
        helper.make_node("Not", ["c"], ["n"]),
        choice("c", "one", branch("a", 1, inner), branch("b", 2)),
        choice("n", "two", branch("a", 5), branch("b", 6)),
        choice("c", "three", handed("x"), branch("b", 7)),
        choice("c", "four", handed("own"), branch("b", 8)),
        helper.make_node("Add", ["one", "two"], ["a"]),
        helper.make_node("Add", ["a", "three"], ["h_out"]),
        helper.make_node("Add", ["h_out", "four"], ["y"]),
    ]
    sr = helper.make_tensor_value_info("sr", TensorProto.INT64, [])
    return saved(path, nodes, {"rate": np.array(16000)}, [sr])


def answers(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Floats]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(model.SerializeToString(), options)
    return [np.asarray(value, np.float32) for value in session.run(None, dict(feeds))]


@pytest.mark.parametrize("rate", [16000, 8000])
def test_what_a_constant_decides_is_folded_and_no_bit_changes(rate: int, tmp_path: Path) -> None:
    path = deciding(tmp_path / "step.onnx")
    given: dict[str, Array] = {"sr": np.array(rate)}
    folded = load(path, 1, given)
    drop_unused(folded.graph)
    assert {node.op_type for node in nodes_of(folded.graph)} <= {
        "MatMul", "Add", "Tanh", "Identity",
    }  # fmt: skip
    kept = {16000: 3, 8000: 4}[rate]  # of eight weights
    assert sum(len(t.dims) == 2 and t.dims[0] == WIDTH for t in folded.graph.initializer) == kept
    onnx.checker.check_model(folded)
    feeds = {"x": drawn(3, WIDTH, seed=20), "h": drawn(3, WIDTH, seed=21), **given}
    for was, now in zip(answers(onnx.load(str(path)), feeds), answers(folded, feeds), strict=True):
        assert np.array_equal(was, now)


def test_what_no_constant_decides_stays(tmp_path: Path) -> None:
    path = deciding(tmp_path / "step.onnx")
    model = load(path, 1)
    assert sum(node.op_type == "If" for node in nodes_of(model.graph)) == 5
    names = [name for node in nodes_of(model.graph) for name in node.output]
    assert len(names) == len(set(names))
    for rate in (16000, 8000):
        feeds = {"x": drawn(1, WIDTH, seed=20), "h": drawn(1, WIDTH, seed=21), "sr": np.array(rate)}
        was, now = answers(onnx.load(str(path)), feeds), answers(model, feeds)
        assert all(np.array_equal(a, b) for a, b in zip(was, now, strict=True))


def test_names_that_hide_others_are_told_apart() -> None:
    inner = helper.make_graph(
        [helper.make_node("Neg", ["v"], ["v2"]), helper.make_node("Exp", ["v2"], ["r"])],
        "inner", [], named("r"),
    )  # fmt: skip
    nodes = [
        helper.make_node("Abs", ["x"], ["v"]),
        helper.make_node("Not", ["c"], ["v2"]),
        helper.make_node("If", ["v2"], ["r"], then_branch=inner, else_branch=inner),
    ]
    graph = helper.make_graph(nodes, "g", named("x"), named("r"))
    model = helper.make_model(graph)
    distinct(model)
    names = [name for node in nodes_of(model.graph) for name in node.output]
    assert len(names) == len(set(names))
    assert [node.op_type for node in model.graph.node] == ["Abs", "Not", "If"]
    for attribute in model.graph.node[2].attribute:
        neg, exp = attribute.g.node
        assert list(neg.input) == ["v"]
        assert exp.input[0] == neg.output[0] != "v2"
        assert attribute.g.output[0].name == exp.output[0]


def adopted(path: Path, *words: str) -> Path:
    out = path.with_suffix("")
    assert call(["adopt", str(path), "--out", str(out), "--shape", "x=B,64", *words]) == 0
    return out


def apart(full: Path, other: Path) -> float:
    items = np.random.default_rng(3).normal(size=(64, WIDTH)).astype(np.float32)
    right, found = (np.float64(Session.open(p).stream().advance(items)["y"]) for p in (full, other))
    return float(np.linalg.norm(right - found) / np.linalg.norm(right))


RECIPES = ("int8-dynamic", "int8-rows", "int8-weights", "int4-weights", "fp16")


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_branch_that_is_taken_is_quantized_and_the_other_is_gone(
    recipe: str, tmp_path: Path
) -> None:
    full = adopted(deciding(tmp_path / "step.onnx"), "--constant", "sr=16000")
    done = quantize_bundle(full, tmp_path / "q", recipe)
    assert len(done.records) == 3
    assert all(record.form != "float32" for record in done.records)
    before, after = done.weights_bytes
    assert after < (0.25 if recipe == "fp16" else 0.15) * before
    error = apart(full, tmp_path / "q")
    assert 0 < error < (0.1 if recipe == "int4-weights" else 0.02)


def undecided(path: Path) -> Path:
    """An If that the input decides: both branches stay."""
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["c"]),
        choice("c", "h_out", branch("a", 1), branch("b", 2)),
        helper.make_node("MatMul", ["h_out", "w"], ["y"], "product"),
    ]
    weights = {"zero": np.array(0, np.float32), "w": drawn(WIDTH, WIDTH, seed=5)}
    return saved(path, nodes, weights, [])


def looping(path: Path) -> Path:
    """A Loop that multiplies the state three times, by a weight from outside and one of its own."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["v", "w"], ["p"]),
            helper.make_node("Tanh", ["p"], ["t"]),
            helper.make_node("MatMul", ["t", "own"], ["q"]),
            helper.make_node("Add", ["q", "x"], ["next"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), *named("v")],
        [value("on", TensorProto.BOOL, []), *named("next")],
        tensors({"own": drawn(WIDTH, WIDTH, seed=2)}),
    )
    nodes = [
        helper.make_node("Loop", ["three", "", "h"], ["last"], body=body),
        helper.make_node("Tanh", ["last"], ["h_out"]),
        helper.make_node("Neg", ["h_out"], ["y"]),
    ]
    return saved(path, nodes, {"three": np.array(3), "w": drawn(WIDTH, WIDTH, seed=1)}, [])


def scanning(path: Path) -> Path:
    """A Scan over the batch whose body multiplies by a weight from outside."""
    row = [helper.make_tensor_value_info("r", TensorProto.FLOAT, [WIDTH])]
    body = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["r", "axis"], ["one"]),
            helper.make_node("MatMul", ["one", "w"], ["p"]),
            helper.make_node("Squeeze", ["p", "axis"], ["z"]),
        ],
        "body",
        row,
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [WIDTH])],
    )
    nodes = [
        helper.make_node("Scan", ["h"], ["rows"], num_scan_inputs=1, body=body),
        helper.make_node("Add", ["rows", "x"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["h_out"]),
        helper.make_node("Neg", ["h_out"], ["y"]),
    ]
    weights = {"w": drawn(WIDTH, WIDTH, seed=1), "axis": np.array([0])}
    return saved(path, nodes, weights, [])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("made", "count"), [(undecided, 3), (looping, 2), (scanning, 1)])
def test_weights_inside_are_quantized_where_they_stand(
    made: Callable[[Path], Path], count: int, recipe: str, tmp_path: Path
) -> None:
    full = adopted(made(tmp_path / "step.onnx"))
    done = quantize_bundle(full, tmp_path / "q", recipe)
    assert len(done.records) == count
    assert all(record.form != "float32" for record in done.records), done.records
    before, after = done.weights_bytes
    assert after < (0.55 if recipe == "fp16" else 0.35) * before
    assert 0 < apart(full, tmp_path / "q") < (0.2 if recipe == "int4-weights" else 0.02)
