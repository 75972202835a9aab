"""Give single steps a graph of their own, where they want another kernel than chunks.

A chunk is bound by arithmetic and a single step by the bytes of the weights, and no integer kernel
is the fastest at both. So where products are `int8-dynamic`, which fixes T anyway, single steps get
a graph of their own: it holds the same whole numbers, once on disk, and multiplies them by block,
as `int8-block` does. Who steps both ways has both graphs in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from dst.graphs.walk import opset_of
from dst.quantize.assign import Choice
from dst.quantize.rewriting.rebuild import Opened
from dst.quantize.rewriting.rewrite import OPSET
from dst.runtime.bundle.manifest import Chunk, Graph

SINGLE_BLOCK = 128
"""Values that are multiplied under one scale: larger blocks are no faster
(``examples/bench/product_forms.py``)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A graph to be written.

    Attributes:
        graph: what it is made of, under the name that it gets.
        allowed_t: the T it runs.
        choices: key of a weight -> its form.
    """

    graph: Opened
    allowed_t: tuple[int, ...]
    choices: Mapping[str, Choice]


def runs_both(entry: Graph) -> bool:
    """Whether a graph runs single steps and chunks."""
    return 1 in entry.allowed_t and len(entry.allowed_t) > 1


def split_graphs(
    graphs: Sequence[Opened], chunk: Chunk, choices: Mapping[str, Choice]
) -> list[Part]:
    """Say which graphs are written: those that were, and new ones for single steps.

    Args:
        graphs: The bundle's graphs.
        chunk: The quantized bundle's; a graph that runs none of its T is left out.
        choices: Key of a weight -> its form.
    """
    by_block = {key: _by_block(choice) for key, choice in choices.items()}
    taken = {graph.entry.file for graph in graphs}
    parts: list[Part] = []
    for graph in graphs:
        sizes = tuple(t for t in graph.entry.allowed_t if t in chunk.allowed_t)
        able = opset_of(graph.model) >= OPSET["int8-block"] and by_block != choices
        if len(sizes) > 1 and 1 in sizes and able:
            chunks = tuple(t for t in sizes if t > 1)
            parts += [
                Part(graph, chunks, choices),
                Part(_single(graph, chunk, taken), (1,), by_block),
            ]
        elif sizes:
            parts.append(Part(graph, sizes, choices))
    return parts


def _by_block(choice: Choice) -> Choice:
    if choice.form != "int8-dynamic" or choice.role == "cell":
        return choice
    return replace(choice, form="int8-block", block=SINGLE_BLOCK)


def _single(graph: Opened, chunk: Chunk, taken: Collection[str]) -> Opened:
    """The same graph under a name of its own; a node costs an item's share of what it cost."""
    entry = graph.entry
    stem = entry.file.removesuffix(".onnx") + "_single"
    while f"{stem}.onnx" in taken:
        stem += "_"
    sizes = entry.allowed_t
    items = chunk.nominal_t if chunk.nominal_t in sizes else max(sizes)  # that costs are stated for
    costs = {name: cost // items for name, cost in entry.multiply_adds.items()}
    single = msgspec.structs.replace(entry, file=f"{stem}.onnx", multiply_adds=costs)
    return replace(graph, entry=single)
