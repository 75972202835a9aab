"""Count the multiply-adds of each node of a graph.

What counts are products of matrices, convolutions and recurrences; elementwise work, sums and
moves count as none. Shape letters: ``B`` batch, ``T`` items per chunk.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import helper, shape_inference

from dst.graphs.walk import attribute
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Contract, window

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Rule = Callable[[onnx.NodeProto, Shapes], int]

MAX_NAME = 500
"""Longest node name that a manifest takes."""
_SMALL = 1024
"""Values of an initializer that shape inference may want to read; a weight has more."""


def multiply_adds(
    model: onnx.ModelProto, contract: Contract, allowed_t: Sequence[int], batch: Sequence[int]
) -> dict[str, int]:
    """Count the multiply-adds of one step of a graph of this contract, node by node.

    B is 1, or the least of `batch`, those the graph runs, which is empty for any; T the nominal
    one, or the greatest the graph runs. External data is not read.

    Returns:
        Node name -> multiply-adds, 0 where a node has none. A node is missing where nobody can
        tell: it has no name of its own, its operator is not known here, or its shapes are not.
        What a loop's or a branch's body costs is counted at the node that holds it.
    """
    nominal = contract.chunk.nominal_t
    t = nominal if nominal in allowed_t else max(allowed_t)
    light = _light(model, contract, t, min(batch, default=1))
    names = Counter(node.name for node in model.graph.node)
    shapes = _infer(light)
    counts = {
        node.name: _count(node, shapes)
        for node in light.graph.node
        if node.name and len(node.name) <= MAX_NAME and names[node.name] == 1
    }
    return {name: count for name, count in counts.items() if count is not None}


def _light(model: onnx.ModelProto, contract: Contract, t: int, batch: int) -> onnx.ModelProto:
    """Copy a graph without its weights, its inputs in the sizes of one step."""
    chunk = contract.chunk
    sizes = {chunk.input: sized(chunk.shape, window(chunk, t), batch)}
    sizes |= {c.input: tuple(c.shape) for c in contract.constants}
    sizes |= {s.input: sized(s.shape, t, batch) for s in contract.state}
    sizes |= {g.input: sized(g.shape, t, batch) for g in contract.stream_inputs}
    sizes |= {value.name: (t,) for value in model.graph.input if value.name not in sizes}
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = "step"
    graph.node.extend(model.graph.node)
    for value in model.graph.input:
        kind = value.type.tensor_type.elem_type
        graph.input.append(helper.make_tensor_value_info(value.name, kind, sizes[value.name]))
    for tensor in model.graph.initializer:
        name, kind = tensor.name, tensor.data_type
        small = math.prod(tensor.dims) <= _SMALL
        if small and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(name, kind, tensor.dims))
    for value in model.graph.output:
        kind = value.type.tensor_type.elem_type
        graph.output.append(helper.make_tensor_value_info(value.name, kind, None))
    return light


def _infer(model: onnx.ModelProto) -> dict[str, Shape]:
    """Infer the shape of every value; helps on where an operator is not one of ONNX's own."""
    told: dict[str, Shape] = {}
    while True:
        inferred = shape_inference.infer_shapes(model, data_prop=True)
        shapes = {**_known(inferred.graph), **told}
        helped = False
        for node in model.graph.node:
            rule = _OUTPUT_SHAPES.get(node.op_type) if node.domain else None
            first = next((name for name in node.output if name), "")
            if rule is None or first in shapes:
                continue
            try:
                outputs = rule(node, shapes)
            except (KeyError, IndexError):
                continue
            for name, shape in zip(node.output, outputs, strict=False):
                if name:
                    told[name], helped = shape, True
                    info = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
                    model.graph.value_info.append(info)
        if not helped:
            model.CopyFrom(inferred)  # the bodies of loops have their shapes now
            return shapes


def _known(graph: onnx.GraphProto) -> dict[str, Shape]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        dims = kind.shape.dim
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _count(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Multiply-adds of one node, None where nobody can tell."""
    rule = _RULES.get(node.op_type)
    try:
        if rule is not None:
            return rule(node, shapes)
    except (KeyError, IndexError):
        return None
    return None if node.domain or node.op_type in _NO_RULE else 0


def _matmul(node: onnx.NodeProto, shapes: Shapes) -> int:
    left = shapes[node.input[0]]
    inner = -2 if attribute(node, "transA", 0) and len(left) > 1 else -1
    return math.prod(shapes[node.output[0]]) * left[inner]


def _matmul_nbits(node: onnx.NodeProto, shapes: Shapes) -> int:
    rows = math.prod(shapes[node.input[0]][:-1])
    return rows * attribute(node, "K", 0) * attribute(node, "N", 0)


def _convolution(weight: int) -> Rule:
    """Every output value takes one row of the weight, which is input number ``weight``."""
    return lambda node, shapes: (
        math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[weight]][1:])
    )


def _einsum(node: onnx.NodeProto, shapes: Shapes) -> int:
    """One multiply-add per combination of letters, for each operand after the first."""
    terms = attribute(node, "equation", "").replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        if "..." in term:
            raise KeyError(term)
        sizes |= dict(zip(term, shapes[name], strict=True))
    return math.prod(sizes.values()) * (len(terms) - 1)


def _recurrent(node: onnx.NodeProto, shapes: Shapes) -> int:
    first, second, _ = shapes[node.input[0]]  # T and B, in either order
    return first * second * sum(math.prod(shapes[name]) for name in node.input[1:3])


def _linear_attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Per item and head: read by the query, write, and where the rule corrects, read by the key."""
    batch, items = shapes[node.input[0]][:2]
    _, heads, keys, values = shapes[node.input[3]]
    reads = max(heads, attribute(node, "q_num_heads", heads))
    writes = 2 * heads if "delta" in attribute(node, "update_rule", "gated_delta") else heads
    return batch * items * keys * values * (reads + writes)


def _attention(node: onnx.NodeProto, shapes: Shapes) -> int:
    """ONNX's own operator: each query meets each key, and each weight a value; all heads."""
    if node.domain:
        raise KeyError(node.domain)  # that of com.microsoft holds its projections
    query, key, value = (shapes[name] for name in node.input[:3])
    past = shapes[node.input[4]][2] if len(node.input) > 4 and node.input[4] else 0
    if len(query) == 4:  # (B, heads, T, d)
        batch, heads, items, width = query
        return batch * heads * items * (past + key[2]) * (width + value[3])
    batch, items, width = query  # (B, T, heads * d)
    shared = attribute(node, "q_num_heads", 1) // attribute(node, "kv_num_heads", 1)
    return batch * items * (past + key[1]) * (width + value[2] * shared)


def _body(node: onnx.NodeProto, name: str, outer: Shapes) -> int:
    """Sum over a body's nodes, with the outer values in sight."""
    graph = next(a.g for a in node.attribute if a.name == name)
    shapes = {**outer, **_known(graph)}
    counts = [_count(inside, shapes) for inside in graph.node]
    if None in counts:
        raise KeyError(name)
    return sum(count or 0 for count in counts)


def _scan(node: onnx.NodeProto, shapes: Shapes) -> int:
    scanned = attribute(node, "num_scan_inputs", 1)
    axes = next((a.ints for a in node.attribute if a.name == "scan_input_axes"), [0])
    return shapes[node.input[-scanned]][axes[0]] * _body(node, "body", shapes)


def _loop(node: onnx.NodeProto, shapes: Shapes) -> int:
    if _body(node, "body", shapes):
        raise KeyError("trip count")  # known when it runs
    return 0


def _like(*inputs: int) -> Callable[[onnx.NodeProto, Shapes], list[Shape]]:
    """Output i has the shape of input ``inputs[i]``."""
    return lambda node, shapes: [shapes[node.input[i]] for i in inputs[: len(node.output)]]


def _attention_shapes(node: onnx.NodeProto, shapes: Shapes) -> list[Shape]:
    batch, items = shapes[node.input[0]][:2]
    _, heads, _, values = state = shapes[node.input[3]]
    return [(batch, items, max(heads, attribute(node, "q_num_heads", heads)) * values), state]


def _lstm_shapes(node: onnx.NodeProto, shapes: Shapes) -> list[Shape]:
    items, batch, _ = shapes[node.input[0]]
    directions, hidden, _ = shapes[node.input[2]]  # turned: (D, H, 4H)
    state = (directions, batch, hidden)
    return [(items, directions, batch, hidden), state, state]


def _product_shape(node: onnx.NodeProto, shapes: Shapes) -> list[Shape]:
    left, right = shapes[node.input[0]], shapes[node.input[1]]
    if attribute(node, "transA", 0):
        left = (*left[:-2], left[-1], left[-2])
    if attribute(node, "transB", 0):
        right = (*right[:-2], right[-1], right[-2])
    lead = max(left[:-2], right[:-2], key=math.prod)
    return [(*lead, left[-2], right[-1])]


_RULES: dict[str, Rule] = {
    "Attention": _attention,
    **dict.fromkeys(("CausalConvWithState", "Conv", "ConvInteger"), _convolution(1)),
    **dict.fromkeys(("DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"), _recurrent),
    **dict.fromkeys(("DynamicQuantizeMatMul", "FusedMatMul", "Gemm", "MatMul"), _matmul),
    **dict.fromkeys(("MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul"), _matmul),
    "ConvTranspose": lambda node, shapes: (
        math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    ),
    "Einsum": _einsum,
    "If": lambda node, shapes: max(
        _body(node, name, shapes) for name in ("then_branch", "else_branch")
    ),
    "LinearAttention": _linear_attention,
    "Loop": _loop,
    "MatMulNBits": _matmul_nbits,
    "QLinearConv": _convolution(3),
    "RotaryEmbedding": lambda node, shapes: 0,
    "Scan": _scan,
}
_NO_RULE = {"DFT", "DeformConv", "STFT", "SequenceMap"}
"""Operators of ONNX that multiply and add a lot and have no rule here."""
_OUTPUT_SHAPES: dict[str, Callable[[onnx.NodeProto, Shapes], list[Shape]]] = {
    "CausalConvWithState": _like(0, 3),
    "DynamicQuantizeLSTM": _lstm_shapes,
    "DynamicQuantizeMatMul": _product_shape,
    "FusedMatMul": _product_shape,
    "LinearAttention": _attention_shapes,
    "MatMulIntegerToFloat": _product_shape,
    "RotaryEmbedding": _like(0),
    "MatMulNBits": lambda node, shapes: [(*shapes[node.input[0]][:-1], attribute(node, "N", 0))],
}
