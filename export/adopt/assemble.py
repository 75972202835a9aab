"""Write the contract, the graph, the files and the manifest of a bundle for an adopted file.

The file gets the contract's inputs and outputs. Its nodes and the shapes that it states stay as
they are, but for an output's sizes that runs have shown to be wrong: a shape that is said more
exactly may turn a branch that is never taken into an error. What the contract has and the file does
not (a batch axis of length 1) is put around them; names, notes and paths of the program that wrote
it go.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnx
import safetensors.numpy
from onnx import helper, numpy_helper

from dst import __version__
from dst.export.adopt.answers import Answers
from dst.export.adopt.contract import Draft, DraftState
from dst.export.adopt.layout import Placed
from dst.export.adopt.ports import words
from dst.export.adopt.reference import Run, start_value
from dst.graphs.cost import multiply_adds
from dst.graphs.strip import cleaned
from dst.graphs.versions import domains, min_ort, opsets
from dst.graphs.walk import all_tensors, opset_of
from dst.graphs.weights import file_id, pack, sizes_by_dtype
from dst.runtime.bundle.constants import model_id_with_constants
from dst.runtime.bundle.layout import Array
from dst.runtime.bundle.manifest import (
    Chunk,
    Constant,
    Contract,
    DType,
    Features,
    Fill,
    Golden,
    Graph,
    Horizon,
    Manifest,
    Output,
    Producer,
    State,
    Stored,
    StreamInput,
    Tail,
    Tokens,
    Zeros,
)
from dst.runtime.bundle.validation import INIT_FILE
from dst.runtime.golden import golden_tensors

STEP_FILE, GOLDEN_FILE = "step.onnx", "golden.safetensors"
GOLDEN_TOLERANCE = 1e-4
"""What another machine may differ by: it orders its sums differently."""
GOLDEN_BYTES = 1 << 20
"""About as much of a run is recorded."""
_WINDOW = {
    "cache", "cached", "key", "keys", "k", "value", "values", "v", "past", "window", "buffer",
    "ring",
}  # fmt: skip
"""Words in the names of states that hold past items."""


def contract_of(
    plan: Draft, answers: Answers, outputs: Mapping[str, Placed], tail: Tail, causal: bool
) -> Contract:
    """Spell the contract."""
    chunk = plan.chunk
    return Contract(
        chunk=Chunk(
            input=chunk.port.name,
            dtype=chunk.port.dtype,
            shape=chunk.shape,
            nominal_t=plan.sizes[-1],
            allowed_t=plan.sizes,
            content=Features(names=(), sample_rate_hz=answers.sample_rate_hz, normalisation=None)
            if plan.vocabulary is None
            else Tokens(vocabulary=plan.vocabulary, tokenizer=answers.tokenizer),
            lookback=answers.lookback,
            lookback_fill=answers.lookback_fill if answers.lookback else None,
            tail=tail,
            pad_value=answers.pad_value if tail == "pad" else None,
            lookahead=answers.lookahead,
            causal=causal,
        ),
        constants=tuple(
            Constant(
                input=name,
                dtype=msgspec.convert(str(value.dtype), DType),
                shape=value.shape,
                values=tuple(float(v) if value.dtype.kind == "f" else int(v) for v in value.flat),
            )
            for name, value in plan.constants.items()
        ),
        stream_inputs=tuple(
            StreamInput(input=s.port.name, dtype=s.port.dtype, shape=s.shape)
            for s in plan.stream_inputs
        ),
        outputs=tuple(
            Output(
                name=name,
                dtype=placed.port.dtype,
                shape=placed.shape,
                meaning=answers.meanings.get(name, "custom"),
            )
            for name, placed in outputs.items()
        ),
        state=tuple(_state(state) for state in plan.states),
    )


def assembled(
    model: onnx.ModelProto,
    source: Path,
    folder: Path,
    plan: Draft,
    contract: Contract,
    outputs: Mapping[str, Placed],
    batch: Sequence[int],
    runs: Mapping[int, Run],
) -> tuple[dict[str, bytes | Path], Manifest]:
    """Make the files of a bundle and its manifest, which has no name yet.

    Args:
        model: The file; its large weights may lie outside.
        source: Where they lie.
        folder: Where the bundle's weights are written.
        plan: What the graph and the caller said.
        contract: What ``contract_of`` made of it.
        outputs: Output name -> its place.
        batch: The batch sizes that run, empty for any.
        runs: T -> the run to record, or as much of it as is not too large.
    """
    placed = [plan.chunk, *outputs.values(), *(state.before for state in plan.states)]
    placed += [Placed(s.after, s.before.shape, s.before.added) for s in plan.states]
    graph = _rewrapped(model, contract, placed, plan.sizes, batch)
    costs = multiply_adds(graph, contract, plan.sizes, batch)
    files = pack({STEP_FILE: graph}, source, folder)
    stored = {
        s.init.tensor: start_value(state.before, state.start, 1)
        for s, state in zip(contract.state, plan.states, strict=True)
        if isinstance(s.init, Stored)
    }
    if stored:
        files[INIT_FILE] = safetensors.numpy.save(stored)
    tensors: dict[str, Array] = {}
    steps = {t: _recorded(run) for t, run in runs.items()}
    for t, run in runs.items():
        kept = {name: values[: steps[t]] for name, values in run.outputs.items()}
        tensors |= golden_tensors(t, run.chunks[: steps[t]], kept, run.states[steps[t]], run.given)
    files[GOLDEN_FILE] = safetensors.numpy.save(
        {name: np.asarray(value, order="C") for name, value in tensors.items()}
    )
    sizes = sizes_by_dtype(all_tensors(graph.graph))
    weights = {
        dtype: size for dtype, size in sizes.items() if dtype not in ("int64", "int32", "bool")
    }
    manifest = Manifest(
        name="",
        description="",
        license="",
        model_id=model_id_with_constants(
            file_id(all_tensors(model.graph), graph.SerializeToString(deterministic=True), source),
            contract.constants,
        ),
        precision=max(weights, key=lambda dtype: weights[dtype], default="float32"),
        recipe=None,
        producer=Producer(name="dst-edge", version=__version__),
        contract=contract,
        graphs=(
            Graph(
                file=STEP_FILE,
                lowering="other",
                allowed_t=plan.sizes,
                batch=tuple(batch),
                opsets=opsets(graph),
                domains=domains(graph),
                min_ort=min_ort(graph),
                golden_tolerance=GOLDEN_TOLERANCE,
                multiply_adds=costs,
            ),
        ),
        golden=tuple(Golden(file=GOLDEN_FILE, t=t, steps=count) for t, count in steps.items()),
        certificates=(),
        horizon=Horizon(half_life_items=None),
        weights_bytes=sum(sizes.values()),
    )
    return files, manifest


def _recorded(run: Run) -> int:
    """How many steps of a run are recorded: two at least, so that a state is carried."""
    size = run.chunks[0].nbytes + sum(values[0].nbytes for values in run.outputs.values())
    return min(len(run.chunks), max(GOLDEN_BYTES // max(size, 1), 2))


def _state(state: DraftState) -> State:
    placed = state.before
    return State(
        input=placed.port.name,
        output=state.after.name,
        dtype=placed.port.dtype,
        shape=placed.shape,
        init=_init(state),
        role=_role(placed),
    )


def _init(state: DraftState) -> Zeros | Fill | Stored:
    """Say what a state starts from in the shortest way that gives the same values."""
    port, start = state.before.port, state.start
    if start is None or not start.any():
        return Zeros()
    first = start.reshape(-1)[0]
    value = float(first)
    if bool((start == first).all()) and (start.dtype.kind == "f" or int(value) == int(first)):
        return Fill(value=value)
    return Stored(tensor=port.name)


def _role(placed: Placed) -> Literal["memory", "window", "conv", "counter"]:
    """Guess what a state is from its dtype and name; people and quantizers look at it."""
    called = set(words(placed.port.name))
    if not placed.port.dtype.startswith("float"):
        return "counter"
    if "conv" in called:
        return "conv"
    return "window" if called & _WINDOW else "memory"


# --- the graph ------------------------------------------------------------------------------------


def _rewrapped(
    model: onnx.ModelProto,
    contract: Contract,
    placed: Sequence[Placed],
    sizes: Sequence[int],
    batch: Sequence[int],
) -> onnx.ModelProto:
    """Give a file the contract's inputs and outputs, and drop what tells where it was made.

    ``placed`` holds the chunk and every state and output that is in the contract, each by the name
    of its place in the file; a state is there twice. ``batch`` is empty for any size.
    """
    wrapped = onnx.ModelProto()
    wrapped.CopyFrom(model)
    wrapped.ir_version = max(model.ir_version, 4)  # before 4 every weight was an input
    graph = wrapped.graph
    inputs = [contract.chunk.input]
    inputs += [c.input for c in contract.constants]
    inputs += [given.input for given in contract.stream_inputs]
    inputs += [s.input for s in contract.state]
    outputs = [o.name for o in contract.outputs] + [s.output for s in contract.state]
    _keep(graph, inputs, outputs)
    opset = opset_of(wrapped)
    if not opset and any(port.added for port in placed):
        opset = 18
        wrapped.opset_import.add(domain="", version=opset)
    for port in placed:
        _correct(graph, port, sizes, batch)
    for port in placed:
        _wrap(graph, port, opset, before=port.port.name in inputs)
    return cleaned(wrapped, wrapped.ir_version, inputs, outputs)


def _keep(graph: onnx.GraphProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Keep the contract's inputs and outputs, in its order; a default of one of them goes."""
    for values, names in ((graph.input, inputs), (graph.output, outputs)):
        found = {value.name: value.SerializeToString() for value in values}
        kept = [onnx.ValueInfoProto.FromString(found[name]) for name in names]
        del values[:]
        values.extend(kept)
    for place, tensor in reversed(list(enumerate(graph.initializer))):
        if tensor.name in inputs:
            del graph.initializer[place]


def _correct(
    graph: onnx.GraphProto, placed: Placed, sizes: Sequence[int], batch: Sequence[int]
) -> None:
    """Replace what the file says of an output's axes where the contract says otherwise."""
    value = next((v for v in graph.output if v.name == placed.port.name), None)
    if value is None:
        return
    shape, dims = placed.own_shape, value.type.tensor_type.shape.dim
    letters = {"B": list(batch), "T": list(sizes)}
    if len(dims) != len(shape):
        del dims[:]
        dims.extend(onnx.TensorShapeProto.Dimension() for _ in shape)
    for dim, size in zip(dims, shape, strict=True):
        right = letters[size] if isinstance(size, str) else [size]
        if dim.HasField("dim_value") and [dim.dim_value] != right:
            dim.Clear()
            if isinstance(size, int):
                dim.dim_value = size
            elif len(right) == 1:
                dim.dim_value = right[0]
            else:
                dim.dim_param = f"{size}_axis"


def _wrap(graph: onnx.GraphProto, placed: Placed, opset: int, *, before: bool) -> None:
    """Take the axes off an input that the file does not have, or put them on an output."""
    if not placed.added:
        return
    name = placed.port.name
    value = next(v for v in (graph.input if before else graph.output) if v.name == name)
    value.name = f"{name}/whole"
    dims = value.type.tensor_type.shape.dim
    own = [onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString()) for d in dims]
    for axis in placed.added:
        own.insert(axis, onnx.TensorShapeProto.Dimension(dim_value=1))
    del dims[:]
    dims.extend(own)
    if before:
        graph.node.insert(0, _reshaping("Squeeze", value.name, name, placed, graph, opset))
    else:
        graph.node.append(_reshaping("Unsqueeze", name, value.name, placed, graph, opset))


def _reshaping(
    kind: str, source: str, target: str, placed: Placed, graph: onnx.GraphProto, opset: int
) -> onnx.NodeProto:
    if opset < 13:
        return helper.make_node(kind, [source], [target], axes=list(placed.added))
    axes = f"{placed.port.name}/axes"
    graph.initializer.append(numpy_helper.from_array(np.array(placed.added, np.int64), axes))
    return helper.make_node(kind, [source, axes], [target])
