"""Find the weights of a graph and of those inside its nodes, each with its part in the recurrence.

Shape letters: ``K`` inputs and ``N`` outputs of a product, ``V`` rows of a table, ``D`` width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dst.graphs.walk import attribute, bodies_of, links, nodes_of, tensors_of
from dst.graphs.weights import dtype_name
from dst.quantize.recipe import Form
from dst.quantize.rewriting.cells import FILTERS, gap, slow
from dst.quantize.rewriting.rewrite import CELLS
from dst.runtime.bundle.manifest import Contract

Floats = npt.NDArray[np.float32]
Role = Literal["product", "recurrent", "gate", "narrow", "embedding", "cell", "filter"]

MIN_WIDTH = 32
"""A product narrower than this, either way, gains nothing: its int8 form is all overhead."""
MIN_VALUES = 1024
"""Smaller tensors are constants of the computation, not weights."""
_DECAYS = {"Softplus", "Exp"}
_SAME_ITEMS = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Clip"}
_DECAY_INPUTS = {"LinearAttention": (4, 5)}
"""Operators that read a decay and a write strength directly: the numbers of those inputs."""


@dataclass(frozen=True, slots=True)
class WeightUse:
    """One operator with weights: a product, a look-up, a recurrent operator or a convolution.

    Attributes:
        node: name of the node, unique in its graph.
        weight: name of the initializer.
        turned: it holds the weight transposed.
        role: ``recurrent`` where the result goes into the state without passing another weight,
            ``gate`` where it gets there as a decay, ``narrow`` where there is nothing to gain,
            ``embedding`` for a look-up by the chunk's items, ``cell`` for LSTM, GRU and RNN,
            ``filter`` for a convolution.
        shape: (K, N) of a product, (V, D) of a table; of a recurrent operator what multiplies
            input and state stacked, of a convolution what multiplies one window.
        key: SHA-256 (hex) of the weight as float32 in that shape, C order: equal weights of
            several graphs have equal keys.
        mirror: the same of the transposed weight: a head tied to a table mirrors it.
        operator: what the node is.
        operands: numbers of the inputs that are weights, of cells and filters.
        names: their initializers, biases left out.
        inside: it stands in the body of an If, a Loop or a Scan.
        gaps: of a cell: form -> why it cannot be held so; empty text where it can.
        slow: of a cell: form -> why that is no gain; empty text where it is one.
    """

    node: str
    weight: str
    turned: bool
    role: Role
    shape: tuple[int, int]
    key: str
    mirror: str
    operator: str = "MatMul"
    operands: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    inside: bool = False
    gaps: Mapping[Form, str] = field(default_factory=dict)
    slow: Mapping[Form, str] = field(default_factory=dict)

    def named_by(self, fits: Callable[[str], bool]) -> bool:
        """Whether a pattern fits the node or one of its weights."""
        return any(fits(name) for name in (self.node, self.weight, *self.names))


@dataclass(frozen=True, slots=True)
class FoundWeights:
    """What a graph holds.

    Attributes:
        uses: weights that can be held in another form.
        left: node -> why its weights cannot.
    """

    uses: tuple[WeightUse, ...]
    left: Mapping[str, str]


def find_weights(model: onnx.ModelProto, folder: Path, contract: Contract) -> FoundWeights:
    """Find the weights of a graph; its names must be distinct (``dst.graphs.walk``).

    External data is read from ``folder``; the contract tells which results are state.
    """
    graph = model.graph
    nodes = list(nodes_of(graph))
    top = {node.name for node in graph.node}
    tensors = tensors_of(graph)
    inputs = {value.name for value in graph.input}
    items = _items(graph, contract.chunk.input)
    turned = turned_weights(graph, tensors)
    uses: dict[str, WeightUse] = {}
    left: dict[str, str] = {}
    for node in nodes:
        inside = node.name not in top
        if node.op_type in (*CELLS, *FILTERS, "CausalConvWithState"):
            found: WeightUse | str | None = _operator(node, tensors, inputs, folder, inside)
        else:
            found = _product(node, tensors, turned, items, folder, inside)
        if isinstance(found, WeightUse):
            uses[node.name] = found
        elif found:
            left[node.name] = found
    left |= _read_twice(graph, tensors, turned, uses)
    uses = {name: use for name, use in uses.items() if name not in left}
    follow = _Follow(nodes, {*uses, *left}, contract)
    results = {node.name: node.output[0] for node in nodes if node.name in uses}
    whole = (
        use if use.operands else replace(use, role=_role(use, results[name], follow))
        for name, use in uses.items()
    )
    return FoundWeights(tuple(whole), left)


def _product(
    node: onnx.NodeProto,
    tensors: Mapping[str, onnx.TensorProto],
    turned: Mapping[str, onnx.TensorProto],
    items: set[str],
    folder: Path,
    inside: bool,
) -> WeightUse | str | None:
    """A product or a look-up, its role left open; or why its weight stays; None without one."""
    known = {**tensors, **turned}
    held = [i for i, n in enumerate(node.input) if n in known and _is_weight(known[n])]
    if not held:
        return None
    place, op = held[0], node.op_type
    matrix = len(known[node.input[place]].dims) == 2
    if op == "Gather" and place == 0:
        if not matrix or attribute(node, "axis", 0) != 0 or node.input[1] not in items:
            return "a table that is not looked up by the chunk's items"
    elif op in ("MatMul", "Gemm", "Einsum"):
        plain = matrix if op == "MatMul" else op == "Gemm" and _plain(node)
        if place != 1 or not plain:
            return f"{op} holds its weight in a way that has no quantized kernel"
    else:
        return None
    value = node.input[place]
    tensor = turned.get(value) or tensors[value]
    array = np.asarray(numpy_helper.to_array(tensor, str(folder)), np.float32)
    flip = (value in turned) != (node.op_type == "Gemm" and bool(attribute(node, "transB", 0)))
    array = array.T if flip else array
    rows, columns = array.shape
    return WeightUse(
        node=node.name,
        weight=tensor.name,
        turned=flip,
        role="product",
        shape=(rows, columns),
        key=key_of(array),
        mirror=key_of(array.T),
        operator=node.op_type,
        inside=inside,
    )


def _read_twice(
    graph: onnx.GraphProto,
    tensors: Mapping[str, onnx.TensorProto],
    turned: Mapping[str, onnx.TensorProto],
    uses: Mapping[str, WeightUse],
) -> dict[str, str]:
    """Find the operators whose weight something else reads too: node -> why it stays.

    The numbers of such a weight would be held twice, in their new form and as they were.
    """
    readers: dict[str, str] = {value.name: "the graph gives back" for value in graph.output}
    for node in nodes_of(graph):
        taken: set[int] = set()
        if node.name in uses:
            weights = [i for i, n in enumerate(node.input) if n in tensors or n in turned]
            taken = {*(uses[node.name].operands or weights)}
        elif any(name in turned for name in node.output):
            continue
        for place, name in enumerate(node.input):
            if place not in taken:
                readers[name] = f"{node.op_type} reads"
    readers |= {t.name: readers[value] for value, t in turned.items() if value in readers}
    return {
        node: f"{readers[name]} the same weight, which would then be held twice"
        for node, use in uses.items()
        for name in use.names or (use.weight,)
        if name in readers
    }


def _operator(
    node: onnx.NodeProto,
    tensors: Mapping[str, onnx.TensorProto],
    inputs: Collection[str],
    folder: Path,
    inside: bool,
) -> WeightUse | str:
    """A recurrent operator or a convolution; or why its weights stay as they are."""
    op = node.op_type
    if op == "CausalConvWithState":
        return "the short convolution of a memory stays float32"
    weights = (1, 2) if op in CELLS else (1,)
    for place in weights:
        name = node.input[place]
        if name not in tensors:
            made = "is an input of the graph" if name in inputs else "is computed by the graph"
            return f"a weight of {op} that {made} is no constant"
        if tensors[name].data_type != onnx.TensorProto.FLOAT:
            return f"{op} holds its weight as {dtype_name(tensors[name].data_type)}"
    if op in CELLS and attribute(node, "layout", 0):
        return f"ONNX Runtime runs no {op} with layout 1 on CPUs"
    names = tuple(node.input[place] for place in weights)
    sizes = [tuple(tensors[name].dims) for name in names]
    if sum(math.prod(size) for size in sizes) < MIN_VALUES:
        return f"{op} holds fewer than {MIN_VALUES:,} values: too few to gain anything"
    digest = hashlib.sha256()
    for name in names:
        array = np.asarray(numpy_helper.to_array(tensors[name], str(folder)), np.float32)
        digest.update(key_of(array).encode())
    bias = 3 if op in CELLS else 2
    has_bias = bias < len(node.input) and node.input[bias] in tensors
    first = sizes[0]
    if op in CELLS:
        shape = (first[2] + sizes[1][2], first[0] * first[1])
    else:
        outputs = first[0] if op == "Conv" else first[1]
        shape = (math.prod(first) // outputs, outputs)
    forms: tuple[Form, ...] = ("int8-dynamic", "int8-rows") if op in CELLS else ()
    return WeightUse(
        node=node.name,
        weight=names[0],
        turned=False,
        role="cell" if op in CELLS else "filter",
        shape=shape,
        key=digest.hexdigest(),
        mirror="",
        operator=op,
        operands=(*weights, bias) if has_bias else weights,
        names=names,
        inside=inside,
        gaps={form: gap(node, tensors, form) for form in forms},
        slow={form: slow(node, tensors, form) for form in forms},
    )


def key_of(array: npt.NDArray[np.generic]) -> str:
    """SHA-256 (hex) of an array's shape and values in C order."""
    digest = hashlib.sha256(repr(array.shape).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def turned_weights(
    graph: onnx.GraphProto, tensors: Mapping[str, onnx.TensorProto]
) -> dict[str, onnx.TensorProto]:
    """Find the values that are a transposed initializer: value -> initializer."""
    return {
        node.output[0]: tensors[node.input[0]]
        for node in nodes_of(graph)
        if node.op_type == "Transpose"
        and node.input[0] in tensors
        and len(tensors[node.input[0]].dims) == 2
        and all(list(a.ints) == [1, 0] for a in node.attribute)
    }


def _is_weight(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor may be a weight: masks and other small constants are none."""
    matrix = tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2
    return matrix and math.prod(tensor.dims) >= MIN_VALUES


def _plain(node: onnx.NodeProto) -> bool:
    """Whether a Gemm turns not its input and scales neither its product nor its bias."""
    scaled = any(a.f != 1.0 for a in node.attribute if a.name in ("alpha", "beta"))
    return not scaled and not attribute(node, "transA", 0)


def _items(graph: onnx.GraphProto, chunk: str) -> set[str]:
    """The values that are the chunk's items, in whatever shape and type."""
    found = {chunk}
    for node in graph.node:
        if node.op_type in _SAME_ITEMS and node.input[0] in found:
            found.add(node.output[0])
    return found


class _Follow:
    """Follows results through a graph up to the next weight."""

    def __init__(
        self, nodes: Sequence[onnx.NodeProto], weighted: set[str], contract: Contract
    ) -> None:
        self._after = {state.output for state in contract.state}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in nodes:
            if bodies_of(node):  # what is inside stands among the nodes
                for source, target in set(links(node)):
                    hand = onnx.helper.make_node("Identity", [source], [target])
                    self._readers.setdefault(source, []).append(hand)
                continue
            for value in set(node.input) if node.name not in weighted else ():
                self._readers.setdefault(value, []).append(node)

    def into_state(self, value: str) -> bool:
        """Whether a value gets into the state without passing another weight."""
        return any(result in self._after for result, _ in self._results(value, ()))

    def decays(self, value: str) -> bool:
        """Whether it gets there as a decay or a write strength."""
        for at, nodes in self._results(value, tuple(_DECAY_INPUTS)):
            for node in nodes:
                direct = _DECAY_INPUTS.get(node.op_type, ())
                if any(i < len(node.input) and node.input[i] == at for i in direct):
                    return True
                if node.op_type in _DECAYS and self.into_state(node.output[0]):
                    return True
        return False

    def _results(
        self, value: str, ends: tuple[str, ...]
    ) -> Iterator[tuple[str, list[onnx.NodeProto]]]:
        """Yield what comes of a value, each with its readers; go no further than ``ends``."""
        stack, seen = [value], {value}
        while stack:
            at = stack.pop()
            nodes = self._readers.get(at, [])
            yield at, nodes
            for node in nodes:
                for result in node.output if node.op_type not in ends else ():
                    if result not in seen:
                        seen.add(result)
                        stack.append(result)


def _role(use: WeightUse, result: str, follow: _Follow) -> Role:
    if use.operator == "Gather":
        return "embedding"
    if follow.decays(result):
        return "gate"
    if min(use.shape) < MIN_WIDTH:
        return "narrow"
    return "recurrent" if follow.into_state(result) else "product"
