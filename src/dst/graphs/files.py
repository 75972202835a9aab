"""Graph files in, models to work on out; and models back into files with one ``weights.bin``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, external_data_helper, inliner, numpy_helper, version_converter

from dst.graphs.fold import fold
from dst.graphs.walk import bodies_of, distinct, graphs_of, nodes_of, reads, tensors_of

WEIGHTS_FILE = "weights.bin"
INLINE_BYTES = 1024
"""Smaller tensors stay in the graph."""
ALIGNMENT = 64
IR_OF_OPSET = {11: 6, 13: 7, 18: 8, 21: 10}
"""The first IR version that an operator set may be used with."""


def load(
    path: Path, opset: int, given: Mapping[str, npt.NDArray[np.generic]] = MappingProxyType({})
) -> onnx.ModelProto:
    """Read a graph without its external data, every name in it distinct.

    Constants become initializers, functions of the model are written out, and what does not depend
    on the input is folded (``dst.graphs.fold``).

    Args:
        path: The graph.
        opset: The least operator set wanted; a graph that cannot be raised to it stays as it is.
        given: Inputs that are constants, by name.
    """
    model = onnx.load(str(path), load_external_data=False)
    if model.functions:
        model = inliner.inline_local_functions(model)
    distinct(model)
    _lift_constants(model.graph)
    fold(model, path.parent, given)
    if opset_of(model) < opset:
        model = _raised(model, opset)
        _lift_constants(model.graph)
    distinct(model)
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operator set that a model imports."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def pack(models: Mapping[str, onnx.ModelProto], folder: Path) -> dict[str, bytes]:
    """Move the graphs' large tensors to one file of external data, equal ones once.

    Args:
        models: File name -> graph; changed in place.
        folder: Where the external data lies that they refer to now.

    Returns:
        File name -> bytes: ``weights.bin``, where anything is large, and every graph.
    """
    blob = bytearray()
    places: dict[bytes, int] = {}
    files: dict[str, bytes] = {}
    for file, model in models.items():
        for tensor, inside in _tensors(model.graph):
            if tensor.data_type == TensorProto.STRING:
                continue
            data = _bytes_of(tensor, folder)
            if inside or len(data) < INLINE_BYTES:
                _cleared(tensor).raw_data = data
                continue
            key = hashlib.sha256(data).digest()
            if key not in places:
                blob.extend(bytes(-len(blob) % ALIGNMENT))
                places[key] = len(blob)
                blob.extend(data)
            _point(tensor, places[key], len(data))
        files[file] = model.SerializeToString(deterministic=True)
    return {WEIGHTS_FILE: bytes(blob), **files} if blob else files


def held_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the tensors that stand in the graph file itself."""
    return sum(len(tensor.raw_data) for tensor, _ in _tensors(model.graph))


def inside_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the weights in the graphs inside a packed model's nodes: these stay in its file."""
    sizes = [len(tensor.raw_data) for tensor, inside in _tensors(model.graph) if inside]
    return sum(size for size in sizes if size >= INLINE_BYTES)


def multiplied_out(model: onnx.ModelProto) -> int:
    """Bytes that an open graph holds beyond the file, where a Cast makes floats of a weight.

    ONNX Runtime folds such a Cast when it opens the graph, and lets go of what was cast.
    """
    tensors = tensors_of(model.graph)
    more = 0
    for node in nodes_of(model.graph):
        tensor = tensors.get(node.input[0]) if node.op_type == "Cast" else None
        if tensor is not None and any(a.i == TensorProto.FLOAT for a in node.attribute):
            narrow = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            more += math.prod(tensor.dims) * max(4 - narrow, 0)
    return more


def drop_unused(graph: onnx.GraphProto) -> None:
    """Take out the nodes and initializers that nothing reads any more, at any depth."""
    wanted = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            for body in bodies_of(node):
                drop_unused(body)
            wanted.update(reads(node))
            kept.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)


def _raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        raised = version_converter.convert_version(model, opset)
    except Exception:  # onnx raises whatever its converter meets; the model is usable as it is
        return model
    following = ((node.name, node.op_type) for node in raised.graph.node)
    # else it was rebuilt, and nothing that is known of its nodes by name would hold: leave it
    if all((node.name, node.op_type) in following for node in model.graph.node):
        raised.ir_version = max(model.ir_version, IR_OF_OPSET[opset])
        raised.producer_name, raised.graph.name = model.producer_name, model.graph.name
        return raised
    return model


def _lift_constants(model: onnx.GraphProto) -> None:
    """Make initializers of constants, each in its own graph, but for what a body gives back."""
    for number, graph in enumerate(graphs_of(model)):
        results = {value.name for value in graph.output} if number else set()
        kept = []
        for node in graph.node:
            value = next((a for a in node.attribute if a.name == "value"), None)
            constant = node.op_type == "Constant" and not node.domain and value is not None
            if constant and value is not None and node.output[0] not in results:
                tensor = graph.initializer.add()
                tensor.CopyFrom(value.t)
                tensor.name = node.output[0]
            else:
                kept.append(node)
        if len(kept) < len(graph.node):
            copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
            del graph.node[:]
            graph.node.extend(copies)


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[TensorProto, bool]]:
    """Yield a graph's initializers, and those of the graphs inside its nodes, told apart."""
    for number, found in enumerate(graphs_of(graph)):
        yield from ((tensor, number > 0) for tensor in found.initializer)


def _bytes_of(tensor: TensorProto, folder: Path) -> bytes:
    """The values of a tensor as external data holds them: little-endian, C order."""
    if external_data_helper.uses_external_data(tensor):
        info = external_data_helper.ExternalDataInfo(tensor)
        with open(folder / info.location, "rb") as file:
            file.seek(info.offset or 0)
            return file.read(info.length or -1)
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    array = numpy_helper.to_array(tensor)
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _point(tensor: TensorProto, offset: int, length: int) -> None:
    fresh = _cleared(tensor)
    fresh.data_location = TensorProto.EXTERNAL
    for key, value in (
        ("location", WEIGHTS_FILE),
        ("offset", str(offset)),
        ("length", str(length)),
    ):
        fresh.external_data.add(key=key, value=value)


def _cleared(tensor: TensorProto) -> TensorProto:
    """Empty a tensor but for its name, type and shape."""
    name, dims, kind = tensor.name, list(tensor.dims), tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type = name, kind
    tensor.dims.extend(dims)
    return tensor
