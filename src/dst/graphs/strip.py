"""Give a graph the contract's names, and drop what tells where it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import onnx

from dst.graphs.walk import bodies_of, set_nodes


def cleaned(
    model: onnx.ModelProto,
    ir_version: int,
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Mapping[str, str] = MappingProxyType({}),
) -> onnx.ModelProto:
    """Name a graph's inputs and outputs and drop what tells where it was made.

    The exporter leaves source lines, paths and names of torch calls (472 lines of them in one
    graph), and names of its own that may equal the contract's. ``inputs`` and ``outputs`` are the
    new names in the graph's order, ``weights`` better names for some initializers by the names
    they have.
    """
    clean = onnx.ModelProto()
    clean.CopyFrom(model)
    clean.ir_version = ir_version
    clean.producer_name, clean.producer_version = "dst-edge", ""
    clean.doc_string = clean.domain = ""
    del clean.metadata_props[:]
    del clean.training_info[:]
    graph = clean.graph
    graph.name = "step"
    seen = {v.name for v in (*graph.input, *graph.initializer)}
    for number, value in enumerate(graph.output):
        if value.name in seen:  # an input, a constant or another output: it gets a value of its own
            node = graph.node.add(op_type="Identity", input=[value.name])
            value.name = f"own_output_{number}"
            node.output.append(value.name)
        seen.add(value.name)
    taken = {*inputs, *outputs}
    names = dict(zip((v.name for v in graph.input), inputs, strict=True))
    names |= dict(zip((v.name for v in graph.output), outputs, strict=True))
    for tensor in graph.initializer:
        name = weights.get(tensor.name, tensor.name)
        names[tensor.name] = f"w.{name}" if name in taken else name
    _strip(graph)
    _rename(graph, names, "t")
    return clean


def _strip(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            for tensor in (attribute.t, *attribute.tensors):
                if tensor.name or tensor.doc_string or tensor.metadata_props:
                    tensor.name = tensor.doc_string = ""
                    del tensor.metadata_props[:]
        for body in bodies_of(node):
            body.name = "inside"
            _strip(body)


def _rename(graph: onnx.GraphProto, outer: dict[str, str], prefix: str) -> None:
    """Apply ``outer`` and give every other value of the graph and its subgraphs a number."""
    names = dict(outer)
    for node in graph.node:
        for value in node.output:
            if value:
                names.setdefault(value, f"{prefix}{len(names)}")
    for value_info in (*graph.input, *graph.output):
        value_info.name = names.setdefault(value_info.name, f"{prefix}{len(names)}")
    for tensor in graph.initializer:
        tensor.name = names.setdefault(tensor.name, f"{prefix}{len(names)}")
    for number, node in enumerate(graph.node):
        node.name = f"{prefix[1:]}{node.op_type}_{number}"
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names[value] if value else value for value in node.output]
        for body in bodies_of(node):
            _rename(body, names, f"{prefix}{number}.")


def _time_axis(graph: onnx.GraphProto) -> tuple[str, int]:
    """The first input with an axis T, and which axis that is."""
    for value in graph.input:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_param == "T":
                return value.name, axis
    raise ValueError("no input has an axis T")


def answering_all(model: onnx.ModelProto, answers: str) -> None:
    """Let a graph answer for every item of its chunk, in place.

    Args:
        model: A graph that is asked which items to answer for.
        answers: The input by which it is asked, which goes.
    """
    graph = model.graph
    asked, nodes = {answers}, []
    for node in graph.node:
        if node.op_type == "Gather" and node.input[1] in asked:  # now all of what it reads
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
        elif node.op_type == "Shape" and node.input[0] == answers:  # as many as items
            value, axis = _time_axis(graph)
            node.input[0] = value
            del node.attribute[:]
            node.attribute.extend(
                [
                    onnx.helper.make_attribute("start", axis),
                    onnx.helper.make_attribute("end", axis + 1),
                ]
            )
        elif node.input and node.input[0] in asked:  # the exporter reshapes it first
            asked.update(node.output)
            continue
        nodes.append(node)
    set_nodes(graph, nodes)
    kept = [value for value in graph.input if value.name != answers]
    (gone,) = (value for value in graph.input if value.name == answers)
    letter = gone.type.tensor_type.shape.dim[0].dim_param
    for value in graph.output:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == letter:
                axis.dim_param = "T"
    del graph.input[:]
    graph.input.extend(kept)
