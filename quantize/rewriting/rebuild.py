"""Write the graphs of a bundle again, with each weight in its chosen form.

A chunk is bound by arithmetic and a single step by the bytes of the weights, and no integer kernel
is the fastest at both. So where products are `int8-dynamic` or `int4-rows`, single steps get a
graph of their own: it holds the same whole numbers, once on disk, and multiplies them by block,
as `int8-block` and `int4-block` do. Who steps both ways has both graphs in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from dst.graphs.load import drop_unused, given_of, load
from dst.graphs.strip import answering_all
from dst.graphs.versions import domains, min_ort, opsets
from dst.graphs.walk import bodies_of, nodes_of, opset_of, set_nodes, tensors_of
from dst.quantize.assign import Choice, WeightRecord
from dst.quantize.find_weights import Floats, FoundWeights, WeightUse, find_weights
from dst.quantize.recipe import Form, Recipe
from dst.quantize.rewriting.cells import MICROSOFT, Cell, write_cell, write_filter
from dst.quantize.rewriting.rewrite import (
    EMBEDDING_OPSET,
    OPSET,
    Draft,
    write_limits,
    write_lookup,
    write_product,
    write_stored,
)
from dst.quantize.rounded_weights import RoundedWeights
from dst.runtime.bundle.manifest import Chunk, Graph
from dst.runtime.bundle.reader import Bundle
from dst.runtime.execution.engine import version

SINGLE_BLOCK = 128
"""Values that are multiplied under one scale: larger blocks are no faster
(``examples/bench/product_forms.py``)."""
LEAST_ORT = "1.14"
"""Forms are run by kernels that no older ONNX Runtime was tried for."""


@dataclass(frozen=True, slots=True)
class Opened:
    """One graph of a bundle, ready to be worked on.

    Attributes:
        entry: what the manifest says of it.
        model: without its external data.
        found: its weights.
        folder: where the external data lies.
    """

    entry: Graph
    model: onnx.ModelProto
    found: FoundWeights
    folder: Path

    def weight(self, use: WeightUse) -> Floats:
        """Read a weight (K, N) or a table (V, D)."""
        array = self._array(use.weight)
        return array.T if use.turned else array

    def operands(self, node: onnx.NodeProto, use: WeightUse) -> dict[int, Floats]:
        """Read the weights of a recurrent operator or a convolution: input number -> values."""
        return {place: self._array(node.input[place]) for place in use.operands}

    def _array(self, name: str) -> Floats:
        tensor = tensors_of(self.model.graph)[name]
        return np.asarray(numpy_helper.to_array(tensor, str(self.folder)), np.float32)


def opened(bundle: Bundle, opsets: Mapping[str, int]) -> list[Opened]:
    """Open every graph of a bundle, raised to its file's operator set where that can be done."""
    graphs = []
    given = given_of(bundle.manifest.contract)
    for entry in bundle.manifest.graphs:
        model = load(bundle.root / entry.file, opsets[entry.file], given)
        found = find_weights(model, bundle.root, bundle.manifest.contract)
        graphs.append(Opened(entry, model, found, bundle.root))
    return graphs


class Writer(Protocol):
    """Writes the products of one graph."""

    def __call__(self, draft: Draft, node: onnx.NodeProto, use: WeightUse) -> None:
        """Write a MatMul or Gemm with its weight in its chosen form; the product keeps its name."""


class Backend(Protocol):
    """Who rounds the weights of products: this package, or another quantizer."""

    def check(self, recipe: Recipe) -> None:
        """Refuse, before any work, a recipe that cannot be done.

        Raises:
            QuantizeError: `recipe`: why not, and what to do instead.
        """

    def writer(self, graph: Opened, chosen: Mapping[str, Choice], values: RoundedWeights) -> Writer:
        """Get ready for one graph.

        Args:
            graph: The graph, as it was.
            chosen: Name of the node -> its form, for every product and look-up.
            values: The recipe, and what calibration saw.

        Raises:
            QuantizeError: `recipe`: a form that cannot be done was chosen by an override.
        """

    def files(self) -> Mapping[str, bytes]:
        """What else the bundle is to hold, once its graphs are written: name -> content."""


class Direct:
    """This package's own rounding and writing."""

    def check(self, recipe: Recipe) -> None:
        """Take any recipe."""

    def writer(self, graph: Opened, chosen: Mapping[str, Choice], values: RoundedWeights) -> Writer:
        """Write each product when its turn comes."""

        def write(draft: Draft, node: onnx.NodeProto, use: WeightUse) -> None:
            new = values.in_form(use, chosen[use.node], graph.weight(use))
            write_product(draft, node, new)

        return write

    def files(self) -> Mapping[str, bytes]:
        """Nothing else."""
        return {}


def rebuilt(
    graph: Opened, choices: Mapping[str, Choice], values: RoundedWeights, backend: Backend
) -> tuple[onnx.ModelProto, dict[str, WeightRecord]]:
    """Write a graph anew, with its weights in their chosen forms: key of a weight -> its choice.

    Returns:
        The new model, whose untouched tensors still point into the source's external data, and a
        record of every weight in it by its key, or of every operator by its name.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    opset = opset_of(model)
    chosen = {s.node: _possible(choices[s.key], opset) for s in graph.found.uses}
    answers = graph.entry.answers
    if answers is not None and spans_the_chunk(choices):
        answering_all(model, answers)  # a scale over fewer items would be another one
    writer = _GraphWriter(graph, chosen, values, backend)
    writer.write(model.graph, Draft())
    drop_unused(model.graph)
    ours = any(node.domain == MICROSOFT for node in nodes_of(model.graph))
    if ours and all(o.domain != MICROSOFT for o in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    file = graph.entry.file
    records = {s.key: _record(file, s, chosen[s.node]) for s in graph.found.uses}
    for name, reason in graph.found.left.items():
        records[name] = WeightRecord(file, name, "", "operator", (), "float32", reason)
    return model, records


def spans_the_chunk(choices: Mapping[str, Choice]) -> bool:
    """Whether a scale spans the chunk, so that an answer depends on what else is answered."""
    return any(choice.form == "int8-dynamic" for choice in choices.values())


class _GraphWriter:
    """Writes a graph and those inside it."""

    def __init__(
        self, graph: Opened, chosen: Mapping[str, Choice], values: RoundedWeights, backend: Backend
    ) -> None:
        self._graph = graph
        self._chosen = chosen
        self._values = values
        self._uses = {use.node: use for use in graph.found.uses}
        self._outside = backend.writer(graph, chosen, values)
        self._inside = Direct().writer(graph, chosen, values)
        self._bodies = 0

    def write(self, graph: onnx.GraphProto, draft: Draft) -> None:
        """Write a graph anew, in place."""
        blocks: set[str] = set()
        for node in graph.node:
            for body in bodies_of(node):
                self._bodies += 1
                self.write(body, Draft(scope=f".in{self._bodies}"))
            use = self._uses.get(node.name)
            if use is None:
                limits = node.op_type in ("Relu", "Clip") and node.input[0] in blocks
                write_limits(draft, node) if limits else draft.nodes.append(node)
            elif self._use(draft, node, use) in ("int4-block", "int8-block"):
                blocks.add(node.output[0])
        graph.initializer.extend(draft.tensors.values())
        set_nodes(graph, draft.nodes)

    def _use(self, draft: Draft, node: onnx.NodeProto, use: WeightUse) -> Form:
        """Write one operator with weights and return its form."""
        choice, values = self._chosen[node.name], self._values
        if choice.form == "float32":
            draft.nodes.append(node)
        elif choice.role == "embedding":
            write_lookup(draft, node, values.in_form(use, choice, self._graph.weight(use)))
        elif choice.role not in ("cell", "filter"):
            (self._inside if use.inside else self._outside)(draft, node, use)
        else:
            weights, bits = self._graph.operands(node, use), values.recipe.weight_bits
            if choice.form in ("int8-stored", "float16"):
                write_stored(draft, node, weights, choice.form)
            elif choice.role == "cell":
                write_cell(draft, Cell(node, weights, bits), choice.form)
            else:
                write_filter(draft, node, weights, bits, values.ranges(use.key))
        return choice.form


def entry_of(graph: Opened, model: onnx.ModelProto, allowed_t: Sequence[int]) -> Graph:
    """Describe a rewritten graph for the manifest; products keep their names and costs."""
    costs = graph.entry.multiply_adds
    names = [node.name for node in model.graph.node]
    before = {node.name for node in graph.model.graph.node}
    least = (graph.entry.min_ort, LEAST_ORT, min_ort(model, foreign=graph.entry.min_ort))
    return msgspec.structs.replace(
        graph.entry,
        allowed_t=tuple(allowed_t),
        opsets=opsets(model),
        domains=domains(model),
        min_ort=max(least, key=version),
        multiply_adds={n: costs.get(n, 0) for n in names if n in costs or n not in before},
        answers=next((v.name for v in model.graph.input if v.name == graph.entry.answers), None),
    )


def _possible(choice: Choice, opset: int) -> Choice:
    """Fall back to float32 where a graph's operators are too old for a form."""
    needed = EMBEDDING_OPSET if choice.role == "embedding" else OPSET[choice.form]
    if choice.form == "float32" or opset >= needed:
        return choice
    reason = f"its operator set {opset} cannot be raised to {needed}"
    return Choice("float32", choice.role, reason)


def _record(file: str, use: WeightUse, choice: Choice) -> WeightRecord:
    return WeightRecord(
        graph=file,
        node=use.node,
        weight=use.weight,
        role=choice.role,
        shape=use.shape,
        more=tuple(name for name in use.names if name != use.weight),
        form=choice.form,
        reason=choice.reason,
        forced=choice.forced,
        tied=bool(choice.table),
    )


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

    A graph that runs none of the T of ``chunk``, the quantized bundle's, is left out.
    """
    singles = {key: _for_single_steps(choice) for key, choice in choices.items()}
    taken = {graph.entry.file for graph in graphs}
    # the form for T = 1 that a fused bundle brings is faster than that for any T
    brought = {
        (g.entry.lowering, g.entry.batch) for g in graphs if g.entry.allowed_t == (1,) and _able(g)
    }
    parts: list[Part] = []
    for graph in graphs:
        sizes = tuple(t for t in graph.entry.allowed_t if t in chunk.allowed_t)
        if not sizes:
            continue
        if singles == choices or 1 not in sizes or not _able(graph):
            parts.append(Part(graph, sizes, choices))
        elif len(sizes) == 1:
            parts.append(Part(graph, sizes, singles))
        else:
            parts.append(Part(graph, tuple(t for t in sizes if t > 1), choices))
            if (graph.entry.lowering, graph.entry.batch) not in brought:
                parts.append(Part(_single(graph, chunk, taken), (1,), singles))
    return parts


def _able(graph: Opened) -> bool:
    """Whether a graph's operators can multiply by block."""
    return opset_of(graph.model) >= OPSET["int8-block"]


def _for_single_steps(choice: Choice) -> Choice:
    """The form in which a single step reads the same numbers fastest."""
    if choice.form == "int4-rows":
        return replace(choice, form="int4-block")
    if choice.form == "int8-dynamic" and choice.role != "cell":
        return replace(choice, form="int8-block", block=SINGLE_BLOCK)
    return choice


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
