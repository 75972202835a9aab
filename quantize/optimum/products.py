"""Quantize products with optimum's `ORTQuantizer`.

`ORTQuantizer` is shown a model that holds the chosen products side by side and nothing else. Shown
the whole graph it would do more than it was asked for: take every Gemm apart, chosen or not; round
what the other readers of a product's input get; and fail behind operators that it does not know.
It makes names by adding to others: inputs, weights and results end in `.in0`, `.weight` and
`.result`, so that no name is made twice.

Shape letters: ``K`` inputs and ``N`` outputs of a product.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dst.quantize.find_weights import Floats

if TYPE_CHECKING:
    from optimum.onnxruntime.configuration import QuantizationConfig

ORT_CONFIG = "ort_config.json"
"""Where optimum keeps its configuration."""


@dataclass(frozen=True, slots=True)
class Product:
    """One product that is to be quantized.

    Attributes:
        name: of its node.
        reads: the value that it multiplies.
        weight: name of the weight, ending in ``.weight``; products of the same name share it.
        values: the weight, (K, N).
        low: the least value of the input that calibration saw; 0 without calibration.
        high: the greatest.
    """

    name: str
    reads: str
    weight: str
    values: Floats
    low: float
    high: float

    @property
    def result(self) -> str:
        """What the product is called in the model that optimum is shown."""
        return f"{self.name}.result"


@dataclass(frozen=True, slots=True)
class Written:
    """What optimum made.

    Attributes:
        model: the products, quantized; its tensors stand inside.
        inputs: input of the model -> the value that it stands for.
        config: the bytes of its ``ort_config.json``.
    """

    model: onnx.ModelProto
    inputs: Mapping[str, str]
    config: bytes


def quantized(
    products: Sequence[Product], config: QuantizationConfig, like: onnx.ModelProto
) -> Written:
    """Have `ORTQuantizer` quantize products.

    Args:
        products: At least one.
        config: How; ranges are taken from the products where it is static.
        like: The model that they come from, for its versions.
    """
    from optimum.onnxruntime import ORTQuantizer
    from transformers import PretrainedConfig

    reads = _reads(products)
    model = _side_by_side(products, reads, like)
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder) / "products.onnx", Path(folder) / "made"
        onnx.save_model(model, str(path), save_as_external_data=True, location="weights")
        # an empty configuration: without one, optimum looks for that of a transformers model
        ORTQuantizer(path, config=PretrainedConfig()).quantize(
            config,
            save_dir=made,
            file_suffix="",
            calibration_tensors_range=_ranges(products, reads) if config.is_static else None,
        )
        return Written(
            model=onnx.load(str(made / path.name)),
            inputs={reads[p.name]: p.reads for p in products},
            config=(made / ORT_CONFIG).read_bytes(),
        )


def _side_by_side(
    products: Sequence[Product], reads: Mapping[str, str], like: onnx.ModelProto
) -> onnx.ModelProto:
    """Build the model that optimum is shown: each product reads an input and gives an output."""
    weights = {p.weight: np.ascontiguousarray(p.values) for p in products}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [reads[p.name], p.weight], [p.result], p.name)
            for p in products
        ],
        "products",
        [_floats(name) for name in dict.fromkeys(reads.values())],
        [_floats(p.result) for p in products],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [o for o in like.opset_import if o.domain in ("", "ai.onnx")]
    return helper.make_model(graph, opset_imports=opsets, ir_version=like.ir_version)


def _reads(products: Sequence[Product]) -> dict[str, str]:
    """Name the inputs: name of a product -> of its input, the same where value and range are.

    A weight that two products share has one range, so that a value may be read in several.
    """
    names: dict[tuple[str, float, float], str] = {}
    for p in products:
        names.setdefault((p.reads, p.low, p.high), f"{p.reads}.in{len(names)}")
    return {p.name: names[p.reads, p.low, p.high] for p in products}


def _floats(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _ranges(products: Sequence[Product], reads: Mapping[str, str]) -> dict[str, object]:
    """Ranges as optimum takes them.

    It wants those of results as well; they are any, since results are left in float32.
    """
    from onnxruntime.quantization.calibrate import TensorData

    reach = {p.result: (0.0, 1.0) for p in products}
    reach |= {reads[p.name]: (p.low, p.high) for p in products}
    return {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in reach.items()
    }
