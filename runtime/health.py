"""Watch the state of a stream, and warn, go back or refuse to save where it grows out of bounds.

A recurrence checks by itself, every few dozen steps, that its state is finite. This looks further:
at the size of every tensor and at where that size is going, and says what to do before infinity is
reached. A look takes one snapshot and makes no other array of a tensor's size; what is kept is the
last healthy snapshot and, per tensor, sixteen points for every tenfold of items.
"""

import math
import warnings
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import StateError
from dst.runtime.state.file import Place, write_record
from dst.runtime.state.record import Saved, Snapshot
from dst.runtime.stream import Stream

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]
Policy = Literal["warn", "rollback", "refuse_to_save"]

POINTS_PER_DECADE = 16
TREND_DECADES = 2
TREND_POINTS = 8
"""A trend is told from so many points at least."""


class HealthWarning(UserWarning):
    """A state broke a limit of its health check."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a healthy state keeps to, beside being finite; None where nothing is asked.

    Attributes:
        peak: the largest max|x| of any tensor.
        growth_per_decade: the largest factor by which the rms of any tensor may grow while the
            number of items grows tenfold. 1 is level, 10 is growth in step with the items.
    """

    peak: float | None = None
    growth_per_decade: float | None = None


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


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What one look found.

    Attributes:
        items: items in the state when it was looked at.
        tensors: every float tensor, in the order of the contract.
        causes: what is wrong, one line each; empty for a healthy state.
        rolled_back_to: the item the stream was put back to, or None.
    """

    items: int
    tensors: tuple[TensorHealth, ...]
    causes: tuple[str, ...]
    rolled_back_to: int | None

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.causes


class Health:
    """Looks at one stream from outside, in the thread that feeds it.

    Policies for a state that is not finite or breaks a limit:

    - `warn`: one `HealthWarning` for each tensor and clause, and another only after a healthy look;
    - `rollback`: the stream is put back to where it stood at the last healthy look;
    - `refuse_to_save`: `save` and `saved` raise `StateError` until a look is healthy.

    Under every policy a state that is not finite is never saved: the stream itself sees to that.
    `report` is what the last look found.

    Examples:
        >>> from dst.runtime import Session
        >>> stream = Session.open("text").stream()
        >>> health = Health(stream, every_items=10, policy="rollback", limits=Limits(peak=1e4))
        >>> outputs = stream.advance(b"one call of many in a loop, of any size")
        >>> report = health.tick()  # looks when it is time
        >>> report.healthy, report.causes
        (True, ())
    """

    def __init__(
        self,
        stream: Stream,
        every_items: int = 10_000,
        policy: Policy = "warn",
        limits: Limits = Limits(),
    ) -> None:
        """Look at the stream for the first time.

        Raises:
            ValueError: `every_items` is below 1, or the policy is unknown.
            StateError: `state-unhealthy`: the policy is `rollback`, and there is nothing healthy to
                go to.
        """
        if every_items < 1:
            raise ValueError(f"every_items is {every_items}; expected 1 or more")
        if policy not in ("warn", "rollback", "refuse_to_save"):
            raise ValueError(
                f"policy is {policy!r}; expected 'warn', 'rollback' or 'refuse_to_save'"
            )
        self.every_items = every_items
        self._stream, self._policy, self._limits = stream, policy, limits
        places = stream.engine.layout.places
        self._tracks = {p.name: Track() for p in places if p.dtype.kind == "f"}
        self._warned: set[tuple[str, str]] = set()
        self._last_good: Snapshot | None = None
        self.report = self.look()

    def tick(self) -> HealthReport | None:
        """Look if `every_items` items were read since the last look, or the stream went back.

        Returns:
            What `look` found, or None where it was not time.
        """
        gone = self._stream.items_consumed - self.report.items
        return None if 0 <= gone < self.every_items else self.look()

    def look(self) -> HealthReport:
        """Look at the state now and do what the policy says.

        Raises:
            StateError: `state-unhealthy`: the policy is `rollback`, and no healthy state was ever
                seen.
        """
        now = self._stream.snapshot()
        items = now.items_consumed
        # from lists: a tuple made from a generator is cut to size, which Python's free lists keep
        tensors = tuple([track.look(n, now.state[n], items) for n, track in self._tracks.items()])
        wrong = [found for tensor in tensors for found in _wrong(tensor, self._limits)]
        causes = tuple([f"state `{name}`{text}, at item {items:,}" for name, _, text in wrong])
        back = None
        if not wrong:
            self._warned.clear()
            self._last_good = now if self._policy == "rollback" else None
        elif self._policy == "warn":
            self._warn(wrong, causes)
        elif self._policy == "rollback":
            if self._last_good is None:
                raise StateError(
                    f"{causes[0]}; there is no healthy state to go back to: reset() the stream, or "
                    "load another state",
                    code="state-unhealthy",
                )
            self._stream.restore(self._last_good)
            back = self._last_good.items_consumed
            for track in self._tracks.values():
                track.forget_after(back)
        self.report = HealthReport(items, tensors, causes, back)
        return self.report

    def saved(self) -> Saved:
        """Look, and return everything the stream is as a record for a file or a store.

        Under `rollback` a sick state is put back first, and the record is of the healthy one.

        Raises:
            StateError: `state-unhealthy`: the policy is `refuse_to_save`, and the state is not
                healthy.
            NonFiniteError: `state-not-finite`: the policy is `warn`, and the state is not finite.
        """
        report = self.look()
        if self._policy == "refuse_to_save" and not report.healthy:
            raise StateError(
                f"{report.causes[0]}; nothing was saved, what was saved before still stands: "
                "load that, or reset() the stream",
                code="state-unhealthy",
            )
        return self._stream.saved()

    def save(self, path: Place) -> None:
        """Look, and write the stream to one file as `Stream.save` does.

        Raises:
            StateError, NonFiniteError: as `saved`, or the disk refused; nothing was written.
        """
        write_record(path, self.saved())

    # --- inside

    def _warn(self, wrong: list[tuple[str, str, str]], causes: tuple[str, ...]) -> None:
        for (name, clause, _), cause in zip(wrong, causes, strict=True):
            if (name, clause) not in self._warned:
                self._warned.add((name, clause))
                warnings.warn(cause, HealthWarning, stacklevel=4)


def _wrong(tensor: TensorHealth, limits: Limits) -> list[tuple[str, str, str]]:
    """The clauses that a tensor broke: its name, the clause, and how to say it."""
    name, peak, growth = tensor.name, tensor.peak, tensor.growth_per_decade
    if not tensor.finite:
        return [(name, "finite", " holds a NaN or an infinity")]
    found = []
    if limits.peak is not None and peak > limits.peak:
        found.append((name, "peak", f": max|x| is {peak:.3g}, the limit is {limits.peak:g}"))
    most = limits.growth_per_decade
    if most is not None and growth is not None and growth > most:
        text = f": rms grew {growth:.3g}-fold per tenfold of items, limit {most:g}"
        found.append((name, "growth", text))
    return found


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
