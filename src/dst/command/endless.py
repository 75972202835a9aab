"""Input without an end: a contract and perhaps a file in, chunks to be fed round and round out.

Shape letters: `n` chunks, `B` batch (1), `T` items per chunk.
"""

from itertools import islice

import numpy as np
import numpy.typing as npt

from dst.command.demo import held_out
from dst.command.errors import WrongUseError
from dst.command.rows import item_blocks
from dst.runtime.manifest import Chunk, Tokens, item_shape
from dst.runtime.state import sized

Array = npt.NDArray[np.generic]

INPUT_ITEMS = 1 << 16


def endless(chunk: Chunk, t: int, data: str | None) -> Array:
    """Make the chunks that are fed round and round, `[n, *chunk shape]` with B = 1.

    They are cut from the file `data` if there is one; else from the held-out text for a model of
    bytes, and drawn at random for any other: tokens evenly, features from a normal distribution
    with the mean and deviation that the contract's normalisation names.

    Raises:
        OSError: the data cannot be read.
        WrongUseError: the data does not fit the model or holds less than one chunk.
    """
    count = max(1, INPUT_ITEMS // t)
    random = np.random.default_rng(0)
    content = chunk.content
    item = item_shape(chunk)
    items: Array
    if data is not None:
        blocks = islice(item_blocks(data, chunk), -(-INPUT_ITEMS // 1024))
        items = np.concatenate([np.zeros((0, *item), chunk.dtype), *blocks])[:INPUT_ITEMS]
    elif isinstance(content, Tokens):
        text = content.tokenizer == "bytes"
        items = (
            np.frombuffer(held_out(), np.uint8)[: count * t]
            if text
            else random.integers(0, content.vocabulary, count * t)
        )
    else:
        drawn = random.normal(size=(count * t, *item))
        norm = content.normalisation
        items = (
            drawn
            if norm is None
            else drawn * np.reshape(norm.std, item) + np.reshape(norm.mean, item)
        )
    count = min(count, len(items) // t)
    if not count:
        raise WrongUseError(f"--data {data}: holds {len(items)} items, one chunk takes {t}")
    rows = items[: count * t].astype(chunk.dtype).reshape(count, t, *item)
    # (n, T, ...) -> (n, T, B = 1, ...) or the like: the batch axis goes where the contract has it
    first, second = sorted((chunk.batch_axis, chunk.time_axis))
    rest = [axis for axis in range(len(chunk.shape)) if axis not in (first, second)]
    placed = np.empty((count, *sized(chunk.shape, t)), chunk.dtype)
    order = (0, chunk.batch_axis + 1, chunk.time_axis + 1, *(axis + 1 for axis in rest))
    placed.transpose(order)[...] = rows[:, None]
    return placed
