"""Find items that a bundle can read: those of its golden run, or random ones.

Shape letters: `T` items per chunk, `n` items.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dst.runtime import Bundle
from dst.runtime.bundle.layout import laid_out, rows_of
from dst.runtime.bundle.manifest import Tokens, item_shape

Array = npt.NDArray[np.generic]
RANDOM_ITEMS = 1024


class Feed(NamedTuple):
    """Items `[n, ...]` to read round and round, as callers give them, and what they are."""

    what: str
    items: Array

    def chunks(self, bundle: Bundle, t: int, count: int) -> list[Array]:
        """Cut `count` chunks of T = `t` with their look-ahead, as `Stream.step` takes them."""
        chunk, items = bundle.manifest.contract.chunk, self.items
        window = np.arange(t + chunk.lookahead)
        return [laid_out(chunk, items[(n * t + window) % len(items)]) for n in range(count)]


def feed_of(bundle: Bundle) -> Feed:
    """Take the items of the longest golden run, or draw some that the contract allows.

    Tokens are drawn from the whole vocabulary; features evenly from 0 to 1, or where they are
    normalised, so that the graph sees that.
    """
    contract = bundle.manifest.contract
    runs = sorted(bundle.manifest.golden, key=lambda g: g.t * g.steps)
    if runs:
        held = bundle.tensors(runs[-1].file).get(f"t{runs[-1].t}/chunk")
        if held is not None and held.ndim == 1 + len(contract.chunk.shape):
            rows = [rows_of(contract.chunk.shape, step)[: runs[-1].t] for step in held]
            return Feed("golden run", np.concatenate(rows))
    random = np.random.default_rng(0)
    content = contract.chunk.content
    if isinstance(content, Tokens):
        ids = random.integers(0, content.vocabulary, RANDOM_ITEMS)
        return Feed("random tokens", ids.astype(contract.chunk.dtype))
    drawn = random.random((RANDOM_ITEMS, *item_shape(contract.chunk)))
    if (norm := content.normalisation) is not None:
        std, mean = (np.reshape(values, drawn.shape[1:]) for values in (norm.std, norm.mean))
        drawn = drawn * std + mean
    return Feed("random features", drawn.astype(contract.chunk.dtype))
