"""An ONNX file as it is in, a plain ONNX Runtime loop over it out: what a bundle is held against.

Arrays are in the contract's layout. The file may lack the batch axis (or, for a chunk of one item,
the time axis): it is taken off before and put back after.

Shape letters: `B` batch, `T` items per chunk, `L` lookback, `n` items of any number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.export.adopt.infer_contract import Draft
from dst.export.adopt.layout import Placed
from dst.export.errors import AdoptCheckError, AdoptError
from dst.runtime.engine import first_line
from dst.runtime.state import sized

Array = npt.NDArray[np.generic]
Tensors = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of carried steps gave.

    Attributes:
        chunks: the new items of each step, in the contract's layout.
        outputs: output name -> one array per step.
        states: the state before the first step and after each, by input name.
        windows: the chunk of each step with its lookback in front.
    """

    chunks: list[Array]
    outputs: dict[str, list[Array]]
    states: list[Tensors]
    windows: list[Array]


class Plain:
    """An ONNX file on ONNX Runtime's CPU provider, one thread, driven by hand."""

    def __init__(self, path: Path, draft: Draft, lookback: int, fill: float) -> None:
        """Open the file.

        Raises:
            AdoptError: ONNX Runtime cannot load it.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own classes share no base but this
            raise AdoptError(f"{path}: cannot be loaded: {first_line(error)}") from None
        self._draft, self._lookback, self._fill = draft, lookback, fill

    def initial(self, batch: int = 1) -> Tensors:
        """The state before the first item."""
        return {
            state.before.port.name: _start(state.before, state.start, batch)
            for state in self._draft.states
        }

    def lay_out(self, items: Sequence[Array]) -> Array:
        """Lay out runs of items `[n, ...]`, one per row of the batch, as a chunk."""
        chunk = self._draft.chunk
        at = chunk.shape.index("T")
        rows = [np.moveaxis(row, 0, at - (chunk.batch_axis < at)) for row in items]
        return np.ascontiguousarray(np.stack(rows, chunk.batch_axis))

    def step(
        self, window: Array, state: Tensors, outputs: Mapping[str, Placed]
    ) -> tuple[Tensors, Tensors]:
        """Run one step on `lookback + T` items in the contract's layout.

        Args:
            window: the chunk, its lookback in front.
            state: input name -> value.
            outputs: those wanted, by name.

        Returns:
            The outputs and the next state.

        Raises:
            AdoptCheckError: the file cannot take the step, or the state does not keep its shape.
        """
        draft = self._draft
        feed = {draft.chunk.port.name: _off(draft.chunk, window), **draft.constants}
        for s in draft.states:
            feed[s.before.port.name] = _off(s.before, state[s.before.port.name])
        names = [*outputs, *(s.after.name for s in draft.states)]
        t = window.shape[draft.chunk.shape.index("T")] - self._lookback
        try:
            found = dict(zip(names, self._session.run(names, feed), strict=True))
        except Exception as error:  # onnxruntime's own classes share no base but this
            raise AdoptCheckError(f"a step of T = {t} failed: {first_line(error)}") from None
        after: Tensors = {}
        for s in draft.states:
            value, before = found[s.after.name], feed[s.before.port.name]
            if value.shape != before.shape or value.dtype != before.dtype:
                raise AdoptCheckError(
                    f"state `{s.before.port.name}` is {before.dtype} {list(before.shape)} and "
                    f"became {value.dtype} {list(value.shape)} in `{s.after.name}` at T = {t}; a "
                    "state keeps both: is it another output's, or is --t or --lookback wrong?"
                )
            after[s.before.port.name] = _on(s.before, value)
        return {name: _on(placed, found[name]) for name, placed in outputs.items()}, after

    def shapes(self, items: Array) -> dict[str, tuple[int, ...]]:
        """Step once on items `[T, ...]` and return the shape of each output, as in the file."""
        raw = {port.name: Placed(port, (), ()) for port in self._draft.outputs}
        run = self.carry([items], len(items), raw)
        return {name: values[0].shape for name, values in run.outputs.items()}

    def carry(self, items: Sequence[Array], t: int, outputs: Mapping[str, Placed]) -> Run:
        """Carry the state over runs of items `[n, ...]`, one per row of the batch.

        Args:
            items: as many rows as the batch, all of one length.
            t: items per chunk; what is left of n is not read.
            outputs: those wanted, by name.

        Raises:
            AdoptCheckError: a step failed, or a value is not finite.
        """
        run = Run([], {name: [] for name in outputs}, [self.initial(len(items))], [])
        padded = [
            np.concatenate([np.full((self._lookback, *row.shape[1:]), self._fill, row.dtype), row])
            for row in items
        ]
        for at in range(0, len(items[0]) - t + 1, t):
            window = self.lay_out([row[at : at + self._lookback + t] for row in padded])
            found, state = self.step(window, run.states[-1], outputs)
            for name, value in (*found.items(), *state.items()):
                if value.dtype.kind == "f" and not np.isfinite(value).all():
                    raise AdoptCheckError(
                        f"`{name}` holds a NaN or an infinity after {at + t} items; give real "
                        "items with --data, or another --init"
                    )
            for name, value in found.items():
                run.outputs[name].append(value)
            run.states.append(state)
            run.windows.append(window)
            run.chunks.append(self.lay_out([row[at : at + t] for row in items]))
        return run


def _start(placed: Placed, start: Array | None, batch: int) -> Array:
    """Make the initial value of a state for a batch, in the contract's layout."""
    value: Array = np.zeros(sized(placed.shape, 0, batch), placed.port.dtype)
    if start is not None:
        value[...] = _on(placed, start) if start.ndim else start
    return value


def _off(placed: Placed, value: Array) -> Array:
    """Take off the axes that the file does not have."""
    return value.squeeze(placed.added) if placed.added else value


def _on(placed: Placed, value: Array) -> Array:
    """Put on the axes that the file does not have."""
    return np.expand_dims(value, placed.added) if placed.added else value
