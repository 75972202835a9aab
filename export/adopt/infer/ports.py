"""Read an ONNX model and its inputs and outputs: name, dtype, and what it says of the shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, inliner, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from dst.export.adopt.infer.file_kinds import what_it_is
from dst.export.errors import AdoptError
from dst.graphs.walk import all_tensors, graphs_of
from dst.graphs.weights import dtype_name, size_of
from dst.runtime.bundle.manifest import DType
from dst.runtime.execution.engine import first_line

Array = npt.NDArray[np.generic]

_DTYPES: tuple[DType, ...] = get_args(DType)
LARGE_BYTES = 1 << 16
"""Larger weights that lie outside the file are left there: a protobuf ends at 2 GiB."""


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a graph.

    Attributes:
        name: as in the graph.
        dtype: of its elements.
        dims: per axis a size, the name of a free axis, or None for a free axis without a name.
    """

    name: str
    dtype: DType
    dims: tuple[int | str | None, ...]

    @property
    def free(self) -> tuple[int, ...]:
        """The axes whose size the graph leaves open."""
        return tuple(axis for axis, d in enumerate(self.dims) if not isinstance(d, int))

    def __str__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.dims)
        return f"`{self.name}` {self.dtype} [{dims}]"


@dataclass(frozen=True, slots=True)
class Ports:
    """What goes into a graph and comes out.

    Attributes:
        inputs: in the graph's order.
        outputs: in the graph's order, but for those that are left out.
        defaults: input name -> the value that the file gives it.
        dropped: the outputs that are left out.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    defaults: dict[str, Array]
    dropped: tuple[str, ...]


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file; local functions are inlined.

    Large weights that lie in another file are left there, once they have shown to be readable.

    Raises:
        AdoptError: it is no ONNX model, or holds what a bundle cannot.
    """
    try:
        kind = what_it_is(path)
        size = path.stat().st_size
    except OSError as error:
        raise AdoptError(f"{path}: {error.strerror or error}") from None
    if kind is not None:
        raise AdoptError(f"{path}: is no ONNX model but {kind}")
    try:
        model = onnx.load(str(path), load_external_data=False)
        _load_small(model, path.parent)
        if model.functions:
            model = inliner.inline_local_functions(model)
    except OSError as error:
        raise AdoptError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # protobuf's and onnx's own classes share no base but this
        if isinstance(error, onnx.checker.ValidationError):  # its external data
            raise AdoptError(
                f"{path}: its weights lie in another file, which must lie beside it under the "
                f"name that it was saved with: {first_line(error)}"
            ) from None
        raise AdoptError(
            f"{path}: is no ONNX model, or one that is damaged or cut short at {size:,} bytes: "
            f"{first_line(error)}"
        ) from None
    if not model.graph.output:
        raise AdoptError(f"{path}: is no ONNX model, or one whose graph has no output")
    if any(graph.sparse_initializer for graph in graphs_of(model.graph)):
        raise AdoptError(f"{path}: has sparse weights, which are not supported; make them dense")
    return model


def _load_small(model: onnx.ModelProto, folder: Path) -> None:
    """Load the external data of all tensors but large weights, whose data is only tried."""
    weights = {tensor.name for graph in graphs_of(model.graph) for tensor in graph.initializer}
    weights -= {value.name for value in model.graph.input}
    for tensor in all_tensors(model.graph):
        if uses_external_data(tensor):
            loaded = TensorProto.FromString(tensor.SerializeToString())
            load_external_data_for_tensor(loaded, str(folder))
            if size_of(tensor) <= LARGE_BYTES or tensor.name not in weights:
                loaded.data_location = TensorProto.DEFAULT
                del loaded.external_data[:]
                tensor.CopyFrom(loaded)


def ports_of(where: str, model: onnx.ModelProto, drop: Sequence[str] = ()) -> Ports:
    """Read the inputs and outputs of a model.

    Args:
        where: what messages call it.
        model: the model.
        drop: outputs that are left out, whatever they are.

    Raises:
        AdoptError: one is no tensor, or of a dtype that the runtime does not carry.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs = list(model.graph.input)
    if model.ir_version < 4:  # before that, every weight had to be listed as an input
        inputs = [value for value in inputs if value.name not in weights]
    return Ports(
        inputs=tuple(_port(f"{where}: input", value) for value in inputs),
        outputs=tuple(
            _port(f"{where}: output", value)
            for value in model.graph.output
            if value.name not in drop
        ),
        dropped=tuple(value.name for value in model.graph.output if value.name in drop),
        defaults={
            value.name: numpy_helper.to_array(weights[value.name])
            for value in inputs
            if value.name in weights
        },
    )


def _port(kind: str, value: onnx.ValueInfoProto) -> Port:
    form = value.type.WhichOneof("value")
    if form != "tensor_type":
        named = (form or "of no known type").removesuffix("_type").replace("_", " ")
        raise AdoptError(
            f"{kind} `{value.name}` is no tensor but {named}; a step takes and gives dense tensors "
            "only: export it with each tensor as an input or output of its own, or leave an output "
            "out with --drop"
        )
    tensor = value.type.tensor_type
    dtype = next((d for d in _DTYPES if d == dtype_name(tensor.elem_type)), None)
    if dtype is None:
        named = TensorProto.DataType.Name(tensor.elem_type)
        raise AdoptError(
            f"{kind} `{value.name}` is {named}; the runtime carries {', '.join(_DTYPES)}: "
            "export it with a Cast inside the graph"
        )
    if not tensor.HasField("shape"):
        raise AdoptError(
            f"{kind} `{value.name}` has no shape at all; export it with a shape, whose axes may "
            "be symbolic"
        )
    dims = tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or None
        for d in tensor.shape.dim
    )
    return Port(value.name, dtype, dims)
