"""Input without an end: a contract and perhaps a file in, chunks to be fed round and round out.

Shape letters: `n` chunks, `B` batch (1), `T` items per chunk.
"""

from itertools import islice

import numpy as np
import numpy.typing as npt

from dst.cli.errors import WrongUseError
from dst.cli.inputs.rows import item_blocks
from dst.cli.verbs.demo import held_out
from dst.runtime.bundle.layout import laid_out
from dst.runtime.bundle.manifest import Chunk, Tokens, item_shape

Array = npt.NDArray[np.generic]

INPUT_ITEMS = 1 << 16


def endless(chunk: Chunk, t: int, data: str | None) -> Array:
    """Make the chunks that are fed round and round, `[n, ...]`, each as `Stream.step` takes it.

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
    need = count * t + chunk.lookahead
    items: Array
    if data is not None:
        blocks = islice(item_blocks(data, chunk), -(-INPUT_ITEMS // 1024))
        items = np.concatenate([np.zeros((0, *item), chunk.dtype), *blocks])[:INPUT_ITEMS]
    elif isinstance(content, Tokens):
        text = content.tokenizer == "bytes"
        items = (
            np.frombuffer(held_out(), np.uint8)[:need]
            if text
            else random.integers(0, content.vocabulary, need)
        )
    else:
        drawn = random.normal(size=(need, *item))
        norm = content.normalisation
        items = (
            drawn
            if norm is None
            else drawn * np.reshape(norm.std, item) + np.reshape(norm.mean, item)
        )
    count = min(count, (len(items) - chunk.lookahead) // t)
    if count < 1:
        raise WrongUseError(
            f"--data {data}: holds {len(items)} items, one chunk takes {t + chunk.lookahead}"
        )
    rows = items.astype(chunk.dtype)
    return np.stack(
        [laid_out(chunk, rows[at * t : (at + 1) * t + chunk.lookahead]) for at in range(count)]
    )
