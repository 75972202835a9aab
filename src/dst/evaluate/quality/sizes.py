"""Count the bytes of a bundle's files, and of its weights by operator and element type."""

import msgspec
import onnx
from onnx import GraphProto, TensorProto

from dst.graphs.walk import graphs_of
from dst.graphs.weights import dtype_name, size_of
from dst.runtime import Bundle
from dst.runtime.bundle.manifest import Graph


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Weights of one dtype that one kind of operator reads, e.g. MatMul float32."""

    operator: str
    dtype: str
    tensors: int
    size: int


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of a bundle: every file, and the weights of the graph named `graph`."""

    bundle_size: int
    weights_size: int
    graph: str
    files: dict[str, int]
    groups: tuple[Group, ...]


def parts_of(bundle: Bundle, graph: Graph) -> Parts:
    """Measure a bundle; weights are counted once, however many operators read them.

    Args:
        bundle: what is measured.
        graph: one of its graphs, whose weights are told apart.
    """
    model = onnx.load(str(bundle.root / graph.file), load_external_data=False)
    counts: dict[tuple[str, str], list[int]] = {}
    for readers, tensor in _weights(model.graph):
        count = counts.setdefault((readers, dtype_name(tensor.data_type)), [0, 0])
        count[0] += 1
        count[1] += size_of(tensor)
    groups = [
        Group(operator=operator, dtype=dtype, tensors=count, size=size)
        for (operator, dtype), (count, size) in counts.items()
    ]
    return Parts(
        bundle_size=sum(f.size for f in bundle.manifest.files.values()),
        weights_size=sum(group.size for group in groups),
        graph=graph.file,
        files={name: entry.size for name, entry in bundle.manifest.files.items()},
        groups=tuple(sorted(groups, key=lambda g: -g.size)),
    )


def _weights(graph: GraphProto) -> list[tuple[str, TensorProto]]:
    """Each initializer with the operators that read it, those of inner graphs too."""
    readers: dict[str, set[str]] = {}
    held: dict[str, TensorProto] = {}
    for inner in graphs_of(graph):
        held.update({tensor.name: tensor for tensor in inner.initializer})
        for node in inner.node:
            for name in node.input:
                readers.setdefault(name, set()).add(node.op_type)
    return [(" + ".join(sorted(readers.get(name, {"none"}))), t) for name, t in held.items()]
