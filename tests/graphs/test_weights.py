"""Laws of the file of weights: equal tensors once, in place, and never inside a protobuf."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tests.steps import Array
from torch import nn

from dst.export import export_bundle
from dst.export.adopt.ports import read_model
from dst.export.lowering import trace
from dst.graphs.strip import cleaned
from dst.graphs.walk import all_tensors
from dst.graphs.weights import (
    ALIGNMENT,
    FILE,
    expanded_bytes,
    file_id,
    inline_bytes,
    pack,
    size_of,
    sizes_by_dtype,
    values_of,
)

LARGE = np.arange(5000, dtype=np.float32)


def model(*tensors: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(nodes, "g", [], [], tensors))


def tensor(name: str, values: Array) -> TensorProto:
    return numpy_helper.from_array(values, name)


def test_equal_tensors_stand_once_and_every_value_comes_back(tmp_path: Path) -> None:
    small, other = np.arange(5, dtype=np.int64), LARGE[::-1].copy()
    made = {
        "a.onnx": model(tensor("w", LARGE), tensor("s", small)),
        "b.onnx": model(tensor("again", LARGE), tensor("other", other)),
    }
    files = pack(made, tmp_path, tmp_path)
    assert list(files) == [FILE, "a.onnx", "b.onnx"]
    assert files[FILE] == tmp_path / FILE
    gap = -LARGE.nbytes % ALIGNMENT
    assert (tmp_path / FILE).stat().st_size == 2 * LARGE.nbytes + gap
    for name in ("a.onnx", "b.onnx"):
        content = files[name]
        assert isinstance(content, bytes)
        assert len(content) < 1000
        (tmp_path / name).write_bytes(content)
    values: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        t.name: numpy_helper.to_array(t)
        for name in ("a.onnx", "b.onnx")
        for t in onnx.load(tmp_path / name).graph.initializer
    }
    expected: dict[str, Array] = {"w": LARGE, "s": small, "again": LARGE, "other": other}
    assert values.keys() == expected.keys()
    assert all(np.array_equal(values[name], expected[name]) for name in expected)


def test_packed_graphs_are_packed_again_from_another_folder(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    graph = model(tensor("w", LARGE))
    once = pack({"a.onnx": graph}, tmp_path, first)
    assert numpy_helper.to_array(graph.graph.initializer[0], str(first)).tolist() == LARGE.tolist()
    twice = pack({"a.onnx": graph}, first, second)
    assert twice["a.onnx"] == once["a.onnx"]
    assert (second / FILE).read_bytes() == (first / FILE).read_bytes()


def test_weights_inside_a_node_stay_in_the_graph(tmp_path: Path) -> None:
    body = helper.make_graph([], "then", [], [helper.make_empty_tensor_value_info("w")])
    body.initializer.append(tensor("w", LARGE))
    choice = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    graph = model(nodes=(choice,))
    assert list(pack({"a.onnx": graph}, tmp_path, tmp_path)) == ["a.onnx"]
    assert inline_bytes(graph) == inline_bytes(graph, bodies_only=True) == 2 * LARGE.nbytes
    assert inline_bytes(graph, LARGE.nbytes + 1) == 0


def test_sizes_count_four_bits_as_half_a_byte() -> None:
    half = TensorProto(name="h", data_type=TensorProto.INT4, dims=[7])
    assert size_of(half) == 4
    assert sizes_by_dtype([half, tensor("w", LARGE), tensor("v", LARGE[:2])]) == {
        "int4": 4,
        "float32": LARGE.nbytes + 8,
    }
    cast = helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT)
    whole = model(tensor("i", np.zeros(10, np.int8)), nodes=(cast,))
    assert expanded_bytes(whole) == 30


def test_an_id_does_not_depend_on_where_the_weights_lie(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    whole = model(tensor("w", np.resize(LARGE, 1 << 18)), tensor("s", LARGE[:3]))
    whole.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1 << 18]))
    here = file_id(all_tensors(whole.graph), b"", tmp_path)
    onnx.save_model(whole, path, save_as_external_data=True, location="w", size_threshold=0)
    read = read_model(path)
    assert file_id(all_tensors(read.graph), b"", tmp_path) == here
    assert read.ByteSize() < 1000  # the large one was left where it lies
    large, small = read.graph.initializer
    assert large.data_location == TensorProto.EXTERNAL
    assert small.raw_data
    assert len(values_of(large, tmp_path)) == 1 << 20


def test_a_large_constant_is_read_whatever_its_place(tmp_path: Path) -> None:
    """Only initializers are moved to the file of weights, so nothing else may stay outside."""
    node = helper.make_node("Constant", [], ["w"], value=tensor("w", np.resize(LARGE, 1 << 18)))
    whole = model(nodes=(node,))
    whole.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1 << 18]))
    path = tmp_path / "m.onnx"
    onnx.save_model(whole, path, save_as_external_data=True, location="w", convert_attribute=True)
    assert path.stat().st_size < 1000
    (read,) = all_tensors(read_model(path).graph)
    assert read.data_location == TensorProto.DEFAULT
    assert np.array_equal(numpy_helper.to_array(read), np.resize(LARGE, 1 << 18))


class Table(nn.Module):
    """A look-up whose table is by far the most of it, a recurrence and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3000, 64)
        self.cell = nn.GRU(64, 64, batch_first=True)
        self.head = nn.Linear(64, 100, bias=False)

    def forward(self, ids: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, state = self.cell(self.embedding(ids), state)
        return self.head(y), state


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A bundle of a table, and how large each protobuf was that its tracing made."""
    sizes: list[int] = []

    def watched(graph: onnx.ModelProto, *args: object) -> onnx.ModelProto:
        sizes.append(graph.ByteSize())
        return cleaned(graph, *args)  # type: ignore[arg-type]

    path = tmp_path_factory.mktemp("table") / "bundle"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "cleaned", watched)
        export_bundle(
            Table(),
            path,
            chunk=torch.randint(3000, (1, 4)),
            state=torch.zeros(1, 1, 64),
            t=(1, 4),
            certify_steps=3,
        )
    return path, sizes


def test_large_weights_never_pass_through_a_protobuf(exported: tuple[Path, list[int]]) -> None:
    path, sizes = exported
    weights = 3000 * 64 * 4
    assert sizes
    assert max(sizes) < weights // 4  # of which most are the small weights
    stored = (path / FILE).stat().st_size
    assert weights < stored < weights + (1 << 18)


def test_weights_are_called_as_the_module_calls_them(exported: tuple[Path, list[int]]) -> None:
    path, _ = exported
    for file in sorted(path.glob("*.onnx")):
        graph = onnx.load(file, load_external_data=False).graph
        shapes = {t.name: list(t.dims) for t in graph.initializer if np.prod(t.dims) > 64}
        assert shapes == {
            "embedding.weight": [3000, 64],
            "head.weight": [64, 100],  # turned by torch's exporter
            "cell.weight_ih_l0": [1, 192, 64],
            "cell.weight_hh_l0": [1, 192, 64],
            "cell.bias_l0": [1, 384],
        }


def test_four_bits_that_are_rounded_again_take_a_byte_each() -> None:
    four = TensorProto(name="w", data_type=TensorProto.INT4, dims=[4, 6], raw_data=bytes(12))
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "s"], ["wide"], axis=0, block_size=2),
            helper.make_node("Flatten", ["wide"], ["flat"], axis=1),
            helper.make_node("QuantizeLinear", ["flat", "one", "none"], ["eight"]),
        ],
        "g",
        [],
        [helper.make_tensor_value_info("eight", TensorProto.INT8, [4, 6])],
        [four],
    )
    assert expanded_bytes(helper.make_model(graph)) == 24 - 12
    del graph.node[1:]  # what a product in blocks reads stays as it is
    assert expanded_bytes(helper.make_model(graph)) == 0
