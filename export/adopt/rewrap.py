"""Give an ONNX file the contract's inputs and outputs, and drop what tells where it was made.

The nodes and the shapes that the file states stay as they are, but for an output's sizes that runs
have shown to be wrong: a shape that is said more exactly may turn a branch that is never taken into
an error. What the contract has and the file does not (a batch axis of length 1) is put around them;
names, notes and paths of the program that wrote it go.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from dst.export.adopt.infer.layout import Placed
from dst.graphs.strip import cleaned
from dst.graphs.walk import opset_of
from dst.runtime.bundle.manifest import Contract


def rewrapped(
    model: onnx.ModelProto,
    contract: Contract,
    placed: Sequence[Placed],
    sizes: Sequence[int],
    batch: Sequence[int],
) -> onnx.ModelProto:
    """Give a file the contract's inputs and outputs, and drop what tells where it was made.

    Args:
        model: The file; its large weights may lie outside.
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
    opset = opset_of(wrapped)
    if not opset and any(port.added for port in placed):
        opset = 18
        wrapped.opset_import.add(domain="", version=opset)
    for port in placed:
        _correct(graph, port, sizes, batch)
    for port in placed:
        _wrap(graph, port, opset, before=port.port.name in inputs)
    return cleaned(wrapped, wrapped.ir_version, inputs, outputs)


def _keep(graph: onnx.GraphProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Keep the contract's inputs and outputs, in its order; a default of one of them goes."""
    for values, names in ((graph.input, inputs), (graph.output, outputs)):
        found = {value.name: value.SerializeToString() for value in values}
        kept = [onnx.ValueInfoProto.FromString(found[name]) for name in names]
        del values[:]
        values.extend(kept)
    for place, tensor in reversed(list(enumerate(graph.initializer))):
        if tensor.name in inputs:
            del graph.initializer[place]


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
