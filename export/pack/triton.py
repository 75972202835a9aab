"""Write a model repository for Triton: it keeps the state of each sequence itself.

A model of the repository is one graph of the bundle, as the contract has it but for the inputs that
never change, which become part of the graph. Triton's sequence batcher hands each answer's state to
the next request of the same sequence (its "implicit state"). A state that does not start at zero
starts from a file.

Shape letters: `B` batch, `T` items per chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from dst.export.pack.reduced import external_files
from dst.graphs.load import given_of
from dst.graphs.strip import answering_all
from dst.graphs.walk import bodies_of, nodes_of, set_nodes
from dst.runtime.bundle.manifest import Contract, Graph, Shape, Zeros, window
from dst.runtime.bundle.reader import Bundle
from dst.runtime.execution.buffers import Layout
from dst.runtime.files import copy_synced

Array = npt.NDArray[np.generic]

MAX_BATCH = 64
MAX_SEQUENCES = 1024
IDLE_S = 3600
"""After so long without a request a sequence loses its state."""
CONFIG = "config.pbtxt"
_TYPES = {
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}


@dataclass(frozen=True, slots=True)
class TritonModel:
    """One model of the repository.

    Attributes:
        name: of its folder, and what clients call it.
        graph: the graph that it runs.
        batch: how many sequences a step may take; 0 where each step takes one.
    """

    name: str
    graph: Graph
    batch: int


def write_repository(bundle: Bundle, to: Path) -> list[TritonModel]:
    """Write a model for each lowering that runs the nominal T.

    Args:
        bundle: what to serve.
        to: the folder of the repository, which exists.

    Raises:
        OSError: the disk refused.
    """
    manifest = bundle.manifest
    wanted: dict[str, Graph] = {}
    for graph in manifest.graphs:
        if manifest.contract.chunk.nominal_t in graph.allowed_t:
            wanted.setdefault(graph.lowering, graph)
    models = []
    for lowering, graph in wanted.items():
        name = plain(manifest.name if len(wanted) == 1 else f"{manifest.name}_{lowering}")
        models.append(TritonModel(name, graph, batch_of(manifest.contract, graph)))
        _write_model(bundle, models[-1], to / name)
    return models


def batch_of(contract: Contract, graph: Graph) -> int:
    """Return how many sequences one step of a graph may take, or 0 for one at a time.

    Triton joins sequences along the first axis of every tensor, which must have another behind it.
    """
    shapes = _shapes(contract).values()
    able = not graph.batch and all(len(shape) > 1 and "B" in shape for shape in shapes)
    return MAX_BATCH if able else 0


def _shapes(contract: Contract) -> dict[str, Shape]:
    """The shape of each tensor that a graph takes from outside or gives."""
    shapes = {contract.chunk.input: contract.chunk.shape}
    shapes |= {given.input: given.shape for given in contract.stream_inputs}
    shapes |= {output.name: output.shape for output in contract.outputs}
    for state in contract.state:
        shapes |= {state.input: state.shape, state.output: state.shape}
    return shapes


def _batch_first(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
    """Move the batch of every input and output to the front, where Triton wants it."""
    inside: dict[str, str] = {}
    before, after = [], []
    given = {value.name for value in graph.input}
    for value in (*graph.input, *graph.output):
        axis = shapes[value.name].index("B")
        if axis == 0:
            continue
        name = inside[value.name] = f"{value.name}.as_trained"
        axes = [axis, *(a for a in range(len(shapes[value.name])) if a != axis)]
        sizes = [deepcopy(value.type.tensor_type.shape.dim[a]) for a in axes]
        del value.type.tensor_type.shape.dim[:]
        value.type.tensor_type.shape.dim.extend(sizes)
        if value.name in given:
            back = [axes.index(a) for a in range(len(axes))]
            before.append(helper.make_node("Transpose", [value.name], [name], perm=back))
        else:
            after.append(helper.make_node("Transpose", [name], [value.name], perm=axes))
    for node in nodes_of(graph):
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
        for body in bodies_of(node):
            for value in body.output:
                value.name = inside.get(value.name, value.name)
    set_nodes(graph, [*before, *graph.node, *after])


def _write_model(bundle: Bundle, model: TritonModel, to: Path) -> None:
    (to / "1").mkdir(parents=True)
    contract = bundle.manifest.contract
    graph = onnx.load(bundle.root / model.graph.file, load_external_data=False)
    if model.graph.answers is not None:
        answering_all(graph, model.graph.answers)
    constants = given_of(contract)
    for name, value in constants.items():
        graph.graph.initializer.append(numpy_helper.from_array(value, name))
    kept = [value for value in graph.graph.input if value.name not in constants]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)
    if model.batch:
        _batch_first(graph.graph, _shapes(contract))
    (to / "1" / "model.onnx").write_bytes(graph.SerializeToString())
    for name in external_files(bundle, [model.graph]):
        copy_synced(bundle.root / name, to / "1" / name)
    (to / CONFIG).write_text(config_of(bundle, model), "utf-8")
    for name, value in starts_of(bundle).values():
        (to / "initial_state").mkdir(exist_ok=True)
        (to / "initial_state" / name).write_bytes(value.tobytes())


def starts_of(bundle: Bundle) -> dict[str, tuple[str, Array]]:
    """Return the states that do not start at zero: input -> name of a file, and its values."""
    contract = bundle.manifest.contract
    values = Layout.of(contract).initial(contract, bundle.init_tensors())
    return {
        state.input: (f"{number}_{plain(state.input)}.bin", values[state.input])
        for number, state in enumerate(contract.state)
        if not isinstance(state.init, Zeros)
    }


def plain(name: str) -> str:
    """Return a name in which every character may stand in the name of a file.

    Examples:
        >>> plain("cell/0 c")
        'cell_0_c'
    """
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)


def config_of(bundle: Bundle, model: TritonModel) -> str:
    """Return the text of a model's configuration."""
    contract, batched = bundle.manifest.contract, model.batch > 0
    chunk = contract.chunk
    (t,) = model.graph.allowed_t if len(model.graph.allowed_t) == 1 else (-1,)
    read = -1 if t == -1 else window(chunk, t)

    def tensor(name: str, dtype: str, shape: Shape, items: int) -> list[str]:
        sizes = {"B": 1, "T": items}
        left = [size for size in shape if size != "B"] if batched else shape
        dims = [sizes.get(str(size), size) for size in left]
        return [
            f'name: "{_escaped(name)}"',
            f"data_type: {_TYPES[dtype]}",
            f"dims: [ {', '.join(map(str, dims))} ]",
        ]

    inputs = [tensor(chunk.input, chunk.dtype, chunk.shape, read)]
    inputs += [tensor(g.input, g.dtype, g.shape, 1) for g in contract.stream_inputs]
    outputs = [tensor(o.name, o.dtype, o.shape, t) for o in contract.outputs]
    states, starts = [], starts_of(bundle)
    for state in contract.state:
        _, dtype, dims = tensor(state.input, state.dtype, state.shape, 1)
        start = "zero_data: true"
        if state.input in starts:
            start = f'data_file: "{starts[state.input][0]}"'
        first = [f'name: "{_escaped(state.input)}"', dtype, dims, start]
        states.append(
            [
                f'input_name: "{_escaped(state.input)}"',
                f'output_name: "{_escaped(state.output)}"',
                dtype,
                dims,
                *_block("initial_state", first),
            ]
        )
    batching = [
        f"max_sequence_idle_microseconds: {IDLE_S * 1_000_000}",
        f"oldest {{ max_candidate_sequences: {MAX_SEQUENCES} }}",
        *(line for state in states for line in _block("state", state)),
    ]
    lines = [
        f"# Made by `dst pack`; needs ONNX Runtime {model.graph.min_ort} or newer in the server.",
        f'name: "{_escaped(model.name)}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {model.batch}",
        *(line for held in inputs for line in _block("input", held)),
        *(line for held in outputs for line in _block("output", held)),
        *_block("sequence_batching", batching),
        *_block("instance_group", ["kind: KIND_CPU", "count: 1"]),
    ]
    return "\n".join(lines) + "\n"


def _block(name: str, lines: Iterable[str]) -> list[str]:
    return [f"{name} {{", *(f"  {line}" for line in lines), "}"]


def _escaped(name: str) -> str:
    r"""Write a name in a text of protobuf: bytes that are not plain as octal numbers.

    Examples:
        >>> _escaped('a"b')
        'a\\042b'
    """
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}"
        for byte in name.encode()
    )
