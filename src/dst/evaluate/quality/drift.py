"""Find a reference for full precision itself: its step in float64, or the other lowering."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import safetensors.numpy
from msgspec.structs import replace

from dst.graphs.float64 import widen
from dst.runtime import Bundle, BundleError, DstError, Session, write_bundle
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Chunk, Contract, DType, Graph
from dst.runtime.bundle.validation import INIT_FILE


@dataclass(frozen=True, slots=True)
class Reference:
    """Two forms of full precision.

    Attributes:
        what: what is compared, e.g. `float32 against float64`.
        right: the form taken as right.
        other: the form held against it.
        t: items per chunk, for both.
    """

    what: str
    right: Session
    other: Session
    t: int


def reference_for(full: Bundle, folder: Path, t: int, threads: int = 1) -> Reference | str:
    """Find the best form to hold full precision against.

    That is the same step in float64, made from a graph of plain operators; where there is none, or
    ONNX Runtime lacks a kernel for it, one lowering against the other.

    Args:
        full: the bundle of full precision.
        folder: where a float64 bundle may be written.
        t: items per chunk that are wanted; where they do not run, the most that do.
        threads: threads inside one operator.

    Returns:
        The reference, or why there is none.
    """
    graphs = [g for g in full.manifest.graphs if not g.batch or 1 in g.batch]
    whys = []
    for graph in sorted(graphs, key=lambda g: (t not in g.allowed_t, -max(g.allowed_t))):
        at = _size(graph, t)
        try:
            wide = widened(full, graph, folder / "float64")
            right = Session.open(wide.root, threads=threads, chunk_sizes=[at], verify="size")
            chunk = right.contract.chunk
            # some operators, such as LSTM, load in float64 and fail when they run
            right.stream().step(np.zeros(sized(chunk.shape, at), chunk.dtype), copy=False)
            other = Session.open(full.root, threads=threads, chunk_sizes=[at], verify="size")
        except DstError as error:
            whys.append(f"{graph.file} does not run in float64: {error}")
            continue
        return Reference(f"float32 against float64 ({graph.file})", right, other, at)
    return _lowerings(full, graphs, t, threads) or "; ".join(whys)


def _size(graph: Graph, t: int) -> int:
    return t if t in graph.allowed_t else max(graph.allowed_t)


def _lowerings(full: Bundle, graphs: list[Graph], t: int, threads: int) -> Reference | None:
    """Two lowerings that run a T in common, the one wanted if they can."""
    able = {g.lowering: set[int]() for g in graphs}
    for graph in graphs:
        able[graph.lowering] |= set(graph.allowed_t)
    if not {"fused", "portable"} <= able.keys():
        return None
    both = able["fused"] & able["portable"]
    if not both:
        return None
    at = t if t in both else max(both)
    root = full.root
    right = Session.open(
        root, threads=threads, lowering="portable", chunk_sizes=[at], verify="size"
    )
    other = Session.open(root, threads=threads, lowering="fused", chunk_sizes=[at], verify="size")
    return Reference("fused against portable", right, other, at)


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
