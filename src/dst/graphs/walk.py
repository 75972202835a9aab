"""Walk a graph together with the graphs inside its nodes, and give every value a name of its own.

If, Loop and Scan hold graphs, called bodies here, which see the values of the graphs around them.
Two bodies may use one name for different values; after ``distinct`` no two values of a model share
a name, so that a graph and its bodies can be looked at, and joined, as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import TypeVar

import onnx
from onnx import helper

Value = TypeVar("Value", int, str)


def attribute(node: onnx.NodeProto, name: str, default: Value) -> Value:
    """Read a whole number or a text that a node states, or what counts where it states none.

    >>> attribute(helper.make_node("Gemm", ["a", "b"], ["c"], transB=1), "transB", 0)
    1
    >>> attribute(helper.make_node("LSTM", ["x"], ["y"]), "direction", "forward")
    'forward'
    """
    found = next((a for a in node.attribute if a.name == name), None)
    if found is None:
        return default
    value: Value = helper.get_attribute_value(found)
    return value.decode() if isinstance(value, bytes) else value


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operator set that a model imports, 0 where it imports none."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Replace the nodes of a graph; some may be nodes that it has now."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def bodies_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside a node."""
    return [g for a in node.attribute for g in (a.g, *a.graphs) if g.node or g.output]


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside it, outer ones first."""
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from graphs_of(body)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of all graphs inside it."""
    for found in graphs_of(graph):
        yield from found.node


def tensors_of(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The initializers of a graph and of all graphs inside it, by name; inputs are left out."""
    found: dict[str, onnx.TensorProto] = {}
    for inner in graphs_of(graph):
        inputs = {value.name for value in inner.input}
        found |= {t.name: t for t in inner.initializer if t.name not in inputs}
    return found


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor that a graph holds at any depth: initializers and those of attributes."""
    for found in graphs_of(graph):
        yield from found.initializer
        for attribute in (a for node in found.node for a in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield every value a node reads, those that its bodies read from outside included."""
    yield from node.input
    for body in bodies_of(node):
        yield from (value.name for value in body.output)
        for inside in body.node:
            yield from reads(inside)


def links(node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    """Yield how values pass in and out of a node's bodies: from one name to another."""
    for body in bodies_of(node):
        inputs = [value.name for value in body.input]
        outputs = [value.name for value in body.output]
        if node.op_type == "Loop":  # the body's first output is whether to go on
            outputs = outputs[1:]
            yield from zip(outputs, inputs[2:], strict=False)
        elif node.op_type != "If":
            scanned = attribute(node, "num_scan_inputs", 1)
            yield from zip(outputs, inputs[: len(inputs) - scanned], strict=False)
        if node.op_type != "If":
            yield from zip(node.input, inputs, strict=False)
        yield from zip(outputs, node.output, strict=False)


def distinct(model: onnx.ModelProto) -> None:
    """Give every value and every node, at any depth, a name that no other has.

    Names at the top stay as they are, but for nodes that had none of their own.
    """
    taken = {name for graph in graphs_of(model.graph) for name in _defined(graph)}
    _rename(model.graph, {}, set(), taken, top=True)
    names = {node.name for node in nodes_of(model.graph)}
    seen: set[str] = set()
    for number, node in enumerate(nodes_of(model.graph)):
        if not node.name or node.name in seen:
            node.name = _free(f"{node.op_type}_{number}", names)
        seen.add(node.name)


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (name for name in node.output if name)


def _rename(
    graph: onnx.GraphProto, around: Mapping[str, str], seen: set[str], taken: set[str], top: bool
) -> None:
    own = dict.fromkeys(_defined(graph))
    now = dict(around)
    for name in own:
        now[name] = name if top or name not in seen else _free(f"{name}_", taken)
        seen.add(now[name])
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = now.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = now[tensor.name]
    for node in graph.node:
        node.input[:] = [now.get(name, name) for name in node.input]
        node.output[:] = [now.get(name, name) for name in node.output]
        for body in bodies_of(node):
            _rename(body, now, seen, taken, top=False)


def _free(name: str, taken: set[str]) -> str:
    free = next(new for number in count(1) if (new := f"{name}{number}") not in taken)
    taken.add(free)
    return free
