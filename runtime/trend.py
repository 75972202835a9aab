"""Measure the size of one state tensor, and how fast it grows with the number of items."""

import math
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]

POINTS_PER_DECADE = 16
TREND_DECADES = 2
TREND_POINTS = 8
"""A trend is told from so many points at least."""


@dataclass(frozen=True, slots=True)
class TensorHealth:
    """One float tensor of the state.

    Attributes:
        name: its input name.
        finite: whether it holds neither NaN nor infinity.
        rms: root of the mean square; NaN where not finite.
        peak: max|x|; NaN where not finite.
        growth_per_decade: by which factor the rms grows while the items grow tenfold, over the
            last hundredfold of items; None where there are too few looks to tell.
    """

    name: str
    finite: bool
    rms: float
    peak: float
    growth_per_decade: float | None


class Track:
    """The rms of one tensor at log-spaced items: sixteen points per decade, and no more."""

    __slots__ = ("_points",)

    def __init__(self) -> None:
        self._points: list[tuple[float, float]] = []  # log10 of items and of rms, rising in items

    def look(self, name: str, value: Array, items: int) -> TensorHealth:
        """Measure a tensor, and remember it if the last point is far enough back."""
        peak = peak_of(value)
        if not math.isfinite(peak):
            return TensorHealth(name, False, math.nan, math.nan, None)
        rms = rms_of(value, peak)
        self.forget_after(items)
        growth = None
        if items and rms:
            here = (math.log10(items), math.log10(rms))
            growth = self._growth(here)
            if not self._points or here[0] >= self._points[-1][0] + 1 / POINTS_PER_DECADE:
                self._points.append(here)
        return TensorHealth(name, True, rms, peak, growth)

    def forget_after(self, items: int) -> None:
        """Drop what was seen at later items than these: the stream has gone back."""
        end = math.log10(items) if items else -math.inf
        while self._points and self._points[-1][0] > end:
            self._points.pop()

    def _growth(self, here: tuple[float, float]) -> float | None:
        """The factor per decade: 10 to the median slope between any two points (Theil and Sen)."""
        points = [p for p in self._points if here[0] - TREND_DECADES <= p[0] < here[0]]
        if len(points) < TREND_POINTS:
            return None
        points.append(here)
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2)]
        return float(10 ** median(slopes))


def peak_of(value: Array) -> float:
    """max|x|; NaN where there is one, makes no array."""
    flat = value.reshape(-1)
    if not flat.size:
        return 0.0
    return max(float(np.maximum.reduce(flat)), -float(np.minimum.reduce(flat)))


def rms_of(value: Array, peak: float) -> float:
    """Root of the mean square of finite values, safe where their squares overflow."""
    if not peak:
        return 0.0
    flat = cast(Floats, value.reshape(-1))
    if flat.dtype.itemsize < 4:
        flat = flat.astype(np.float32)
    square = float(np.vdot(flat, flat))  # vdot alone gives no warning where it overflows
    if math.isfinite(square) and square >= flat.size * 1e-36:  # else it over- or underflowed
        return math.sqrt(square / flat.size)
    small = flat.astype(np.float64) / peak
    return peak * math.sqrt(float(np.dot(small, small)) / flat.size)
