"""Find a reference for full precision itself: float64, or the other lowering."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dst.evaluate.quality.float64 import widened
from dst.runtime import Bundle, DstError, Session
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Graph


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
