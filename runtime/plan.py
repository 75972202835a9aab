"""A plan: one stream's buffers and bindings for one T, made once, so that a step makes none.

Shape letters: `B` batch (1 here), `T` items per chunk, `L` lookback.
"""

from collections.abc import Sequence
from math import isfinite
from typing import cast

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from numpy import vdot

from dst.runtime.device import capture_options, uncaptured
from dst.runtime.engine import Engine, first_line
from dst.runtime.errors import (
    NonFiniteInputError,
    NonFiniteOutputError,
    StepError,
)
from dst.runtime.items import check_tokens
from dst.runtime.manifest import Contract, Tokens
from dst.runtime.state import Arena, sized

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]

# After a graph has run, the caches hold its weights and none of this code: a call into numpy then
# costs ten times what it costs alone, and a reduction twice a dot product or a list. Hence the
# cheap checks below (examples/bench/step_overhead.py).
FEW_TOKENS = 64
PIECE = 8192  # values; a longer product would make BLAS call for its threads
_largest = np.maximum.reduce

_UNSIGNED = {1: np.uint8, 4: np.uint32, 8: np.uint64}


def by_item(contract: Contract, array: Array) -> Array:
    """View an array in the chunk's layout, B = 1, as `[T, ...]`: one row per item."""
    chunk = contract.chunk
    only: list[slice | int] = [slice(None)] * array.ndim
    only[chunk.batch_axis] = 0
    time = chunk.time_axis - (chunk.batch_axis < chunk.time_axis)
    return np.moveaxis(array[tuple(only)], time, 0)


def pieces(array: Array) -> list[Floats]:
    """View a contiguous array of floats as flat pieces that `finite` takes."""
    flat = cast(Floats, array.reshape(-1))
    return [flat[start : start + PIECE] for start in range(0, flat.size, PIECE)]


def finite(pieces: list[Floats]) -> bool:
    """Say whether every value is finite.

    A NaN or an infinity shows in the sum of squares. So does an overflow of that sum, and then
    the values are looked at one by one. `vdot` alone gives no floating-point warnings.
    """
    for piece in pieces:
        if not isfinite(vdot(piece, piece)) and not np.isfinite(piece).all():
            return False
    return True


class Plan:
    """Everything a step of one T needs.

    Attributes:
        t: items per chunk.
        dtype: the chunk's dtype.
        shape: the chunk's shape, as a caller gives it.
        fresh: where the chunk goes, `shape`.
        items: the same memory, one row per item `[T, ...]`.
        back: where the lookback goes, one row per item `[L, ...]`; None without lookback.
        newest: the last L items of lookback and chunk together, `[L, ...]`; None without.
        outputs: the outputs of the last step, by name.
        views: the same, read-only.
    """

    __slots__ = (
        "_bindings",
        "_bridge",
        "_captures",
        "_feed",
        "_float_outputs",
        "_floats",
        "_graph",
        "_limit",
        "_mean",
        "_raw",
        "_run",
        "_std",
        "_unsigned",
        "back",
        "dtype",
        "fresh",
        "items",
        "newest",
        "outputs",
        "shape",
        "t",
        "views",
    )

    def __init__(self, engine: Engine, t: int, arenas: Sequence[Arena]) -> None:
        contract = engine.contract
        chunk = contract.chunk
        session = engine.runner_for(t)
        self.t = t
        self.dtype = np.dtype(chunk.dtype)
        self.shape = sized(chunk.shape, t)
        self._graph = engine.graph_for(t).file
        self._run = session.run_with_iobinding

        self._raw: Array = np.zeros(sized(chunk.shape, chunk.lookback + t), self.dtype)
        self._feed = self._raw
        self._mean: Array | None = None
        self._std: Array | None = None
        self._unsigned: Array | None = None
        self._floats: list[Floats] = []
        self._limit = 0
        self._content(contract)
        cut = [slice(None)] * self._raw.ndim
        cut[chunk.time_axis] = slice(chunk.lookback, None)
        self.fresh: Array = self._raw[tuple(cut)]
        rows = by_item(contract, self._raw)
        self.items: Array = rows[chunk.lookback :]
        self.back: Array | None = rows[: chunk.lookback] if chunk.lookback else None
        self.newest: Array | None = rows[t:] if chunk.lookback else None

        self.outputs: dict[str, Array] = {
            o.name: np.zeros(sized(o.shape, t), o.dtype) for o in contract.outputs
        }
        self.views = {name: value.view() for name, value in self.outputs.items()}
        for view in self.views.values():
            view.flags.writeable = False
        self._float_outputs = [
            (name, pieces(value)) for name, value in self.outputs.items() if value.dtype.kind == "f"
        ]
        self._bridge = engine.bridge(self._feed, self.outputs)
        captures = [capture_options(engine.provider_options) for _ in range(2)]
        self._captures = captures if captures[0] is not None else None
        self._bindings = tuple(
            self._bind(engine, session, arenas[side], arenas[side ^ 1]) for side in (0, 1)
        )

    def _content(self, contract: Contract) -> None:
        """Prepare the check of the items and, where the contract asks, their normalisation."""
        chunk = contract.chunk
        content = chunk.content
        if isinstance(content, Tokens):
            self._limit = content.vocabulary
            if not (self._raw.itemsize == 1 and content.vocabulary == 256):
                # a negative id reads as a huge unsigned one: one comparison finds both
                self._unsigned = self._raw.reshape(-1).view(_UNSIGNED[self._raw.itemsize])
            return
        if content.normalisation is not None:
            self._feed = np.zeros_like(self._raw)
            row = [1 if isinstance(size, str) else size for size in chunk.shape]
            self._mean = np.asarray(content.normalisation.mean).astype(chunk.dtype).reshape(row)
            self._std = np.asarray(content.normalisation.std).astype(chunk.dtype).reshape(row)
        self._floats = pieces(self._feed)

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

    def run(self, side: int, options: ort.RunOptions | None) -> None:
        """Run the step on what `fresh` and `back` hold, from arena `side` to the other one.

        Raises:
            TokenRangeError: an id outside the vocabulary.
            NonFiniteInputError: a feature that is NaN or infinite.
            NonFiniteOutputError: an output that is NaN or infinite.
            StepError: ONNX Runtime refused or was stopped.
        """
        if self._unsigned is not None:
            ids = self._unsigned
            top = max(ids.tolist()) if self.t <= FEW_TOKENS else _largest(ids)
            if top >= self._limit:
                check_tokens(self.fresh, self._limit)
        elif self._floats:
            self._normalise()
            if not finite(self._floats):
                raise NonFiniteInputError(
                    "the chunk holds a NaN or an infinity; nothing was stepped"
                )
        self._go(side, options)
        for name, values in self._float_outputs:
            if not finite(values):
                raise NonFiniteOutputError(
                    f"output `{name}` holds a NaN or an infinity; the step was not taken"
                )

    def _normalise(self) -> None:
        if self._mean is not None and self._std is not None:
            np.subtract(self._raw, self._mean, out=self._feed)
            np.divide(self._feed, self._std, out=self._feed)

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
            raise StepError(f"{self._graph} failed: {first_line(error)}") from error
