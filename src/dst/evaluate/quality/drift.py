"""Find a reference for full precision itself: its step in float64, or the other lowering."""

from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import onnx
import safetensors.numpy
from msgspec.structs import replace

from dst.graphs.float64 import widen
from dst.runtime import Bundle, BundleError, DstError, Session, write_bundle
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Chunk, Constant, Contract, Graph, Output, State, StreamInput
from dst.runtime.bundle.validation import INIT_FILE
from dst.runtime.execution.providers import Lowering


class Reference(NamedTuple):
    """Two forms of full precision at one T, and what is compared: `float32 against float64`."""

    what: str
    right: Session
    other: Session
    t: int


def reference_for(full: Bundle, folder: Path, t: int, threads: int = 1) -> Reference | str:
    """Find the best form to hold full precision against, or say why there is none.

    That is the same step in float64, made from a graph of plain operators and written in `folder`;
    where there is none, or ONNX Runtime lacks a kernel for it, one lowering against the other.
    Where T = `t` does not run, the largest T that does is taken.
    """
    graphs = [g for g in full.manifest.graphs if not g.batch or 1 in g.batch]
    whys = []

    def opened(root: Path, at: int, lowering: Lowering | None = None) -> Session:
        return Session.open(
            root, threads=threads, lowering=lowering, chunk_sizes=[at], verify="size"
        )

    for graph in sorted(graphs, key=lambda g: (t not in g.allowed_t, -max(g.allowed_t))):
        at = t if t in graph.allowed_t else max(graph.allowed_t)
        try:
            right = opened(widened(full, graph, folder / "float64").root, at)
            chunk = right.contract.chunk
            # some operators, such as LSTM, load in float64 and fail when they run
            right.stream().step(np.zeros(sized(chunk.shape, at), chunk.dtype), copy=False)
            other = opened(full.root, at)
        except DstError as error:
            whys.append(f"{graph.file} does not run in float64: {error}")
            continue
        return Reference(f"float32 against float64 ({graph.file})", right, other, at)
    able = {
        lowering: {at for g in graphs if g.lowering == lowering for at in g.allowed_t}
        for lowering in ("fused", "portable")
    }
    both = able["fused"] & able["portable"]
    if not both:
        return "; ".join(whys)
    at = t if t in both else max(both)
    right, other = opened(full.root, at, "portable"), opened(full.root, at, "fused")
    return Reference("fused against portable", right, other, at)


GRAPH_FILE = "wide.onnx"
MOST_BYTES = 1 << 29
"""Float32 weights that are widened at most: they double, and protobuf ends at 2 GiB."""

Port = TypeVar("Port", Chunk, Constant, StreamInput, Output, State)


class NotWidenedError(BundleError):
    """A graph cannot be made float64."""


def widened(full: Bundle, graph: Graph, path: Path) -> Bundle:
    """Write the step of one graph of plain operators in float64, as a bundle without golden runs.

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
        held = full.tensors(INIT_FILE)
        wide = {n: v.astype(np.float64) for n, v in held.items() if v.dtype == np.float32}
        files[INIT_FILE] = safetensors.numpy.save(held | wide)
    return Bundle(path, write_bundle(path, manifest, files, overwrite=True))


def _contract(contract: Contract, graph: Graph) -> Contract:
    """The contract in float64, cut down to the T of one graph."""
    chunk = replace(_retyped(contract.chunk), allowed_t=graph.allowed_t)
    if chunk.nominal_t not in graph.allowed_t:
        chunk = replace(chunk, nominal_t=max(graph.allowed_t))
    if chunk.tail == "exact" and 1 not in graph.allowed_t:
        chunk = replace(chunk, tail="refuse")
    return replace(
        contract,
        chunk=chunk,
        constants=tuple(map(_retyped, contract.constants)),
        stream_inputs=tuple(map(_retyped, contract.stream_inputs)),
        outputs=tuple(map(_retyped, contract.outputs)),
        state=tuple(map(_retyped, contract.state)),
    )


def _retyped(port: Port) -> Port:
    return replace(port, dtype="float64") if port.dtype == "float32" else port
