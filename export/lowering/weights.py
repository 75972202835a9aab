"""Keep a module's weights out of the traced graph, and call them as the module does.

A protobuf ends at 2 GiB, so large weights go straight from torch to a file that the graph refers
to. torch's exporter turns some weights and calls them ``val_48``: what holds a parameter, as it is
or transposed, gets the parameter's name.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from torch import Tensor

from dst.export.infer.inferred import Inferred
from dst.export.step import TORCH_DTYPES, Step
from dst.graphs.weights import WeightsFile
from dst.runtime.bundle.layout import Array

LARGE_BYTES = 1 << 16
"""Larger weights are kept out; smaller ones may be sizes that shape inference reads."""
_LEAST_VALUES = 32
"""Fewer values tell no parameter from another."""
_SAMPLE = 64
_NUMBERED = re.compile(r"t\d+(\.\d+)*")
"""How values that are no weights are called (``dst.graphs.strip``)."""


def without_weights(model: ir.Model, store: WeightsFile) -> onnx.ModelProto:
    """Write a model as a protobuf whose large weights stand in a file.

    Args:
        model: The model; its large weights are replaced by references.
        store: The file.
    """
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= LARGE_BYTES or tensor.dtype.bitwidth < 8:
            continue
        data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
        value.const_value = ir.ExternalTensor(
            store.path.name,
            store.add(data.data),
            data.size,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
    return ir.to_proto(model)


def names_of_weights(model: ir.Model, step: Step, tables: Mapping[str, Tensor]) -> dict[str, str]:
    """Find the parameter that each weight of a traced model holds.

    Args:
        model: As the exporter gives it.
        step: What was traced.
        tables: Weights that were put together for the tracer, by the name they should have.

    Returns:
        Name of the weight in the model -> of the parameter or buffer, as the user's module has it.
    """
    prefix = "module." if isinstance(step, Inferred) else ""
    own = {
        name.removeprefix(prefix): tensor
        for name, tensor in {**step.state_dict(), **tables}.items()
        if not _NUMBERED.fullmatch(name.removeprefix(prefix))
    }
    weights = {
        name: value.const_value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    found = {
        name: short
        for name in weights
        if (short := name.removeprefix(f"step.{prefix}")) in own and short not in weights
    }
    free: dict[object, list[tuple[str, Array]]] = {}
    for short in sorted(own.keys() - set(found.values()) - weights.keys()):
        if own[short].numel() >= _LEAST_VALUES and own[short].dtype in TORCH_DTYPES.values():
            for array in _both_ways(own[short].detach().cpu().numpy()):
                free.setdefault(_sample(array), []).append((short, array))
    for name in sorted(weights.keys() - found.keys()):
        if weights[name].size >= _LEAST_VALUES and weights[name].dtype.bitwidth >= 8:
            array = weights[name].numpy()
            for short, held in free.get(_sample(array), []):
                if short not in found.values() and np.array_equal(held, array):
                    found[name] = short
                    break
    return found


def _both_ways(array: Array) -> Iterator[Array]:
    yield array
    if array.ndim == 2:
        yield array.T


def _sample(array: Array) -> object:
    """Some of an array's values and its shape: equal arrays have equal samples."""
    some = array.reshape(-1)[:1] if array.ndim < 2 else array[:: -(-len(array) // _SAMPLE), 0]
    return array.shape, array.dtype.str, some.tobytes()
