"""Small bundles whose graphs run any number of streams at once, and how slots are compared."""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper
from tests.runtime.conftest import gain_contract, gain_model
from tests.steps import INT64, Array, info, model_bytes, output_of, state_of

from dst.runtime import write_bundle
from dst.runtime.bundle.manifest import Manifest
from dst.runtime.bundle.reader import open_bundle
from dst.runtime.pool import StreamPool
from dst.runtime.state.record import pack

Outputs = dict[str, Array]


def same(first: Outputs, second: Outputs) -> None:
    """Bit for bit, dtype and shape included."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value.dtype, value.shape) == (second[name].dtype, second[name].shape)
        assert value.tobytes() == second[name].tobytes()


def all_of(pool: StreamPool) -> list[bytes]:
    """Everything that a pool's slots are."""
    return [pack(pool.swap_out(slot)) for slot in range(len(pool))]


def positive(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 0.1, count).astype(np.float32)


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
    weights: dict[str, Array] = {k: np.array([v], np.int64) for k, v in numbers.items()}
    return model_bytes(
        nodes,
        [info("x", ["L", "B"]), info("c", [width, "B"]), info("n", ["B"], INT64)],
        [info("y", ["T", "B"]), info("c_next", [width, "B"]), info("n_next", ["B"], INT64)],
        weights | {"half": np.array([0.5], np.float32)},
    )


def write_columns(root: Path, base: Manifest, width: int) -> None:
    """A contract whose chunk, outputs and first state have the batch on axis 1."""
    contract = base.contract
    chunk = msgspec.structs.replace(
        contract.chunk,
        shape=("T", "B"),
        lookback=2,
        lookback_fill=0.5,
    )
    contract = msgspec.structs.replace(
        contract,
        chunk=chunk,
        outputs=(output_of("y", ("T", "B")),),
        state=(state_of("c", (width, "B")), state_of("n", ("B",), counter=True)),
    )
    manifest = msgspec.structs.replace(base, contract=contract)
    write_bundle(root, manifest, {"step.onnx": columns_model(width)})


@pytest.fixture(scope="session")
def batched(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample bundles for any B: gain, pad, refuse, columns and wide; rows mix in mixed.

    In placed, T = 7, an arc tangent may round by its place in the array.
    """
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
    placed = onnx.load_from_string(gain_model(7))
    placed.graph.node[0].op_type = "Atan"
    contract = gain_contract("refuse", (7,))
    graphs = tuple(msgspec.structs.replace(g, allowed_t=(7,)) for g in base.graphs)
    seven = msgspec.structs.replace(base, contract=contract, graphs=graphs)
    write_bundle(root / "placed", seven, {"step.onnx": with_batch(placed)})
    return root
