"""Write recurrent operators and convolutions whose weights are smaller on disk alone.

They are multiplied out to float32 once, when ONNX Runtime opens the graph: it folds Cast and Mul of
constants, but leaves DequantizeLinear to every run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from dst.quantize.recipe import Form
from dst.quantize.rewriting.cells import CELLS, copied
from dst.quantize.rewriting.rewrite import Draft
from dst.quantize.rounding import Floats, by_row

_STORED_BITS = 8
"""Weights that are multiplied out never overflow: they take all 8 bits."""
_LEAST_BALANCED = 16
"""Inputs, and values of each, from which on scales by input cost next to nothing."""
_LEAST_SHARED = 3
"""Fewer values under one scale are no smaller in 8 bits."""


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
