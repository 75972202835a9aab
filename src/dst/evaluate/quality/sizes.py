"""Count the bytes of a bundle's files, and of its weights by operator and element type."""

import msgspec
import onnx
from onnx import TensorProto

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
    """Measure a bundle and one of its graphs, inner ones included; each weight counts once."""
    model = onnx.load(str(bundle.root / graph.file), load_external_data=False)
    readers: dict[str, set[str]] = {}
    held: dict[str, TensorProto] = {}
    for inner in graphs_of(model.graph):
        held.update({tensor.name: tensor for tensor in inner.initializer})
        for node in inner.node:
            for name in node.input:
                readers.setdefault(name, set()).add(node.op_type)
    sizes: dict[tuple[str, str], list[int]] = {}
    for name, tensor in held.items():
        operator = " + ".join(sorted(readers.get(name, {"none"})))
        sizes.setdefault((operator, dtype_name(tensor.data_type)), []).append(size_of(tensor))
    groups = [
        Group(operator=operator, dtype=dtype, tensors=len(each), size=sum(each))
        for (operator, dtype), each in sizes.items()
    ]
    files = {name: entry.size for name, entry in bundle.manifest.files.items()}
    return Parts(
        bundle_size=sum(files.values()),
        weights_size=sum(group.size for group in groups),
        graph=graph.file,
        files=files,
        groups=tuple(sorted(groups, key=lambda g: -g.size)),
    )
