"""Let a head that is tied to its embedding read the table by rows, as it stands in the file.

A product with a transposed table makes ONNX Runtime transpose the whole table when it opens the
graph, into memory of its own, before it packs it. Gemm packs the rows as they are. It reads them
under a name of its own: ONNX Runtime maps each name apart and lets go of what it has packed, so
only the rows that are looked up stay in memory beside the packed table.
"""

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dst.graphs.walk import set_nodes


def read_by_rows(model: onnx.ModelProto) -> None:
    """Write products with a transposed table that is looked up too as Gemm, in place.

    Examples:
        >>> table = numpy_helper.from_array(np.ones((5, 2), np.float32), "table")
        >>> nodes = [
        ...     helper.make_node("Gather", ["table", "ids"], ["x"]),
        ...     helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0]),
        ...     helper.make_node("MatMul", ["x", "turned"], ["logits"], "head"),
        ... ]
        >>> model = helper.make_model(helper.make_graph(nodes, "g", [], [], [table]))
        >>> read_by_rows(model)
        >>> [node.op_type for node in model.graph.node]
        ['Gather', 'Reshape', 'Gemm', 'Shape', 'Concat', 'Reshape']
        >>> [tensor.name for tensor in model.graph.initializer]
        ['table', 'table.rows', 'head.flat', 'head.width']
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(value for node in graph.node for value in node.input)
    looked_up = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    turned = {
        node.output[0]: tensors[node.input[0]]
        for node in graph.node
        if node.op_type == "Transpose"
        and node.input[0] in looked_up & tensors.keys()
        and len(tensors[node.input[0]].dims) == 2
        and readers[node.output[0]] == 1
    }
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        table = turned.get(node.input[1]) if node.op_type == "MatMul" else None
        if table is None:
            nodes.append(node)
            continue
        nodes = [made for made in nodes if node.input[1] not in made.output]
        nodes += _by_rows(graph, node, table)
    set_nodes(graph, nodes)


def _by_rows(
    graph: onnx.GraphProto, node: onnx.NodeProto, table: TensorProto
) -> list[onnx.NodeProto]:
    """Write ``node``, a product ``[..., D]`` by the transposed ``[V, D]``; it keeps its name."""
    x, result, name = node.input[0], node.output[0], node.name
    rows, width = table.dims
    own = TensorProto()
    own.CopyFrom(table)
    own.name = f"{table.name}.rows"
    sizes = {f"{name}.flat": [-1, width], f"{name}.width": [rows]}
    graph.initializer.append(own)
    graph.initializer.extend(numpy_helper.from_array(np.array(n), s) for s, n in sizes.items())

    items, product, axes, shape = (f"{result}.{p}" for p in ("items", "product", "axes", "shape"))
    return [
        helper.make_node("Reshape", [x, f"{name}.flat"], [items], f"{name}.items"),
        helper.make_node("Gemm", [items, own.name], [product], name, transB=1),
        helper.make_node("Shape", [x], [axes], f"{name}.axes", end=-1),
        helper.make_node("Concat", [axes, f"{name}.width"], [shape], f"{name}.shape", axis=0),
        helper.make_node("Reshape", [product, shape], [result], f"{name}.shaped"),
    ]
