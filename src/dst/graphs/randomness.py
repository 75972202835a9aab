"""Find the operators of a graph that draw random numbers, at any depth."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import numpy_helper

from dst.graphs.walk import bodies_of

_RANDOM = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
    "Bernoulli", "Sampling",
}  # fmt: skip
_SWITCH = {"Dropout": 2, "BiasDropout": 4, "BitmaskDropout": 2, "BitmaskBiasDropout": 4}
"""Which input of a dropout says that it is on."""


def random_operators(model: onnx.ModelProto) -> tuple[str, ...]:
    """Name each operator that draws random numbers, and what holds it.

    Returns:
        For example ``("RandomNormalLike", "Dropout in Loop")``, each once; a dropout counts where
        its input `training_mode` is true or computed.
    """
    return tuple(sorted(set(_named(model.graph, (), {}))))


def _named(
    graph: onnx.GraphProto, inside: tuple[str, ...], outer: dict[str, onnx.TensorProto]
) -> Iterator[str]:
    constants = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    constants |= {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    for node in graph.node:
        drops = node.op_type in _SWITCH and _is_on(node, constants)
        if node.op_type in _RANDOM or drops:
            yield " in ".join((node.op_type, *inside))
        for body in bodies_of(node):
            yield from _named(body, (node.op_type, *inside), constants)


def _is_on(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """Say whether a dropout may drop: before operator set 12 it never does in ONNX Runtime."""
    at = _SWITCH[node.op_type]
    if len(node.input) <= at or not node.input[at]:
        return False
    switch = constants.get(node.input[at])
    return switch is None or bool(numpy_helper.to_array(switch).any())
