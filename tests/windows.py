"""Build tiny steps whose answers are known: windows of items, fixed axes and inputs per stream.

Item i is answered by `mean(x[i - lookback : i + lookahead + 1]) * gain + offset + c + sum`, where
`sum` runs over the chunk up to item i and `c` is carried. `gain` is given per stream and row,
`offset` is a whole number given per stream.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import helper
from tests.steps import INT64, Array, Floats, Tail, graph_of, info, manifest_of, model_bytes

from dst.runtime import write_bundle
from dst.runtime.bundle.manifest import (
    Chunk,
    Contract,
    Features,
    Manifest,
    Normalisation,
    Output,
    Shape,
    State,
    StreamInput,
    item_shape,
)


def window_contract(
    shape: Shape = ("B", "T", 2),
    allowed_t: Sequence[int] = (1, 2, 4),
    *,
    lookback: int = 0,
    lookahead: int = 0,
    tail: Tail = "exact",
    normalised: bool = False,
    given: bool = False,
    offset: bool = False,
) -> Contract:
    """Describe such a step.

    Args:
        shape: of the chunk, with B before T.
        allowed_t: the greatest is the nominal T.
        lookback: items before the chunk, 0.25 before the first.
        lookahead: items behind the chunk.
        tail: where it is `pad`, with 0.5.
        normalised: every value of an item has its own mean and deviation.
        given: there is a `gain` per stream, `[B, *fixed axes]`.
        offset: there is a whole number `offset` per stream, `[B]`.
    """
    fixed = tuple(size for size in shape if isinstance(size, int))
    count = int(np.prod(fixed))
    scale = Normalisation(
        mean=tuple(0.5 * i for i in range(count)), std=tuple(1.0 + i for i in range(count))
    )
    chunk = Chunk(
        input="x",
        dtype="float32",
        shape=shape,
        nominal_t=max(allowed_t),
        allowed_t=tuple(allowed_t),
        content=Features(normalisation=scale if normalised else None),
        lookback=lookback,
        lookback_fill=0.25 if lookback else None,
        lookahead=lookahead,
        tail=tail,
        pad_value=0.5 if tail == "pad" else None,
    )
    without_time = tuple(size for size in shape if size != "T")
    inputs = []
    if given:
        inputs.append(StreamInput(input="gain", dtype="float32", shape=without_time))
    if offset:
        inputs.append(StreamInput(input="offset", dtype="int64", shape=("B",)))
    return Contract(
        chunk=chunk,
        stream_inputs=tuple(inputs),
        outputs=(
            Output(name="y", dtype="float32", shape=shape),
            Output(name="peak", dtype="float32", shape=without_time),
        ),
        state=(State(input="c", output="c_next", dtype="float32", shape=without_time),),
    )  # fmt: skip


def window_model(contract: Contract, opset: int = 18) -> bytes:
    """Make the graph of such a contract, for any B and T."""
    chunk = contract.chunk
    axis, reach = chunk.time_axis, chunk.lookback + chunk.lookahead
    weights: dict[str, Array] = {"axis": np.array([axis], np.int64)}
    nodes: list[onnx.NodeProto] = []
    for i in range(reach + 1):
        weights[f"from{i}"] = np.array([i], np.int64)
        weights[f"to{i}"] = np.array([i - reach if i < reach else 2**31], np.int64)
        nodes.append(helper.make_node("Slice", ["x", f"from{i}", f"to{i}", "axis"], [f"x{i}"]))
    now = f"x{chunk.lookback}"
    nodes.append(helper.make_node("Mean", [f"x{i}" for i in range(reach + 1)], ["mean"]))
    scaled = "mean"
    names = [given.input for given in contract.stream_inputs]
    if "gain" in names:
        nodes.append(helper.make_node("Unsqueeze", ["gain", "axis"], ["gain_t"]))
        nodes.append(helper.make_node("Mul", [scaled, "gain_t"], ["gained"]))
        scaled = "gained"
    if "offset" in names:
        others = [i for i in range(len(chunk.shape)) if i != chunk.batch_axis]
        weights["others"] = np.array(others, np.int64)
        nodes.append(helper.make_node("Cast", ["offset"], ["offset_f"], to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Unsqueeze", ["offset_f", "others"], ["offset_t"]))
        nodes.append(helper.make_node("Add", [scaled, "offset_t"], ["moved"]))
        scaled = "moved"
    nodes += [
        helper.make_node("CumSum", [now, "axis"], ["sums"]),
        helper.make_node("Unsqueeze", ["c", "axis"], ["c_t"]),
        helper.make_node("Add", ["sums", "c_t"], ["total"]),
        helper.make_node("Add", [scaled, "total"], ["y"]),
        helper.make_node("ReduceSum", [now, "axis"], ["more"], keepdims=0),
        helper.make_node("Add", ["c", "more"], ["c_next"]),
        helper.make_node("ReduceMax", [now, "axis"], ["peak"], keepdims=0),
    ]
    long = ["L" if size == "T" else size for size in chunk.shape]
    without = [size for size in chunk.shape if size != "T"]
    inputs = [info("x", long), info("c", without)]
    if "gain" in names:
        inputs.append(info("gain", without))
    if "offset" in names:
        inputs.append(info("offset", ["B"], INT64))
    outputs = [info("y", list(chunk.shape)), info("peak", without), info("c_next", without)]
    return model_bytes(nodes, inputs, outputs, weights, opset)


def window_manifest(contract: Contract) -> Manifest:
    return manifest_of(contract, [graph_of(contract.chunk.allowed_t)], weights_bytes=64)


def write_window(path: Path, contract: Contract, model_id: str = "a" * 64) -> Path:
    """Write the bundle of such a contract and return its directory."""
    manifest = replace(window_manifest(contract), model_id=model_id)
    write_bundle(path, manifest, {"step.onnx": window_model(contract)}, overwrite=True)
    return path


def drawn_items(contract: Contract, count: int, seed: int = 0) -> Floats:
    """Draw items `[count, *fixed axes]`."""
    shape = (count, *item_shape(contract.chunk))
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def right_answers(
    contract: Contract, items: Array, gain: Array | float = 1.0, offset: int = 0
) -> Array:
    """Answer every item that has its look-ahead, `[n, *fixed axes]` in float64, without onnx."""
    chunk = contract.chunk
    fill = 0.25 if chunk.lookback else 0.0
    before = np.full((chunk.lookback, *items.shape[1:]), fill)
    line = np.concatenate([before, items.astype(np.float64)])
    if isinstance(chunk.content, Features) and chunk.content.normalisation is not None:
        norm = chunk.content.normalisation
        line = (line - np.reshape(norm.mean, items.shape[1:])) / np.reshape(
            norm.std, items.shape[1:]
        )
    reach = chunk.lookback + chunk.lookahead
    count = len(items) - chunk.lookahead
    mean = sum(line[i : i + count] for i in range(reach + 1)) / (reach + 1)
    now = line[chunk.lookback : chunk.lookback + count]
    return np.asarray(mean * np.asarray(gain, np.float64) + offset + np.cumsum(now, axis=0))


def close(found: Array, right: Array, bound: float = 1e-5) -> None:
    """Every value is within this bound, relative or absolute."""
    one, other = np.asarray(found, np.float64), np.asarray(right, np.float64)
    assert one.shape == other.shape
    np.testing.assert_allclose(one, other, rtol=bound, atol=bound)
