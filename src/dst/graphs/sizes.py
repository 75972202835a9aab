"""Name the element types of tensors, and count the bytes that tensors take."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import onnx
from onnx import TensorProto
from onnx_ir import DataType

from dst.graphs.walk import attribute, graphs_of, nodes_of, tensors_of


def dtype_name(data_type: int) -> str:
    """Name an element type of ONNX as numpy and the manifest do.

    >>> dtype_name(1), dtype_name(11), dtype_name(22)
    ('float32', 'float64', 'int4')
    """
    kind = DataType(data_type)
    return kind.name.lower() if kind.is_string() or not data_type else kind.numpy().name


def size_of(tensor: TensorProto) -> int:
    """Count the bytes of a tensor's values, wherever they lie; 4-bit numbers are two in a byte.

    >>> size_of(TensorProto(data_type=TensorProto.INT4, dims=[3, 3]))
    5
    """
    bits: int = math.prod(tensor.dims) * DataType(tensor.data_type).bitwidth
    return -(-bits // 8)


def sizes_by_dtype(tensors: Iterable[TensorProto]) -> dict[str, int]:
    """Count the bytes of tensors by the name of their element type, e.g. {"float32": 4096}."""
    found: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.data_type != TensorProto.STRING:
            found[dtype_name(tensor.data_type)] += size_of(tensor)
    return dict(found)


def inline_bytes(model: onnx.ModelProto, least: int = 0, *, bodies_only: bool = False) -> int:
    """Count the bytes of the initializers whose values stand in the graph file itself.

    Args:
        model: The graph, packed.
        least: Smaller tensors do not count.
        bodies_only: Count only those in the graphs inside nodes.
    """
    graphs = list(graphs_of(model.graph))[bodies_only:]
    sizes = [
        size_of(tensor)
        for graph in graphs
        for tensor in graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL and tensor.data_type != TensorProto.STRING
    ]
    return sum(size for size in sizes if size >= least)


def expanded_bytes(model: onnx.ModelProto) -> int:
    """Count the bytes that an open graph takes beyond its file, where a Cast widens a weight.

    ONNX Runtime folds a Cast to float32 when it opens the graph, and frees what was cast.
    """
    tensors = tensors_of(model.graph)
    more = 0
    for node in nodes_of(model.graph):
        tensor = tensors.get(node.input[0]) if node.op_type == "Cast" else None
        if tensor is not None and attribute(node, "to", 0) == TensorProto.FLOAT:
            more += max(4 * math.prod(tensor.dims) - size_of(tensor), 0)
    return more
