"""Ask ONNX Runtime's own checker which nodes of a graph NNAPI, Core ML and XNNPACK would take.

The checker goes by operator, by fixed shapes and by the number of axes. What it cannot see, such as
attributes, it lists as caveats. It has no table for XNNPACK: there its rules are applied to the
operators that XNNPACK's page in ONNX Runtime's documentation names, and it gives no verdict.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.tools.mobile_helpers import usability_checker
from onnxruntime.tools.onnx_model_utils import ModelProtoWithShapeInfo, optimize_model

from dst.graphs.walk import nodes_of

_Info = Any  # the checker's PartitioningInfo, which has no types
_XNNPACK = {
    "ai.onnx:AveragePool": "Only 2D.",
    "ai.onnx:Conv": "Only 2D, with constant weights.",
    "ai.onnx:ConvTranspose": "Only 2D, with constant weights.",
    "ai.onnx:Gemm": "Only 2D, with constant weights.",
    "ai.onnx:MatMul": "Only 2D, or [batch, M, K], with constant weights.",
    "ai.onnx:MaxPool": "Only 2D.",
    "ai.onnx:QLinearConv": "Only 2D, with constant weights, scales and zero points.",
    "ai.onnx:Resize": "Only 2D or 4D, bilinear.",
    "ai.onnx:Softmax": "From opset 13 only over the last axis.",
    "com.microsoft:QLinearAveragePool": "Only 2D, with constant scales and zero points.",
    "com.microsoft:QLinearConvTranspose": "With constant scales and zero points.",
    "com.microsoft:QLinearSoftmax": "With constant scales and zero points.",
}
"""From "Supported ops" on the page of XNNPACK in ONNX Runtime's documentation."""
UNKNOWN_SHAPE = "an input has no fixed shape"
"""The checker says so of an input that is left out, too."""
_CONSTANT_WEIGHTS = {"Gemm", "MatMul"}


@dataclass(frozen=True, slots=True)
class Usability:
    """What a provider would take of a graph.

    Attributes:
        graph: the graph's file.
        provider: such as `NNAPI`.
        nodes: how many nodes the graph has after ONNX Runtime's basic optimisation.
        partitions: the names of the nodes that it takes, in the groups that it would run as one.
        left: operator -> how many of its nodes stay on the CPU.
        reasons: operator -> why.
        caveats: conditions of the nodes taken that were not checked.
        verdict: ONNX Runtime's own: `yes`, `maybe` or `no`; None where it has none.
    """

    graph: str
    provider: str
    nodes: int
    partitions: tuple[tuple[str, ...], ...]
    left: dict[str, int]
    reasons: dict[str, str]
    caveats: tuple[str, ...]
    verdict: str | None

    @property
    def taken(self) -> int:
        """How many nodes it takes."""
        return sum(map(len, self.partitions))


class _XnnpackOperators:
    """The operators of XNNPACK, in the form in which the checker asks for them."""

    def __init__(self, weights: set[str]) -> None:
        self._weights = weights
        self._seen: set[str] = set()

    def is_op_supported(self, node: onnx.NodeProto) -> bool:
        """Say whether XNNPACK has the operator."""
        name = _operator(node)
        if name not in _XNNPACK:
            return False
        if node.op_type in _CONSTANT_WEIGHTS and node.input[1] not in self._weights:
            return False
        self._seen.add(name)
        return True

    def get_caveats(self) -> list[str]:
        """Return the conditions of the operators that were met."""
        return [f"{name}:{_XNNPACK[name]}" for name in sorted(self._seen)]


def usability(graph: Path) -> list[Usability]:
    """Ask for each provider what it would take of a graph.

    Args:
        graph: an ONNX file, with its external data beside it.

    Returns:
        NNAPI, Core ML in both of its forms, and XNNPACK.
    """
    with tempfile.TemporaryDirectory() as work:
        # As ONNX Runtime does it before it asks a provider.
        small = Path(work).resolve() / graph.name
        optimize_model(graph.resolve(), small, use_external_initializers=True)
        model = ModelProtoWithShapeInfo(small).model_with_shape_info
    return [_judged(graph.name, provider, info, model) for provider, info in _checks(model)]


def _checks(model: onnx.ModelProto) -> Iterator[tuple[str, _Info]]:
    yield "NNAPI", usability_checker.check_nnapi_partitions(model, True)
    for form in ("NeuralNetwork", "MLProgram"):
        table = f"coreml_supported_{form.lower()}_ops.md"
        yield f"Core ML {form}", usability_checker.check_coreml_partitions(model, True, table)
    operators = _XnnpackOperators({tensor.name for tensor in model.graph.initializer})
    yield "XNNPACK", usability_checker.check_partitioning(model.graph, operators, True)


def _judged(graph: str, provider: str, info: _Info, model: onnx.ModelProto) -> Usability:
    taken = {id(node) for group in info.supported_groups for node in group}
    nodes = list(nodes_of(model.graph))
    left = Counter(_operator(node) for node in nodes if id(node) not in taken)
    known = {"ai.onnx:MatMul", "ai.onnx:Gemm"} if provider == "XNNPACK" else set()
    reasons = {}
    for name in left:
        if name in known & info.unsupported_ops:
            reasons[name] = "its weights are no constant"
        elif name in info.unsupported_ops:
            reasons[name] = "the provider has no such operator"
        elif name in info.ops_with_unsupported_rank:
            reasons[name] = "a tensor has too many axes"
        else:
            reasons[name] = UNKNOWN_SHAPE
    return Usability(
        graph=graph,
        provider=provider,
        nodes=len(nodes),
        partitions=tuple(tuple(map(_name, group)) for group in info.supported_groups),
        left=dict(sorted(left.items(), key=lambda item: (-item[1], item[0]))),
        reasons=reasons,
        caveats=tuple(info.supported_ops_checker.get_caveats()),
        verdict=None if provider == "XNNPACK" else info.suitability().name.lower(),
    )


def _operator(node: onnx.NodeProto) -> str:
    return f"{node.domain or 'ai.onnx'}:{node.op_type}"


def _name(node: onnx.NodeProto) -> str:
    """Name a node; an optimiser leaves some without a name of their own."""
    return node.name or next(filter(None, node.output), node.op_type)
