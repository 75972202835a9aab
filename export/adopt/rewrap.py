"""Give an ONNX file the contract's inputs and outputs, and drop what tells where it was made.

The nodes and the shapes that the file states stay as they are, but for an output's sizes that runs
have shown to be wrong: a shape that is said more exactly may turn a branch that is never taken into
an error. What the contract has and the file does not (a batch axis of length 1) is put around them;
names, notes and paths of the program that wrote it go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from dst.export.adopt.infer.layout import Placed
from dst.export.adopt.infer.ports import graphs_of
from dst.graphs.strip import cleaned
from dst.runtime.bundle.manifest import Contract

_MIN_ORT_OF_OPSET = {
    **dict.fromkeys(range(1, 12), (1, 0)),
    **{12: (1, 3), 13: (1, 6), 14: (1, 8), 15: (1, 10), 16: (1, 11), 17: (1, 12), 18: (1, 14)},
    **{19: (1, 15), 20: (1, 17), 21: (1, 18), 22: (1, 21), 23: (1, 23)},
}
"""First ONNX Runtime release with the operators of an opset."""
_MIN_ORT_OF_IR = {
    **dict.fromkeys(range(1, 8), (1, 3)),
    **{8: (1, 10), 9: (1, 15), 10: (1, 18), 11: (1, 23)},
}
"""First ONNX Runtime release that reads a version of the file format."""


def rewrapped(
    model: onnx.ModelProto,
    contract: Contract,
    placed: Sequence[Placed],
    sizes: Sequence[int],
    batch: Sequence[int],
) -> onnx.ModelProto:
    """Give a file the contract's inputs and outputs, and drop what tells where it was made.

    Args:
        model: The file, its weights loaded.
        contract: What the step keeps.
        placed: The chunk and every state and output that is in the contract, each by the name of
            its place in the file; a state is there twice.
        sizes: The T that the graph runs.
        batch: The batch sizes that it runs, empty for any.
    """
    wrapped = onnx.ModelProto()
    wrapped.CopyFrom(model)
    wrapped.ir_version = max(model.ir_version, 4)  # before 4 every weight was an input
    graph = wrapped.graph
    inputs = [contract.chunk.input]
    inputs += [c.input for c in contract.constants]
    inputs += [given.input for given in contract.stream_inputs]
    inputs += [s.input for s in contract.state]
    outputs = [o.name for o in contract.outputs] + [s.output for s in contract.state]
    _keep(graph, inputs, outputs)
    opset = next((o.version for o in wrapped.opset_import if o.domain in ("", "ai.onnx")), 0)
    if not opset and any(port.added for port in placed):
        opset = 18
        wrapped.opset_import.add(domain="", version=opset)
    for port in placed:
        _correct(graph, port, sizes, batch)
    for port in placed:
        _wrap(graph, port, opset, before=port.port.name in inputs)
    return cleaned(wrapped, wrapped.ir_version, inputs, outputs)


def min_ort(model: onnx.ModelProto) -> str:
    """The oldest ONNX Runtime that runs a graph; the installed one where that is not on record."""
    installed = tuple(int(part) for part in ort.__version__.split(".")[:2])
    found = [_MIN_ORT_OF_IR.get(model.ir_version, installed)]
    used = domains(model)
    for imported in model.opset_import:
        domain = imported.domain or "ai.onnx"
        if domain == "ai.onnx":
            found.append(_MIN_ORT_OF_OPSET.get(imported.version, installed))
        elif domain in used:
            found.append(installed)
    return ".".join(map(str, max(found)))


def domains(model: onnx.ModelProto) -> tuple[str, ...]:
    """The domains of the nodes, those inside other nodes too."""
    return tuple(
        sorted({n.domain or "ai.onnx" for graph in graphs_of(model.graph) for n in graph.node})
    )


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that a file holds: weights and constants, at any depth."""
    for graph in graphs_of(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors


def _keep(graph: onnx.GraphProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Keep the contract's inputs and outputs, in its order; a default of one of them goes."""
    before = {value.name: value for value in graph.input}
    after = {value.name: value for value in graph.output}
    kept_in, kept_out = [before[name] for name in inputs], [after[name] for name in outputs]
    weights = [tensor for tensor in graph.initializer if tensor.name not in inputs]
    for part, kept in ((graph.input, kept_in), (graph.output, kept_out)):
        copies = [onnx.ValueInfoProto() for _ in kept]
        for copy, value in zip(copies, kept, strict=True):
            copy.CopyFrom(value)
        del part[:]
        part.extend(copies)
    if len(weights) < len(graph.initializer):
        kept_weights = [onnx.TensorProto() for _ in weights]
        for weight, tensor in zip(kept_weights, weights, strict=True):
            weight.CopyFrom(tensor)
        del graph.initializer[:]
        graph.initializer.extend(kept_weights)


def _correct(
    graph: onnx.GraphProto, placed: Placed, sizes: Sequence[int], batch: Sequence[int]
) -> None:
    """Replace what the file says of an output's axes where the contract says otherwise."""
    value = next((v for v in graph.output if v.name == placed.port.name), None)
    if value is None:
        return
    shape, dims = placed.own_shape, value.type.tensor_type.shape.dim
    letters = {"B": list(batch), "T": list(sizes)}
    if len(dims) != len(shape):
        del dims[:]
        dims.extend(onnx.TensorShapeProto.Dimension() for _ in shape)
    for dim, size in zip(dims, shape, strict=True):
        right = letters[size] if isinstance(size, str) else [size]
        if dim.HasField("dim_value") and [dim.dim_value] != right:
            dim.Clear()
            if isinstance(size, int):
                dim.dim_value = size
            elif len(right) == 1:
                dim.dim_value = right[0]
            else:
                dim.dim_param = f"{size}_axis"


def _wrap(graph: onnx.GraphProto, placed: Placed, opset: int, *, before: bool) -> None:
    """Take the axes off an input that the file does not have, or put them on an output."""
    if not placed.added:
        return
    name = placed.port.name
    value = next(v for v in (graph.input if before else graph.output) if v.name == name)
    value.name = f"{name}/whole"
    dims = value.type.tensor_type.shape.dim
    own = [onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString()) for d in dims]
    for axis in placed.added:
        own.insert(axis, onnx.TensorShapeProto.Dimension(dim_value=1))
    del dims[:]
    dims.extend(own)
    if before:
        graph.node.insert(0, _reshaping("Squeeze", value.name, name, placed, graph, opset))
    else:
        graph.node.append(_reshaping("Unsqueeze", name, value.name, placed, graph, opset))


def _reshaping(
    kind: str, source: str, target: str, placed: Placed, graph: onnx.GraphProto, opset: int
) -> onnx.NodeProto:
    if opset < 13:
        return helper.make_node(kind, [source], [target], axes=list(placed.added))
    axes = f"{placed.port.name}/axes"
    graph.initializer.append(numpy_helper.from_array(np.array(placed.added, np.int64), axes))
    return helper.make_node(kind, [source, axes], [target])
