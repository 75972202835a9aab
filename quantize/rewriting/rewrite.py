"""Write a product, a look-up or another operator whose weight is in another form.

Only operators of ONNX itself are written, so that one file form serves every lowering; ONNX
Runtime fuses each pattern into its integer kernel when it opens the graph (MatMulNBits,
DynamicQuantizeMatMul, MatMulIntegerToFloat). Weights that are smaller on disk alone are multiplied
out to float32 once, when it opens the graph: it folds Cast and Mul of constants, but leaves
DequantizeLinear to every run.

Shape letters: ``K`` inputs and ``N`` outputs of a product, ``V`` rows of a table, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dst.quantize.recipe import Form
from dst.quantize.rounding import Floats, Rounded, by_column, by_row, from_blocks, packed4

Array = npt.NDArray[Any]

CELLS = ("LSTM", "GRU", "RNN")
OPSET: dict[Form, int] = {
    "float32": 1,
    "float16": 13,
    "int8-stored": 7,
    "int8-dynamic": 11,
    "int8-static": 13,
    "int8-rows": 18,
    "int8-block": 21,
    "int4-block": 21,
    "int4-rows": 21,
}
"""The first operator set that has what a form is written in."""
EMBEDDING_OPSET = 13
_HALF = 128
"""The zero point of rounded activations: 8 bits without a sign are what fast kernels read."""
_STORED_BITS = 8
"""Weights that are multiplied out never overflow: they take all 8 bits."""
_LEAST_BALANCED = 16
"""Inputs, and values of each, from which on scales by input cost next to nothing."""
_LEAST_SHARED = 3
"""Fewer values under one scale are no smaller in 8 bits."""


@dataclass(slots=True)
class Draft:
    """The graph being written: its nodes in order and its new tensors, each once.

    Attributes:
        nodes: in topological order.
        tensors: name -> tensor.
        scope: what ends the names that are made of others' in a graph inside a node, where the
            same name may stand outside.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, TensorProto] = field(default_factory=dict)
    scope: str = ""

    def own(self, name: str) -> str:
        """Make a name of this graph's own."""
        return f"{name}{self.scope}"

    def has(self, value: str) -> bool:
        """Whether a node gives this value."""
        return any(value in node.output for node in self.nodes)

    def node(
        self, op: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any
    ) -> str:
        """Add a node, named as its output by default, and return its output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name or output, **attributes))
        return output

    def array(self, name: str, array: Array | np.generic) -> str:
        """Add a tensor unless it is there, and return its name."""
        return self._add(numpy_helper.from_array(np.array(array, order="C"), self.own(name)))

    def int4(self, name: str, values: Array) -> str:
        """Add a tensor of 4-bit numbers unless it is there, and return its name."""
        tensor = TensorProto(name=self.own(name), data_type=TensorProto.INT4, dims=values.shape)
        tensor.raw_data = packed4(values)
        return self._add(tensor)

    def _add(self, tensor: TensorProto) -> str:
        """Add a tensor; where its name stands for other values, give it a name of its own.

        One weight may be held twice: as it is for one product, and turned for another.
        """
        name, number = tensor.name, 1
        while self.tensors.setdefault(tensor.name, tensor) != tensor:
            number += 1
            tensor.name = f"{name}.{number}"
        return tensor.name


@dataclass(frozen=True, slots=True)
class NewWeight:
    """A weight in its new form, as tensors of a graph name it.

    Attributes:
        form: how the product reads it.
        name: what the tensors' names begin with.
        values: whole numbers, or the weight in half precision: (K, N), or (V, D) of a table.
        scale: as in ``Rounded``; empty for float16.
        block: values per scale along K in the block forms.
        turned: the numbers are those of a table (V, D) = (N, K), which the product shares.
        activation: scale and zero point of the input, for ``int8-static``.
    """

    form: Form
    name: str
    values: Array
    scale: Array
    block: int = 0
    turned: bool = False
    activation: tuple[float, int] = (1.0, 0)


def write_product(draft: Draft, node: onnx.NodeProto, new: NewWeight) -> None:
    """Write a MatMul or Gemm with its weight in another form; the product keeps its name."""
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else ""
    result = node.output[0]
    product = f"{node.name}.product" if bias else result
    writers = {
        "float16": _float16,
        "int8-dynamic": _dynamic,
        "int8-static": _static,
        "int8-rows": _rows,
        "int8-block": _blocks,
        "int4-block": _blocks,
        "int4-rows": _rows,
    }
    writers[new.form](draft, node, new, product)
    if bias:
        draft.node("Add", [product, bias], result, f"{node.name}.bias")


def write_lookup(draft: Draft, node: onnx.NodeProto, new: NewWeight) -> None:
    """Write a Gather of rows with its table in half precision or int8; it keeps its name."""
    name, ids, result = node.name, node.input[1], node.output[0]
    half = new.form == "float16"
    table = draft.array(f"{new.name}.{'float16' if half else 'int8'}", new.values)
    rows = draft.node("Gather", [table, ids], f"{name}.rows", name, axis=0)
    exact = result if half else f"{name}.rows_wide"
    wide = draft.node("Cast", [rows], exact, f"{name}.wide", to=TensorProto.FLOAT)
    if half:
        return
    scales = draft.array(f"{new.name}.scales", new.scale[:, None])  # (V, 1)
    scale = draft.node("Gather", [scales, ids], f"{name}.row_scales", f"{name}.scale", axis=0)
    draft.node("Mul", [wide, scale], result, f"{name}.scaled")


def write_limits(draft: Draft, node: onnx.NodeProto) -> None:
    """Write a Relu or a Clip as Max and Min: the same values, and a product before it is fused.

    ONNX Runtime 1.32 leaves a product in blocks as it stands if one of the two reads it, and then
    multiplies its weight out anew at every step.
    """
    if node.op_type == "Relu":
        low, high = draft.array("quantize.nothing", np.float32(0)), ""
    else:
        low, high = (*node.input[1:], "", "")[:2]
    steps = [(op, limit) for op, limit in (("Max", low), ("Min", high)) if limit]
    value, result = node.input[0], node.output[0]
    for number, (op, limit) in enumerate(steps, start=1):
        last = number == len(steps)
        output, name = (result, node.name) if last else (f"{result}.low", f"{node.name}.low")
        value = draft.node(op, [value, limit], output, name)
    if not steps:
        draft.nodes.append(node)


def _float16(draft: Draft, node: onnx.NodeProto, new: NewWeight, result: str) -> None:
    name, x = node.name, node.input[0]
    weight = _values(draft, new, "float16")
    narrow = draft.own(f"{x}.float16")
    if not draft.has(narrow):
        draft.node("Cast", [x], narrow, f"{name}.narrow", to=TensorProto.FLOAT16)
    product = draft.node("MatMul", [narrow, weight], f"{name}.narrow_product", name)
    draft.node("Cast", [product], result, f"{name}.wide", to=TensorProto.FLOAT)


def _dynamic(draft: Draft, node: onnx.NodeProto, new: NewWeight, result: str) -> None:
    name, x = node.name, node.input[0]
    weight = _values(draft, new, "int8")
    scale = draft.array(f"{new.name}.scale", new.scale)
    parts = [draft.own(f"{x}.{part}") for part in ("whole", "scale", "zero")]
    if not draft.has(parts[0]):
        draft.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], parts, f"{name}.rounded"))
    whole = draft.node("MatMulInteger", [parts[0], weight, parts[2]], f"{name}.whole", name)
    wide = draft.node("Cast", [whole], f"{name}.whole_wide", f"{name}.wide", to=TensorProto.FLOAT)
    both = draft.node("Mul", [parts[1], scale], f"{name}.both_scales", f"{name}.scales")
    draft.node("Mul", [wide, both], result, f"{name}.scaled")


def _static(draft: Draft, node: onnx.NodeProto, new: NewWeight, result: str) -> None:
    name, x = node.name, node.input[0]
    scale = draft.array(f"{new.name}.input_scale", np.float32(new.activation[0]))
    zero = draft.array(f"{new.name}.input_zero", np.uint8(new.activation[1]))
    whole = draft.node("QuantizeLinear", [x, scale, zero], f"{name}.whole", f"{name}.rounded")
    read = draft.node("DequantizeLinear", [whole, scale, zero], f"{name}.read", f"{name}.again")
    draft.node("MatMul", [read, _columns(draft, node, new)], result, name)


def _rows(draft: Draft, node: onnx.NodeProto, new: NewWeight, result: str) -> None:
    """Divide each item by its own peak, round it with a fixed scale, and multiply it back."""
    name, x = node.name, node.input[0]
    peak, read = draft.own(f"{x}.peak"), draft.own(f"{x}.read")
    if not draft.has(read):
        size = draft.node("Abs", [x], draft.own(f"{x}.size"), f"{name}.size")
        axes = draft.array("quantize.last_axis", np.array([-1]))
        highest = draft.node(
            "ReduceMax", [size, axes], draft.own(f"{x}.highest"), f"{name}.highest"
        )
        least = draft.array("quantize.least", np.float32(1e-30))
        draft.node("Max", [highest, least], peak, f"{name}.peak")
        even = draft.node("Div", [x, peak], draft.own(f"{x}.even"), f"{name}.even")
        unit = draft.array("quantize.unit", np.float32(1 / 127))
        zero = draft.array("quantize.zero", np.uint8(_HALF))
        whole = draft.node(
            "QuantizeLinear", [even, unit, zero], draft.own(f"{x}.whole"), f"{name}.rounded"
        )
        draft.node("DequantizeLinear", [whole, unit, zero], read, f"{name}.again")
    product = draft.node("MatMul", [read, _columns(draft, node, new)], f"{name}.even", name)
    draft.node("Mul", [product, peak], result, f"{name}.scaled")


def _blocks(draft: Draft, node: onnx.NodeProto, new: NewWeight, result: str) -> None:
    scales = new.scale  # (n, N)
    if new.form == "int4-block":
        values = draft.int4(f"{new.name}.int4", new.values)
    elif scales.ndim == 2:
        values = draft.array(f"{new.name}.block8", new.values)
    else:  # the numbers of int8 columns (N,): every block of a column has the column's scale
        values = _values(draft, new, "int8")
        inputs = new.values.shape[1 if new.turned else 0]
        scales = np.repeat(scales[None], -(-inputs // new.block), axis=0)
    read = [values, draft.array(f"{new.name}.block_scale", scales)]
    name, block = f"{node.name}.weight", new.block
    weight = draft.node("DequantizeLinear", read, name, axis=0, block_size=block)
    draft.node("MatMul", [node.input[0], weight], result, node.name)


def _columns(draft: Draft, node: onnx.NodeProto, new: NewWeight) -> str:
    """Write an int8 weight with a scale per column, as the float (K, N) it stands for."""
    if new.form == "int4-rows":
        read = list(_rounded_again(draft, new))
    else:
        read = [_values(draft, new, "int8"), draft.array(f"{new.name}.scale", new.scale)]
    return draft.node("DequantizeLinear", read, f"{node.name}.weight", axis=1)


def _rounded_again(draft: Draft, new: NewWeight) -> tuple[str, str]:
    """Round 4-bit blocks once more, to int8 per column: the numbers (K, N) and their scales (N,).

    ONNX Runtime calculates constants once, when it opens the graph, and frees none of the results
    before all weights are done. So there are few, in half precision: a number is off by at most
    1/20 before it is rounded. DequantizeLinear is left to every run, unless one operator of one
    input stands between it and QuantizeLinear: Flatten, which changes nothing here.
    """
    name = new.name
    weight = from_blocks(Rounded(new.values, new.scale), new.block)
    columns = draft.array(f"{name}.column_scale", by_column(weight, bits=7).scale)
    numbers = draft.own(f"{name}.columns")
    if not draft.has(numbers):
        values = draft.int4(f"{name}.int4", new.values)
        scales = draft.array(f"{name}.block_scale", new.scale)
        ratio = draft.node("Div", [scales, columns], draft.own(f"{name}.ratio"))
        half = draft.node("Cast", [ratio], draft.own(f"{name}.half"), to=TensorProto.FLOAT16)
        again = draft.own(f"{name}.again")
        draft.node("DequantizeLinear", [values, half], again, axis=0, block_size=new.block)
        flat = draft.node("Flatten", [again], draft.own(f"{name}.flat"), axis=1)
        one = draft.array("quantize.one", np.float16(1))
        none = draft.array("quantize.none", np.int8(0))
        draft.node("QuantizeLinear", [flat, one, none], numbers)
    return numbers, columns


def _values(draft: Draft, new: NewWeight, kind: str) -> str:
    """Write the numbers of a product (K, N).

    Those of a table (N, K) are turned, which ONNX Runtime does when it loads.
    """
    table = draft.array(f"{new.name}.{kind}", new.values)
    if not new.turned:
        return table
    name = f"{table}.turned"
    if not draft.has(name):
        draft.nodes.append(helper.make_node("Transpose", [table], [name], name, perm=[1, 0]))
    return name


def copied(node: onnx.NodeProto, inputs: Sequence[str]) -> onnx.NodeProto:
    """Copy a node, with other inputs."""
    fresh = onnx.NodeProto()
    fresh.CopyFrom(node)
    del fresh.input[:]
    fresh.input.extend(inputs)
    return fresh


def write_stored(
    draft: Draft, node: onnx.NodeProto, weights: Mapping[int, Floats], form: Form
) -> None:
    """Write a recurrent operator or a convolution that reads weights held in a smaller form.

    ``weights`` are values by input number, ``form`` is ``int8-stored`` or ``float16``.
    """
    inputs = list(node.input)
    for place, weight in weights.items():
        name = node.input[place]
        scales = 2 if node.op_type in CELLS else 1  # how many axes have a scale for each index
        if place > 2 or weight.size < _LEAST_SHARED * np.prod(weight.shape[:scales]):
            continue  # a scale would take what rounding saves
        inputs[place] = result = draft.own(f"{name}.read")
        if draft.has(result):
            continue
        if form == "float16":
            held = draft.array(f"{name}.float16", weight.astype(np.float16))
            draft.node("Cast", [held], result, to=TensorProto.FLOAT)
            continue
        turned = node.op_type == "ConvTranspose"  # (C, M, ...): outputs are on the second axis
        values, *by = _stored(np.moveaxis(weight, 1, 0) if turned else weight, scales)
        if turned:
            values, *by = (np.moveaxis(part, 0, 1) for part in (values, *by))
        held = draft.array(f"{name}.stored8", values)
        read = draft.node("Cast", [held], f"{result}.wide", to=TensorProto.FLOAT)
        for number, scale in enumerate(by):
            part = draft.array(f"{name}.stored_scale{number}", scale)
            last = result if number == len(by) - 1 else f"{result}.scaled"
            read = draft.node("Mul", [read, part], last)
    draft.nodes.append(copied(node, inputs))


def _stored(weight: Floats, scales: int) -> list[npt.NDArray[np.generic]]:
    """Round a weight whose first ``scales`` axes are outputs and whose next one is inputs.

    Inputs of very unequal size come with weights of very unequal size, of which one scale per
    output would lose the small ones. So each input has a scale too, where it shares it with many.

    Returns:
        Whole numbers, and the scales by input, if any, and by output, which multiply them.
    """
    outputs, inputs = int(np.prod(weight.shape[:scales])), weight.shape[scales]
    after = weight.ndim - scales
    by_input = np.ones((inputs, 1), np.float32)
    rows = weight.reshape(outputs, inputs, -1)
    shared = rows.size // inputs
    if shared >= _LEAST_BALANCED and inputs >= _LEAST_BALANCED:
        by_input = np.sqrt(np.square(rows).mean(axis=(0, 2), keepdims=True))[0]
        by_input = np.where(by_input > 0, by_input, 1).astype(np.float32)
    rounded = by_row((rows / by_input).reshape(outputs, -1), _STORED_BITS)
    found: list[npt.NDArray[np.generic]] = [rounded.values.reshape(weight.shape)]
    if not (by_input == 1).all():
        found.append(by_input.reshape(*[1] * scales, inputs, *[1] * (after - 1)))
    found.append(rounded.scale.reshape(*weight.shape[:scales], *[1] * after))
    return found
