"""Say what the 8-bit kernels can do with a recurrent operator or a convolution, and write them so.

Shape letters: ``D`` directions, ``G`` gates, ``H`` hidden units, ``I`` inputs, ``T`` items,
``B`` batch.

An LSTM in 8 bits is `com.microsoft.DynamicQuantizeLSTM`, which rounds all items of a chunk with one
scale; where each item is to have its own, a Scan steps it item by item. ONNX Runtime has no such
kernel for GRU and RNN: they are written as a product over the chunk and a Scan whose body
multiplies the state. What an operator costs beside its products decides from how many hidden units
on that is faster (``examples/bench/lstm_int8.py --force``); below, weights are only stored in
8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from dst.graphs.walk import attribute
from dst.quantize.recipe import Form
from dst.quantize.rewriting.rewrite import Draft, NewWeight, copied, write_product
from dst.quantize.rounding import Floats, by_column, by_row

FILTERS = ("Conv", "ConvTranspose")
MICROSOFT = "com.microsoft"
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_LEAST: Mapping[str, Mapping[Form, int]] = {
    "LSTM": {"int8-dynamic": 64, "int8-rows": 256},
    "GRU": {"int8-dynamic": 384, "int8-rows": 384},
    "RNN": {"int8-dynamic": 384, "int8-rows": 384},
}
"""Hidden units from which on a form was measured faster than float32 at T = 1 and T = 16."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What the writer needs of one recurrent operator.

    Attributes:
        node: the operator.
        weights: input number -> values: 1 (D, GH, I), 2 (D, GH, H), and 3, the bias (D, 2GH), where
            it is known.
        bits: of the weights that are multiplied in 8 bits.
    """

    node: onnx.NodeProto
    weights: Mapping[int, Floats]
    bits: int


def slow(node: onnx.NodeProto, tensors: Mapping[str, TensorProto], form: Form) -> str:
    """Say why a recurrent operator is no faster in a form; empty where it is."""
    least, hidden = _LEAST[node.op_type][form], tensors[node.input[2]].dims[2]
    if hidden >= least:
        return ""
    return f"{form} makes {node.op_type} faster from {least} hidden units on, this has {hidden}"


def gap(node: onnx.NodeProto, tensors: Mapping[str, TensorProto], form: Form) -> str:
    """Say why an LSTM, GRU or RNN cannot be multiplied in 8 bits; empty where it can.

    ``form`` is ``int8-dynamic`` or ``int8-rows``.
    """
    op = node.op_type
    if op == "LSTM" and form == "int8-dynamic":
        return ""
    if attribute(node, "direction", "forward") != "forward":
        return f"{op} that reads the chunk backwards cannot be stepped item by item"
    if _input(node, 4):
        return f"{op} with sequence_lens cannot be stepped item by item"
    if not _input(node, 5) or (op == "LSTM" and not _input(node, 6)):
        return f"{op} without a given initial state cannot be stepped item by item"
    if op == "LSTM":
        return ""
    usual = {"GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}[op]
    chosen = [a.strings for a in node.attribute if a.name == "activations"]
    if chosen and [name.decode().capitalize() for name in chosen[0]] != usual:
        return f"{op} with other activations than {' and '.join(usual)} has no 8-bit form"
    if any(a.name == "clip" for a in node.attribute):
        return f"{op} with clip has no 8-bit form"
    if _input(node, 3) and _input(node, 3) not in tensors:
        return f"{op} whose bias the graph computes has no 8-bit form"
    return ""


def write_cell(draft: Draft, cell: Cell, form: Form) -> None:
    """Write a recurrent operator whose products are multiplied in 8 bits, one without a ``gap``.

    ``form`` is ``int8-dynamic`` or ``int8-rows``.
    """
    node = cell.node
    if node.op_type != "LSTM":
        _write_products(draft, cell, form)
    elif form == "int8-dynamic":
        draft.nodes.append(_lstm(draft, cell, node.input[0], node.input[5:7], node.output))
    else:
        _step_lstm(draft, cell)


def write_filter(
    draft: Draft,
    node: onnx.NodeProto,
    weights: Mapping[int, Floats],
    bits: int,
    ranges: Sequence[tuple[float, int]],
) -> None:
    """Write a Conv between rounded values, as ONNX Runtime and NPUs fuse it (QLinearConv).

    ``weights`` are 1 (M, C, ...), and 2, the bias (M,), where there is one; ``ranges`` are scale
    and zero point of its input and of its output.
    """
    name, weight = node.name, weights[1]
    rounded = by_row(weight.reshape(weight.shape[0], -1), bits)
    reads, gives = (
        [
            draft.array(f"{name}.{end}_scale", np.float32(scale)),
            draft.array(f"{name}.{end}_zero", np.uint8(zero)),
        ]
        for end, (scale, zero) in zip(("input", "output"), ranges, strict=True)
    )
    whole = draft.node("QuantizeLinear", [node.input[0], *reads], f"{name}.whole", f"{name}.whole")
    inputs = [draft.node("DequantizeLinear", [whole, *reads], f"{name}.read")]
    values = draft.array(f"{node.input[1]}.int8", rounded.values.reshape(weight.shape))
    scale = draft.array(f"{node.input[1]}.scale", rounded.scale)
    inputs.append(draft.node("DequantizeLinear", [values, scale], f"{name}.weight", axis=0))
    if 2 in weights:
        both = rounded.scale * np.float32(ranges[0][0])
        limit = np.iinfo(np.int32).max
        steps = np.clip(np.rint(weights[2] / both), -limit, limit).astype(np.int32)
        bias = [draft.array(f"{name}.bias32", steps), draft.array(f"{name}.bias_scale", both)]
        inputs.append(draft.node("DequantizeLinear", bias, f"{name}.bias", axis=0))
    fresh = copied(node, inputs)
    fresh.output[0] = f"{name}.exact"
    draft.nodes.append(fresh)
    end = draft.node("QuantizeLinear", [f"{name}.exact", *gives], f"{name}.given")
    draft.node("DequantizeLinear", [end, *gives], node.output[0], f"{name}.again")


def _lstm(
    draft: Draft, cell: Cell, x: str, state: Sequence[str], outputs: Sequence[str]
) -> onnx.NodeProto:
    """The node `DynamicQuantizeLSTM`, whose weights are turned: (D, I, 4H) and (D, H, 4H)."""
    node = cell.node
    held: list[str] = []
    numbers: list[str] = []
    for place in (1, 2):
        weight, name = cell.weights[place], node.input[place]
        rounded = by_row(weight.reshape(-1, weight.shape[2]), cell.bits)
        turned = np.swapaxes(rounded.values.reshape(weight.shape), 1, 2)
        held.append(draft.array(f"{name}.int8", turned))
        shape = weight.shape[:2]
        numbers.append(draft.array(f"{name}.scale", rounded.scale.reshape(shape)))
        numbers.append(draft.array(f"{name}.zero", np.zeros(shape, np.int8)))
    bias, lengths = _input(node, 3), _input(node, 4)
    inputs = [x, *held, bias, lengths, *[*state, "", ""][:2], _input(node, 7), *numbers]
    fresh = helper.make_node(
        "DynamicQuantizeLSTM", inputs, list(outputs), node.name, domain=MICROSOFT
    )
    fresh.attribute.extend(a for a in node.attribute if a.name != "layout")
    return fresh


def _step_lstm(draft: Draft, cell: Cell) -> None:
    """A Scan over the items, each rounded with a scale of its own: (T, B, I) -> (T, 1, B, H)."""
    node, name = cell.node, cell.node.name
    h, c, x = (f"{name}.{part}" for part in ("h", "c", "x"))
    after = [f"{name}.h_next", f"{name}.c_next"]
    body = Draft(tensors=draft.tensors, scope=draft.scope)
    axis = draft.array("quantize.first_axis", np.array([0]))
    one = body.node("Unsqueeze", [x, axis], f"{x}.one", f"{name}.one")
    inside = _lstm(body, cell, one, [h, c], ["", *after])
    inside.name = f"{name}.item"
    body.nodes.append(inside)
    given = body.node("Identity", [after[0]], f"{name}.given", f"{name}.given")
    _scan(draft, node, body, ([h, c], x), (after, given), node.input[0])


def _write_products(draft: Draft, cell: Cell, form: Form) -> None:
    """A GRU or an RNN: one product over the chunk, then a Scan that multiplies the state."""
    node, name = cell.node, cell.node.name
    units = cell.weights[2].shape[2]
    gates = _GATES[node.op_type]
    whole = cell.weights.get(3, np.zeros((1, 2 * gates * units), np.float32))[0]
    bias, state_bias = whole[: gates * units].copy(), whole[gates * units :]
    late = node.op_type == "GRU" and attribute(node, "linear_before_reset", 0)
    most = 2 * units if late else gates * units
    bias[:most] += state_bias[:most]  # what is only added may be added before
    items = f"{name}.items"
    _product(draft, f"{name}.input", node.input[0], (node.input[1], cell.weights[1][0]), cell, form)
    added = draft.array(f"{name}.bias", bias)
    draft.node("Add", [f"{name}.input.result", added], items, f"{name}.input_bias")
    body = Draft(tensors=draft.tensors, scope=draft.scope)
    h, x, after = f"{name}.h", f"{name}.x", f"{name}.h_next"
    if node.op_type == "RNN":
        read = _product(body, f"{name}.state", h, (node.input[2], cell.weights[2][0]), cell)
        summed = body.node("Add", [x, read], f"{name}.sum")
        body.node("Tanh", [summed], after, f"{name}.tanh")
    else:
        _gru(body, cell, state_bias[2 * units :] if late else None, after)
    given = body.node("Identity", [after], f"{name}.given")
    _scan(draft, node, body, ([h], x), ([after], given), items)


def _gru(body: Draft, cell: Cell, late: Floats | None, after: str) -> None:
    """One item of a GRU: (1, B, H) and the item's share (B, 3H) -> (1, B, H).

    ``late`` is the bias that is reset with the state, None where the state is reset before it is
    multiplied.
    """
    name, weight = cell.node.name, cell.weights[2][0]
    read_name, units = cell.node.input[2], weight.shape[1]
    h, x = f"{name}.h", f"{name}.x"

    def node(op: str, inputs: Sequence[str], part: str) -> str:
        return body.node(op, inputs, f"{name}.{part}")

    def split(value: str, sizes: Sequence[int], parts: Sequence[str]) -> list[str]:
        given = [f"{name}.{part}" for part in parts]
        at = body.array(f"{name}.split{len(sizes)}_{sizes[0]}", np.array(sizes))
        fresh = helper.make_node("Split", [value, at], given, f"{name}.{parts[0]}_split", axis=-1)
        body.nodes.append(fresh)
        return given

    x_gates, x_new = split(x, [2 * units, units], ["x_gates", "x_new"])
    if late is not None:
        read = _product(body, f"{name}.state", h, (read_name, weight), cell)
        h_gates, h_plain = split(read, [2 * units, units], ["h_gates", "h_plain"])
    else:
        matrix = (f"{read_name}.gates", weight[: 2 * units])
        h_gates = _product(body, f"{name}.state", h, matrix, cell)
    gates = node("Sigmoid", [node("Add", [x_gates, h_gates], "gates_sum")], "gates")
    update, reset = split(gates, [units, units], ["update", "reset"])
    if late is not None:
        h_biased = node("Add", [h_plain, body.array(f"{name}.late_bias", late)], "h_biased")
        h_new = node("Mul", [reset, h_biased], "h_new")
    else:
        left = node("Mul", [reset, h], "h_reset")
        matrix = (f"{read_name}.new", weight[2 * units :])
        h_new = _product(body, f"{name}.new_state", left, matrix, cell)
    new = node("Tanh", [node("Add", [x_new, h_new], "new_sum")], "new")
    kept = node("Mul", [update, node("Sub", [h, new], "change")], "kept")
    body.node("Add", [new, kept], after, f"{name}.next")


def _product(
    draft: Draft,
    name: str,
    x: str,
    weight: tuple[str, Floats],
    cell: Cell,
    form: Form = "int8-dynamic",
) -> str:
    """Multiply (..., K) by a weight (N, K), which has a name."""
    rounded = by_column(weight[1].T, cell.bits)
    result = f"{name}.result"
    node = helper.make_node("MatMul", [x, weight[0]], [result], name)
    write_product(draft, node, NewWeight(form, weight[0], rounded.values, rounded.scale))
    return result


def _scan(
    draft: Draft,
    node: onnx.NodeProto,
    body: Draft,
    reads: tuple[Sequence[str], str],
    gives: tuple[Sequence[str], str],
    items: str,
) -> None:
    """Add a Scan under the operator's name: states first, then the items, as its body has them."""
    states, x = reads
    after, given = gives

    def info(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    graph = helper.make_graph(
        body.nodes,
        f"{node.name}.item",
        [info(value) for value in (*states, x)],
        [info(value) for value in (*after, given)],
    )
    initial = [node.input[5 + place] for place in range(len(states))]
    last = [_output(node, 1 + place) or f"{name}.last" for place, name in enumerate(after)]
    result = _output(node, 0) or f"{given}.all"
    inputs, outputs = [*initial, items], [*last, result]
    draft.nodes.append(
        helper.make_node("Scan", inputs, outputs, node.name, num_scan_inputs=1, body=graph)
    )


def _input(node: onnx.NodeProto, place: int) -> str:
    return node.input[place] if place < len(node.input) else ""


def _output(node: onnx.NodeProto, place: int) -> str:
    return node.output[place] if place < len(node.output) else ""
