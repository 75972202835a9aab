"""Record golden runs, and replay them to check that a bundle answers as it did when it was made.

A golden file that breaks its layout raises `BundleError`, `golden-tensors`, wherever it is read.
Shape letters: `B` batch (1), `T` items per chunk, `L` lookback.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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

    Examples:
        >>> chunks, y = [np.zeros((1, 8))] * 3, [np.ones((1, 8))] * 3
        >>> found = golden_tensors(8, chunks, {"y": y}, {"h": np.zeros((1, 4))})
        >>> {name: tensor.shape for name, tensor in found.items()}
        {'t8/chunk': (3, 1, 8), 't8/out/y': (3, 1, 8), 't8/state/h': (1, 4)}
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

    Both are `golden_tensors` of the same chunks of T = `t`. What costs nothing may still move by
    its last bits on another machine, so a cost is never less than `LEAST_COST` of the tensor. The
    result holds `t<T>/cost/out/<output>` and `t<T>/cost/state/<input>`, float64 without axes.
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
    return _over(_length(found, expected), cost)


def _over(difference: float, scale: float) -> float:
    """Divide; 0 where there is no difference, infinite where it is not finite or over nothing."""
    if difference == 0.0:
        return 0.0
    error = difference / scale if 0 < scale < np.inf else np.inf
    return error if np.isfinite(error) else np.inf


def _length(one: Array, other: Array | float) -> float:
    """Return the root of the sum of squared differences, in float64."""
    difference = np.subtract(one.astype(np.float64), other, dtype=np.float64)
    return float(np.sqrt(np.sum(difference * difference)))


def relative_error(found: Array, expected: Array) -> float:
    """Return max|found - expected| / rms(expected), in float64; infinite if not finite.

    Where the expected values are all zero, any difference is infinite.

    Examples:
        >>> relative_error(np.array([1.0, 2.5]), np.array([1.0, 2.0])).__round__(3)
        0.316
    """
    if expected.size == 0:
        return 0.0
    wide, right = found.astype(np.float64), expected.astype(np.float64)
    rms = float(np.sqrt(np.mean(right * right)))  # which may overflow
    return _over(float(np.abs(wide - right).max()), rms)


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
        engine = golden_engine(bundle, graph, provider, threads, provider_options)
        checks += [_replay(engine, graph, golden, t) for golden, t in runs]
    return checks


def golden_engine(
    bundle: Bundle,
    graph: Graph,
    provider: Provider,
    threads: int,
    options: Options | None,
    check_state_every: int = 1,
) -> Engine:
    """Open one graph alone, at every T that it runs."""
    return Engine(
        bundle,
        provider=provider,
        threads=threads,
        graphs=[graph],
        chunk_sizes=graph.allowed_t,
        check_state_every=check_state_every,
        provider_options=options,
    )


def golden_chunks(engine: Engine, graph: Graph) -> list[tuple[int, list[Array]]]:
    """Return the chunks of every golden run that a graph takes, cut to its T: `(t, chunks)`."""
    runs = golden_runs(engine.bundle.manifest, graph)
    return [(t, [*chain.from_iterable(_Run(engine, golden).chunks(t))]) for golden, t in runs]


def golden_inputs(bundle: Bundle, golden: Golden | None = None) -> dict[str, Array]:
    """Return the stream inputs that a golden run, or else the first, was recorded with, by name.

    They are an example of what the model takes. Where there are no such runs, there are none.
    """
    names = [given.input for given in bundle.manifest.contract.stream_inputs]
    runs = bundle.manifest.golden if golden is None else (golden,)
    if not names or not runs:
        return {}
    held = bundle.tensors(runs[0].file)
    return {name: held[f"stream/{name}"] for name in names if f"stream/{name}" in held}


def golden_stream(engine: Engine, golden: Golden) -> Stream:
    """Start a stream with the inputs that a golden run was recorded with."""
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
    fits = ((run, [t for t in graph.allowed_t if run.t % t == 0]) for run in manifest.golden)
    return [(run, max(sizes)) for run, sizes in fits if sizes]


class _Run:
    """One golden run of a file, whose tensors are checked when they are fetched."""

    def __init__(self, engine: Engine, golden: Golden) -> None:
        self.engine, self.golden = engine, golden
        self._tensors = engine.bundle.tensors(golden.file)

    def tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        """Fetch one tensor and check its shape."""
        full = f"t{self.golden.t}/{name}"
        value = self._tensors.get(full)
        if value is None or value.shape != shape:
            found = "is missing" if value is None else f"has shape {list(value.shape)}"
            raise self.error(f"tensor {full!r} {found}, expected shape {list(shape)}")
        return value

    def chunks(self, t: int) -> list[list[Array]]:
        """Return the chunk of every step, cut to pieces of T = `t`."""
        chunk, golden = self.engine.contract.chunk, self.golden
        shape = sized(chunk.shape, golden.t + chunk.lookahead)
        recorded = self.tensor("chunk", (golden.steps, *shape))
        if recorded.dtype != np.dtype(chunk.dtype):
            raise self.error(f"chunk is {recorded.dtype}, contract says {chunk.dtype}")
        pieces = (np.split(step, golden.t // t, chunk.time_axis) for step in recorded)
        return [[np.ascontiguousarray(piece) for piece in step] for step in pieces]

    def costs(self, names: Sequence[str]) -> dict[str, float]:
        """What the recipe costs each tensor of these names; empty for full precision."""
        prefix = f"t{self.golden.t}/cost/"
        if not any(name.startswith(prefix) for name in self._tensors):
            return {}
        costs: dict[str, float] = {}
        for name in names:
            value = self.tensor(f"cost/{name}", ())
            if value.dtype != np.float64 or not 0 <= float(value) < np.inf:
                raise self.error(
                    f"{prefix + name!r} is {value} in {value.dtype}, expected a finite float64 of "
                    "at least 0"
                )
            costs[name] = float(value)
        return costs

    def error(self, what: str) -> BundleError:
        """Say what is wrong with the file."""
        return BundleError(
            f"{self.engine.bundle.label}: {self.golden.file}: {what}", code="golden-tensors"
        )


def _replay(engine: Engine, graph: Graph, golden: Golden, t: int) -> GoldenCheck:
    run = _Run(engine, golden)
    stream = golden_stream(engine, golden)
    chunks = run.chunks(t)
    # All of them before the first step: the outputs kept then fit what the file holds.
    outputs = engine.contract.outputs
    shapes = {f"out/{o.name}": (golden.steps, *sized(o.shape, golden.t)) for o in outputs}
    shapes |= {f"state/{name}": value.shape for name, value in stream.state.items()}
    wanted = {name: run.tensor(name, shape) for name, shape in shapes.items()}
    costs = run.costs(list(wanted))
    steps = [[stream.step(piece) for piece in pieces] for pieces in chunks]
    found = {f"state/{name}": value for name, value in stream.state.items()}
    for output in outputs:
        name, axis = output.name, output.time_axis
        joined = [
            pieces[-1][name] if axis is None else np.concatenate([p[name] for p in pieces], axis)
            for pieces in steps
        ]
        found[f"out/{name}"] = np.stack(joined)
    errors = {
        name.partition("/")[2]: cost_error(found[name], value, costs[name])
        if costs
        else relative_error(found[name], value)
        for name, value in wanted.items()
    }
    return GoldenCheck(
        graph=graph.file,
        t=t,
        steps=sum(map(len, chunks)),
        errors=errors,
        tolerance=graph.golden_tolerance,
        measure="cost" if costs else "rms",
        passed=max(errors.values()) <= graph.golden_tolerance,
    )
