"""Nodes, shapes and names go in; tiny ONNX steps and the manifests that describe them come out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import safetensors.numpy
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from dst.runtime import Session, golden_tensors, write_bundle
from dst.runtime.bundle.manifest import (
    Chunk,
    Contract,
    Features,
    Fill,
    Golden,
    Graph,
    Horizon,
    Manifest,
    Output,
    Producer,
    Shape,
    State,
    Stored,
    Tokens,
    Zeros,
)

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]
Tail = Literal["exact", "pad", "refuse"]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
PLAIN = Features(names=(), sample_rate_hz=None, normalisation=None)
"""Items that are real values, of which nothing more is known."""


# Models


def drawn(*shape: int, seed: int, scale: float = 0.125) -> Floats:
    """Draw normal numbers that the seed determines."""
    return np.random.default_rng(seed).normal(size=shape, scale=scale).astype(np.float32)


def info(
    name: str, shape: Sequence[int | str | None] | None, dtype: int = FLOAT
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, Array],
    opset: int = 18,
) -> onnx.ModelProto:
    """Make a model and check it."""
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "step", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def model_bytes(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, Array],
    opset: int = 18,
) -> bytes:
    """Make the bytes of such a model, as a file holds them."""
    return bytes(model_of(nodes, inputs, outputs, weights, opset).SerializeToString())


# Contracts


def chunk_of(
    content: Tokens | Features,
    allowed_t: Sequence[int],
    width: int | None = None,
    *,
    name: str | None = None,
    nominal_t: int | None = None,
    lookback: int = 0,
    lookback_fill: float | None = None,
    tail: Tail = "exact",
    pad_value: float | None = None,
) -> Chunk:
    """Describe chunks `[B, T]`, or `[B, T, width]`.

    They are named ids where they hold tokens, else x; the nominal T is the greatest.
    """
    tokens = isinstance(content, Tokens)
    return Chunk(
        input=name or ("ids" if tokens else "x"),
        dtype="int64" if tokens else "float32",
        shape=("B", "T") if width is None else ("B", "T", width),
        nominal_t=nominal_t or max(allowed_t),
        allowed_t=tuple(allowed_t),
        content=content,
        lookback=lookback,
        lookback_fill=lookback_fill,
        tail=tail,
        pad_value=pad_value,
    )


def output_of(
    name: str, shape: Shape, meaning: Literal["logits", "gaussian", "custom"] = "custom"
) -> Output:
    """Describe an output: one per item where its shape has a T, else one per chunk."""
    return Output(
        name=name,
        dtype="float32",
        shape=shape,
        meaning=meaning,
    )


def state_of(
    name: str,
    shape: Shape,
    *,
    output: str | None = None,
    init: Zeros | Fill | Stored | None = None,
    counter: bool = False,
) -> State:
    """Describe a tensor of the state, which goes on as `{name}_next` and starts at zero."""
    return State(
        input=name,
        output=output or f"{name}_next",
        dtype="int64" if counter else "float32",
        shape=shape,
        init=init or Zeros(),
        role="counter" if counter else "memory",
    )


def contract_of(chunk: Chunk, outputs: Sequence[Output], state: Sequence[State]) -> Contract:
    return Contract(chunk=chunk, constants=(), outputs=tuple(outputs), state=tuple(state))


# Bundles


def graph_of(
    allowed_t: Sequence[int],
    *,
    file: str = "step.onnx",
    lowering: Literal["fused", "portable", "other"] = "portable",
    batch: Sequence[int] = (),
    golden_tolerance: float = 1e-5,
    multiply_adds: Mapping[str, int] | None = None,
) -> Graph:
    """Describe a file of operator set 18, without operators of other domains."""
    return Graph(
        file=file,
        lowering=lowering,
        allowed_t=tuple(allowed_t),
        batch=tuple(batch),
        opsets={"ai.onnx": 18},
        domains=("ai.onnx",),
        min_ort="1.17",
        golden_tolerance=golden_tolerance,
        multiply_adds=dict(multiply_adds or {}),
    )


def manifest_of(
    contract: Contract,
    graphs: Sequence[Graph],
    *,
    weights_bytes: int,
    name: str = "sample",
    description: str = "a small model for tests",
    model_id: str = "a" * 64,
    precision: str = "float32",
    golden: Sequence[Golden] = (),
    half_life_items: float | None = None,
) -> Manifest:
    return Manifest(
        name=name,
        description=description,
        license="Apache-2.0",
        model_id=model_id,
        precision=precision,
        recipe=None,
        producer=Producer(name="tests", version="0"),
        contract=contract,
        graphs=tuple(graphs),
        golden=tuple(golden),
        certificates=(),
        horizon=Horizon(half_life_items=half_life_items),
        weights_bytes=weights_bytes,
    )


def write_with_golden(
    path: Path,
    manifest: Manifest,
    step: bytes,
    chunks: Sequence[Array],
    error: float = 0.0,
    inputs: Mapping[str, Array] | None = None,
) -> None:
    """Write a bundle of one graph, whose golden run is what it does, plus an error."""
    files: dict[str, bytes | Path] = {"step.onnx": step}
    write_bundle(path, manifest, files)
    stream = Session.open(path).stream(inputs=inputs)
    steps = [stream.step(chunk) for chunk in chunks]
    outputs = {k: [s[k].astype(np.float32) + np.float32(error) for s in steps] for k in steps[0]}
    t = manifest.contract.chunk.nominal_t
    tensors = golden_tensors(t, chunks, outputs, stream.state, stream.inputs)
    files["golden.safetensors"] = safetensors.numpy.save(tensors)
    golden = (Golden(file="golden.safetensors", t=t, steps=len(chunks)),)
    write_bundle(path, replace(manifest, golden=golden), files, overwrite=True)
