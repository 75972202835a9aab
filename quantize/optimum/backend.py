"""Let optimum's `ORTQuantizer` round the products of a bundle's graphs.

`ORTQuantizer` is shown the chosen products side by side and nothing else. Shown the whole graph it
would take every Gemm apart, chosen or not; round what the other readers of a product's input get;
and fail behind operators that it does not know. It makes names by adding to others: inputs, weights
and results end in `.in0`, `.weight` and `.result`, so that no name is made twice.

Shape letters: ``K`` inputs and ``N`` outputs of a product.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dst.quantize.assign import Choice
from dst.quantize.errors import QuantizeError
from dst.quantize.find_weights import Floats, WeightUse
from dst.quantize.optimum.mapping import to_optimum
from dst.quantize.recipe import Recipe
from dst.quantize.rewriting.rebuild import Direct, Opened, Writer
from dst.quantize.rewriting.rewrite import Draft
from dst.quantize.rounded_weights import RoundedWeights

if TYPE_CHECKING:
    from optimum.onnxruntime.configuration import QuantizationConfig

ORT_CONFIG = "ort_config.json"
"""Where optimum keeps its configuration."""
_PREFIX = "optimum."
"""What the names of optimum's values begin with in the graph: they may be taken there."""


class Product(NamedTuple):
    """One product that is to be quantized: the value that it reads times a weight (K, N).

    Products of one ``weight``, whose name ends in ``.weight``, share it. ``low`` and ``high`` are
    the range of the input that calibration saw; 0 without calibration.
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


class Written(NamedTuple):
    """What optimum made: the products, quantized, their tensors inside; and its configuration.

    ``inputs`` name for each input of the model the value that it stands for.
    """

    model: onnx.ModelProto
    inputs: Mapping[str, str]
    config: bytes


def quantized(
    products: Sequence[Product], config: QuantizationConfig, like: onnx.ModelProto
) -> Written:
    """Have `ORTQuantizer` quantize one or more products; ``like`` gives the model's versions."""
    from onnxruntime.quantization.calibrate import TensorData
    from optimum.onnxruntime import ORTQuantizer
    from transformers import PretrainedConfig

    # A value is read once for each range: a weight that two products share has one range.
    names: dict[tuple[str, float, float], str] = {}
    for p in products:
        names.setdefault((p.reads, p.low, p.high), f"{p.reads}.in{len(names)}")
    reads = {p.name: names[p.reads, p.low, p.high] for p in products}
    # It wants the ranges of results as well; they are any, since results are left in float32.
    reach = {p.result: (0.0, 1.0) for p in products}
    reach |= {reads[p.name]: (p.low, p.high) for p in products}
    ranges = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in reach.items()
    }
    model = _side_by_side(products, reads, like)
    with tempfile.TemporaryDirectory() as folder:
        path, made = Path(folder) / "products.onnx", Path(folder) / "made"
        onnx.save_model(model, str(path), save_as_external_data=True, location="weights")
        # an empty configuration: without one, optimum looks for that of a transformers model
        ORTQuantizer(path, config=PretrainedConfig()).quantize(
            config,
            save_dir=made,
            file_suffix="",
            calibration_tensors_range=ranges if config.is_static else None,
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


def _floats(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


class OptimumBackend:
    """Has `ORTQuantizer` round the weights of products and write them; see `dst.quantize.optimum`.

    Which products are quantized is the plan's to say, as ever. Look-ups in tables are written by
    this package: optimum has one scale for a whole table, recipes have one for each row. So are
    the products of a graph for single steps, which multiplies the numbers of int8 columns by
    block: optimum has no blocks. Recurrent operators, convolutions and what stands inside an If, a
    Loop or a Scan are written by this package too.
    """

    def __init__(self) -> None:
        self._config = b""

    def check(self, recipe: Recipe) -> None:
        """Start on a bundle; refuse a recipe that optimum cannot do.

        Raises:
            QuantizeError: `no-counterpart`: it has no words for it.
        """
        to_optimum(recipe)
        self._config = b""

    def writer(self, graph: Opened, chosen: Mapping[str, Choice], values: RoundedWeights) -> Writer:
        """Have the chosen products of a graph quantized, all at once, and write them one by one.

        Raises:
            QuantizeError: `no-counterpart`: an override chose a form that is not the recipe's.
        """
        recipe = values.recipe
        uses = [s for s in graph.found.uses if not (s.operands or s.inside)]
        taken = [chosen[use.node] for use in uses]
        forms = {c.form for c in taken if c.role != "embedding" and c.form != "float32"}
        if recipe.products == "int8-dynamic" and forms == {"int8-block"}:  # a graph of `single`
            return Direct().writer(graph, chosen, values)
        inputs = {node.name: node.input[0] for node in graph.model.graph.node}
        products = []
        for use, choice in zip(uses, taken, strict=True):
            if choice.role == "embedding" or choice.form == "float32":
                continue
            if choice.form != recipe.products:
                raise QuantizeError(
                    f"{use.weight} is to be {choice.form}; with optimum every product is "
                    f"{recipe.products}, the recipe's, or float32: leave optimum out",
                    code="no-counterpart",
                )
            low = high = 0.0
            if recipe.products == "int8-static":
                seen = values.seen_of(use.key)
                low, high = seen.low, seen.high
            weight = f"{use.weight}.turned.weight" if use.turned else f"{use.weight}.weight"
            taken_from = inputs[use.node]
            products.append(Product(use.node, taken_from, weight, graph.weight(use), low, high))
        if not products:
            return Direct().writer(graph, chosen, values)
        made = quantized(products, to_optimum(recipe), graph.model)
        self._config = made.config
        return _Splice(made, products, {n for n, choice in chosen.items() if choice.table})

    def files(self) -> Mapping[str, bytes]:
        """Optimum's configuration, as it wrote it: the same for every graph."""
        return {ORT_CONFIG: self._config} if self._config else {}


class _Splice:
    """Moves one product at a time, with all it needs, from optimum's model into a draft."""

    def __init__(self, made: Written, products: Sequence[Product], tied: set[str]) -> None:
        graph = made.model.graph
        self._nodes = list(graph.node)
        self._maker = {name: at for at, node in enumerate(graph.node) for name in node.output}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._products = {p.name: p for p in products}
        self._tied = tied
        self._inputs = made.inputs

    def __call__(self, draft: Draft, node: onnx.NodeProto, use: WeightUse) -> None:
        """Write a product; it keeps its name, and its bias is added behind it."""
        product = self._products[node.name]
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else ""
        result = f"{node.name}.product" if bias else node.output[0]
        last = self._last(product)
        written = {name for made in draft.nodes for name in made.output}
        for at in sorted(self._behind(last)):
            if self._named(self._nodes[at].output[0]) not in written:
                self._write(draft, at, product, result if at == last else None)
        if bias:
            draft.node("Add", [result, bias], node.output[0], f"{node.name}.bias")

    def _last(self, product: Product) -> int:
        """The node that gives a product in float32: optimum rounds what a static one gives."""
        for at, node in enumerate(self._nodes):
            if (node.op_type, node.name) == ("MatMul", product.name):
                return at
        return self._maker[product.result]

    def _behind(self, last: int) -> set[int]:
        """A node and all that it needs."""
        stack, needed = [last], {last}
        while stack:
            for name in self._nodes[stack.pop()].input:
                at = self._maker.get(name)
                if at is not None and at not in needed:
                    needed.add(at)
                    stack.append(at)
        return needed

    def _write(self, draft: Draft, at: int, product: Product, result: str | None) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(self._nodes[at])
        multiplies = node.op_type in ("MatMul", "MatMulInteger")
        node.name = product.name if multiplies else f"{_PREFIX}{node.name}"
        node.input[:] = [
            self._tensor(draft, name, product) if name in self._tensors else self._named(name)
            for name in node.input
        ]
        node.output[:] = [self._named(name) for name in node.output] if result is None else [result]
        draft.nodes.append(node)

    def _named(self, name: str) -> str:
        return self._inputs.get(name) or f"{_PREFIX}{name}"

    def _tensor(self, draft: Draft, name: str, product: Product) -> str:
        """Add a tensor; the numbers of a tied head as those of its table, which it turns."""
        tensor, named = self._tensors[name], self._named(name)
        if product.name not in self._tied or len(tensor.dims) < 2:
            if named not in draft.tensors:
                draft.tensors[named] = copy = TensorProto()
                copy.CopyFrom(tensor)
                copy.name = named
            return named
        turned = f"{named}.turned"
        if named not in draft.tensors:
            table = draft.array(named, np.ascontiguousarray(numpy_helper.to_array(tensor).T))
            draft.nodes.append(
                helper.make_node("Transpose", [table], [turned], turned, perm=[1, 0])
            )
        return turned
