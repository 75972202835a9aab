"""The parts that the tiny bundles of the conformance suite are built of.

The models are chosen so that results are the same bits on every machine, wherever that is possible:
they add and scale numbers with few bits and multiply no matrices. `tokens`, `int8` and `plain` do
multiply matrices, and their logits are compared within the tolerance of the bundle.

Shape letters: `B` batch, `T` items per chunk, `L` lookback, `A` look-ahead.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import TensorProto, helper
from tests.steps import info

from dst.runtime.bundle.constants import model_id_with_constants
from dst.runtime.bundle.manifest import (
    Contract,
    Graph,
    Manifest,
    Producer,
)

FLOAT, DOUBLE, HALF = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16
INT64, INT32, INT8 = TensorProto.INT64, TensorProto.INT32, TensorProto.INT8
UINT8, BOOL = TensorProto.UINT8, TensorProto.BOOL


@dataclass(frozen=True, slots=True)
class Model:
    """What a bundle is made of: its contract, and its files by name."""

    contract: Contract
    files: Mapping[str, bytes]
    graphs: tuple[Graph, ...]
    weights: str
    precision: str = "float32"
    recipe: str | None = None
    extra: Mapping[str, bytes] = field(default_factory=dict)

    def manifest(self, name: str) -> Manifest:
        """Return what `write_bundle` takes."""
        return Manifest(
            name=name,
            description="a bundle of the conformance suite",
            license="Apache-2.0",
            model_id=model_id_with_constants(_hash(self.weights), self.contract.constants),
            precision=self.precision,
            recipe=self.recipe,
            producer=Producer(name="conformance", version="1"),
            contract=self.contract,
            graphs=self.graphs,
            weights_bytes=0,
        )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def graph(
    allowed_t: Sequence[int],
    file: str = "step.onnx",
    *,
    answers: str | None = None,
    tolerance: float = 1e-6,
    domains: Sequence[str] = ("ai.onnx",),
) -> Graph:
    """Describe a graph of operator set 18."""
    return Graph(
        file=file,
        allowed_t=tuple(allowed_t),
        opsets=dict.fromkeys(domains, 18),
        domains=tuple(domains),
        min_ort="1.17",
        golden_tolerance=tolerance,
        answers=answers,
    )


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """Make a node; names are separated by spaces."""
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def leaky(width: Sequence[int | str], axis: int, dtype: int = FLOAT) -> onnx.NodeProto:
    """Make a Scan of `h' = h / 2 + x` over an axis: `y` holds every `h'`, `h_next` the last one."""
    body = helper.make_graph(
        [
            node("Mul", "h_in half", "faded"),
            node("Add", "faded x_in", "h_out"),
            node("Identity", "h_out", "y_out"),
        ],
        "leaky",
        [info(name, width, dtype) for name in ("h_in", "x_in")],
        [info(name, width, dtype) for name in ("h_out", "y_out")],
    )
    return node(
        "Scan",
        "h x",
        "h_next y",
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[axis],
        scan_output_axes=[axis],
    )
