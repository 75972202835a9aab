"""Round each weight once for all graphs of a bundle, by what calibration saw of its input.

Shape letters: ``K`` inputs and ``N`` outputs of a product, ``V`` rows of a table, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from dst.quantize.assign import Choice
from dst.quantize.errors import QuantizeError
from dst.quantize.find_weights import Floats, WeightUse
from dst.quantize.recipe import Recipe
from dst.quantize.rewriting.rewrite import NewWeight
from dst.quantize.rounding import (
    Rounded,
    by_block,
    by_block_compensated,
    by_block_search,
    by_column,
    by_row,
    without_idle_scales,
)

_HIGHEST = 255
"""Of a rounded activation."""


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


def result_key(key: str) -> str:
    """Under which key calibration keeps what an operator gives, where it is looked at."""
    return f"{key}.result"


@dataclass(slots=True)
class RoundedWeights:
    """The weights of one bundle in their new forms.

    Attributes:
        recipe: block size, method and bits.
        shared: keys of the tables whose numbers a product reads.
        seen: key of a weight -> what calibration saw of its input.
        found: key and form -> numbers.
    """

    recipe: Recipe
    shared: frozenset[str]
    seen: Mapping[str, Seen]
    found: dict[tuple[str, str], Rounded] = field(default_factory=dict)

    def in_form(self, use: WeightUse, choice: Choice, weight: Floats) -> NewWeight:
        """Give a weight (K, N), or a table (V, D), in its chosen form, under the use's names."""
        form, tied = choice.form, bool(choice.table)
        held = weight.T if tied else weight
        if form == "float16":
            half, scale = held.astype(np.float16), np.empty(0, np.float32)
            return NewWeight(form, use.weight, half, scale, turned=tied)
        if tied or choice.role == "embedding":
            key = (choice.table or use.key, "row")
            bits = self.recipe.weight_bits if key[0] in self.shared else 8
            rounds = partial(by_row, held, bits)
        elif form in ("int4-block", "int4-rows", "int8-block") and not choice.block:
            width = 8 if form == "int8-block" else 4
            key = (use.key, f"{width}-bit blocks")
            rounds = partial(self._blocks, use.key, weight, width)
        else:
            key = (use.key, "column")
            rounds = partial(by_column, weight, self.recipe.weight_bits)
        if key not in self.found:
            self.found[key] = rounds()
        static = form == "int8-static"
        return NewWeight(
            form,
            use.weight,
            self.found[key].values,
            self.found[key].scale,
            block=choice.block or self.recipe.block,
            turned=tied,
            activation=self.seen_of(use.key).scale_and_zero() if static else (1.0, 0),
        )

    def _blocks(self, key: str, weight: Floats, bits: int) -> Rounded:
        block, method = self.recipe.block, self.recipe.method
        if method == "search":
            seen = self.seen.get(key)
            importance = None if seen is None else seen.importance
            found = by_block_search(weight, bits, block, importance)
        elif method == "gptq":
            found = by_block_compensated(weight, bits, block, self.seen_of(key).moments)
        else:
            found = by_block(weight, bits, block)
        return without_idle_scales(found, block)

    def ranges(self, key: str) -> list[tuple[float, int]]:
        """Scale and zero point of what a convolution reads and of what it gives, by its key."""
        return [self.seen_of(name).scale_and_zero() for name in (key, result_key(key))]

    def seen_of(self, key: str) -> Seen:
        """Say what calibration saw of the input of a weight, by its key.

        Raises:
            QuantizeError: `calibration`: nothing.
        """
        if key not in self.seen:
            raise QuantizeError(
                "the recipe needs calibration, and none was given; give data", code="calibration"
            )
        return self.seen[key]
