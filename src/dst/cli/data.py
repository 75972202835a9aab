"""Find items for a model to read: those of a file, the held-out text, or random ones.

Shape letters: `n` items or chunks, `B` batch (1), `T` items per chunk.
"""

from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

import dst
from dst.cli.errors import WrongUseError
from dst.cli.inputs.rows import item_blocks
from dst.cli.inputs.source import tokenizer_for
from dst.evaluate.inputs import feed_of
from dst.runtime import Bundle, TextTokenizer
from dst.runtime.bundle.layout import laid_out
from dst.runtime.bundle.manifest import Chunk, Tokens, item_shape

Array = npt.NDArray[np.generic]

REPEATED_ITEMS = 1 << 16
HELD_OUT = "modules of Python's standard library"


def held_out() -> bytes:
    """Return the held-out text that comes with the package: Python source, about 1 MB."""
    return (Path(dst.__file__).parent / "heldout" / "stdlib.txt").read_bytes()


def held_out_ids(chunk: Chunk) -> Array | None:
    """Return the held-out text as token ids `[n]`; None where the model reads no bytes."""
    content = chunk.content
    if not (isinstance(content, Tokens) and content.tokenizer == "bytes"):
        return None
    return np.frombuffer(held_out(), np.uint8).astype(chunk.dtype)


def proof_items(
    data: str | None, chunk: Chunk, tokenizer: TextTokenizer | None = None
) -> tuple[Array | None, str | None]:
    """Read the items to prove graphs on, and say what they are; None for random ones."""
    if data is not None:
        found = read(data, chunk, tokenizer)
        if not len(found):
            raise WrongUseError(f"--data {data}: is empty")
        return found, Path(data).name
    if tokenizer is not None:
        ids = tokenizer.encode(held_out().decode())
        return (ids, HELD_OUT) if len(ids) else (None, None)
    text = held_out_ids(chunk)
    return text, None if text is None else f"{HELD_OUT}, not trained on"


def read(
    data: str, chunk: Chunk, tokenizer: TextTokenizer | None = None, most: int | None = None
) -> Array:
    """Read the items `[n, ...]` of an input, at most so many."""
    found, count = [np.zeros((0, *item_shape(chunk)), chunk.dtype)], 0
    for block in item_blocks(data, chunk, tokenizer=tokenizer):
        found.append(block)
        count += len(block)
        if most is not None and count >= most:
            break
    return np.concatenate(found)[:most]


def items_of(bundle: Bundle, data: str | None) -> tuple[Array, str]:
    """Read all data; or without any held-out text for bytes, or what the bundle itself brings.

    Returned are items `[n, ...]`, at least 2, and what they are, for the reader.
    """
    chunk = bundle.manifest.contract.chunk
    if data is not None:
        found = read(data, chunk, tokenizer_for(bundle))
        if len(found) < 2:
            raise WrongUseError(f"{data}: expected at least 2 items to read")
        return found, PurePath(data).name if data != "-" else "standard input"
    text = held_out_ids(chunk)
    if text is not None:
        return text, "held-out Python source"
    feed = feed_of(bundle)
    return feed.items, feed.what


def chunks_to_repeat(chunk: Chunk, t: int, data: str | None) -> Array:
    """Make the chunks that are fed round and round, `[n, ...]`, each as `Stream.step` takes it.

    They are cut from the file `data` if there is one; else from the held-out text for a model of
    bytes, and drawn at random for any other: tokens evenly, features from a normal distribution
    with the mean and deviation that the contract's normalisation names.
    """
    count = max(1, REPEATED_ITEMS // t)
    items = _items_to_repeat(chunk, count * t + chunk.lookahead, data)
    count = min(count, (len(items) - chunk.lookahead) // t)
    if count < 1:
        raise WrongUseError(
            f"--data {data}: holds {len(items)} items, one chunk takes {t + chunk.lookahead}"
        )
    rows, ahead = items.astype(chunk.dtype), chunk.lookahead
    return np.stack([laid_out(chunk, rows[n * t : (n + 1) * t + ahead]) for n in range(count)])


def _items_to_repeat(chunk: Chunk, need: int, data: str | None) -> Array:
    content, item = chunk.content, item_shape(chunk)
    if data is not None:
        return read(data, chunk, most=REPEATED_ITEMS)
    text = held_out_ids(chunk)
    if text is not None:
        return text[:need]
    random = np.random.default_rng(0)
    if isinstance(content, Tokens):
        return random.integers(0, content.vocabulary, need)
    drawn = random.normal(size=(need, *item))
    norm = content.normalisation
    if norm is None:
        return drawn
    return np.asarray(drawn * np.reshape(norm.std, item) + np.reshape(norm.mean, item))
