"""Load a graph into the form that quantizers work on: constants folded, every name distinct."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, inliner, version_converter

from dst.graphs.fold import fold
from dst.graphs.walk import bodies_of, distinct, graphs_of, opset_of, reads, set_nodes


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
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    set_nodes(graph, reversed(kept))
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        raised = version_converter.convert_version(model, opset)
    except Exception:  # onnx raises whatever its converter meets; the model is usable as it is
        return model
    following = ((node.name, node.op_type) for node in raised.graph.node)
    # else it was rebuilt, and nothing that is known of its nodes by name would hold: leave it
    if all((node.name, node.op_type) in following for node in model.graph.node):
        least = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
        raised.ir_version = max(model.ir_version, least)
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
            set_nodes(graph, kept)
