"""Write a product or a look-up whose weight is in another form.

Only operators of ONNX itself are written, so that one file form serves every lowering; ONNX
Runtime fuses each pattern into its integer kernel when it opens the graph (MatMulNBits,
DynamicQuantizeMatMul, MatMulIntegerToFloat). Shape letters: ``K`` inputs and ``N`` outputs of a
product, ``V`` rows of a table, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from dst.quantize.recipe import Form
from dst.quantize.rounding import Rounded, packed4

OPSET: dict[Form, int] = {
    "float32": 1,
    "float16": 13,
    "int8-stored": 7,
    "int8-dynamic": 11,
    "int8-static": 13,
    "int8-rows": 18,
    "int8-block": 21,
    "int4-block": 21,
}
"""The first operator set that has what a form is written in."""
EMBEDDING_OPSET = 13
_HALF = 128
"""The zero point of rounded activations: 8 bits without a sign are what fast kernels read."""


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
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        name: str,
        attributes: Mapping[str, int] = MappingProxyType({}),
    ) -> str:
        """Add a node and return its output."""
        node = helper.make_node(op, inputs, [output], name)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        return output

    def array(self, name: str, array: npt.NDArray[np.generic] | np.generic) -> str:
        """Add a tensor unless it is there, and return its name."""
        return self._add(numpy_helper.from_array(np.array(array, order="C"), self.own(name)))

    def int4(self, name: str, rounded: Rounded) -> str:
        """Add a tensor of 4-bit numbers unless it is there, and return its name."""
        return self._add(
            TensorProto(
                name=self.own(name),
                data_type=TensorProto.INT4,
                dims=rounded.values.shape,
                raw_data=packed4(rounded.values),
            )
        )

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
        rounded: whole numbers and scales; None for float16.
        half: the weight in half precision, (K, N) or (V, D); None for the others.
        block: values per scale along K in the block forms.
        turned: the numbers are those of a table (V, D) = (N, K), which the product shares.
        activation: scale and zero point of the input, for ``int8-static``.
    """

    form: Form
    name: str
    rounded: Rounded | None = None
    half: npt.NDArray[np.float16] | None = None
    block: int = 0
    turned: bool = False
    activation: tuple[float, int] | None = None


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
    }
    writers[new.form](draft, node, new, product)
    if bias:
        draft.node("Add", [product, bias], result, f"{node.name}.bias")


def write_lookup(draft: Draft, node: onnx.NodeProto, new: NewWeight) -> None:
    """Write a Gather of rows with its table in half precision or int8; it keeps its name."""
    name, ids, result = node.name, node.input[1], node.output[0]
    to_float = int(TensorProto.FLOAT)
    if new.half is not None:
        table = draft.array(f"{new.name}.float16", new.half)
        rows = draft.node("Gather", [table, ids], f"{name}.rows", name, {"axis": 0})
        draft.node("Cast", [rows], result, f"{name}.wide", {"to": to_float})
        return
    rounded = _rounded(new)
    table = draft.array(f"{new.name}.int8", rounded.values)
    scales = draft.array(f"{new.name}.scales", rounded.scale[:, None])  # (V, 1)
    rows = draft.node("Gather", [table, ids], f"{name}.rows", name, {"axis": 0})
    wide = draft.node("Cast", [rows], f"{name}.rows_wide", f"{name}.wide", {"to": to_float})
    scale = draft.node("Gather", [scales, ids], f"{name}.row_scales", f"{name}.scale", {"axis": 0})
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
    if new.half is None:
        raise TypeError("a float16 form needs its weight in half precision")
    name = node.name
    weight = _turned(draft, new, draft.array(f"{new.name}.float16", new.half))
    narrow = draft.own(f"{node.input[0]}.float16")
    if not draft.has(narrow):
        draft.node(
            "Cast", [node.input[0]], narrow, f"{name}.narrow", {"to": int(TensorProto.FLOAT16)}
        )
    product = draft.node("MatMul", [narrow, weight], f"{name}.narrow_product", name)
    draft.node("Cast", [product], result, f"{name}.wide", {"to": int(TensorProto.FLOAT)})


def _dynamic(draft: Draft, node: onnx.NodeProto, new: NewWeight, result: str) -> None:
    name, x, rounded = node.name, node.input[0], _rounded(new)
    weight = _turned(draft, new, draft.array(f"{new.name}.int8", rounded.values))
    scale = draft.array(f"{new.name}.scale", rounded.scale)
    parts = [draft.own(f"{x}.{part}") for part in ("whole", "scale", "zero")]
    if not draft.has(parts[0]):
        draft.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], parts, f"{name}.rounded"))
    whole = draft.node("MatMulInteger", [parts[0], weight, parts[2]], f"{name}.whole", name)
    wide = draft.node(
        "Cast", [whole], f"{name}.whole_wide", f"{name}.wide", {"to": int(TensorProto.FLOAT)}
    )
    both = draft.node("Mul", [parts[1], scale], f"{name}.both_scales", f"{name}.scales")
    draft.node("Mul", [wide, both], result, f"{name}.scaled")


def _static(draft: Draft, node: onnx.NodeProto, new: NewWeight, result: str) -> None:
    if new.activation is None:
        raise TypeError("a static form needs the scale of its input")
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
    rounded = _rounded(new)
    scales = rounded.scale  # (n, N)
    if new.form == "int4-block":
        values = draft.int4(f"{new.name}.int4", rounded)
    elif scales.ndim == 2:
        values = draft.array(f"{new.name}.block8", rounded.values)
    else:  # the numbers of int8 columns (N,): every block of a column has the column's scale
        values = _turned(draft, new, draft.array(f"{new.name}.int8", rounded.values))
        inputs = rounded.values.shape[1 if new.turned else 0]
        scales = np.repeat(scales[None], -(-inputs // new.block), axis=0)
    scale = draft.array(f"{new.name}.block_scale", scales)
    weight = draft.node(
        "DequantizeLinear",
        [values, scale],
        f"{node.name}.weight",
        f"{node.name}.weight",
        {"axis": 0, "block_size": new.block},
    )
    draft.node("MatMul", [node.input[0], weight], result, node.name)


def _columns(draft: Draft, node: onnx.NodeProto, new: NewWeight) -> str:
    """Write an int8 weight with a scale per column, as the float (K, N) it stands for."""
    rounded = _rounded(new)
    values = _turned(draft, new, draft.array(f"{new.name}.int8", rounded.values))
    scale = draft.array(f"{new.name}.scale", rounded.scale)
    inputs, name = [values, scale], f"{node.name}.weight"
    return draft.node("DequantizeLinear", inputs, name, name, {"axis": 1})


def _turned(draft: Draft, new: NewWeight, table: str) -> str:
    """Give a product (K, N) of a table's numbers (N, K); ONNX Runtime turns them when it loads."""
    if not new.turned:
        return table
    name = f"{table}.turned"
    if not draft.has(name):
        node = helper.make_node("Transpose", [table], [name], name, perm=[1, 0])
        draft.nodes.append(node)
    return name


def _rounded(new: NewWeight) -> Rounded:
    if new.rounded is None:
        raise TypeError(f"the form {new.form} needs whole numbers and scales")
    return new.rounded
