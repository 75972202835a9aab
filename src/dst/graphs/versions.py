"""Say what the operators of a graph need: which ONNX Runtime, and whether they draw at random.

Releases are from ONNX Runtime's table of compatibility
(https://onnxruntime.ai/docs/reference/compatibility.html); those of operators were tried.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnxruntime as ort
from onnx import numpy_helper

from dst.graphs.walk import attribute, bodies_of, nodes_of, opset_of
from dst.runtime.execution.engine import version

_OF_OPSET = {
    **dict.fromkeys(range(1, 12), (1, 0)),
    **{12: (1, 3), 13: (1, 6), 14: (1, 8), 15: (1, 10), 16: (1, 11), 17: (1, 12), 18: (1, 14)},
    **{19: (1, 15), 20: (1, 17), 21: (1, 18), 22: (1, 21), 23: (1, 23)},
}
"""First release with the operators of an opset."""
_OF_FORMAT = {
    **dict.fromkeys(range(1, 8), (1, 3)),
    **{8: (1, 10), 9: (1, 15), 10: (1, 18), 11: (1, 23)},
}
"""First release that reads a version of the file format."""
_OF_OPERATOR = {
    ("com.microsoft", name): (1, 31)
    for name in ("LinearAttention", "CausalConvWithState", "RotaryEmbedding")
}
"""The release that an operator outside ONNX was tried on."""
_BLOCKS = (1, 20)
"""First release that multiplies by a weight in blocks without expanding it at every step."""
_RANDOM = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
    "Bernoulli", "Sampling",
}  # fmt: skip
_SWITCH = {"Dropout": 2, "BiasDropout": 4, "BitmaskDropout": 2, "BitmaskBiasDropout": 4}
"""Which input of a dropout says that it is on."""


def min_ort(model: onnx.ModelProto, foreign: str = ort.__version__) -> str:
    """Find the oldest ONNX Runtime that runs a graph, as the manifest has it.

    ``foreign`` is the release that counts for what the table does not hold, such as operators of
    another domain: by default the installed one.

    Examples:
        >>> from onnx import helper
        >>> node = helper.make_node("Relu", ["x"], ["y"])
        >>> graph = helper.make_graph([node], "g", [], [])
        >>> opset = helper.make_opsetid("", 21)
        >>> min_ort(helper.make_model(graph, opset_imports=[opset], ir_version=8))
        '1.18'
    """
    unknown = version(foreign)[:2]
    found = {_OF_FORMAT.get(model.ir_version, unknown)}
    if opset := opset_of(model):
        found.add(_OF_OPSET.get(opset, unknown))
    for node in nodes_of(model.graph):
        if node.domain not in ("", "ai.onnx"):
            found.add(_OF_OPERATOR.get((node.domain, node.op_type), unknown))
        elif node.op_type == "DequantizeLinear" and attribute(node, "block_size", 0):
            found.add(_BLOCKS)
    return ".".join(map(str, max(found)))


def domains(model: onnx.ModelProto) -> tuple[str, ...]:
    """Name the domains of a model's operators, at any depth, in order; ONNX's own is ai.onnx."""
    return tuple(sorted({node.domain or "ai.onnx" for node in nodes_of(model.graph)}))


def opsets(model: onnx.ModelProto) -> dict[str, int]:
    """Read the version of each operator set that a model imports, by domain."""
    return {o.domain or "ai.onnx": o.version for o in model.opset_import}


def random_operators(model: onnx.ModelProto) -> tuple[str, ...]:
    """Name each operator that draws random numbers, and what holds it, each once.

    For example ``("RandomNormalLike", "Dropout in Loop")``; a dropout counts where its input
    `training_mode` is true or computed.
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
        at = _SWITCH.get(node.op_type, len(node.input))
        drops = at < len(node.input) and node.input[at] != ""  # before operator set 12 none does
        if drops and (switch := constants.get(node.input[at])) is not None:
            drops = bool(numpy_helper.to_array(switch).any())
        if node.op_type in _RANDOM or drops:
            yield " in ".join((node.op_type, *inside))
        for body in bodies_of(node):
            yield from _named(body, (node.op_type, *inside), constants)
