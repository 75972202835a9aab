"""A plan: one stream's buffers and bindings for one T, made once, so that a step makes none.

Shape letters: `B` batch (1 here), `T` items per chunk, `L` lookback, `A` look-ahead.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime.bundle.layout import rows_of, sized
from dst.runtime.errors import NonFiniteError, StepError
from dst.runtime.execution.buffers import Arena
from dst.runtime.execution.device import capture_options, uncaptured
from dst.runtime.execution.engine import Engine, first_line
from dst.runtime.execution.finite import finite, pieces
from dst.runtime.execution.inputs import Intake
from dst.runtime.execution.items import check_tokens
from dst.runtime.execution.stream_inputs import Given

Array = npt.NDArray[np.generic]

# After a graph has run, the caches hold its weights and none of this code: a call into numpy then
# costs ten times what it costs alone, and a reduction twice a dot product or a list. Hence the
# cheap check of few tokens, and those of `dst.runtime.execution.finite`
# (examples/bench/step_overhead.py).
FEW_TOKENS = 64
_largest = np.maximum.reduce


class Plan:
    """Everything a step of one T needs.

    Attributes:
        t: items per chunk.
        dtype: the chunk's dtype.
        shape: the chunk's shape, as a caller gives it.
        fresh: where the chunk goes, `shape`.
        items: the same memory, one row per item `[T + A, ...]`.
        back: where the lookback goes, one row per item `[L, ...]`; None without lookback.
        newest: the L items before the next chunk, `[L, ...]`; None without lookback.
        outputs: the outputs of the last step, by name.
        views: the same, read-only.
        given: the stream's own inputs, which the graph is bound to now.
    """

    __slots__ = (
        "_bindings",
        "_bridge",
        "_captures",
        "_float_outputs",
        "_graph",
        "_intake",
        "_provider_options",
        "_run",
        "back",
        "dtype",
        "fresh",
        "given",
        "items",
        "newest",
        "outputs",
        "shape",
        "t",
        "views",
    )

    def __init__(self, engine: Engine, t: int, arenas: Sequence[Arena], given: Given) -> None:
        contract = engine.contract
        chunk = contract.chunk
        session = engine.runner_for(t)
        self.t = t
        self.dtype = np.dtype(chunk.dtype)
        self.shape = sized(chunk.shape, t + chunk.lookahead)
        self._graph = engine.graph_for(t).file
        self._run = session.run_with_iobinding

        self._intake = Intake(chunk, t)
        raw = self._intake.raw
        cut = [slice(None)] * raw.ndim
        cut[chunk.time_axis] = slice(chunk.lookback, None)
        self.fresh: Array = raw[tuple(cut)]
        rows = rows_of(chunk.shape, raw)
        self.items: Array = rows[chunk.lookback :]
        self.back: Array | None = rows[: chunk.lookback] if chunk.lookback else None
        self.newest: Array | None = rows[t : t + chunk.lookback] if chunk.lookback else None

        self.outputs: dict[str, Array] = {
            o.name: np.zeros(sized(o.shape, t), o.dtype) for o in contract.outputs
        }
        self.views = {name: value.view() for name, value in self.outputs.items()}
        for view in self.views.values():
            view.flags.writeable = False
        self._float_outputs = [
            (name, pieces(value)) for name, value in self.outputs.items() if value.dtype.kind == "f"
        ]
        self._bridge = engine.bridge(self._intake.feed, self.outputs)
        self._provider_options = engine.provider_options
        self._bindings = tuple(
            self._bind(engine, session, arenas[side], arenas[side ^ 1]) for side in (0, 1)
        )
        self.take(given)

    def _bind(
        self, engine: Engine, session: ort.InferenceSession, source: Arena, target: Arena
    ) -> ort.IOBinding:
        contract = engine.contract
        binding = session.io_binding()
        binding.bind_ortvalue_input(contract.chunk.input, self._bridge.feed)
        for name, value in engine.constants.items():
            binding.bind_ortvalue_input(name, value)
        for name, output in self._bridge.outputs.items():
            binding.bind_ortvalue_output(name, output)
        for state, before, after in zip(contract.state, source.values, target.values, strict=True):
            binding.bind_ortvalue_input(state.input, before)
            binding.bind_ortvalue_output(state.output, after)
        return binding

    def take(self, given: Given) -> None:
        """Bind the inputs of a stream; what a graph has captured belongs to those before."""
        for binding in self._bindings:
            for name, value in given.values.items():
                binding.bind_ortvalue_input(name, value)
        captures = [capture_options(self._provider_options) for _ in range(2)]
        self._captures = captures if captures[0] is not None else None
        self.given = given

    def run(self, side: int, options: ort.RunOptions | None) -> None:
        """Run the step on what `fresh` and `back` hold, from arena `side` to the other one.

        Raises:
            StepError: `token-out-of-range`: an id outside the vocabulary.
            NonFiniteError: `input-not-finite`: a feature that is NaN or infinite.
            NonFiniteError: `output-not-finite`: an output that is NaN or infinite.
            StepError: ONNX Runtime refused or was stopped.
        """
        intake = self._intake
        if (ids := intake.unsigned) is not None:
            top = max(ids.tolist()) if self.t <= FEW_TOKENS else _largest(ids)
            if top >= intake.vocabulary:
                check_tokens(self.fresh, intake.vocabulary)
        elif intake.floats:
            intake.normalise()
            if not finite(intake.floats):
                raise NonFiniteError(
                    "the chunk holds a NaN or an infinity; nothing was stepped",
                    code="input-not-finite",
                )
        self._go(side, options)
        for name, values in self._float_outputs:
            if not finite(values):
                raise NonFiniteError(
                    f"output `{name}` holds a NaN or an infinity; the step was not taken",
                    code="output-not-finite",
                )

    def warm(self, side: int) -> None:
        """Run once into arena `1 - side`, so that ONNX Runtime allocates now and not later.

        The stream's state in arena `side` is only read.
        """
        self._go(side, None)

    def _go(self, side: int, options: ort.RunOptions | None) -> None:
        if self._captures is not None:
            if options is None:
                options = self._captures[side]
            else:
                uncaptured(options)
        try:
            if self._bridge.copies:
                self._bridge.push()
            self._run(self._bindings[side], options)
            if self._bridge.copies:
                self._bridge.pull()
        except Exception as error:  # onnxruntime's own classes share no base but this
            raise StepError(
                f"{self._graph} failed: {first_line(error)}", code="graph-failed"
            ) from error
