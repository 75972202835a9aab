"""Graphs are read for another operator set than their own, and stay the graphs they were."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from tests.steps import drawn, info

from dst.graphs.load import load
from dst.graphs.walk import opset_of


def normalising_step(opset: int) -> onnx.ModelProto:
    """A product behind a mean, whose axes moved from an attribute to an input in opset 18."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], "mean", axes=[-1], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["centred"], "centre"),
        helper.make_node("MatMul", ["centred", "w"], ["y"], "out"),
    ]
    weights = [numpy_helper.from_array(drawn(64, 32, seed=0), "w")]
    x, y = (info(n, ["B", size]) for n, size in (("x", 64), ("y", 32)))
    graph = helper.make_graph(nodes, "step", [x], [y], weights)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("opset", [13, 17])
def test_an_operator_that_takes_a_new_input_does_not_keep_a_graph_from_being_raised(
    opset: int, tmp_path: Path
) -> None:
    model = normalising_step(opset)
    onnx.save(model, str(tmp_path / "step.onnx"))
    raised = load(tmp_path / "step.onnx", 21)
    onnx.checker.check_model(raised)
    assert opset_of(raised) == 21
    assert [node.name for node in raised.graph.node] == ["mean", "centre", "out"]
    x = drawn(3, 64, seed=1)
    before, after = (
        ort.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0] for m in (model, raised)
    )
    assert np.array_equal(before, after)
