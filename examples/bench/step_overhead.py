"""A bundle in, the runtime's own cost per step out, beside the bare call and a naive loop.

    python examples/bench/step_overhead.py BUNDLE [--t 1 32] [--rounds 2000]

For each T six ways to take the same step run in turns, in another order each round, so that all
meet the same weather and none always follows the same other:

- `bare`: `run_with_iobinding` on two prebuilt bindings, A -> B and B -> A, and nothing else;
- `again`: the same over buffers of its own: what differs between them is noise;
- `copies`: `bare`, with the chunk copied in and the outputs copied out by hand and nothing checked:
  what no runtime that hands out copies can go below;
- `checks`: `bare`, with the chunk copied in, ids and outputs checked as `Stream.step` checks them,
  and the outputs lent, not copied: one function that does nothing else;
- `stream`: `Stream.step`, which also copies the chunk in and the outputs out, checks tokens or
  features, outputs and now and then the state, and commits;
- `naive`: `InferenceSession.run` with numpy state, fed back by hand.

The figures are medians; `own cost` is the median of stream minus bare, round by round, `of it
copies` and `of it checks` those of copies and checks minus bare, and `noise` that of again minus
bare.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime import Session
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Tokens
from dst.runtime.execution.finite import finite, pieces
from dst.runtime.execution.inputs import Intake
from dst.runtime.execution.step import FEW_TOKENS

Array = npt.NDArray[np.generic]
Way = Literal["bare", "copies", "checks"]


def random_chunk(session: Session, t: int) -> Array:
    """A chunk of the contract's dtype and shape."""
    chunk = session.contract.chunk
    generator = np.random.default_rng(0)
    shape = sized(chunk.shape, t)
    if isinstance(chunk.content, Tokens):
        return generator.integers(0, chunk.content.vocabulary, shape).astype(chunk.dtype)
    return generator.normal(size=shape).astype(chunk.dtype)


def state_arrays(session: Session) -> dict[str, Array]:
    """The initial state, copied."""
    return {name: a.copy() for name, a in session.layout.views(session.initial).items()}


def graph_chunk(session: Session, chunk: Array) -> Array:
    """The chunk as the graph takes it: with zeros for lookback, on the time axis."""
    axis, back = session.contract.chunk.time_axis, session.contract.chunk.lookback
    pad = [(0, 0)] * chunk.ndim
    pad[axis] = (back, 0)
    return np.ascontiguousarray(np.pad(chunk, pad))


def bare(session: Session, t: int, chunk: Array, way: Way = "bare") -> Callable[[], object]:
    """Two bindings over buffers made once; a call runs the next one, and what the way adds."""
    contract = session.contract
    runner = session.runner_for(t)
    value = ort.OrtValue.ortvalue_from_numpy
    sides = [state_arrays(session), state_arrays(session)]
    feed = graph_chunk(session, chunk)
    outputs = {o.name: np.zeros(sized(o.shape, t), o.dtype) for o in contract.outputs}
    bindings = []
    for source, target in ((0, 1), (1, 0)):
        binding = runner.io_binding()
        binding.bind_ortvalue_input(contract.chunk.input, value(feed))
        for name, constant in session.constants.items():
            binding.bind_ortvalue_input(name, constant)
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, value(array))
        for state in contract.state:
            binding.bind_ortvalue_input(state.input, value(sides[source][state.input]))
            binding.bind_ortvalue_output(state.output, value(sides[target][state.input]))
        bindings.append(binding)
    keep = (feed, outputs, sides)  # the bindings point into these arrays
    given = feed.copy()
    side = 0

    def call() -> object:
        nonlocal side
        runner.run_with_iobinding(bindings[side])
        side ^= 1
        return keep

    def call_and_copy() -> object:
        nonlocal side
        feed[...] = given
        runner.run_with_iobinding(bindings[side])
        side ^= 1
        return {name: array.copy() for name, array in outputs.items()}

    intake = Intake(contract.chunk, t)
    tokens, few = intake.unsigned is not None, t <= FEW_TOKENS
    ids = feed if intake.unsigned is None else feed.reshape(-1).view(intake.unsigned.dtype)
    values = [pieces(array) for array in outputs.values()]

    def call_and_check() -> object:
        nonlocal side
        feed[...] = given
        if tokens and (max(ids.tolist()) if few else np.maximum.reduce(ids)) >= intake.vocabulary:
            raise ValueError("an id outside the vocabulary")
        runner.run_with_iobinding(bindings[side])
        for array in values:
            if not finite(array):
                raise ValueError("an output that is not finite")
        side ^= 1
        return dict(outputs)

    return {"bare": call, "copies": call_and_copy, "checks": call_and_check}[way]


def naive(session: Session, t: int, chunk: Array) -> Callable[[], object]:
    """`run` with numpy arrays, the state fed back."""
    contract = session.contract
    runner = session.runner_for(t)
    feed = {contract.chunk.input: graph_chunk(session, chunk)}
    feed |= {name: constant.numpy() for name, constant in session.constants.items()}
    feed |= state_arrays(session)
    names = [o.name for o in contract.outputs] + [s.output for s in contract.state]
    first = len(contract.outputs)

    def call() -> object:
        results = runner.run(names, feed)
        for state, array in zip(contract.state, results[first:], strict=True):
            feed[state.input] = array
        return results[:first]

    return call


def timed_us(call: Callable[[], object]) -> float:
    """Microseconds of one call."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1000


def measure(ways: Sequence[Callable[[], object]], shuffle: random.Random) -> list[float]:
    """Time each way once, in any order; the times are in the order of `ways`."""
    times = [0.0] * len(ways)
    for way in shuffle.sample(range(len(ways)), len(ways)):
        times[way] = timed_us(ways[way])
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=str, help="a bundle's directory, or a shipped name")
    parser.add_argument("--t", type=int, nargs="*", help="chunk sizes; all by default")
    parser.add_argument("--rounds", type=int, default=2000)
    asked = parser.parse_args()
    session = Session.open(asked.bundle, chunk_sizes=asked.t or None)
    print(f"{session.bundle.label} {len(session.contract.state)} state tensors, microseconds")
    columns = ["T", "bare", "again", "copies", "checks", "stream", "naive"]
    columns += ["own cost", "of it copies", "of it checks", "noise", "naive/stream"]
    print(" ".join(f"{column:>12}" for column in columns))
    for t in session.chunk_sizes:
        chunk = random_chunk(session, t)
        stream = session.stream()
        ways: list[Callable[[], object]] = [
            bare(session, t, chunk),
            bare(session, t, chunk),
            bare(session, t, chunk, "copies"),
            bare(session, t, chunk, "checks"),
            partial(stream.step, chunk),
            naive(session, t, chunk),
        ]
        for way in ways * 50:
            way()
        shuffle = random.Random(0)
        rounds = [measure(ways, shuffle) for _ in range(asked.rounds)]
        median = [statistics.median(column) for column in zip(*rounds, strict=True)]
        beyond = [statistics.median(r[way] - r[0] for r in rounds) for way in (4, 2, 3, 1)]
        figures = [f"{value:>12.1f}" for value in (*median, *beyond)]
        print(f"{t:>12} {' '.join(figures)} {median[5] / median[4]:>12.2f}")


if __name__ == "__main__":
    main()
