"""Take the items that a step is proved on, or draw random ones of the right kind.

Shape letters: ``n`` items, ``F`` features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from dst.export.errors import ExportError
from dst.export.step import Step
from dst.runtime.bundle.manifest import Tokens

Array = npt.NDArray[np.generic]

RANDOM_ITEMS = 4096
"""Items that are drawn where no data is given."""


def items_for(step: Step, data: ArrayLike | None, about: str | None) -> tuple[Array, str]:
    """Return the items to run on, ``[n, ...]`` in the chunk's dtype, and what they are.

    Raises:
        ExportError: ``data`` is empty, or holds no items of this step.
    """
    chunk = step.contract.chunk
    item = tuple(size for size in chunk.shape if not isinstance(size, str))
    if data is None:
        return _random_items(
            step, (RANDOM_ITEMS, *item)
        ), about or "random items: no data was given"
    items = np.asarray(data)
    if len(items) == 0:
        raise ExportError("export: data is empty; give real items to prove the graphs on")
    if items.shape[1:] != item:
        shape = ", ".join(["n", *map(str, item)])
        raise ExportError(
            f"export: data has the shape {list(items.shape)}; expected one row for each item, "
            f"[{shape}], without a batch axis"
        )
    items = items.astype(chunk.dtype)
    if isinstance(chunk.content, Tokens):
        worst = items.min() if items.min() < 0 else items.max()
        if not 0 <= worst < chunk.content.vocabulary:
            raise ExportError(
                f"export: data holds the id {worst}; expected 0 to {chunk.content.vocabulary - 1}"
            )
    elif not np.isfinite(items).all():
        raise ExportError("export: data holds a NaN or an infinity; the runtime refuses such items")
    return items, about or "items given by the caller"


def _random_items(step: Step, shape: tuple[int, ...]) -> Array:
    chunk, source = step.contract.chunk, np.random.default_rng(0)
    if isinstance(chunk.content, Tokens):
        return source.integers(chunk.content.vocabulary, size=shape).astype(chunk.dtype)
    if step.example is not None:
        return source.choice(step.example.flatten().numpy(), shape)
    return source.normal(size=shape).astype(chunk.dtype)
