"""A graph in, its products and look-ups of weights out, each with its part in the recurrence.

Shape letters: ``K`` inputs and ``N`` outputs of a product, ``V`` rows of a table, ``D`` width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dst.runtime.manifest import Contract

Floats = npt.NDArray[np.float32]
Role = Literal["product", "recurrent", "gate", "narrow", "embedding"]

MIN_WIDTH = 32
"""A product narrower than this, either way, gains nothing: its int8 form is all overhead."""
MIN_VALUES = 1024
"""Smaller tensors are constants of the computation, not weights."""
_DECAYS = {"Softplus", "Exp"}
_SAME_ITEMS = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Clip"}
_DECAY_INPUTS = {"LinearAttention": (4, 5)}
"""Operators that read a decay and a write strength directly: the numbers of those inputs."""


@dataclass(frozen=True, slots=True)
class Site:
    """One product with a weight, or one look-up in a table.

    Attributes:
        node: name of the node, unique in its graph.
        weight: name of the initializer.
        turned: it holds the weight transposed.
        role: ``recurrent`` where the result goes into the state without passing another weight,
            ``gate`` where it gets there as a decay, ``narrow`` where there is nothing to gain,
            ``embedding`` for a look-up by the chunk's items.
        shape: (K, N) of a product, (V, D) of a table.
        key: SHA-256 (hex) of the weight as float32 in that shape, C order: equal weights of
            several graphs have equal keys.
        mirror: the same of the transposed weight: a head tied to a table mirrors it.
    """

    node: str
    weight: str
    turned: bool
    role: Role
    shape: tuple[int, int]
    key: str
    mirror: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What a graph holds.

    Attributes:
        sites: weights that can be held in another form.
        left: node -> why its weights cannot.
    """

    sites: tuple[Site, ...]
    left: Mapping[str, str]


def survey(model: onnx.ModelProto, folder: Path, contract: Contract) -> Survey:
    """Find the weights of a graph; nodes must have unique names (see ``named``).

    Args:
        model: The graph; external data is read from ``folder``.
        folder: Where its external data lies.
        contract: What the graph keeps: its outputs tell which results are state.
    """
    graph = model.graph
    given = {value.name for value in graph.input}
    tensors = {t.name: t for t in graph.initializer if t.name not in given}
    items = _items(graph, contract.chunk.input)
    turned = turned_weights(graph, tensors)
    found: dict[str, tuple[str, Floats, bool]] = {}
    left: dict[str, str] = {}
    for node in graph.node:
        weight = _weight_of(node, tensors | turned, items)
        if isinstance(weight, int):
            value = node.input[weight]
            tensor = turned.get(value) or tensors[value]
            array = np.asarray(numpy_helper.to_array(tensor, str(folder)), np.float32)
            flip = (value in turned) != (node.op_type == "Gemm" and bool(_int(node, "transB")))
            found[node.name] = (tensor.name, array.T if flip else array, flip)
        elif weight:
            left[node.name] = weight
    follow = _Follow(graph, set(found) | set(left), contract)
    sites: list[Site] = []
    for node in graph.node:
        if node.name in found:
            name, array, flip = found[node.name]
            rows, columns = array.shape
            role, key, mirror = _role(node, array, follow), key_of(array), key_of(array.T)
            sites.append(Site(node.name, name, flip, role, (rows, columns), key, mirror))
    return Survey(tuple(sites), left)


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
        for node in graph.node
        if node.op_type == "Transpose"
        and node.input[0] in tensors
        and len(tensors[node.input[0]].dims) == 2
        and all(list(a.ints) == [1, 0] for a in node.attribute)
    }


def named(model: onnx.ModelProto) -> None:
    """Give every node without a name of its own one that is."""
    taken = {node.name for node in model.graph.node}
    seen: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            name = f"{node.op_type}_{number}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(node.name)


def _weight_of(
    node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto], items: set[str]
) -> int | str | None:
    """Which input is the weight; or why it cannot be quantized; None where there is none."""
    inner = [t for body in _subgraphs(node) for t in body.initializer if _is_weight(t)]
    if inner:
        return f"weights inside the body of {node.op_type}"
    floats = [i for i, n in enumerate(node.input) if n in tensors and _is_matrix(tensors[n])]
    if floats and node.op_type in ("LSTM", "GRU", "RNN"):
        return f"ONNX Runtime runs {node.op_type} in float32 only"
    if floats and node.op_type in ("Conv", "ConvTranspose", "CausalConvWithState"):
        return "convolutions in int8 cost more accuracy than they save"
    held = [i for i in floats if _is_weight(tensors[node.input[i]])]
    if not held:
        return None
    at = held[0]
    size = tensors[node.input[at]].dims
    if node.op_type == "Gather" and at == 0:
        if len(size) == 2 and _int(node, "axis") == 0 and node.input[1] in items:
            return 0
        return "a table that is not looked up by the chunk's items"
    if node.op_type == "MatMul" and at == 1 and len(size) == 2:
        return 1
    if node.op_type == "Gemm" and at == 1 and not _int(node, "transA") and _plain(node):
        return 1
    if node.op_type in ("MatMul", "Gemm", "Einsum"):
        return f"{node.op_type} holds its weight in a way that has no quantized kernel"
    return None


def _is_matrix(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2


def _is_weight(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor may be a weight: masks and other small constants are none."""
    return _is_matrix(tensor) and math.prod(tensor.dims) >= MIN_VALUES


def _int(node: onnx.NodeProto, name: str) -> int:
    return next((a.i for a in node.attribute if a.name == name), 0)


def _plain(node: onnx.NodeProto) -> bool:
    """Whether a Gemm scales neither its product nor its bias."""
    return all(a.f == 1.0 for a in node.attribute if a.name in ("alpha", "beta"))


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [g for a in node.attribute for g in (a.g, *a.graphs) if g.node or g.output]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield every value a node reads, those that its bodies read from outside included."""
    yield from node.input
    for graph in _subgraphs(node):
        for inside in graph.node:
            yield from _reads(inside)


def _items(graph: onnx.GraphProto, chunk: str) -> set[str]:
    """The values that are the chunk's items, in whatever shape and type."""
    found = {chunk}
    for node in graph.node:
        if node.op_type in _SAME_ITEMS and node.input[0] in found:
            found.add(node.output[0])
    return found


class _Follow:
    """Follows results through a graph up to the next weight."""

    def __init__(self, graph: onnx.GraphProto, weighted: set[str], contract: Contract) -> None:
        self._after = {state.output for state in contract.state}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for value in set(_reads(node)) if node.name not in weighted else ():
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


def _role(node: onnx.NodeProto, array: Floats, follow: _Follow) -> Role:
    if node.op_type == "Gather":
        return "embedding"
    if follow.decays(node.output[0]):
        return "gate"
    if min(array.shape) < MIN_WIDTH:
        return "narrow"
    return "recurrent" if follow.into_state(node.output[0]) else "product"
