"""Small bundles whose graphs run any number of streams at once, and one whose rows mix."""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dst.runtime import write_bundle
from dst.runtime.bundle import open_bundle
from dst.runtime.manifest import Manifest, State, Zeros

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]
POISON, HUGE = -1.0, 80.0  # the first gives a NaN output, eight of the second a state of infinity
random = np.random.default_rng(5)
BYTES = bytes(random.integers(0, 256, 400, np.uint8))
SAMPLES = random.normal(size=(80, 2)).astype(np.float32)


def with_batch(model: onnx.ModelProto) -> bytes:
    """The same graph for any batch size: the first axis of every input and output is free."""
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "B"
    return bytes(model.SerializeToString())


def plain(manifest: Manifest) -> Manifest:
    """A manifest to be written again, with graphs for any batch size."""
    graphs = tuple(msgspec.structs.replace(g, batch=()) for g in manifest.graphs)
    return msgspec.structs.replace(manifest, files={}, graphs=graphs)


def columns_model(width: int) -> bytes:
    """Batch on axis 1: an item two before plus the faded sum of the state, and a counter."""
    nodes = [
        helper.make_node("Slice", ["x", "two", "end", "time"], ["now"]),
        helper.make_node("Slice", ["x", "zero", "minus_two", "time"], ["then"]),
        helper.make_node("ReduceSum", ["c", "time"], ["sum"], keepdims=1),
        helper.make_node("Add", ["now", "then"], ["both"]),
        helper.make_node("Add", ["both", "sum"], ["y"]),
        helper.make_node("ReduceSum", ["now", "time"], ["gain"], keepdims=1),
        helper.make_node("Mul", ["c", "half"], ["faded"]),
        helper.make_node("Add", ["faded", "gain"], ["c_next"]),
        helper.make_node("Add", ["n", "one"], ["n_next"]),
    ]
    numbers = {"zero": 0, "one": 1, "two": 2, "minus_two": -2, "end": 2**31, "time": 0}
    weights = [numpy_helper.from_array(np.array([v], np.int64), k) for k, v in numbers.items()]
    weights.append(numpy_helper.from_array(np.array([0.5], np.float32), "half"))

    def port(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "step",
        [
            port("x", TensorProto.FLOAT, "L", "B"),
            port("c", TensorProto.FLOAT, width, "B"),
            port("n", TensorProto.INT64, "B"),
        ],
        [
            port("y", TensorProto.FLOAT, "T", "B"),
            port("c_next", TensorProto.FLOAT, width, "B"),
            port("n_next", TensorProto.INT64, "B"),
        ],
        weights,
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return bytes(model.SerializeToString())


def write_columns(root: Path, base: Manifest, width: int) -> None:
    """A contract whose chunk, outputs and first state have the batch on axis 1."""
    contract = base.contract
    chunk = msgspec.structs.replace(
        contract.chunk,
        shape=("T", "B"),
        batch_axis=1,
        time_axis=0,
        lookback=2,
        lookback_fill=0.5,
    )
    output = msgspec.structs.replace(contract.outputs[0], shape=("T", "B"), time_axis=0)
    state = [
        State(
            input=name,
            output=f"{name}_next",
            dtype="float32" if name == "c" else "int64",
            shape=shape,
            batch_axis=len(shape) - 1,
            init=Zeros(),
            role="memory" if name == "c" else "counter",
        )
        for name, shape in (("c", (width, "B")), ("n", ("B",)))
    ]
    contract = msgspec.structs.replace(contract, chunk=chunk, outputs=(output,), state=tuple(state))
    manifest = msgspec.structs.replace(base, contract=contract)
    write_bundle(root, manifest, {"step.onnx": columns_model(width)})


@pytest.fixture(scope="session")
def batched(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample bundles for any B: gain, pad, refuse, columns, wide, and mixed, whose rows mix."""
    root = tmp_path_factory.mktemp("pool")
    for name in ("gain", "pad", "refuse"):
        model = with_batch(onnx.load(shelf / name / "step.onnx"))
        bundle = plain(open_bundle(shelf / name).manifest)
        write_bundle(root / name, bundle, {"step.onnx": model})
    base = plain(open_bundle(shelf / "gain").manifest)
    write_columns(root / "columns", base, 3)
    write_columns(root / "wide", base, 1 << 17)
    mixed = onnx.load(shelf / "gain" / "step.onnx")
    first = mixed.graph.node[0]
    first.output[0] = "own"
    mixed.graph.node.insert(1, helper.make_node("ReduceMean", ["own"], ["mean"], keepdims=0))
    mixed.graph.node.insert(2, helper.make_node("Mul", ["own", "mean"], ["root"]))
    first.op_type = "Abs"
    write_bundle(root / "mixed", base, {"step.onnx": with_batch(mixed)})
    return root
