"""Traced graphs in, one ``weights.bin`` and the graphs out: equal tensors are stored once."""

from __future__ import annotations

import hashlib

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from dst.export.trace import Traced

FILE = "weights.bin"
INLINE_BYTES = 1024
"""Smaller tensors stay in the graph."""
ALIGNMENT = 64


def pack(graphs: list[Traced]) -> dict[str, bytes]:
    """Move the graphs' large initializers to one file of external data.

    Returns:
        File name to bytes: ``weights.bin`` and every graph.
    """
    blob = bytearray()
    places: dict[bytes, int] = {}
    files: dict[str, bytes] = {}
    for graph in graphs:
        model = onnx.ModelProto()
        model.CopyFrom(graph.model)
        for tensor in model.graph.initializer:
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
        files[graph.file] = model.SerializeToString(deterministic=True)
    return {FILE: bytes(blob), **files}


def model_id(module: nn.Module, graph: bytes) -> str:
    """SHA-256 (hex) of a module's parameters and saved buffers: names, shapes, float32 bytes.

    A module that has none is told from others by the bytes of its graph.
    """
    digest = hashlib.sha256(b"" if module.state_dict() else graph)
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().to(torch.float32).cpu().contiguous().numpy()
        digest.update(f"{name} {list(array.shape)}\n".encode())
        digest.update(array.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _point(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    name, dims, kind = tensor.name, list(tensor.dims), tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type = name, kind
    tensor.dims.extend(dims)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", FILE), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
