"""Keep the weights of graphs in one file, where equal tensors stand once, and count their bytes.

A graph file is a protobuf, which cannot exceed 2 GiB; the file of weights has no such limit.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, set_external_data, uses_external_data
from onnx_ir import DataType

from dst.graphs.walk import attribute, graphs_of, nodes_of, tensors_of

FILE = "weights.bin"
INLINE_BYTES = 1024
"""Smaller tensors stay in the graph."""
ALIGNMENT = 64
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
"""The option that tells ONNX Runtime where a graph given as bytes has its external data."""
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
_WEIGHTS = _FLOATS | {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}


def dtype_name(data_type: int) -> str:
    """Name an element type of ONNX as numpy and the manifest do.

    >>> dtype_name(1), dtype_name(11), dtype_name(22)
    ('float32', 'float64', 'int4')
    """
    kind = DataType(data_type)
    return kind.name.lower() if kind.is_string() or not data_type else kind.numpy().name


def size_of(tensor: TensorProto) -> int:
    """Count the bytes of a tensor's values, wherever they lie; 4-bit numbers are two in a byte.

    >>> size_of(TensorProto(data_type=TensorProto.INT4, dims=[3, 3]))
    5
    """
    bits: int = math.prod(tensor.dims) * DataType(tensor.data_type).bitwidth
    return -(-bits // 8)


def sizes_by_dtype(tensors: Iterable[TensorProto]) -> dict[str, int]:
    """Count the bytes of tensors by the name of their element type, e.g. {"float32": 4096}."""
    found: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.data_type != TensorProto.STRING:
            found[dtype_name(tensor.data_type)] += size_of(tensor)
    return dict(found)


def inline_bytes(model: onnx.ModelProto, least: int = 0, *, bodies_only: bool = False) -> int:
    """Count the bytes of the initializers whose values stand in the graph file itself.

    Tensors of fewer than ``least`` bytes do not count, and with ``bodies_only`` those in subgraphs
    alone do.
    """
    sizes = (
        size_of(tensor)
        for graph in list(graphs_of(model.graph))[bodies_only:]
        for tensor in graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL and tensor.data_type != TensorProto.STRING
    )
    return sum(size for size in sizes if size >= least)


def expanded_bytes(model: onnx.ModelProto) -> int:
    """Count the bytes that an open graph takes beyond its file, where a weight gets wider.

    ONNX Runtime calculates what comes of constants when it opens the graph, and frees what it came
    of. A Cast to float32 takes four bytes a value; 4-bit blocks that Flatten hands to
    QuantizeLinear, as int8 columns for chunks, take one.
    """
    tensors = tensors_of(model.graph)
    again = {node.input[0] for node in nodes_of(model.graph) if node.op_type == "Flatten"}
    more = 0
    for node in nodes_of(model.graph):
        tensor = (
            tensors.get(node.input[0]) if node.op_type in ("Cast", "DequantizeLinear") else None
        )
        if tensor is None:
            continue
        if node.op_type == "DequantizeLinear":
            width = 1 if node.output[0] in again else 0
        else:
            width = 4 if attribute(node, "to", 0) == TensorProto.FLOAT else 0
        more += max(width * math.prod(tensor.dims) - size_of(tensor), 0)
    return more


class WeightsFile:
    """A file of external data that is being written."""

    def __init__(self, path: Path) -> None:
        """Start an empty file."""
        self.path = path
        self._places: dict[bytes, int] = {}
        path.write_bytes(b"")

    def add(self, data: bytes | memoryview) -> int:
        """Write the values of a tensor, unless they stand there already; return where they begin.

        ``data`` is as external data holds it: little-endian, C order.
        """
        key = hashlib.sha256(data).digest()
        if key not in self._places:
            with open(self.path, "ab") as file:
                file.write(bytes(-file.tell() % ALIGNMENT))
                self._places[key] = file.tell()
                file.write(data)
        return self._places[key]


def pack(
    models: Mapping[str, onnx.ModelProto], source: Path, target: Path
) -> dict[str, bytes | Path]:
    """Move the large weights of graphs to one file.

    Weights in subgraphs stay in the graph file: ONNX Runtime wants them there. The graphs, by file
    name, are changed in place. Their external data is in the folder ``source``; ``target``, where
    the file is written, must hold none of its name that they still use.

    Returns:
        File name -> content: ``weights.bin``, where any weight is large, and every graph.

    Examples:
        >>> import tempfile
        >>> from onnx import helper
        >>> weight = numpy_helper.from_array(np.ones(1024, np.float32), "w")
        >>> node = helper.make_node("Identity", ["w"], ["y"])
        >>> models = {
        ...     file: helper.make_model(helper.make_graph([node], "g", [], [], [weight]))
        ...     for file in ("one.onnx", "two.onnx")
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = pack(models, Path(folder), Path(folder))
        ...     sorted(files), files["weights.bin"].stat().st_size
        (['one.onnx', 'two.onnx', 'weights.bin'], 4096)
    """
    path = target / FILE
    store = WeightsFile(path)
    files: dict[str, bytes | Path] = {}
    for file, model in models.items():
        for number, graph in enumerate(graphs_of(model.graph)):
            for tensor in graph.initializer:
                outside = uses_external_data(tensor)
                if tensor.data_type == TensorProto.STRING or (number and not outside):
                    continue
                data = values_of(tensor, source)
                bare = TensorProto(
                    name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=b""
                )
                if number or len(data) < INLINE_BYTES:
                    bare.raw_data = bytes(data)
                else:
                    set_external_data(bare, FILE, store.add(data), len(data))
                    bare.ClearField("raw_data")
                tensor.CopyFrom(bare)
        files[file] = model.SerializeToString(deterministic=True)
    return {FILE: path, **files} if path.stat().st_size else files


def values_of(tensor: TensorProto, folder: Path) -> bytes | memoryview:
    """Read the values of a tensor as external data holds them: little-endian, C order.

    Large external data is mapped, not read; a tensor of strings has none.
    """
    if uses_external_data(tensor):
        info = ExternalDataInfo(tensor)
        path, start = folder / info.location, info.offset or 0
        length = path.stat().st_size - start if info.length is None else info.length
        return np.memmap(path, np.uint8, "r", start, (length,)).data if length else b""
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    array = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(np.asarray(array, order="C")).raw_data


def file_id(tensors: Iterable[TensorProto], graph: bytes, folder: Path) -> str:
    """SHA-256 (hex) of the weights in an ONNX file: shapes and float32 bytes, and those of int8.

    Names and order do not count, for exporters choose them anew each time. A file without weights
    is told from others by the bytes of its graph. External data lies in ``folder``.
    """
    entries: list[bytes] = []
    for tensor in tensors:
        if tensor.data_type in _WEIGHTS:
            array = numpy_helper.to_array(tensor, str(folder))
            array = array.astype("<f4") if tensor.data_type in _FLOATS else array
            entries.append(f"{list(array.shape)}\n".encode() + array.tobytes())
    digest = hashlib.sha256(b"" if entries else graph)
    for entry in sorted(entries):
        digest.update(hashlib.sha256(entry).digest())
    return digest.hexdigest()
