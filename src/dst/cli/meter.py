"""Measure the time and the resident memory of a long read."""

import time

from dst.runtime import rss_bytes

WARM_ITEMS = 1 << 15
_SAMPLE_S = 0.25


class Meter:
    """Measures wall time and the resident memory of this process, in constant memory.

    Memory counts as warm after 32,768 items, or at the end of a shorter input.

    Attributes:
        items: items told so far.
        peak_bytes: the most resident memory seen.

    Example:
        >>> meter = Meter()
        >>> due = meter.add(100)
        >>> (meter.items, meter.growth_bytes)
        (100, 0)
    """

    __slots__ = ("_last", "_start", "_warm", "items", "peak_bytes")

    def __init__(self) -> None:
        self.items = 0
        self.peak_bytes = rss_bytes()
        self._start = self._last = time.perf_counter()
        self._warm: int | None = None

    def add(self, items: int) -> bool:
        """Count items; returns whether it is time to show something, four times a second."""
        self.items += items
        now = time.perf_counter()
        if self._warm is None and self.items >= WARM_ITEMS:
            self._warm = rss_bytes()
        if now - self._last < _SAMPLE_S:
            return False
        self._last = now
        self.sample()
        return True

    def sample(self) -> None:
        """Look at the memory now."""
        self.peak_bytes = max(self.peak_bytes, rss_bytes())

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self._start

    @property
    def per_second(self) -> float:
        """Items per second since the start."""
        return self.items / max(self.seconds, 1e-9)

    @property
    def growth_bytes(self) -> int:
        """The most resident memory seen, less what there was when warm; 0 where never warm."""
        return 0 if self._warm is None else max(0, self.peak_bytes - self._warm)
