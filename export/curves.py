"""Measure how far two forms of one model are apart over many steps, and write it as a certificate.

The error of a tensor is max|d| / rms of the reference, taken at the same place of the stream. For
outputs it is bounded. For state tensors it is reported, and what is bounded is max|d| / max|x|: a
trained memory is nearly of rank one, its largest element up to 50 times its rms, so that the
rounding of one float32 product alone, torch against itself in float64, reaches 3e-5 of the rms (and
2e-6 of the peak).
"""

from collections.abc import Iterable

import numpy as np

from dst.runtime.bundle.layout import Array
from dst.runtime.bundle.manifest import Certificate, Curve
from dst.runtime.golden import relative_error

DECILE_RATIO_BOUND = 2.0
"""Largest mean error of a tensor over the last tenth of the steps, over that of the first.

A mean below a tenth of the bound counts as a tenth of the bound. Errors of state tensors are taken
of their peak here as well: of the rms, a trained memory shows rounding as growth.
"""
CURVE_POINTS = 40


class Distances:
    """What one comparison has measured so far, per tensor and round of steps.

    Attributes:
        outputs: max|d| / rms of each output.
        state: max|d| / rms of each state tensor.
        of_peak: max|d| / max|x| of each state tensor.
    """

    def __init__(self, outputs: Iterable[str], state: Iterable[str]) -> None:
        self.outputs: dict[str, list[float]] = {name: [] for name in outputs}
        self.state: dict[str, list[float]] = {name: [] for name in state}
        self.of_peak: dict[str, list[float]] = {name: [] for name in self.state}

    def add_output(self, name: str, found: Array, expected: Array) -> None:
        """Measure an output once more."""
        self.outputs[name].append(relative_error(found, expected))

    def add_state(self, name: str, found: Array, expected: Array) -> None:
        """Measure a state tensor once more."""
        self.state[name].append(relative_error(found, expected))
        self.of_peak[name].append(error_of_peak(found, expected))

    @property
    def bounded(self) -> dict[str, list[float]]:
        """The errors that a bound holds for: outputs of the rms, state tensors of the peak."""
        return {name: errors for name, errors in (self.outputs | self.of_peak).items() if errors}

    @property
    def worst(self) -> tuple[str, float, str]:
        """The tensor furthest off, by how much, and of what: ``output `y` `` ... ``its rms``."""
        name = max(self.bounded, key=lambda key: max(self.bounded[key]))
        kind, of = ("output", "rms") if name in self.outputs else ("state", "peak")
        return f"{kind} `{name}`", max(self.bounded[name]), f"its {of}"

    def certificate(
        self, name: str, about: str, *, t: int, bound: float, group: int = 1
    ) -> Certificate:
        """Write down what was measured.

        Args:
            name: Which two forms these are.
            about: What the data is.
            t: Items per step.
            bound: Largest error that passes.
            group: Steps per round.
        """
        tensors = {key: errors for key, errors in (self.outputs | self.state).items() if errors}
        rounds = max(len(errors) for errors in tensors.values())
        ratio = max(decile_ratio(errors, bound) for errors in self.bounded.values())
        ends = np.unique(np.linspace(1, rounds, min(CURVE_POINTS, rounds)).astype(int))
        curve = {
            key: tuple(
                float(f"{max(errors[start:end]):.2g}")
                for start, end in zip((0, *ends[:-1]), ends, strict=True)
            )
            for key, errors in tensors.items()
        }
        return Certificate(
            name=name,
            steps=rounds * group,
            items_per_step=t,
            data=about,
            bound=bound,
            decile_ratio_bound=DECILE_RATIO_BOUND,
            passed=self.worst[1] <= bound and ratio <= DECILE_RATIO_BOUND,
            curve=Curve(steps=tuple(int(end) * group for end in ends), tensors=curve),
            worst=_largest(self.outputs),
            worst_state=_largest(self.state),
            worst_state_of_peak=_largest(self.of_peak),
            decile_ratio=ratio,
        )


def _largest(errors: dict[str, list[float]]) -> float:
    return max((max(values) for values in errors.values() if values), default=0.0)


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
    """max|found - expected| / max|expected|, in float64; infinite where shapes differ or it is NaN.

    Where the expected values are all zero, any difference is infinite.
    """
    if found.shape != expected.shape:
        return np.inf
    wide, right = found.astype(np.float64), expected.astype(np.float64)
    difference = float(np.abs(wide - right).max(initial=0.0))
    if difference == 0.0:
        return 0.0
    peak = float(np.abs(right).max())
    return difference / peak if peak > 0.0 and np.isfinite(difference) else np.inf
