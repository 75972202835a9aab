"""A weight that several operators read, as it is or turned, gives each the numbers it needs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.steps import Array, drawn, info, model_bytes

from dst.export.adopt import Answers, adopt_bundle
from dst.quantize import Calibration, NothingQuantizedError, quantize_bundle
from dst.runtime import Session

WIDTH, STEPS = 64, 50
MOST = 0.04
"""Relative error: 8 bits keep it; wrong numbers or a wrong range do not."""


def adopted(
    path: Path, nodes: Sequence[onnx.NodeProto], weights: dict[str, Array], wide: bool = False
) -> Path:
    """Adopt a step of x, h [B, 64]; ``wide`` for x [B, 64, T] and h [B, 64, 2]."""
    item: list[int | str] = ["B", WIDTH, "T"] if wide else ["B", WIDTH]
    state: list[int | str] = ["B", WIDTH, 2] if wide else ["B", WIDTH]
    inputs = [info("x", item), info("h", state)]
    outputs = [info("y", item), info("h_out", state)]
    file = path / "step.onnx"
    file.write_bytes(model_bytes(nodes, inputs, outputs, weights))
    answers = Answers(shapes={"x": tuple(item)}, t=(8,) if wide else (), tail="pad")
    adopt_bundle(file, path / "full", answers, name="full")
    return path / "full"


def items(steps: int) -> Array:
    return np.random.default_rng(3).normal(size=(steps, WIDTH)).astype(np.float32)


def error(full: Path, other: Path) -> float:
    given = items(STEPS * 8)
    found, right = (
        Session.open(p).stream().advance(given)["y"].astype(np.float64) for p in (other, full)
    )
    return float(np.sqrt(np.mean((found - right) ** 2) / np.mean(right**2)))


RECURRENCE = [
    helper.make_node("MatMul", ["x", "a"], ["p"], "of-x"),
    helper.make_node("MatMul", ["h", "a"], ["q"], "of-h"),
    helper.make_node("Add", ["p", "q"], ["s"]),
    helper.make_node("Tanh", ["s"], ["h_out"]),
]


@pytest.mark.parametrize(
    "recipe", ["int8-rows", "int8-dynamic", "int8-static", "int8-weights", "fp16"]
)
@pytest.mark.parametrize("turned", ["Transpose", "Gemm"])
def test_a_square_weight_is_read_as_it_is_and_turned(
    turned: str, recipe: str, tmp_path: Path
) -> None:
    last = [helper.make_node("Gemm", ["h_out", "a"], ["y"], "head", transB=1)]
    if turned == "Transpose":
        last = [
            helper.make_node("Transpose", ["a"], ["at"], perm=[1, 0]),
            helper.make_node("MatMul", ["h_out", "at"], ["y"], "head"),
        ]
    full = adopted(tmp_path, [*RECURRENCE, *last], {"a": drawn(WIDTH, WIDTH, seed=1, scale=0.08)})
    calibration = Calibration.of_items(items(400))
    made = quantize_bundle(full, tmp_path / "made", recipe, calibration=calibration)
    assert {record.form for record in made.records} != {"float32"}
    assert error(full, tmp_path / "made") < MOST
    assert made.weights_bytes[1] <= made.weights_bytes[0]


def test_a_weight_that_another_operator_reads_is_not_held_twice(tmp_path: Path) -> None:
    last = [
        helper.make_node("ReduceSum", ["a"], ["total"], keepdims=0),
        helper.make_node("Mul", ["h_out", "total"], ["y"]),
    ]
    full = adopted(tmp_path, [*RECURRENCE, *last], {"a": drawn(WIDTH, WIDTH, seed=1, scale=0.08)})
    with pytest.raises(NothingQuantizedError, match="ReduceSum reads the same weight"):
        quantize_bundle(full, tmp_path / "made", "int8-rows")
    assert not (tmp_path / "made").exists()


def test_calibration_covers_every_reader_of_a_weight(tmp_path: Path) -> None:
    """The first of two convolutions reads values that are ten times as large."""
    nodes = [
        helper.make_node("Concat", ["h", "x"], ["window"], axis=2),
        helper.make_node("Mul", ["window", "ten"], ["large"]),
        helper.make_node("Conv", ["large", "w"], ["c"], "first"),
        helper.make_node("Mul", ["x", "tenth"], ["small"]),
        helper.make_node("Conv", ["small", "w"], ["d"], "second", pads=[2, 0]),
        helper.make_node("Add", ["c", "d"], ["y"]),
        helper.make_node("Slice", ["window", "from", "to", "axis"], ["h_out"]),
    ]
    weights: dict[str, Array] = {
        "w": drawn(WIDTH, WIDTH, 3, seed=1, scale=0.08),
        "ten": np.array([10], np.float32),
        "tenth": np.array([0.1], np.float32),
        "from": np.array([-2]),
        "to": np.array([1 << 30]),
        "axis": np.array([2]),
    }
    full = adopted(tmp_path, nodes, weights, wide=True)
    calibration = Calibration.of_items(items(400))
    quantize_bundle(full, tmp_path / "made", "int8-static", calibration=calibration)
    assert error(full, tmp_path / "made") < MOST


def test_weights_in_the_bodies_of_two_graphs_count_twice_on_disk(tmp_path: Path) -> None:
    """Single steps of ``int8-dynamic`` have a graph of their own, with its own bodies."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["item", "a"], ["p"], "of-item"),
            helper.make_node("Add", ["p", "before"], ["s"]),
            helper.make_node("Tanh", ["s"], ["after"]),
            helper.make_node("Identity", ["after"], ["answer"]),
        ],
        "body",
        [info("before", ["B", WIDTH]), info("item", ["B", WIDTH])],
        [info("after", ["B", WIDTH]), info("answer", ["B", WIDTH])],
    )
    scan = helper.make_node("Scan", ["h", "x"], ["h_out", "y"], num_scan_inputs=1, body=body)
    shape: list[int | str] = ["T", "B", WIDTH]
    inputs = [info("x", shape), info("h", ["B", WIDTH])]
    outputs = [info("y", shape), info("h_out", ["B", WIDTH])]
    file = tmp_path / "step.onnx"
    weights: dict[str, Array] = {"a": drawn(WIDTH, WIDTH, seed=1, scale=0.08)}
    file.write_bytes(model_bytes([scan], inputs, outputs, weights))
    answers = Answers(t=(1, 8), shapes={"x": ("T", "B", WIDTH)})
    adopt_bundle(file, tmp_path / "full", answers, name="full")
    made = quantize_bundle(tmp_path / "full", tmp_path / "made", "int8-dynamic")
    graphs = made.bundle.manifest.graphs
    assert len(graphs) == 2
    sizes = [(tmp_path / "made" / graph.file).stat().st_size for graph in graphs]
    assert all(size > WIDTH * WIDTH for size in sizes)
    assert made.weights_bytes[1] >= 2 * WIDTH * WIDTH
