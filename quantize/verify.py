"""Record the golden vectors of a quantized bundle, and measure their tolerance.

Shape letters: ``B`` batch (1), ``T`` items per chunk.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import safetensors.numpy
from onnx import helper, numpy_helper

from dst.graphs.walk import set_nodes
from dst.runtime import Session, Stream
from dst.runtime.bundle.manifest import Golden, Manifest
from dst.runtime.bundle.reader import Bundle, open_bundle
from dst.runtime.bundle.writer import write_bundle
from dst.runtime.golden import (
    cost_error,
    golden_costs,
    golden_inputs,
    golden_tensors,
    replay_golden,
)

Array = npt.NDArray[np.generic]

GOLDEN_FILE = "golden.safetensors"
SINGLE_STEPS = 32
"""Steps of the recorded run at T = 1."""
NOISE = 1e-4
"""Size of the disturbance, as a share of each value: a tenth of a step of 8 bits and less, far more
than two float32 forms of a step are apart. It makes most rounded values that can fall on either
side of a half do so, and is itself far below what a recipe costs."""
DISTURBED_RUNS = 4
MARGIN = 1.5
"""A tolerance over the largest difference that was seen here."""
LEAST_TOLERANCE = 0.1
"""Of what the recipe costs: few roundings may have moved here, another machine moves others."""


def verify(
    source: Bundle, manifest: Manifest, files: Mapping[str, bytes | Path]
) -> tuple[Manifest, dict[str, bytes | Path]]:
    """Record the source's golden chunks again, now with the quantized graphs.

    The runs are recorded at the nominal T, and at T = 1 where that is allowed. Beside each tensor
    stands what the recipe costs it: the distance of its record from full precision, which the
    source's graphs answer here for the same chunks. The tolerance is a share of that cost.

    Rounding makes steps of differences: where float32 moves by its last bit, a rounded activation
    may move by a whole step, and another CPU's order of sums does that. How far a graph can come
    by it, even where every such value falls the other way, is measured: the state, and a chunk of
    features, are disturbed before every step by ``NOISE`` of each value. Weights are not rounded
    anew by that, so a recipe whose cost is that of its weights, such as 4 bits, has a small share.
    Weights in blocks leave to the kernel how it rounds activations (`rounded_by_rows`); where there
    are any, the other way is tried too. The tolerance is ``MARGIN`` times the largest share so
    found, or by which the bundle's own graphs differ from the records.

    Args:
        source: The full-precision bundle.
        manifest: Of the quantized bundle, complete but for its golden runs.
        files: Its files.

    Returns:
        The manifest and the files with golden runs.
    """
    if not source.manifest.golden:
        return manifest, dict(files)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft"
        write_bundle(draft, msgspec.structs.replace(manifest, golden=()), files)
        session = Session.open(draft, verify="size")
        other = _rounded_otherwise(draft, Path(folder) / "other", manifest)
        runs, tensors, strayed = _record(source, session, other)
        content = safetensors.numpy.save(
            {name: np.array(value, order="C") for name, value in tensors.items()}
        )
        complete = {**files, GOLDEN_FILE: content}
        whole = msgspec.structs.replace(manifest, golden=runs)
        write_bundle(draft, whole, complete, overwrite=True)
        replayed = replay_golden(open_bundle(draft))
    among = [error for check in replayed for error in check.errors.values()]
    tolerance = _rounded_up(max(MARGIN * max(strayed, *among), LEAST_TOLERANCE))
    graphs = tuple(msgspec.structs.replace(g, golden_tolerance=tolerance) for g in whole.graphs)
    return msgspec.structs.replace(whole, graphs=graphs), complete


def rounded_by_rows(model: onnx.ModelProto) -> bool:
    """Round the activations that meet weights in blocks as a kernel may do that does so by rows.

    ONNX Runtime's kernels for such weights may round activations to 8 bits: on x86 each block by
    its largest value, on ARM (KleidiAI) each row by its largest and smallest, which is coarser.
    It is spelled out, since ONNX Runtime would make other operators of DynamicQuantizeLinear.

    Args:
        model: Changed in place.

    Returns:
        Whether there are any.
    """
    graph = model.graph
    blocks = {
        node.output[0]
        for node in graph.node
        if node.op_type == "DequantizeLinear"
        and any(a.name == "block_size" and a.i for a in node.attribute)
    }
    products = [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in blocks]
    if not products:
        return False
    zero, most, least, last = (f"by_rows.{name}" for name in ("zero", "most", "least", "last"))
    for name, value in ((zero, 0.0), (most, 255.0), (least, 1e-7)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), last))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if any(node is product for product in products):
            x, own = node.input[0], f"by_rows.{node.output[0]}"
            node.input[0] = f"{own}.again"
            for op, inputs, output in (
                *(("CastLike", [name, x], name) for name in (zero, most, least)),
                ("ReduceMin", [x, last], "low"),
                ("Min", [f"{own}.low", f"{own}.{zero}"], "bottom"),
                ("ReduceMax", [x, last], "high"),
                ("Max", [f"{own}.high", f"{own}.{zero}"], "top"),
                ("Sub", [f"{own}.top", f"{own}.bottom"], "range"),
                ("Div", [f"{own}.range", f"{own}.{most}"], "fine"),
                ("Max", [f"{own}.fine", f"{own}.{least}"], "unit"),
                ("Div", [x, f"{own}.unit"], "steps"),
                ("Round", [f"{own}.steps"], "whole"),
                ("Mul", [f"{own}.whole", f"{own}.unit"], "again"),
            ):
                nodes.append(helper.make_node(op, inputs, [f"{own}.{output}"], f"{own}.{output}"))
        nodes.append(node)
    set_nodes(graph, nodes)
    return True


def _rounded_otherwise(draft: Path, path: Path, manifest: Manifest) -> Session | None:
    """Open the bundle as a kernel would run it that rounds activations by rows; None: no such."""
    models = {g.file: onnx.load(draft / g.file, load_external_data=False) for g in manifest.graphs}
    if not any([rounded_by_rows(model) for model in models.values()]):
        return None
    files = {name: draft / name for name in open_bundle(draft).manifest.files}
    graphs = {file: model.SerializeToString() for file, model in models.items()}
    write_bundle(path, msgspec.structs.replace(manifest, golden=(), files={}), files | graphs)
    return Session.open(path, verify="size")


def _record(
    source: Bundle, session: Session, otherwise: Session | None
) -> tuple[tuple[Golden, ...], dict[str, Array], float]:
    """Run the golden chunks, in full precision as well; also say how far other runs stray.

    Those are disturbed ones, and one of a session that rounds otherwise.
    """
    chunks = _chunks(source, session)
    full = Session.open(source.root, chunk_sizes=sorted(chunks), verify="size")
    runs: list[Golden] = []
    tensors: dict[str, Array] = {}
    strayed = 0.0
    for t, pieces in sorted(chunks.items()):
        found = _run(source, session, t, pieces, None)
        costs = golden_costs(found, _run(source, full, t, pieces, None), t)
        others = [
            _run(source, session, t, pieces, np.random.default_rng(seed))
            for seed in range(DISTURBED_RUNS)
        ]
        if otherwise is not None:
            others.append(_run(source, otherwise, t, pieces, None))
        for other in others:
            for name, cost in costs.items():
                kept = name.replace("/cost/", "/", 1)
                strayed = max(strayed, cost_error(other[kept], found[kept], float(cost)))
        tensors |= found | costs
        runs.append(Golden(file=GOLDEN_FILE, t=t, steps=len(pieces)))
    return tuple(runs), tensors, strayed


def _chunks(source: Bundle, session: Session) -> dict[int, list[Array]]:
    """The source's golden chunks by T; those of the nominal T also cut into single items."""
    chunk = session.contract.chunk
    held = {
        golden.t: list(source.tensors(golden.file)[f"t{golden.t}/chunk"])
        for golden in source.manifest.golden
        if golden.t in session.chunk_sizes
    }
    if 1 in session.chunk_sizes and 1 not in held and chunk.nominal_t in held:
        items = np.concatenate(held[chunk.nominal_t], chunk.time_axis)
        count = min(SINGLE_STEPS, items.shape[chunk.time_axis])
        held[1] = [items.take([i], chunk.time_axis) for i in range(count)]
    return held


def _run(
    source: Bundle,
    session: Session,
    t: int,
    chunks: Sequence[Array],
    noise: np.random.Generator | None,
) -> dict[str, Array]:
    """Step through chunks from the initial state; noise, if given, disturbs what a step reads."""
    stream = session.stream(inputs=golden_inputs(source))
    outputs: dict[str, list[Array]] = {o.name: [] for o in session.contract.outputs}
    for piece in chunks:
        read = piece
        if noise is not None:
            read = _disturbed(piece, noise)
            _disturb(session, stream, noise)
        for name, value in stream.step(np.ascontiguousarray(read)).items():
            outputs[name].append(value)
    return golden_tensors(t, chunks, outputs, stream.state, stream.inputs)


def _disturb(session: Session, stream: Stream, noise: np.random.Generator) -> None:
    """Move every value of the state a little."""
    now = stream.snapshot()
    for value in now.state.values():
        value[...] = _disturbed(value, noise)
    stream.restore(now)


def _disturbed(value: Array, noise: np.random.Generator) -> Array:
    """Return values moved a little; whole numbers count or mask, and stay."""
    if value.dtype.kind != "f":
        return value
    wide = value.astype(np.float64)
    moved = wide * (1 + NOISE * noise.standard_normal(value.shape))
    return np.where(wide == np.rint(wide), wide, moved).astype(value.dtype)


def _rounded_up(value: float) -> float:
    """Round up to two digits: 0.0123 -> 0.013."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")
