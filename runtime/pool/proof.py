"""Prove that the streams of one batch do not change each other's answers.

Shape letters: `B` batch, `T` items per chunk.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from dst.runtime.errors import SessionError
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.inputs import GivenInputs
from dst.runtime.execution.step import BoundStep
from dst.runtime.pool.slots import BatchState

PROOF_ITEMS = 64  # rows are tried until so many items have been read, twice at least


def prove(engine: Engine, step: BoundStep, given: Sequence[GivenInputs]) -> None:
    """Step the same row in every place, and in other company: not a bit of it may differ.

    This also is the warm-up: ONNX Runtime allocates now and not later. The step, of B streams, is
    left with zeros for chunks and without bindings; it is tried with the inputs of one stream or
    more, `given`.

    Raises:
        SessionError: `no-batches`: a row of the result depends on the other rows, or on its place.
        StepError: ONNX Runtime refused.
    """
    count = len(step.rows)
    source, target = BatchState(engine, count), BatchState(engine, count)
    for number, row in enumerate(step.rows):
        row.give(given[number % len(given)])
    random = np.random.default_rng(0)
    _draw(step, random)
    for array in step.inputs.values():
        if array.dtype.kind == "f":  # a whole number may be an index: those of streams hold
            array[...] = random.normal(size=array.shape)
    step.bindings = [
        step.bind(source.values, target.values),
        step.bind(target.values, source.values),
    ]
    step.call(0)  # from here on no state is the initial one
    own = {name: row.copy() for name, row in target.row(0).items()}
    others = {name: tensor.copy() for name, tensor in target.arrays.items()}
    inputs = {name: array.copy() for name, array in step.inputs.items()}
    for _ in range(max(2, PROOF_ITEMS // (count * step.t))):
        _draw(step, random)
        chunk = step.row.raw.copy()
        company = step.chunk.raw.copy()
        for row in step.rows:
            row.raw[...] = chunk
            for name, value in row.inputs.items():
                value[...] = step.row.inputs[name]
        for name, tensor in target.arrays.items():
            tensor[...] = own[name]
        first, *rest = _answers(step, source, range(count))
        step.chunk.raw[...] = company
        for name, array in step.inputs.items():
            array[...] = inputs[name]
        for name, tensor in target.arrays.items():
            tensor[...] = others[name]
        if any(answer != first for answer in (*rest, *_answers(step, source, [0]))):
            raise SessionError(
                f"{engine.bundle.label}: in {step.graph} at B = {count}, T = {step.t} "
                "what one stream gets depends on the others in its batch or on its place there "
                "(such as scales taken over the whole batch, or an operator that rounds the "
                "last values of an array in another way); run its streams one by one, with "
                "session.stream()",
                code="no-batches",
            )
    step.bindings = ()
    step.chunk.raw[...] = 0
    step.chunk.feed[...] = 0
    for row in step.rows:
        row.given = None


def _answers(step: BoundStep, target: BatchState, rows: Iterable[int]) -> list[list[bytes]]:
    """Step what lies in the buffers, and return outputs and state of each of these rows."""
    step.chunk.readable()
    step.call(1)
    return [
        [v.tobytes() for v in (*step.rows[row].outputs.values(), *target.row(row).values())]
        for row in rows
    ]


def _draw(step: BoundStep, random: np.random.Generator) -> None:
    """Fill every row with items that a graph can read."""
    raw, vocabulary = step.chunk.raw, step.chunk.vocabulary
    raw[...] = (
        random.integers(0, vocabulary, raw.shape) if vocabulary else random.normal(size=raw.shape)
    )
    step.chunk.readable()
