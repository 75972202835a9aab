"""Compare two forms of the same step over many carried steps, and certify that they agree.

A form is anything that maps ``(chunk, state) -> (outputs, state)`` on numpy arrays. Each form
carries its own state; nothing is reset in between. The error of a tensor is max|d| / rms of the
reference, taken at the same place of the stream. For outputs it is bounded. For state tensors it
is reported, and what is bounded is max|d| / max|x|: a trained memory is nearly of rank one, its
largest element up to 50 times its rms, so that the rounding of one float32 product alone, torch
against itself in float64, reaches 3e-5 of the rms (and 2e-6 of the peak).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch

from dst.export.errors import CertificateError
from dst.export.step import Step
from dst.graphs.weights import EXTERNAL_FOLDER
from dst.runtime.bundle.constants import constant_array
from dst.runtime.bundle.layout import laid_out
from dst.runtime.bundle.manifest import Certificate, Contract, Curve, Features
from dst.runtime.golden import relative_error

Array = npt.NDArray[np.generic]
Tensors = dict[str, Array]
Form = Callable[[Array, Tensors], tuple[Tensors, Tensors]]
"""``(chunk, state) -> (outputs, state)`` for B = 1."""
Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done."""

BOUND = 1e-5
"""Largest error of an output at any step, and of a state tensor against its peak."""
DECILE_RATIO_BOUND = 2.0
"""Largest mean error of a tensor over the last tenth of the steps, over that of the first.

A mean below a tenth of the bound counts as a tenth of the bound. Errors of state tensors are taken
of their peak here as well: of the rms, a trained memory shows rounding as growth.
"""
CURVE_POINTS = 40


def torch_form(step: Step) -> Form:
    """The torch module itself."""

    def run(chunk: Array, state: Tensors) -> tuple[Tensors, Tensors]:
        tensors = {name: torch.from_numpy(array) for name, array in state.items()}
        with torch.no_grad():
            outputs, after = step(torch.from_numpy(chunk), tensors)
        return _arrays(outputs), _arrays(after)

    return run


def onnx_form(graph: Path | bytes, contract: Contract, folder: Path | None = None) -> Form:
    """A traced graph, a file or its bytes, on ONNX Runtime's CPU provider, one thread.

    Args:
        graph: The file, or its bytes.
        contract: What the graph keeps.
        folder: Where the external data lies that bytes refer to.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    if folder is not None:
        options.add_session_config_entry(EXTERNAL_FOLDER, str(folder))
    source = graph if isinstance(graph, bytes) else str(graph)
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in contract.outputs] + [s.output for s in contract.state]
    constants = {c.input: constant_array(c) for c in contract.constants}

    def run(chunk: Array, state: Tensors) -> tuple[Tensors, Tensors]:
        found = session.run(names, {contract.chunk.input: chunk, **constants, **state})
        outputs, after = found[: len(contract.outputs)], found[len(contract.outputs) :]
        return (
            {o.name: value for o, value in zip(contract.outputs, outputs, strict=True)},
            {s.input: value for s, value in zip(contract.state, after, strict=True)},
        )

    return run


def initial_state(step: Step, batch: int = 1) -> Tensors:
    """The step's initial state for so many rows."""
    return _arrays(step.initial_state(batch))


class Chunks:
    """Endless chunks cut from one array of items ``[n, ...]``, read round and round."""

    def __init__(self, contract: Contract, data: Array, t: int) -> None:
        self._chunk = contract.chunk
        self._data = np.asarray(data, dtype=contract.chunk.dtype)
        self._t = t

    def fresh(self, number: int) -> Array:
        """Chunk ``number`` as ``Stream.step`` takes it: T and the look-ahead along time, B = 1."""
        return laid_out(self._chunk, self._items(number * self._t, self._end(number)))

    def __getitem__(self, number: int) -> Array:
        """Chunk ``number`` as the graph sees it: normalised, lookback and look-ahead too, B = 1."""
        first = number * self._t - self._chunk.lookback
        items = self._items(first, self._end(number))
        content = self._chunk.content
        if isinstance(content, Features) and content.normalisation is not None:
            mean = np.asarray(content.normalisation.mean).astype(items.dtype)
            std = np.asarray(content.normalisation.std).astype(items.dtype)
            rows = items.reshape(len(items), -1)
            items = np.divide(np.subtract(rows, mean), std).reshape(items.shape)
        return laid_out(self._chunk, items)

    def _end(self, number: int) -> int:
        return (number + 1) * self._t + self._chunk.lookahead

    def _items(self, first: int, end: int) -> Array:
        """Items ``first`` to ``end`` of the stream; before it stands the contract's fill."""
        places = np.arange(first, end)
        items = self._data[places % len(self._data)]
        items[places < 0] = self._chunk.lookback_fill or 0
        return items


class _Errors:
    """What one comparison has measured so far, per tensor and round."""

    def __init__(self, contract: Contract) -> None:
        self.outputs: dict[str, list[float]] = {o.name: [] for o in contract.outputs}
        self.state: dict[str, list[float]] = {s.input: [] for s in contract.state}
        self.of_peak: dict[str, list[float]] = {s.input: [] for s in contract.state}

    def add_output(self, name: str, found: Array, expected: Array) -> None:
        self.outputs[name].append(relative_error(found, expected))

    def add_state(self, name: str, found: Array, expected: Array) -> None:
        self.state[name].append(relative_error(found, expected))
        self.of_peak[name].append(error_of_peak(found, expected))

    @property
    def bounded(self) -> dict[str, list[float]]:
        """The errors that a bound holds for: outputs of the rms, state tensors of the peak."""
        return {n: v for n, v in (self.outputs | self.of_peak).items() if v}


def certify(
    name: str,
    reference: Form,
    other: Form,
    contract: Contract,
    state: Tensors,
    data: Array,
    about: str,
    *,
    steps: int,
    t: int,
    reference_t: int | None = None,
    bound: float = BOUND,
    progress: Progress | None = None,
) -> Certificate:
    """Run two forms side by side and record their distance as a curve over steps.

    Args:
        name: Which two forms these are.
        reference: The form taken as right; steps by ``reference_t`` items (default ``t``).
        other: The form held against it; takes ``steps`` steps of ``t`` items.
        contract: What both keep.
        state: Initial state, B = 1.
        data: Real items, ``[n, ...]``; read again from the start when used up.
        about: What the data is, for the manifest.
        steps: Steps of ``other``, at least; rounded up to whole steps of ``reference``.
        t: Items per step of ``other``.
        reference_t: Items per step of ``reference``, a multiple of ``t``. Outputs that have one
            value for a chunk are compared where the two are equal, or the tail rule is ``exact``.
        bound: Largest error that passes; the certificate records it.
        progress: Told of the share done.

    Raises:
        CertificateError: an error exceeds ``bound``, or grows beyond ``DECILE_RATIO_BOUND``.
    """
    group = (reference_t or t) // t
    rounds = -(-steps // group)
    wide, narrow = Chunks(contract, data, group * t), Chunks(contract, data, t)
    left, right = state, state
    errors = _Errors(contract)
    for number in range(rounds):
        expected, left = reference(wide[number], left)
        parts = []
        for i in range(number * group, (number + 1) * group):
            outputs, right = other(narrow[i], right)
            parts.append(outputs)
        for output in contract.outputs:
            if output.time_axis is None and group > 1 and contract.chunk.tail != "exact":
                continue
            found = [p[output.name] for p in parts]
            joined = (
                found[-1] if output.time_axis is None else np.concatenate(found, output.time_axis)
            )
            errors.add_output(output.name, joined, expected[output.name])
        for key, value in left.items():
            errors.add_state(key, right[key], value)
        if progress is not None and number % max(rounds // 100, 1) == 0:
            progress(name, number / rounds)
    certificate = _certificate(name, errors, group, t, about, bound)
    if not certificate.passed:
        raise CertificateError(_why(certificate, errors))
    return certificate


def _certificate(
    name: str, errors: _Errors, group: int, t: int, about: str, bound: float
) -> Certificate:
    tensors = {key: v for key, v in (errors.outputs | errors.state).items() if v}
    rounds = max(len(values) for values in tensors.values())
    worst = max((max(values) for values in errors.outputs.values() if values), default=0.0)
    of_peak = max((max(values) for values in errors.of_peak.values()), default=0.0)
    ratio = max(decile_ratio(values, bound) for values in errors.bounded.values())
    ends = np.unique(np.linspace(1, rounds, min(CURVE_POINTS, rounds)).astype(int))
    curve = {
        key: tuple(
            float(f"{max(values[start:end]):.2g}")
            for start, end in zip((0, *ends[:-1]), ends, strict=True)
        )
        for key, values in tensors.items()
    }
    return Certificate(
        name=name,
        steps=rounds * group,
        items_per_step=t,
        data=about,
        bound=bound,
        decile_ratio_bound=DECILE_RATIO_BOUND,
        passed=max(worst, of_peak) <= bound and ratio <= DECILE_RATIO_BOUND,
        curve=Curve(steps=tuple(int(e) * group for e in ends), tensors=curve),
        worst=worst,
        worst_state=max((max(values) for values in errors.state.values()), default=0.0),
        worst_state_of_peak=of_peak,
        decile_ratio=ratio,
    )


def decile_ratio(values: list[float], bound: float) -> float:
    """Mean of the last tenth over mean of the first; 1 where a tenth is less than 10 rounds.

    A mean below a tenth of the bound counts as that: below it an error finds its level while the
    state fills, which is no drift.
    """
    tenth = len(values) // 10
    if tenth < 10:
        return 1.0
    first, last = (max(float(np.mean(v)), bound / 10) for v in (values[:tenth], values[-tenth:]))
    return last / first


def error_of_peak(found: Array, expected: Array) -> float:
    """max|found - expected| / max|expected|; infinite where only the difference is not 0."""
    difference = float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())
    if difference == 0.0:
        return 0.0
    peak = float(np.abs(expected).max())
    return difference / peak if peak > 0.0 and np.isfinite(difference) else float("inf")


def _why(certificate: Certificate, errors: _Errors) -> str:
    """Name the tensor that is furthest off and the one that grew most."""
    bound, bounded = certificate.bound, errors.bounded
    worst = max(bounded, key=lambda key: max(bounded[key]))
    grown = max(bounded, key=lambda key: decile_ratio(bounded[key], bound))
    kind, share = ("output", "rms") if worst in errors.outputs else ("state", "peak")
    return (
        f"certificate {certificate.name}: expected errors of at most {bound:g} and a last tenth of "
        f"at most {DECILE_RATIO_BOUND:g} x the first; came: {kind} `{worst}` "
        f"{max(bounded[worst]):.2g} of its {share} in round {int(np.argmax(bounded[worst]))}, "
        f"`{grown}` ratio {certificate.decile_ratio:.3g}; nothing was written. Where the model is "
        f"right and only its rounding is larger, accept it by `bound=` (`--bound`)"
    )


def _arrays(tensors: dict[str, torch.Tensor]) -> Tensors:
    return {name: tensor.detach().contiguous().numpy() for name, tensor in tensors.items()}
