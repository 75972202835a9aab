"""Collect the range and the second moments of a product's inputs.

Shape letters: ``K`` inputs of a product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
_HIGHEST = 255


@dataclass(slots=True)
class Seen:
    """What was seen of one product's input.

    Attributes:
        low: the least value, at most 0.
        high: the greatest value, at least 0.
        moments: (K, K), the mean of x x^T over items, or None where nobody asked for it.
        items: how many items ``moments`` is the mean of.
    """

    low: float = 0.0
    high: float = 0.0
    moments: npt.NDArray[np.float64] | None = None
    items: int = 0

    def add(self, values: Floats, moments: bool) -> None:
        """Take in activations ``(..., K)``."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        if not moments:
            return
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        total = rows.T @ rows
        if self.moments is None:
            self.moments = np.zeros_like(total)
        self.moments = (self.moments * self.items + total) / (self.items + len(rows))
        self.items += len(rows)

    @property
    def importance(self) -> Floats | None:
        """(K,), the mean square of each input, or None."""
        if self.moments is None:
            return None
        return np.diagonal(self.moments).astype(np.float32)

    def scale_and_zero(self) -> tuple[float, int]:
        """The 8-bit scale and zero point that reach from ``low`` to ``high``."""
        reach = self.high - self.low
        scale = reach / _HIGHEST if reach > 0 else 1.0
        return scale, int(np.clip(np.rint(-self.low / scale), 0, _HIGHEST))
