"""Load a graph into the form that quantizers work on: constants folded, every name distinct.

Folding works out what does not depend on the model's input, and puts the branch that is taken for
an If. Only operators that move or compare values are worked out, whose results are exact.
Arithmetic on floats is left to ONNX Runtime, so that folding changes no result.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from dst.graphs.walk import (
    attribute,
    bodies_of,
    distinct,
    graphs_of,
    nodes_of,
    opset_of,
    reads,
    set_nodes,
    tensors_of,
)
from dst.runtime.bundle.constants import constant_array
from dst.runtime.bundle.manifest import Contract

Array = npt.NDArray[np.generic]

SMALL = 1024
"""Results of so many values are kept; larger ones only where a weight comes of them."""
_MOVES = {
    "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Size",
    "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
_COMPARES = {
    "And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Xor",
}  # fmt: skip
_COUNTS = {"Add", "Mul", "Sub"}
"""Exact on whole numbers."""
_CASTS = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL,
    TensorProto.INT32, TensorProto.INT64, TensorProto.INT8, TensorProto.UINT8,
}  # fmt: skip
_WEIGHT_INPUTS = {
    "LSTM": (1, 2, 3, 7), "GRU": (1, 2, 3), "RNN": (1, 2, 3), "Conv": (1, 2),
    "ConvTranspose": (1, 2), "MatMul": (1,), "Gemm": (1,),
}  # fmt: skip


def load(
    path: Path, opset: int, given: Mapping[str, Array] = MappingProxyType({})
) -> onnx.ModelProto:
    """Read a graph without its external data, every name in it distinct.

    Constants become initializers, functions of the model are written out, and what does not depend
    on the input is folded; ``given`` are inputs that are constants. A graph that cannot be raised
    to the operator set ``opset`` stays as it is.
    """
    model = onnx.load(str(path), load_external_data=False)
    if model.functions:
        model = inliner.inline_local_functions(model)
    distinct(model)
    _lift_constants(model.graph)
    _Folding(model, path.parent, given).graph(model.graph)
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
            constant = node.op_type == "Constant" and not node.domain
            if value is None or not constant or node.output[0] in results:
                kept.append(node)
                continue
            tensor = graph.initializer.add()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
        if len(kept) < len(graph.node):
            set_nodes(graph, kept)


def given_of(contract: Contract) -> dict[str, Array]:
    """The inputs of a graph that are constants by its contract: name -> value."""
    return {c.input: constant_array(c) for c in contract.constants}


class _Folding:
    """Folds a model in place; its names must be distinct (see ``dst.graphs.walk``).

    An If whose condition is known becomes the nodes of the branch that is taken, at any depth, and
    the other branch is gone. A weight that is made by moving initializers about (as torch's
    exporter stacks those of an LSTM) becomes one initializer. The inputs ``given`` are constants
    and stay inputs; external data is read from ``folder``.
    """

    def __init__(self, model: onnx.ModelProto, folder: Path, given: Mapping[str, Array]) -> None:
        self._folder = folder
        self._opsets = list(model.opset_import)
        self._tensors = tensors_of(model.graph)
        self._values = dict(given)
        self._weights = _weights(model.graph, self._tensors)

    def graph(self, graph: onnx.GraphProto) -> None:
        """Fold one graph and those inside it."""
        results = {value.name for value in graph.output}
        waiting = deque(graph.node)
        kept: list[onnx.NodeProto] = []
        folded: set[str] = set()
        while waiting:
            node = waiting.popleft()
            branch = self._taken(node)
            if branch is not None:
                results_of = enumerate(zip(branch.output, node.output, strict=False))
                handed = [  # its results under the names of the If
                    helper.make_node("Identity", [value.name], [name], f"{node.name}.{place}")
                    for place, (value, name) in results_of
                    if name
                ]
                waiting.extendleft(reversed([*branch.node, *handed]))
                graph.initializer.extend(branch.initializer)
                graph.value_info.extend(branch.value_info)
                continue
            found = None if results.intersection(node.output) else self._worked_out(node)
            if found is not None:
                self._values |= found
                graph.initializer.extend(
                    numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
                    for name, value in found.items()
                )
                folded |= set(found)
                continue
            for body in bodies_of(node):
                self.graph(body)
            kept.append(node)
        known = [value for value in graph.value_info if value.name not in folded]
        infos = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in known]
        set_nodes(graph, kept)
        del graph.value_info[:]
        graph.value_info.extend(infos)

    def _taken(self, node: onnx.NodeProto) -> onnx.GraphProto | None:
        """The branch that an If takes whatever the input is."""
        if node.op_type != "If" or node.domain or not self._known(node.input[0]):
            return None
        condition = self._value(node.input[0])
        if condition.size != 1:
            return None
        name = "then_branch" if bool(condition.reshape(())) else "else_branch"
        return next((a.g for a in node.attribute if a.name == name), None)

    def _worked_out(self, node: onnx.NodeProto) -> dict[str, Array] | None:
        """What a node gives, None where that depends on the input or is better left to it."""
        op, inputs = node.op_type, [name for name in node.input if name]
        names = [name for name in node.output if name]
        if (
            node.domain
            or op not in _MOVES | _COMPARES | _COUNTS
            or not all(self._known(name) for name in inputs)
            or (op == "Cast" and attribute(node, "to", 0) not in _CASTS)
            or (any(self._size(name) > SMALL for name in inputs) and not self._weights & set(names))
        ):
            return None
        values = {name: self._value(name) for name in inputs}
        if op in _COUNTS and any(value.dtype.kind not in "iu" for value in values.values()):
            return None
        found = _run(node, values, names, self._opsets) or {}
        large = {name for name, value in found.items() if value.size > SMALL}
        return found if found and large <= self._weights else None

    def _known(self, name: str) -> bool:
        return name in self._values or name in self._tensors

    def _size(self, name: str) -> int:
        value = self._values.get(name)
        return math.prod(self._tensors[name].dims) if value is None else value.size

    def _value(self, name: str) -> Array:
        if name in self._values:
            return self._values[name]
        value: Array = numpy_helper.to_array(self._tensors[name], str(self._folder))
        if value.size <= SMALL:
            self._values[name] = value
        return value


def _weights(graph: onnx.GraphProto, tensors: Mapping[str, TensorProto]) -> set[str]:
    """The values that end as the weight of an operator after nothing but moves.

    A matrix that is turned for a product stays: its numbers may be those of a table.
    """
    makers = {name: node for node in nodes_of(graph) for name in node.output if name}
    stack: list[str] = []
    for node in nodes_of(graph):
        for place in _WEIGHT_INPUTS.get(node.op_type, ()):
            name = node.input[place] if place < len(node.input) else ""
            maker = makers.get(name)
            plain = node.op_type in ("MatMul", "Gemm")
            turned = maker is not None and maker.op_type == "Transpose"
            if name and not (plain and turned and maker is not None and maker.input[0] in tensors):
                stack.append(name)
    wanted: set[str] = set()
    while stack:
        name = stack.pop()
        maker = makers.get(name)
        if name in wanted or maker is None or maker.op_type not in _MOVES:
            continue
        wanted.add(name)
        stack.extend(maker.input)
    return wanted


def _run(
    node: onnx.NodeProto,
    values: Mapping[str, Array],
    names: Sequence[str],
    opsets: Sequence[onnx.OperatorSetIdProto],
) -> dict[str, Array] | None:
    """Run one node; None where it cannot be run here."""
    inputs = [helper.make_empty_tensor_value_info(name) for name in values]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=opsets)
    try:
        found = ReferenceEvaluator(model).run(None, dict(values))
    except Exception:  # whatever onnx meets in an odd node: the graph runs as it is
        return None
    if not all(isinstance(value, (np.ndarray, np.generic)) for value in found):
        return None
    return {name: np.asarray(value) for name, value in zip(names, found, strict=True)}
