"""Read an ONNX model and its inputs and outputs, and pair those that are one state tensor.

Names tell the pairs: `h -> h_out`, `state -> stateN`, `h0 -> hn`, `cached_x -> new_cached_x`,
`past.0 -> present.0`, `in_cache -> out_cache`. Both must have the same dtype and sizes that agree,
and a name that fits two partners fits none: what is not sure is left to be asked.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import onnx
from onnx import TensorProto, inliner, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from dst.export.adopt.file_kinds import what_it_is
from dst.export.errors import AdoptError
from dst.graphs.walk import all_tensors, graphs_of
from dst.graphs.weights import dtype_name, size_of
from dst.runtime.bundle.layout import Array
from dst.runtime.bundle.manifest import DType
from dst.runtime.execution.engine import first_line

LARGE_BYTES = 1 << 16
"""Larger weights that lie outside the file are left there: a protobuf ends at 2 GiB."""
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_BEFORE = frozenset(
    ["past", "prev", "previous", "old", "in", "input", "init", "initial", "cur", "current", "last"]
)
_AFTER = frozenset(["present", "next", "new", "out", "output", "updated", "after"])

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a graph.

    ``dims`` holds for each axis a size, the name of a free axis, or None for one without a name.
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
    """What goes into a graph and comes out, in its order.

    ``outputs`` are without those that are left out, the ``dropped``; ``defaults`` are values that
    the file gives to inputs.
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
        size, kind = path.stat().st_size, what_it_is(path)
        if kind is not None:
            raise AdoptError(f"{path}: is no ONNX model but {kind}")
        model = onnx.load(str(path), load_external_data=False)
        _load_small(model, path.parent)
        if model.functions:
            model = inliner.inline_local_functions(model)
    except AdoptError:
        raise
    except OSError as error:
        raise AdoptError(f"{path}: {error.strerror or error}") from None
    except onnx.checker.ValidationError as error:  # its external data
        raise AdoptError(
            f"{path}: its weights lie in another file, which must lie beside it under the name "
            f"that it was saved with: {first_line(error)}"
        ) from None
    except Exception as error:  # protobuf's and onnx's own classes share no base but this
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


def ports_of(model: onnx.ModelProto, drop: Sequence[str] = ()) -> Ports:
    """Read the inputs and outputs of a model; those in ``drop`` are left out, whatever they are."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs = list(model.graph.input)
    if model.ir_version < 4:  # before that, every weight had to be listed as an input
        inputs = [value for value in inputs if value.name not in weights]
    return Ports(
        inputs=tuple(_port("input", value) for value in inputs),
        outputs=tuple(
            _port("output", value) for value in model.graph.output if value.name not in drop
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
    dtype = next((d for d in get_args(DType) if d == dtype_name(tensor.elem_type)), None)
    if dtype is None:
        named = TensorProto.DataType.Name(tensor.elem_type)
        raise AdoptError(
            f"{kind} `{value.name}` is {named}; the runtime carries {', '.join(get_args(DType))}: "
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


def agree(some: Sequence[object], other: Sequence[object]) -> bool:
    """Say whether two shapes have as many axes, and one size wherever both tell it."""
    return len(some) == len(other) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int))
        for a, b in zip(some, other, strict=True)
    )


def may_carry(before: Port, after: Port) -> bool:
    """Say whether an output could be the next value of an input, by dtype and sizes."""
    return before.dtype == after.dtype and agree(before.dims, after.dims)


def same_kind(before: Port, after: Port) -> bool:
    """Say whether two have one dtype and as many axes, whatever the sizes."""
    return before.dtype == after.dtype and len(before.dims) == len(after.dims)


def state_pairs(
    inputs: Sequence[Port], outputs: Sequence[Port], fits: Callable[[Port, Port], bool] = may_carry
) -> dict[str, str]:
    """Pair the inputs and outputs whose names leave no doubt, and that ``fits`` allows by shape."""
    fitting = {
        before.name: [
            after.name
            for after in outputs
            if _cores(before.name, _BEFORE, "0") & _cores(after.name, _AFTER, "n")
            and fits(before, after)
        ]
        for before in inputs
    }
    wanted = [name for names in fitting.values() for name in names]
    return {
        before: names[0]
        for before, names in fitting.items()
        if len(names) == 1 and wanted.count(names[0]) == 1
    }


def words(name: str) -> Words:
    """Split a name: `past_key_values.0.key` -> past, key, values, 0, key; `stateN` -> state, n."""
    return tuple(word.lower() for word in _WORD.findall(name))


def _cores(name: str, marks: frozenset[str], end: str) -> set[Words]:
    """What a tensor may be called apart from words that say when, and from ``end`` after a name."""
    core = words(name)
    if core[:1] in (("past",), ("present",)) and core[1:3] == ("key", "values"):
        core = (core[0], *core[3:])
    core = tuple(word for word in core if word not in marks)
    found = {core}
    if core[-1:] == (end,):  # h0, the state at time 0; stateN, h_n
        found.add(core[:-1])
    elif core and core[-1].isalpha() and core[-1].endswith(end):  # hn
        found.add((*core[:-1], core[-1][:-1]))
    return found - {()}
