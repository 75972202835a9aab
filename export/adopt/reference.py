"""Drive an ONNX file as it is in a plain ONNX Runtime loop: what a bundle is held against.

Arrays are in the contract's layout. The file may lack the batch axis (or, for a chunk of one item,
the time axis): it is taken off before and put back after.

Every step is taken twice with the same inputs and compared bit for bit: a step that draws random
numbers has no one answer.

Shape letters: `B` batch, `T` items per chunk, `L` lookback, `A` look-ahead, `n` any number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from dst.export.adopt.contract import Draft
from dst.export.adopt.layout import Placed
from dst.export.errors import AdoptCheckError, AdoptError
from dst.runtime.bundle.layout import Array, sized
from dst.runtime.execution.engine import first_line

Tensors = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Run:
    """What a run of carried steps of ``t`` items gave, a list entry for each step.

    ``windows`` are the chunks with lookback and look-ahead, ``chunks`` the new items alone, in the
    contract's layout. ``states`` holds one more: the state before the first step. ``given`` is what
    was given once per stream.
    """

    t: int
    chunks: list[Array]
    outputs: dict[str, list[Array]]
    states: list[Tensors]
    windows: list[Array]
    given: Tensors

    def answer(self, number: int) -> tuple[Tensors, Tensors]:
        """The outputs of a step and the state after it."""
        outputs = {name: values[number] for name, values in self.outputs.items()}
        return outputs, self.states[number + 1]


def open_file(path: Path) -> ort.InferenceSession:
    """Open a file on ONNX Runtime's CPU provider, one thread, or raise AdoptError."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no base but this
        raise AdoptError(f"{path}: cannot be loaded: {first_line(error)}") from None


class Plain:
    """An open ONNX file, driven by hand as ``plan`` says.

    ``outputs`` are the axes of each output that a step gives; as in the file until they are placed.
    """

    def __init__(
        self, session: ort.InferenceSession, plan: Draft, fill: float, random: Sequence[str] = ()
    ) -> None:
        """Take a file; ``fill`` stands in front of a stream, ``random`` operators are named."""
        self._session, self.plan, self._fill, self._random = session, plan, fill, random
        self.outputs = {port.name: Placed(port, (), ()) for port in plan.outputs}

    @property
    def timed(self) -> dict[str, int]:
        """The axis of time of each output that has one."""
        axes = {name: placed.time_axis for name, placed in self.outputs.items()}
        return {name: axis for name, axis in axes.items() if axis is not None}

    def given(self, batch: int = 1) -> Tensors:
        """What is given once per stream: the example, and other values for further rows."""
        return {
            s.port.name: _rows(s.example, s.shape.index("B"), batch)
            if "B" in s.shape
            else s.example
            for s in self.plan.stream_inputs
        }

    def lay_out(self, items: Sequence[Array]) -> Array:
        """Lay out runs of items `[n, ...]`, one per row of the batch, as a chunk."""
        chunk = self.plan.chunk
        at = chunk.shape.index("T")
        rows = [np.moveaxis(row, 0, at - (chunk.batch_axis < at)) for row in items]
        return np.ascontiguousarray(np.stack(rows, chunk.batch_axis))

    def step(
        self, window: Array, state: Tensors, given: Tensors, constants: Tensors | None = None
    ) -> tuple[Tensors, Tensors]:
        """Run one step on `L + T + A` items in the contract's layout.

        Args:
            window: the chunk, its lookback in front and its look-ahead behind.
            state: input name -> value.
            given: what is given once per stream.
            constants: in place of those of the draft.

        Returns:
            The outputs and the next state.

        Raises:
            AdoptCheckError: the file cannot take the step, the state does not keep its shape, or
                the same step gives something else when it is taken again.
        """
        plan = self.plan
        feed = {plan.chunk.port.name: _off(plan.chunk, window), **(constants or plan.constants)}
        feed |= given
        for s in plan.states:
            feed[s.before.port.name] = _off(s.before, state[s.before.port.name])
        names = [*self.outputs, *(s.after.name for s in plan.states)]
        t = window.shape[plan.chunk.shape.index("T")] - plan.lookback - plan.lookahead
        try:
            values, again = (self._session.run(names, feed) for _ in range(2))
        except Exception as error:  # onnxruntime's own classes share no base but this
            raise AdoptCheckError(
                f"a step of T = {t} failed: {first_line(error)}", code="step-failed"
            ) from None
        for name, value, other in zip(names, values, again, strict=True):
            self._check_same(name, value, other)
        found = dict(zip(names, values, strict=True))
        after: Tensors = {}
        for s in plan.states:
            name, value = s.before.port.name, found[s.after.name]
            _check_kept(name, s.after.name, feed[name], value, t)
            after[name] = _on(s.before, value)
        return {name: _on(placed, found[name]) for name, placed in self.outputs.items()}, after

    def check_again(self, run: Run) -> None:
        """Take the first and the middle step of a run once more, after all the others."""
        for number in {0, len(run.windows) // 2}:
            again = self.step(run.windows[number], run.states[number], run.given)
            for was, found in zip(run.answer(number), again, strict=True):
                for name, value in found.items():
                    self._check_same(name, was[name], value)

    def _check_same(self, name: str, value: Array, other: Array) -> None:
        if value.shape == other.shape and value.tobytes() == other.tobytes():
            return
        why = "it holds no operator that is known to"
        if self._random:
            why = f"it holds {', '.join(self._random)}"
        raise AdoptCheckError(
            f"`{name}` differs between two runs of one step with the same inputs: the step draws "
            f"random numbers ({why}). Export the model in evaluation mode (model.eval()), or with "
            "the random numbers as a part of the chunk",
            code="random",
        )

    def shapes(self, items: Array) -> dict[str, tuple[int, ...]]:
        """Step once on items `[T + A, ...]` and return the shape of each output."""
        run = self.carry([items], len(items) - self.plan.lookahead)
        return {name: values[0].shape for name, values in run.outputs.items()}

    def carry(
        self,
        items: Sequence[Array],
        t: int,
        given: Tensors | None = None,
        constants: Tensors | None = None,
    ) -> Run:
        """Carry the state over runs of items `[n, ...]` of one length, one per row of the batch.

        What is left of n after chunks of ``t`` is not read, but for the look-ahead. ``given`` is
        for the whole batch, the example by default; ``constants`` take the place of the draft's.

        Raises:
            AdoptCheckError: a step failed, or a value is not finite.
        """
        plan, batch = self.plan, len(items)
        back, ahead = plan.lookback, plan.lookahead
        start = {s.before.port.name: start_value(s.before, s.start, batch) for s in plan.states}
        given = self.given(batch) if given is None else given
        run = Run(t, [], {name: [] for name in self.outputs}, [start], [], given)
        padded = [
            np.concatenate([np.full((back, *row.shape[1:]), self._fill, row.dtype), row])
            for row in items
        ]
        for at in range(0, len(items[0]) - t - ahead + 1, t):
            window = self.lay_out([row[at : at + back + t + ahead] for row in padded])
            found, state = self.step(window, run.states[-1], given, constants)
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
            run.chunks.append(self.lay_out([row[at : at + t + ahead] for row in items]))
        return run


def _check_kept(name: str, after: str, before: Array, value: Array, t: int) -> None:
    """A state keeps its dtype and shape; one that becomes longer is told as such."""
    if value.shape == before.shape and value.dtype == before.dtype:
        return
    told = (
        f"state `{name}` is {before.dtype} {list(before.shape)} and became {value.dtype} "
        f"{list(value.shape)} in `{after}` at T = {t}"
    )
    longer = [n for o, n in zip(before.shape, value.shape, strict=False) if n > o]
    if value.ndim == before.ndim and len(longer) == 1 and value.size > before.size:
        raise AdoptCheckError(
            f"{told}: it grows, and a bundle holds states of one fixed size; export a static "
            "cache (a window of fixed length that is shifted or written in turn)",
            code="state-grows",
        )
    raise AdoptCheckError(
        f"{told}; a state keeps both: is it another output's, or is --t or --lookback wrong?"
    )


def _rows(example: Array, axis: int, batch: int) -> Array:
    """Put a batch together: the example, and for each further row its values in another order."""
    rows = [np.roll(example, row).reshape(example.shape) for row in range(batch)]
    if example.dtype.kind == "f":
        rows = [(row * (1 + number)).astype(example.dtype) for number, row in enumerate(rows)]
    return np.concatenate(rows, axis)


def start_value(placed: Placed, start: Array | None, batch: int) -> Array:
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
