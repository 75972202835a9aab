"""Bind the buffers of one step to the graph that takes it, and run it.

The buffers and bindings of B streams and one T are made once, so that a step makes none. B is 1
for a stream and more for a pool.

Shape letters: `B` batch, `T` items per chunk, `L` lookback, `A` look-ahead.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime.bundle.layout import rows_of, sized
from dst.runtime.errors import DeadlineError, NonFiniteError, StepError
from dst.runtime.execution.buffers import Values, capture_options, finite, pieces, uncaptured
from dst.runtime.execution.engine import Engine, first_line
from dst.runtime.execution.inputs import (
    NO_INPUTS,
    ChunkInput,
    GivenInputs,
    check_tokens,
)

Array = npt.NDArray[np.generic]

_LONGEST_MS = 86_400_000.0  # a day; a timer takes no infinity


class Row:
    """What one stream has of a step: views into the buffers.

    Attributes:
        fresh: where the chunk goes, in the contract's shape with B = 1.
        items: the same memory, one row per item `[T + A, ...]`.
        back: where the lookback goes, `[L, ...]`; None without lookback.
        newest: the L items before the next chunk, `[L, ...]`; None without lookback.
        outputs: the outputs of the last step, by name, in the contract's shape with B = 1.
        answers: those of them that are wanted, read-only.
        raw: lookback, chunk and look-ahead.
        feed: the same as the graph sees it.
        inputs: where the inputs of its stream go in a batch, by name; none where B = 1.
        given: whose inputs they hold; None where nobody's.
    """

    __slots__ = (
        "answers",
        "back",
        "feed",
        "fresh",
        "given",
        "inputs",
        "items",
        "newest",
        "outputs",
        "raw",
    )

    def __init__(self, step: "BoundStep", engine: Engine, number: int) -> None:
        contract = engine.contract
        chunk = contract.chunk
        self.raw = row_of(step.chunk.raw, chunk.batch_axis, number)
        self.feed = row_of(step.chunk.feed, chunk.batch_axis, number)
        self.fresh = self.raw[(slice(None),) * chunk.time_axis + (slice(chunk.lookback, None),)]
        rows = rows_of(chunk.shape, self.raw)
        self.items = rows[chunk.lookback :]
        self.back: Array | None = rows[: chunk.lookback] if chunk.lookback else None
        self.newest: Array | None = None
        if chunk.lookback:
            self.newest = rows[step.t : step.t + chunk.lookback]
        self.outputs: dict[str, Array] = {
            o.name: row_of(step.outputs[o.name], o.batch_axis, number) for o in contract.outputs
        }
        self.answers = {
            o.name: row_of(step.views[o.name], o.batch_axis, number) for o in contract.outputs
        }
        self.inputs = {
            g.input: row_of(step.inputs[g.input], g.shape.index("B"), number)
            for g in contract.stream_inputs
            if step.inputs
        }
        self.given: GivenInputs | None = None

    def give(self, given: GivenInputs) -> None:
        """Copy the inputs of this stream to the row, if it does not hold them."""
        if self.given is not given:
            self.given = None  # for whoever comes after an interrupt
            for name, row in self.inputs.items():
                np.copyto(row, given.arrays[name])
            self.given = given


class BoundStep:
    """Everything a step of B streams by T items needs.

    A stream of its own (B = 1) is bound to the very inputs it was given, which other streams may
    share (`give`); the rows of a batch have a copy each (`Row.give`). A step for the last item only
    answers for that one; what the graph need not calculate for the others, it does not.

    Attributes:
        t: items per chunk.
        graph: the graph's file.
        dtype: the chunk's dtype.
        shape: the chunk's shape as a caller gives it, with B = 1.
        chunk: the buffers of the chunks.
        outputs: the outputs of the last step, by name.
        floats: those of them that are floats, in pieces for `finite`.
        inputs: the inputs of the rows' streams, by name; none where B = 1.
        rows: what each of the streams has of this.
        row: the first of them, and where B = 1 the only one.
        views: the outputs, read-only; of the last item only, where the step is made for it.
        given: whose inputs the graph is bound to, where B = 1.
        bindings: the ways to run, each from one state to another; see `bind`.
    """

    __slots__ = (
        "_answers",
        "_captures",
        "_constants",
        "_contract",
        "_feed",
        "_given",
        "_io_binding",
        "_provider_options",
        "_run",
        "bindings",
        "chunk",
        "dtype",
        "floats",
        "given",
        "graph",
        "inputs",
        "outputs",
        "row",
        "rows",
        "shape",
        "t",
        "views",
    )

    def __init__(self, engine: Engine, t: int, batch: int = 1, last: bool = False) -> None:
        """Make the buffers.

        Raises:
            SessionError: the session does not run such a T, or its graph does not open.
        """
        contract = engine.contract
        session = engine.runner_for(t)
        self.t = t
        self.dtype = np.dtype(contract.chunk.dtype)
        self.shape = sized(contract.chunk.shape, t + contract.chunk.lookahead)
        graph = engine.graph_for(t)
        self.graph = graph.file
        self._run = session.run_with_iobinding
        self._io_binding = session.io_binding
        self._contract = contract
        self._constants = engine.constants
        self._provider_options = engine.provider_options

        self.chunk = ChunkInput(contract.chunk, t, batch)
        answered = 1 if last and graph.answers else t
        asked = {graph.answers: np.arange(t - answered, t, dtype=np.int64)} if graph.answers else {}
        self.outputs: dict[str, Array] = {
            o.name: np.zeros(sized(o.shape, answered, batch), o.dtype) for o in contract.outputs
        }
        self.inputs: dict[str, Array] = {
            g.input: np.zeros(sized(g.shape, 0, batch), g.dtype)
            for g in contract.stream_inputs
            if batch > 1
        }
        self.views = {name: value.view() for name, value in self.outputs.items()}
        if last:
            for o in contract.outputs:
                if o.time_axis is not None:
                    ends = (slice(None),) * o.time_axis
                    self.views[o.name] = self.outputs[o.name][(*ends, slice(-1, None))]
        for view in self.views.values():
            view.flags.writeable = False
        self.floats = [part for value in self.outputs.values() for part in pieces(value)]
        self._feed = engine.buffers({contract.chunk.input: self.chunk.feed, **asked})
        self._answers = engine.buffers(self.outputs)
        self._given = engine.buffers(self.inputs)
        self.rows = tuple(Row(self, engine, number) for number in range(batch))
        self.row = self.rows[0]
        self.given = NO_INPUTS
        self.bindings: Sequence[ort.IOBinding] = ()
        self._captures: list[ort.RunOptions | None] | None = None

    # --- binding

    def bind(self, source: Values, target: Values) -> ort.IOBinding:
        """Bind the graph to read the states of B streams from one place and write to another.

        Args:
            source: state input name -> value.
            target: state input name -> value.
        """
        binding = self._io_binding()
        for values in (self._feed.values, self._constants, self._given.values):
            for name, value in values.items():
                binding.bind_ortvalue_input(name, value)
        for name, value in self._answers.values.items():
            binding.bind_ortvalue_output(name, value)
        for state in self._contract.state:
            binding.bind_ortvalue_input(state.input, source[state.input])
            binding.bind_ortvalue_output(state.output, target[state.input])
        return binding

    def give(self, given: GivenInputs) -> None:
        """Bind the inputs of a stream; what a graph has captured belongs to those before."""
        for binding in self.bindings:
            for name, value in given.values.items():
                binding.bind_ortvalue_input(name, value)
        captures = [capture_options(self._provider_options) for _ in self.bindings]
        self._captures = None if None in captures else captures
        self.given = given

    # --- running

    def call(self, way: int, options: ort.RunOptions | None = None) -> None:
        """Run a binding, and check nothing.

        Raises:
            StepError: ONNX Runtime refused or was stopped.
        """
        if self._captures is not None:
            if options is None:
                options = self._captures[way]
            else:
                uncaptured(options)
        try:
            if self._feed.copies:
                self._feed.push()
            self._run(self.bindings[way], options)
            if self._feed.copies:
                self._answers.pull()
        except Exception as error:  # onnxruntime's own classes share no base but this
            raise StepError(
                f"{self.graph} failed: {first_line(error)}", code="graph-failed"
            ) from error

    def refuse(self, rows: Sequence[Row]) -> dict[int, StepError]:
        """Find the rows that hold what cannot be read, and blank them.

        Returns:
            Place in `rows` -> `StepError` or `NonFiniteError`.
        """
        bad = {} if self.chunk.readable() else self.bad_inputs(rows)
        for place in bad:
            rows[place].raw[...] = 0
            rows[place].feed[...] = 0
        return bad

    def bad_inputs(self, rows: Sequence[Row]) -> dict[int, StepError]:
        """Return for each place in `rows` that holds what cannot be read what to say."""
        bad: dict[int, StepError] = {}
        for place, row in enumerate(rows):
            if self.chunk.vocabulary:
                try:
                    check_tokens(row.fresh, self.chunk.vocabulary)
                except StepError as error:
                    bad[place] = error
            elif not np.isfinite(row.feed).all():
                bad[place] = NonFiniteError(
                    "the chunk holds a NaN or an infinity; nothing was stepped",
                    code="input-not-finite",
                )
        return bad

    def bad_outputs(self, rows: Sequence[Row]) -> dict[int, StepError]:
        """Return for each place in `rows` with an output that is not finite what to say."""
        if finite(self.floats):
            return {}
        bad: dict[int, StepError] = {}
        for place, row in enumerate(rows):
            for name, value in row.outputs.items():
                if value.dtype.kind == "f" and not np.isfinite(value).all():
                    bad[place] = NonFiniteError(
                        f"output `{name}` holds a NaN or an infinity; the step was not taken",
                        code="output-not-finite",
                    )
                    break
        return bad


def row_of(array: Array, axis: int, number: int) -> Array:
    """View one row of a batch axis; the axis stays, with length 1."""
    return array[(slice(None),) * axis + (slice(number, number + 1),)]


def check_deadline(after_ms: float) -> None:
    """Raise `StepError` unless this is a deadline, in milliseconds."""
    if not 0 < after_ms <= _LONGEST_MS:
        raise StepError(
            f"deadline_ms is {after_ms}, expected more than 0 and at most "
            f"{_LONGEST_MS:,.0f} (a day), or None for none",
            code="argument",
        )


@contextmanager
def deadline(after_ms: float) -> Iterator[ort.RunOptions]:
    """Give options to run a graph with; a timer thread stops ONNX Runtime when the time is up.

    Raises:
        DeadlineError: it was up before the work inside was done.
        StepError: the deadline is out of range.
    """
    check_deadline(after_ms)
    options = ort.RunOptions()
    passed = threading.Event()

    def stop() -> None:
        passed.set()
        options.terminate = True

    timer = threading.Timer(float(after_ms) / 1000, stop)
    timer.daemon = True
    timer.start()
    try:
        yield options
    except StepError as error:
        if passed.is_set():
            raise DeadlineError(
                f"the step did not finish in {after_ms} ms; it was not taken"
            ) from error
        raise
    finally:
        timer.cancel()
