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
from dst.export.adopt.contract import Draft
from dst.export.adopt.layout import Placed
from dst.export.adopt.ports import words
from dst.export.adopt.reference import Run, start_value
from dst.graphs.cost import multiply_adds
from dst.graphs.strip import cleaned
from dst.graphs.versions import domains, min_ort, opsets
from dst.graphs.walk import all_tensors, opset_of
from dst.graphs.weights import file_id, pack, sizes_by_dtype
from dst.runtime.bundle import manifest as m
from dst.runtime.bundle.constants import model_id_with_constants
from dst.runtime.bundle.layout import Array
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
    plan: Draft, answers: Answers, outputs: Mapping[str, Placed], tail: m.Tail, causal: bool
) -> m.Contract:
    """Spell the contract."""
    chunk = plan.chunk
    return m.Contract(
        chunk=m.Chunk(
            input=chunk.port.name,
            dtype=chunk.port.dtype,
            shape=chunk.shape,
            nominal_t=plan.sizes[-1],
            allowed_t=plan.sizes,
            content=m.Features(sample_rate_hz=answers.sample_rate_hz)
            if plan.vocabulary is None
            else m.Tokens(vocabulary=plan.vocabulary, tokenizer=answers.tokenizer),
            lookback=answers.lookback,
            lookback_fill=answers.lookback_fill if answers.lookback else None,
            tail=tail,
            pad_value=answers.pad_value if tail == "pad" else None,
            lookahead=answers.lookahead,
            causal=causal,
        ),
        constants=tuple(
            m.Constant(
                input=name,
                dtype=msgspec.convert(str(value.dtype), m.DType),
                shape=value.shape,
                values=tuple(float(v) if value.dtype.kind == "f" else int(v) for v in value.flat),
            )
            for name, value in plan.constants.items()
        ),
        stream_inputs=tuple(
            m.StreamInput(input=s.port.name, dtype=s.port.dtype, shape=s.shape)
            for s in plan.stream_inputs
        ),
        outputs=tuple(
            m.Output(
                name=name,
                dtype=placed.port.dtype,
                shape=placed.shape,
                meaning=answers.meanings.get(name, "custom"),
            )
            for name, placed in outputs.items()
        ),
        state=tuple(
            m.State(
                input=s.before.port.name,
                output=s.after.name,
                dtype=s.before.port.dtype,
                shape=s.before.shape,
                init=init_of(s.before.port.name, s.start),
                role=role_of(s.before.port.name, s.before.port.dtype),
            )
            for s in plan.states
        ),
    )


def assembled(
    model: onnx.ModelProto,
    source: Path,
    folder: Path,
    plan: Draft,
    contract: m.Contract,
    outputs: Mapping[str, Placed],
    batch: Sequence[int],
    runs: Mapping[int, Run],
) -> tuple[dict[str, bytes | Path], m.Manifest]:
    """Make the files of a bundle and its manifest, which has no name yet.

    Large weights of ``model`` lie in ``source``, and go to ``folder``. ``batch`` are the sizes that
    run, empty for any; each of ``runs`` is recorded, or as much of it as is not too large.
    """
    placed = [plan.chunk, *outputs.values(), *(state.before for state in plan.states)]
    placed += [Placed(s.after, s.before.shape, s.before.added) for s in plan.states]
    graph = _rewrapped(model, contract, placed, plan.sizes, batch)
    costs = multiply_adds(graph, contract, plan.sizes, batch)
    files = pack({STEP_FILE: graph}, source, folder)
    stored = {
        s.init.tensor: start_value(state.before, state.start, 1)
        for s, state in zip(contract.state, plan.states, strict=True)
        if isinstance(s.init, m.Stored)
    }
    if stored:
        files[INIT_FILE] = safetensors.numpy.save(stored)
    tensors: dict[str, Array] = {}
    steps: dict[int, int] = {}
    for t, run in runs.items():
        size = run.chunks[0].nbytes + sum(values[0].nbytes for values in run.outputs.values())
        # two steps at least, so that a state is carried
        count = steps[t] = min(len(run.chunks), max(GOLDEN_BYTES // max(size, 1), 2))
        kept = {name: values[:count] for name, values in run.outputs.items()}
        tensors |= golden_tensors(t, run.chunks[:count], kept, run.states[count], run.given)
    files[GOLDEN_FILE] = safetensors.numpy.save(
        {name: np.asarray(value, order="C") for name, value in tensors.items()}
    )
    sizes = sizes_by_dtype(all_tensors(graph.graph))
    weights = {d: size for d, size in sizes.items() if d not in ("int64", "int32", "bool")}
    manifest = m.Manifest(
        name="",
        description="",
        license="",
        model_id=model_id_with_constants(
            file_id(all_tensors(model.graph), graph.SerializeToString(deterministic=True), source),
            contract.constants,
        ),
        precision=max(weights, key=lambda dtype: weights[dtype], default="float32"),
        recipe=None,
        producer=m.Producer(name="dst-edge", version=__version__),
        contract=contract,
        graphs=(
            m.Graph(
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
        golden=tuple(m.Golden(file=GOLDEN_FILE, t=t, steps=count) for t, count in steps.items()),
        certificates=(),
        horizon=m.Horizon(half_life_items=None),
        weights_bytes=sum(sizes.values()),
    )
    return files, manifest


def init_of(name: str, start: Array | None) -> m.Zeros | m.Fill | m.Stored:
    """Say what a state starts from in the shortest way that gives the same values."""
    if start is None or not start.any():
        return m.Zeros()
    first = start.reshape(-1)[0]
    value = float(first)
    if bool((start == first).all()) and (start.dtype.kind == "f" or int(value) == int(first)):
        return m.Fill(value=value)
    return m.Stored(tensor=name)


def role_of(name: str, dtype: m.DType) -> Literal["memory", "window", "conv", "counter"]:
    """Guess what a state is from its dtype and name; people and quantizers look at it."""
    if not dtype.startswith("float"):
        return "counter"
    if "conv" in name.lower():
        return "conv"
    return "window" if _WINDOW.intersection(words(name)) else "memory"


def _rewrapped(
    model: onnx.ModelProto,
    contract: m.Contract,
    placed: Sequence[Placed],
    sizes: Sequence[int],
    batch: Sequence[int],
) -> onnx.ModelProto:
    """Give a file the contract's inputs and outputs, and drop what tells where it was made.

    ``placed`` holds the chunk, and each output and state in the contract; a state is there twice.
    ``batch`` is empty for any size.
    """
    wrapped = onnx.ModelProto()
    wrapped.CopyFrom(model)
    wrapped.ir_version = max(model.ir_version, 4)  # before 4 every weight was an input
    graph = wrapped.graph
    inputs = [contract.chunk.input, *(c.input for c in contract.constants)]
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
    shape, letters = placed.own_shape, {"B": list(batch), "T": list(sizes)}
    for value in graph.output:
        if value.name == placed.port.name:
            dims = _dims(value)
            if len(dims) != len(shape):
                dims = [None for _ in shape]
            for axis, (dim, size) in enumerate(zip(dims, shape, strict=True)):
                right = letters[size] if isinstance(size, str) else [size]
                if isinstance(dim, int) and [dim] != right:
                    dims[axis] = right[0] if len(right) == 1 else f"{size}_axis"
            _set_dims(value, dims)


def _wrap(graph: onnx.GraphProto, placed: Placed, opset: int, *, before: bool) -> None:
    """Take the axes off an input that the file does not have, or put them on an output."""
    if not placed.added:
        return
    name = placed.port.name
    whole, axes = f"{name}/whole", f"{name}/axes"
    value = next(v for v in (graph.input if before else graph.output) if v.name == name)
    value.name, dims = whole, _dims(value)
    for axis in placed.added:
        dims.insert(axis, 1)
    _set_dims(value, dims)
    kind, ends = ("Squeeze", (whole, name)) if before else ("Unsqueeze", (name, whole))
    if opset < 13:
        node = helper.make_node(kind, ends[:1], ends[1:], axes=placed.added)
    else:
        graph.initializer.append(numpy_helper.from_array(np.array(placed.added, np.int64), axes))
        node = helper.make_node(kind, [ends[0], axes], ends[1:])
    graph.node.insert(0 if before else len(graph.node), node)


def _dims(value: onnx.ValueInfoProto) -> list[int | str | None]:
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]


def _set_dims(value: onnx.ValueInfoProto, dims: Sequence[int | str | None]) -> None:
    value.type.CopyFrom(helper.make_tensor_type_proto(value.type.tensor_type.elem_type, dims))
