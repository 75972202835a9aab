"""Laws of the table of ONNX Runtime releases: one answer, whoever asks."""

from __future__ import annotations

import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from dst.graphs.versions import domains, min_ort, opsets
from dst.runtime.execution.engine import version

INSTALLED = ".".join(ort.__version__.split(".")[:2])
PLAIN = helper.make_node("Relu", ["x"], ["y"])
BLOCKS = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], axis=0, block_size=32)
MEMORY = helper.make_node("LinearAttention", ["x"], ["y"], domain="com.microsoft")
FOREIGN = helper.make_node("Mystery", ["x"], ["y"], domain="com.example")


def model(node: onnx.NodeProto, opset: int, ir_version: int = 8) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", [], [])
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


@pytest.mark.parametrize(
    ("node", "opset", "ir_version", "expected"),
    [
        (PLAIN, 11, 4, "1.3"),
        (PLAIN, 18, 8, "1.14"),
        (PLAIN, 18, 9, "1.15"),  # of the file format
        (PLAIN, 21, 10, "1.18"),
        (BLOCKS, 21, 10, "1.20"),  # of the operator
        (PLAIN, 23, 11, "1.23"),
        (MEMORY, 23, 11, "1.31"),
        (FOREIGN, 18, 8, INSTALLED),
        (PLAIN, 999, 8, INSTALLED),
        (PLAIN, 18, 999, INSTALLED),
    ],
)
def test_the_newest_need_counts(
    node: onnx.NodeProto, opset: int, ir_version: int, expected: str
) -> None:
    assert min_ort(model(node, opset, ir_version)) == expected


def test_what_the_table_does_not_hold_counts_as_told() -> None:
    assert min_ort(model(FOREIGN, 18), foreign="1.16.3") == "1.16"
    assert min_ort(model(PLAIN, 18), foreign="1.16.3") == "1.14"


def test_operators_inside_nodes_count() -> None:
    body = helper.make_graph([MEMORY], "then", [], [])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    assert min_ort(model(choice, 18)) == "1.31"
    assert domains(model(choice, 18)) == ("ai.onnx", "com.microsoft")
    assert opsets(model(choice, 18)) == {"ai.onnx": 18, "com.microsoft": 1}


def test_releases_compare_as_numbers() -> None:
    assert sorted(["1.18", "1.9", "1.9.1", "2.0.0rc1"], key=version) == [
        "1.9",
        "1.9.1",
        "1.18",
        "2.0.0rc1",
    ]
