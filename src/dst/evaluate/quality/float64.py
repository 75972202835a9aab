"""Write the step of a bundle in float64, to measure float32's own drift against it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import safetensors.numpy
from msgspec.structs import replace

from dst.graphs.float64 import widen
from dst.runtime import Bundle, BundleError, write_bundle
from dst.runtime.bundle.manifest import Chunk, Contract, DType, Graph
from dst.runtime.bundle.validation import INIT_FILE

GRAPH_FILE = "wide.onnx"
MOST_BYTES = 1 << 29
"""Float32 weights that are widened at most: they double, and protobuf ends at 2 GiB."""

Array = npt.NDArray[np.generic]


class NotWidenedError(BundleError):
    """A graph cannot be made float64."""


def widened(full: Bundle, graph: Graph, path: Path) -> Bundle:
    """Write the step of one graph in float64.

    Args:
        full: a bundle.
        graph: one of its graphs, of plain operators.
        path: the directory to make.

    Returns:
        A bundle of that one graph, without golden runs.

    Raises:
        NotWidenedError: the graph is too large, or not made of plain operators alone.
        BundleError: it cannot be read or written.
    """
    if full.manifest.weights_bytes > MOST_BYTES:
        raise NotWidenedError(f"{full.manifest.weights_bytes:,} bytes of weights are too many")
    foreign = sorted(set(graph.domains) - {"ai.onnx"})
    if foreign:
        raise NotWidenedError(f"it has operators of {', '.join(foreign)}")
    model = onnx.load(str(full.root / graph.file))
    if model.functions:
        raise NotWidenedError("it has functions of its own")
    widen(model.graph)
    manifest = replace(
        full.manifest,
        precision="float64",
        contract=_contract(full.manifest.contract, graph),
        graphs=(replace(graph, file=GRAPH_FILE, multiply_adds={}),),
        golden=(),
        certificates=(),
        quality=None,
        upgraded_from=None,
        weights_bytes=2 * full.manifest.weights_bytes,
    )
    files: dict[str, bytes | Path] = {GRAPH_FILE: model.SerializeToString()}
    if INIT_FILE in full.manifest.files:
        held = {name: _wide(value) for name, value in full.tensors(INIT_FILE).items()}
        files[INIT_FILE] = safetensors.numpy.save(held)
    return Bundle(path, write_bundle(path, manifest, files, overwrite=True))


def _contract(contract: Contract, graph: Graph) -> Contract:
    """The contract in float64, cut down to the T of one graph."""
    chunk: Chunk = replace(contract.chunk, dtype=_retyped(contract.chunk.dtype))
    chunk = replace(chunk, allowed_t=graph.allowed_t)
    if chunk.nominal_t not in graph.allowed_t:
        chunk = replace(chunk, nominal_t=max(graph.allowed_t))
    if chunk.tail == "exact" and 1 not in graph.allowed_t:
        chunk = replace(chunk, tail="refuse")
    return replace(
        contract,
        chunk=chunk,
        constants=tuple(replace(c, dtype=_retyped(c.dtype)) for c in contract.constants),
        stream_inputs=tuple(replace(g, dtype=_retyped(g.dtype)) for g in contract.stream_inputs),
        outputs=tuple(replace(o, dtype=_retyped(o.dtype)) for o in contract.outputs),
        state=tuple(replace(s, dtype=_retyped(s.dtype)) for s in contract.state),
    )


def _retyped(dtype: DType) -> DType:
    return "float64" if dtype == "float32" else dtype


def _wide(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.float32 else value
