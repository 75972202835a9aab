"""Turn a float32 graph into the same graph in float64.

Every float32 becomes float64: inputs, outputs, weights, constants and casts. What runs is then the
same arithmetic with 29 more bits.
"""

from __future__ import annotations

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper

from dst.graphs.walk import all_tensors, graphs_of


def widen(graph: GraphProto) -> None:
    """Make every float32 of a graph of plain operators float64, in place, at any depth.

    Examples:
        >>> from onnx import helper
        >>> x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        >>> graph = helper.make_graph([], "g", [x], [])
        >>> widen(graph)
        >>> graph.input[0].type.tensor_type.elem_type == TensorProto.DOUBLE
        True
    """
    for tensor in all_tensors(graph):
        if tensor.data_type == TensorProto.FLOAT:
            wide = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
    for found in graphs_of(graph):
        for value in (*found.input, *found.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
        del found.value_info[:]  # the types of what lies between follow
        for node in found.node:
            _widen_node(node)


def _widen_node(node: NodeProto) -> None:
    if node.op_type == "ConstantOfShape" and not node.attribute:  # the default is float32
        node.attribute.append(_tensor(np.zeros(1)))
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            held = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            attribute.CopyFrom(_tensor(np.asarray(held, np.float64)))


def _tensor(value: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> AttributeProto:
    tensor = numpy_helper.from_array(value)
    return AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor)
