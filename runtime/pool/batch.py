"""A batch: B rows of T items in, one call of the graph, B rows of outputs and states out.

The buffers and the bindings of one (B, T) are made once, so that a step makes none.

Shape letters: `B` batch, `T` items per chunk, `L` lookback, `A` look-ahead.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime.bundle.layout import rows_of, sized
from dst.runtime.errors import NonFiniteError, SessionError, StepError
from dst.runtime.execution.engine import Engine, first_line
from dst.runtime.execution.finite import finite, pieces
from dst.runtime.execution.inputs import Intake
from dst.runtime.execution.items import check_tokens
from dst.runtime.execution.stream_inputs import Given
from dst.runtime.pool.slots import Side, row_of

Array = npt.NDArray[np.generic]

PROOF_ITEMS = 64  # rows are tried until so many items have been read, twice at least


class Lane:
    """One row of a batch: views into its buffers.

    Attributes:
        fresh: where the chunk goes, in the contract's shape with B = 1.
        items: the same memory, one row per item `[T + A, ...]`.
        back: where the lookback goes, `[L, ...]`; None without lookback.
        newest: the L items before the next chunk, `[L, ...]`; None without lookback.
        outputs: the outputs of the last step, in the contract's shape with B = 1.
        raw: lookback, chunk and look-ahead.
        feed: the same as the graph sees it.
        inputs: where the inputs of its stream go, by name, in the contract's shape with B = 1.
        given: whose inputs they hold; None where nobody's.
    """

    __slots__ = ("back", "feed", "fresh", "given", "inputs", "items", "newest", "outputs", "raw")

    def __init__(
        self,
        engine: Engine,
        t: int,
        raw: Array,
        feed: Array,
        outputs: dict[str, Array],
        inputs: dict[str, Array],
    ) -> None:
        contract = engine.contract
        chunk = contract.chunk
        rows = rows_of(contract.chunk.shape, raw)
        self.raw = raw
        self.feed = feed
        self.fresh = raw[(slice(None),) * chunk.time_axis + (slice(chunk.lookback, None),)]
        self.items = rows[chunk.lookback :]
        self.back: Array | None = rows[: chunk.lookback] if chunk.lookback else None
        self.newest: Array | None = rows[t : t + chunk.lookback] if chunk.lookback else None
        self.outputs = outputs
        self.inputs = inputs
        self.given: Given | None = None

    def give(self, given: Given) -> None:
        """Let the row have the inputs of this stream, if it has not."""
        if self.given is not given:
            self.given = None  # for whoever comes after an interrupt
            for name, row in self.inputs.items():
                np.copyto(row, given.arrays[name])
            self.given = given


class Batch:
    """Everything a step of B rows of T items needs.

    Attributes:
        t: items per chunk.
        lanes: one per row.
        rows: room for the numbers of the rows that are gathered, `[B]`.
    """

    def __init__(
        self,
        engine: Engine,
        batch: int,
        t: int,
        ways: Sequence[tuple[Side, Side]],
        given: Sequence[Given],
    ) -> None:
        """Make buffers, warm the graph, prove its rows independent, and bind every way.

        Args:
            engine: the session.
            batch: B.
            t: T, one of the session's.
            ways: from which side to which a step can go, each of B rows; `run` takes its place.
            given: inputs of streams, at least one, that the graph may be tried with.

        Raises:
            SessionError: `no-batches`: a row of the result depends on the other rows, or on its
                place.
            StepError: ONNX Runtime refused.
        """
        contract = engine.contract
        chunk = contract.chunk
        self.t = t
        self.rows = np.zeros(batch, np.intp)
        self._graph = engine.graph_for(t).file
        self._session = engine.runner_for(t)
        self._intake = Intake(chunk, t, batch)
        self._outputs: dict[str, Array] = {
            o.name: np.zeros(sized(o.shape, t, batch), o.dtype) for o in contract.outputs
        }
        self._float_outputs = {
            name: pieces(value) for name, value in self._outputs.items() if value.dtype.kind == "f"
        }
        self._inputs: dict[str, Array] = {
            g.input: np.zeros(sized(g.shape, 0, batch), g.dtype) for g in contract.stream_inputs
        }
        places = {g.input: g.shape.index("B") for g in contract.stream_inputs}
        axes = {o.name: o.batch_axis for o in contract.outputs}
        self.lanes = [
            Lane(
                engine,
                t,
                row_of(self._intake.raw, chunk.batch_axis, row),
                row_of(self._intake.feed, chunk.batch_axis, row),
                {name: row_of(v, axes[name], row) for name, v in self._outputs.items()},
                {name: row_of(v, places[name], row) for name, v in self._inputs.items()},
            )
            for row in range(batch)
        ]
        for row, lane in enumerate(self.lanes):
            lane.give(given[row % len(given)])
        self._prove(engine, Side(engine, batch), Side(engine, batch))
        self._bindings = [self._bind(engine, source, target) for source, target in ways]

    def refuse(self, lanes: Sequence[Lane]) -> dict[int, StepError]:
        """Normalise what the lanes hold, and blank those that hold what cannot be read.

        Returns:
            Place in `lanes` -> `StepError` or `NonFiniteError`.
        """
        bad: dict[int, StepError] = {}
        intake = self._intake
        if intake.unsigned is not None:
            if np.maximum.reduce(intake.unsigned) >= intake.vocabulary:
                for place, lane in enumerate(lanes):
                    try:
                        check_tokens(lane.fresh, intake.vocabulary)
                    except StepError as error:
                        bad[place] = error
        else:
            intake.normalise()
            if not finite(intake.floats):
                for place, lane in enumerate(lanes):
                    if not np.isfinite(lane.feed).all():
                        bad[place] = NonFiniteError(
                            "the chunk holds a NaN or an infinity; nothing was stepped",
                            code="input-not-finite",
                        )
        for place in bad:
            lanes[place].raw[...] = 0
            lanes[place].feed[...] = 0
        return bad

    def run(self, way: int) -> None:
        """Step every row, the ones without a lane in use on what they happen to hold.

        Raises:
            StepError: ONNX Runtime refused.
        """
        self._call(self._bindings[way])

    def bad_outputs(self, lanes: Sequence[Lane]) -> dict[int, StepError]:
        """Return for each place in `lanes` with an output that is not finite what to say."""
        bad: dict[int, StepError] = {}
        for name, values in self._float_outputs.items():
            if not finite(values):
                for place, lane in enumerate(lanes):
                    if not np.isfinite(lane.outputs[name]).all():
                        bad[place] = NonFiniteError(
                            f"output `{name}` holds a NaN or an infinity; the step was not taken",
                            code="output-not-finite",
                        )
        return bad

    def _bind(self, engine: Engine, source: Side, target: Side) -> ort.IOBinding:
        value = ort.OrtValue.ortvalue_from_numpy
        contract = engine.contract
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(contract.chunk.input, value(self._intake.feed))
        for name, constant in engine.constants.items():
            binding.bind_ortvalue_input(name, constant)
        for name, array in self._inputs.items():
            binding.bind_ortvalue_input(name, value(array))
        for name, array in self._outputs.items():
            binding.bind_ortvalue_output(name, value(array))
        for state, before, after in zip(
            contract.state, source.tensors, target.tensors, strict=True
        ):
            binding.bind_ortvalue_input(state.input, value(before))
            binding.bind_ortvalue_output(state.output, value(after))
        return binding

    def _call(self, binding: ort.IOBinding) -> None:
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's own classes share no base but this
            raise StepError(
                f"{self._graph} failed: {first_line(error)}", code="graph-failed"
            ) from error

    def _prove(self, engine: Engine, source: Side, target: Side) -> None:
        """Step the same row in every place, and in other company: not a bit of it may differ.

        This also is the warm-up: ONNX Runtime allocates now and not later.
        """
        random = np.random.default_rng(0)
        self._draw(random)
        for array in self._inputs.values():
            if array.dtype.kind == "f":  # a whole number may be an index: those of streams hold
                array[...] = random.normal(size=array.shape)
        self._call(self._bind(engine, source, target))  # from here on no state is the initial one
        binding = self._bind(engine, target, source)
        own = [row.copy() for row in target.row(0)]
        others = [tensor.copy() for tensor in target.tensors]
        inputs = {name: array.copy() for name, array in self._inputs.items()}
        count = len(self.lanes)
        for _ in range(max(2, PROOF_ITEMS // (count * self.t))):
            self._draw(random)
            chunk = self.lanes[0].raw.copy()
            company = self._intake.raw.copy()
            for lane in self.lanes:
                lane.raw[...] = chunk
                for name, row in lane.inputs.items():
                    row[...] = self.lanes[0].inputs[name]
            for tensor, row in zip(target.tensors, own, strict=True):
                tensor[...] = row
            first, *rest = self._answers(binding, source, range(count))
            self._intake.raw[...] = company
            for name, array in self._inputs.items():
                array[...] = inputs[name]
            for tensor, other in zip(target.tensors, others, strict=True):
                tensor[...] = other
            if any(answer != first for answer in (*rest, *self._answers(binding, source, [0]))):
                raise SessionError(
                    f"{engine.bundle.label}: in {self._graph} at B = {count}, T = {self.t} "
                    "what one stream gets depends on the others in its batch or on its place there "
                    "(such as scales taken over the whole batch, or an operator that rounds the "
                    "last values of an array in another way); run its streams one by one, with "
                    "session.stream()",
                    code="no-batches",
                )
        self._intake.raw[...] = 0
        self._intake.feed[...] = 0
        for lane in self.lanes:
            lane.given = None

    def _answers(
        self, binding: ort.IOBinding, target: Side, rows: Iterable[int]
    ) -> list[list[bytes]]:
        """Step what lies in the buffers, and return outputs and state of each of these rows."""
        self._intake.normalise()
        self._call(binding)
        return [
            [v.tobytes() for v in (*self.lanes[row].outputs.values(), *target.row(row))]
            for row in rows
        ]

    def _draw(self, random: np.random.Generator) -> None:
        """Fill every row with items that a graph can read."""
        intake = self._intake
        shape = intake.raw.shape
        intake.raw[...] = (
            random.integers(0, intake.vocabulary, shape)
            if intake.vocabulary
            else random.normal(size=shape)
        )
        intake.normalise()
