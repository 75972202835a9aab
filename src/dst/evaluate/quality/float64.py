"""Write a step in float64, to measure the drift of float32 itself.

Every float32 in the graph becomes float64: inputs, outputs, weights, constants and casts. What
runs is then the same arithmetic with 29 more bits, against which float32's own drift is measured.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import safetensors.numpy
from msgspec.structs import replace
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from dst.runtime import Bundle, BundleError, write_bundle
from dst.runtime.bundle.manifest import Chunk, Contract, DType, Graph
from dst.runtime.bundle.validation import INIT_FILE

GRAPH_FILE = "wide.onnx"
MOST_BYTES = 1 << 29
"""Float32 weights that are widened at most: they double, and protobuf ends at 2 GiB."""

Array = npt.NDArray[np.generic]


class NotWidenedError(BundleError):
    """A graph cannot be made float64."""


def widened(full: Bundle, graph: Graph, path: Path) -> Bundle:
    """Write the step of one graph in float64.

    Args:
        full: a bundle.
        graph: one of its graphs, of plain operators.
        path: the directory to make.

    Returns:
        A bundle of that one graph, without golden runs.

    Raises:
        NotWidenedError: the graph is too large, or not made of plain operators alone.
        BundleError: it cannot be read or written.
    """
    if full.manifest.weights_bytes > MOST_BYTES:
        raise NotWidenedError(f"{full.manifest.weights_bytes:,} bytes of weights are too many")
    foreign = sorted(set(graph.domains) - {"ai.onnx"})
    if foreign:
        raise NotWidenedError(f"it has operators of {', '.join(foreign)}")
    model = onnx.load(str(full.root / graph.file))
    if model.functions:
        raise NotWidenedError("it has functions of its own")
    _widen(model.graph)
    manifest = replace(
        full.manifest,
        precision="float64",
        contract=_contract(full.manifest.contract, graph),
        graphs=(replace(graph, file=GRAPH_FILE, multiply_adds={}),),
        golden=(),
        certificates=(),
        quality=None,
        weights_bytes=2 * full.manifest.weights_bytes,
    )
    files: dict[str, bytes | Path] = {GRAPH_FILE: model.SerializeToString()}
    if INIT_FILE in full.manifest.files:
        held = {name: _wide(value) for name, value in full.tensors(INIT_FILE).items()}
        files[INIT_FILE] = safetensors.numpy.save(held)
    return Bundle(path, write_bundle(path, manifest, files, overwrite=True))


def _contract(contract: Contract, graph: Graph) -> Contract:
    """The contract in float64, cut down to the T of one graph."""
    chunk: Chunk = replace(contract.chunk, dtype=_retyped(contract.chunk.dtype))
    chunk = replace(chunk, allowed_t=graph.allowed_t)
    if chunk.nominal_t not in graph.allowed_t:
        chunk = replace(chunk, nominal_t=max(graph.allowed_t))
    if chunk.tail == "exact" and 1 not in graph.allowed_t:
        chunk = replace(chunk, tail="refuse")
    return replace(
        contract,
        chunk=chunk,
        constants=tuple(replace(c, dtype=_retyped(c.dtype)) for c in contract.constants),
        stream_inputs=tuple(replace(g, dtype=_retyped(g.dtype)) for g in contract.stream_inputs),
        outputs=tuple(replace(o, dtype=_retyped(o.dtype)) for o in contract.outputs),
        state=tuple(replace(s, dtype=_retyped(s.dtype)) for s in contract.state),
    )


def _retyped(dtype: DType) -> DType:
    return "float64" if dtype == "float32" else dtype


def _wide(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.float32 else value


def _widen(graph: GraphProto) -> None:
    """Make every float32 of a graph float64, in place, in the bodies of its nodes too."""
    for value in (*graph.input, *graph.output):
        _widen_type(value)
    del graph.value_info[:]  # the types of what lies between follow
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        _widen_node(node)


def _widen_type(value: ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type == TensorProto.FLOAT:
        value.type.tensor_type.elem_type = TensorProto.DOUBLE


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
        )


def _widen_node(node: NodeProto) -> None:
    for attribute in node.attribute:
        _widen_attribute(node, attribute)
    if node.op_type == "ConstantOfShape" and not node.attribute:
        zero = numpy_helper.from_array(np.zeros(1))
        node.attribute.append(
            AttributeProto(
                name="value", type=AttributeProto.TENSOR, t=zero
            )  # the default is float32
        )


def _widen_attribute(node: NodeProto, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.GRAPH:
        _widen(attribute.g)
    elif attribute.type == AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
        attribute.i = TensorProto.DOUBLE
    elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        held = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        value = numpy_helper.from_array(np.asarray(held, np.float64))
        attribute.CopyFrom(AttributeProto(name="value", type=AttributeProto.TENSOR, t=value))
