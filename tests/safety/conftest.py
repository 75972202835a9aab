"""A small bundle with external weights, a stored state and golden runs, built with onnx alone."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper
from tests.steps import chunk_of, graph_of, info, manifest_of, output_of, state_of

from dst.runtime import Session, golden_tensors, write_bundle
from dst.runtime.bundle.manifest import Constant, Contract, Features, Golden, Manifest, Stored

WIDTH = 4


def external(name: str, location: str, offset: int = 0, length: int = 4 * WIDTH) -> TensorProto:
    """Make a tensor `[WIDTH]` whose bytes lie in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[WIDTH])
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(text))
    return tensor


def sum_model(
    weights: TensorProto, place: Literal["initializer", "constant", "branch"] = "initializer"
) -> bytes:
    """A carried sum of weighted items: y = (s + cumsum(x)) * w * gain, s' = s + sum(x)."""
    nodes = [
        helper.make_node("CumSum", ["x", "axis"], ["sums"]),
        helper.make_node("Add", ["sums", "s"], ["total"]),
        helper.make_node("Mul", ["total", "w"], ["weighted"]),
        helper.make_node("Mul", ["weighted", "gain"], ["y"]),
        helper.make_node("ReduceSum", ["x", "axes"], ["added"], keepdims=1),
        helper.make_node("Add", ["s", "added"], ["s_next"]),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [], [1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    tensors = [axis, axes]
    if place == "initializer":
        tensors.append(weights)
    elif place == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weights))
    else:
        inner = onnx.TensorProto()
        inner.CopyFrom(weights)
        inner.name = "inner"
        branches = [
            helper.make_graph(
                [helper.make_node("Identity", ["inner"], [out])],
                out,
                [],
                [info(out, [WIDTH])],
                [inner],
            )
            for out in ("then_w", "else_w")
        ]
        tensors.append(yes)
        nodes.insert(
            0,
            helper.make_node(
                "If", ["yes"], ["w"], then_branch=branches[0], else_branch=branches[1]
            ),
        )
    graph = helper.make_graph(
        nodes,
        "step",
        [info("x", ["B", "T", 1]), info("gain", [1]), info("s", ["B", 1, 1])],
        [info("y", ["B", "T", WIDTH]), info("s_next", ["B", 1, 1])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


def sum_manifest() -> Manifest:
    content = Features(names=("level",), sample_rate_hz=10.0, normalisation=None)
    contract = Contract(
        chunk=chunk_of(content, (1, 4), 1),
        constants=(Constant(input="gain", dtype="float32", shape=(1,), values=(0.5,)),),
        outputs=(output_of("y", ("B", "T", WIDTH)),),
        state=(state_of("s", ("B", 1, 1), init=Stored(tensor="s0")),),
    )
    return manifest_of(
        contract,
        [graph_of((1, 4))],
        name="sum",
        description="a carried sum, for tests",
        golden=[Golden(file="golden.safetensors", t=4, steps=2)],
        weights_bytes=4 * WIDTH,
    )


def sum_files() -> dict[str, bytes | Path]:
    weights = np.arange(1, WIDTH + 1, dtype=np.float32)
    first = np.full((1, 1, 1), 2.0, np.float32)
    chunks = [np.full((1, 4, 1), k + 0.5, np.float32) for k in range(2)]
    outputs, state = [], first
    for chunk in chunks:
        outputs.append((np.cumsum(chunk, 1) + state) * weights * np.float32(0.5))
        state = state + chunk.sum(1, keepdims=True)
    golden = golden_tensors(4, chunks, {"y": outputs}, {"s": state})
    return {
        "step.onnx": sum_model(external("w", "weights.bin")),
        "weights.bin": weights.tobytes(),
        "init.safetensors": safetensors.numpy.save({"s0": first}),
        "golden.safetensors": safetensors.numpy.save(golden),
    }


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a bundle whose weights are external data; not to be written to."""
    root = tmp_path_factory.mktemp("bundles") / "sum"
    write_bundle(root, sum_manifest(), sum_files())
    return root


@pytest.fixture(scope="session")
def session(bundle: Path) -> Session:
    return Session.open(bundle)
