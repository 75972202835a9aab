"""Golden vectors: a recorded run in, tensors for a file out; and a bundle in, its replay out.

Shape letters: `B` batch (1), `T` items per chunk, `L` lookback.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Golden, Graph, Manifest
from dst.runtime.bundle.reader import Bundle
from dst.runtime.errors import BundleError, SessionError
from dst.runtime.execution.engine import Engine, select
from dst.runtime.execution.providers import Lowering, Options, Provider
from dst.runtime.stream import Stream

Array = npt.NDArray[np.generic]
LEAST_COST = 1e-3
"""The least that a recipe costs a tensor, as a share of the tensor."""


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """How well one graph replayed one golden run.

    Attributes:
        graph: the graph's file.
        t: items per chunk.
        steps: chunks the graph took.
        errors: golden tensor -> its error, in the run's measure.
        tolerance: what the manifest allows.
        measure: `rms` where an error is max|d|/rms; `cost` where the run records what its recipe
            costs, and an error is ||d|| over that.
        passed: whether every error is within the tolerance.
    """

    graph: str
    t: int
    steps: int
    errors: Mapping[str, float]
    tolerance: float
    measure: Literal["rms", "cost"]
    passed: bool


def golden_tensors(
    t: int,
    chunks: Sequence[Array],
    outputs: Mapping[str, Sequence[Array]],
    state: Mapping[str, Array],
    inputs: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Name the tensors of one golden run, as they stand in a golden file.

    Args:
        t: items per chunk.
        chunks: one array per step, as `Stream.step` takes them, from the initial state.
        outputs: output name -> one array per step.
        state: state input name -> its value after the last step.
        inputs: stream input name -> what the stream was given, with B = 1; one and the same for
            every run of a file.

    Returns:
        `t<T>/chunk` and `t<T>/out/<output>` with a new first axis of steps,
        `t<T>/state/<input>`, and `stream/<input>`.
    """
    tensors = {f"t{t}/chunk": np.stack(chunks)}
    tensors |= {f"t{t}/out/{name}": np.stack(values) for name, values in outputs.items()}
    tensors |= {f"t{t}/state/{name}": value.copy() for name, value in state.items()}
    tensors |= {f"stream/{name}": value.copy() for name, value in (inputs or {}).items()}
    return tensors


def golden_costs(
    recorded: Mapping[str, Array], full: Mapping[str, Array], t: int
) -> dict[str, Array]:
    """Say what a recipe costs each tensor of a golden run: how far full precision is from it.

    A tensor that it costs nothing may still move by its last bits on another machine, so a cost is
    never less than `LEAST_COST` of the tensor itself.

    Args:
        recorded: what `golden_tensors` made of the quantized graph.
        full: the same of the full-precision graph, on the same chunks.
        t: items per chunk.

    Returns:
        `t<T>/cost/out/<output>` and `t<T>/cost/state/<input>`, float64 without axes.
    """
    costs: dict[str, Array] = {}
    for name, value in recorded.items():
        run, _, kind = name.partition("/")
        if run == f"t{t}" and kind != "chunk":
            cost = max(_length(value, full[name]), LEAST_COST * _length(value, 0))
            costs[f"t{t}/cost/{kind}"] = np.array(cost, np.float64)
    return costs


def cost_error(found: Array, expected: Array, cost: float) -> float:
    """Return ||found - expected|| / cost, in float64; infinite if not finite."""
    difference = _length(found, expected)
    if difference == 0.0:
        return 0.0
    error = difference / cost if cost > 0 else np.inf
    return error if np.isfinite(error) else np.inf


def _length(one: Array, other: Array | float) -> float:
    """Return the root of the sum of squared differences, in float64."""
    difference = np.subtract(one.astype(np.float64), other, dtype=np.float64)
    return float(np.sqrt(np.sum(difference * difference)))


def relative_error(found: Array, expected: Array) -> float:
    """Return max|found - expected| / rms(expected), in float64; infinite if not finite.

    Where the expected values are all zero, any difference is infinite.
    """
    if expected.size == 0:
        return 0.0
    wide, right = found.astype(np.float64), expected.astype(np.float64)
    difference = float(np.abs(wide - right).max())
    if difference == 0.0:
        return 0.0
    rms = float(np.sqrt(np.mean(right * right)))
    error = difference / rms if 0 < rms < np.inf else np.inf  # an rms may overflow
    return error if np.isfinite(error) else np.inf


def replay_golden(
    bundle: Bundle,
    provider: Provider = "cpu",
    threads: int = 1,
    lowering: Lowering | None = None,
    provider_options: Options | None = None,
) -> list[GoldenCheck]:
    """Replay the golden runs on every graph, or on every graph of one lowering.

    Without a lowering, fused graphs are left out where the provider has no kernels for them.

    A graph takes the runs recorded at one of its T; where there are none and the tail rule is
    `exact`, so that the cut does not matter, every run at its largest T that divides it.

    Raises:
        BundleError: `golden-tensors`: a golden file breaks its layout, or a graph has no golden run
            to prove it.
        SessionError: a graph cannot be run here; none is passed over.
    """
    checks: list[GoldenCheck] = []
    for graph in select(bundle, lowering, provider, every=True):
        runs = golden_runs(bundle.manifest, graph)
        if not runs:
            raise BundleError(
                f"{bundle.label}: no golden run fits a T of {graph.file}, {list(graph.allowed_t)}",
                code="golden-tensors",
            )
        engine = Engine(
            bundle,
            provider=provider,
            threads=threads,
            graphs=[graph],
            chunk_sizes=graph.allowed_t,
            check_state_every=1,
            provider_options=provider_options,
        )
        checks += [_replay(engine, graph, golden, t) for golden, t in runs]
    return checks


def golden_chunks(engine: Engine, graph: Graph) -> list[tuple[int, list[Array]]]:
    """Return the chunks of every golden run that a graph takes, cut to its T: `(t, chunks)`.

    Raises:
        BundleError: `golden-tensors`: a golden file breaks its layout.
    """
    found: list[tuple[int, list[Array]]] = []
    for golden, t in golden_runs(engine.bundle.manifest, graph):
        held = engine.bundle.tensors(golden.file)
        shape = (golden.steps, *_chunk(engine, golden.t))
        chunks = _tensor(engine, golden, held, "chunk", shape)
        cut = [p for c in chunks for p in np.split(c, golden.t // t, _time(engine))]
        found.append((t, [np.ascontiguousarray(piece) for piece in cut]))
    return found


def golden_inputs(bundle: Bundle, golden: Golden | None = None) -> dict[str, Array]:
    """Return the stream inputs that a golden run was recorded with, by name.

    They are an example of what the model takes, for whoever has none at hand.

    Args:
        bundle: whose run it is.
        golden: which run; the first one where None.

    Returns:
        What the file holds of the contract's inputs; nothing where there are no such runs.
    """
    names = [given.input for given in bundle.manifest.contract.stream_inputs]
    runs = bundle.manifest.golden if golden is None else (golden,)
    if not names or not runs:
        return {}
    held = bundle.tensors(runs[0].file)
    return {name: held[f"stream/{name}"] for name in names if f"stream/{name}" in held}


def golden_stream(engine: Engine, golden: Golden) -> Stream:
    """Start a stream with the inputs that a golden run was recorded with.

    Raises:
        BundleError: `golden-tensors`: the golden file does not hold them as the contract has them.
    """
    try:
        return Stream(engine, golden_inputs(engine.bundle, golden))
    except SessionError as error:
        if not error.code.startswith("stream-input"):
            raise
        raise BundleError(
            f"{engine.bundle.label}: {golden.file}: tensor `stream/<input>`: {error}",
            code="golden-tensors",
        ) from None


def golden_runs(manifest: Manifest, graph: Graph) -> list[tuple[Golden, int]]:
    """The golden runs a graph can take, each with the T at which it takes it."""
    recorded = [(golden, golden.t) for golden in manifest.golden if golden.t in graph.allowed_t]
    if recorded or manifest.contract.chunk.tail != "exact":
        return recorded
    sizes = [
        (golden, max((t for t in graph.allowed_t if golden.t % t == 0), default=0))
        for golden in manifest.golden
    ]
    return [(golden, t) for golden, t in sizes if t]


def _replay(engine: Engine, graph: Graph, golden: Golden, t: int) -> GoldenCheck:
    contract = engine.contract
    held = engine.bundle.tensors(golden.file)
    stream = golden_stream(engine, golden)
    chunks = _tensor(engine, golden, held, "chunk", (golden.steps, *_chunk(engine, golden.t)))
    if chunks.dtype != np.dtype(contract.chunk.dtype):
        raise BundleError(
            f"{engine.bundle.label}: {golden.file}: chunk is {chunks.dtype}, "
            f"contract says {contract.chunk.dtype}",
            code="golden-tensors",
        )
    # All of them before the first step: the outputs kept then fit what the file holds.
    wanted = {
        output.name: _tensor(
            engine,
            golden,
            held,
            f"out/{output.name}",
            (golden.steps, *sized(output.shape, golden.t)),
        )
        for output in contract.outputs
    }
    left = {
        name: _tensor(engine, golden, held, f"state/{name}", value.shape)
        for name, value in stream.state.items()
    }
    names = [f"out/{name}" for name in wanted] + [f"state/{name}" for name in left]
    costs = _costs(engine, golden, held, names)
    cut = golden.t // t
    steps = [
        [stream.step(np.ascontiguousarray(piece)) for piece in np.split(c, cut, _time(engine))]
        for c in chunks
    ]
    errors: dict[str, float] = {}
    for output in contract.outputs:
        axis = output.time_axis
        found = [
            pieces[-1][output.name]
            if axis is None
            else np.concatenate([p[output.name] for p in pieces], axis)
            for pieces in steps
        ]
        cost = costs.get(f"out/{output.name}")
        errors[output.name] = _error(np.stack(found), wanted[output.name], cost)
    for name, value in stream.state.items():
        errors[name] = _error(value, left[name], costs.get(f"state/{name}"))
    return GoldenCheck(
        graph=graph.file,
        t=t,
        steps=golden.steps * cut,
        errors=errors,
        tolerance=graph.golden_tolerance,
        measure="cost" if costs else "rms",
        passed=max(errors.values()) <= graph.golden_tolerance,
    )


def _error(found: Array, expected: Array, cost: float | None) -> float:
    if cost is None:
        return relative_error(found, expected)
    return cost_error(found, expected, cost)


def _costs(
    engine: Engine, golden: Golden, held: Mapping[str, Array], names: Sequence[str]
) -> dict[str, float]:
    """What the recipe costs each tensor, `out/NAME` and `state/NAME`; empty for full precision."""
    if not any(name.startswith(f"t{golden.t}/cost/") for name in held):
        return {}
    costs: dict[str, float] = {}
    for name in names:
        value = _tensor(engine, golden, held, f"cost/{name}", ())
        if value.dtype != np.float64 or not 0 <= float(value) < np.inf:
            raise BundleError(
                f"{engine.bundle.label}: {golden.file}: 't{golden.t}/cost/{name}' is {value} in "
                f"{value.dtype}, expected a finite float64 of at least 0",
                code="golden-tensors",
            )
        costs[name] = float(value)
    return costs


def _time(engine: Engine) -> int:
    return engine.contract.chunk.time_axis


def _chunk(engine: Engine, t: int) -> tuple[int, ...]:
    return sized(engine.contract.chunk.shape, t + engine.contract.chunk.lookahead)


def _tensor(
    engine: Engine, golden: Golden, held: Mapping[str, Array], name: str, shape: tuple[int, ...]
) -> Array:
    """Fetch one tensor of a golden run and check its shape."""
    full = f"t{golden.t}/{name}"
    value = held.get(full)
    if value is None or value.shape != shape:
        found = "is missing" if value is None else f"has shape {list(value.shape)}"
        raise BundleError(
            f"{engine.bundle.label}: {golden.file}: tensor {full!r} {found}, "
            f"expected shape {list(shape)}",
            code="golden-tensors",
        )
    return value
