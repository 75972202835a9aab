"""Graphs in, one ``weights.bin`` and the graphs out: equal tensors are stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import onnx
from onnx import TensorProto, numpy_helper

FILE = "weights.bin"
INLINE_BYTES = 1024
"""Smaller tensors stay in the graph."""
ALIGNMENT = 64
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
_BYTES = frozenset({TensorProto.INT8, TensorProto.UINT8})
_PACKED = _BYTES | {TensorProto.INT4, TensorProto.UINT4}
_PLAIN = _FLOATS | _BYTES | {TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}
"""What numpy holds as ONNX does; all else (int4 comes in pairs) stays in the graph."""


def pack(graphs: Mapping[str, onnx.ModelProto]) -> dict[str, bytes]:
    """Move the graphs' large initializers to one file of external data.

    Args:
        graphs: File name to graph.

    Returns:
        File name to bytes: ``weights.bin`` and every graph.
    """
    blob = bytearray()
    places: dict[bytes, int] = {}
    files: dict[str, bytes] = {}
    for file, graph in graphs.items():
        model = onnx.ModelProto()
        model.CopyFrom(graph)
        for tensor in model.graph.initializer:
            if tensor.data_type not in _PLAIN:
                continue
            # little-endian, C order: what external data holds by the ONNX specification
            array = numpy_helper.to_array(tensor)
            data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            if len(data) < INLINE_BYTES:
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
                continue
            key = hashlib.sha256(data).digest()
            if key not in places:
                blob.extend(bytes(-len(blob) % ALIGNMENT))
                places[key] = len(blob)
                blob.extend(data)
            _point(tensor, places[key], len(data))
        files[file] = model.SerializeToString(deterministic=True)
    return {FILE: bytes(blob), **files}


def file_id(tensors: Iterable[onnx.TensorProto], graph: bytes) -> str:
    """SHA-256 (hex) of the weights in an ONNX file: shapes and float32 bytes, and those of int8.

    Names and order do not count, for exporters choose them anew each time. A file without weights
    is told from others by the bytes of its graph.
    """
    entries: list[bytes] = []
    for tensor in tensors:
        if tensor.data_type in _FLOATS | _PACKED:
            array = numpy_helper.to_array(tensor)
            array = array.astype("<f4") if tensor.data_type in _FLOATS else array
            entries.append(f"{list(array.shape)}\n".encode() + array.tobytes())
    digest = hashlib.sha256(b"" if entries else graph)
    for entry in sorted(entries):
        digest.update(hashlib.sha256(entry).digest())
    return digest.hexdigest()


def held(tensors: Iterable[onnx.TensorProto]) -> dict[str, int]:
    """Count the bytes of the weights in an ONNX file by dtype, e.g. ``{"float32": 4096}``."""
    found: dict[str, int] = {}
    for tensor in tensors:
        kind = TensorProto.DataType.Name(tensor.data_type).lower()
        name = {"float": "float32", "double": "float64"}.get(kind, kind)
        found[name] = found.get(name, 0) + len(numpy_helper.to_array(tensor).tobytes())
    return found


def _point(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    name, dims, kind = tensor.name, list(tensor.dims), tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type = name, kind
    tensor.dims.extend(dims)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", FILE), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
