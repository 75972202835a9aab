"""Check what callers feed a stream: chunks and runs of items.

A run of items is `[n, ...]`: time first, then the chunk's other axes in their order, without the
batch axis.

Shape letters: `B` batch (1), `T` items per chunk, `n` items of any number.
"""

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.manifest import Chunk, Tokens, item_shape
from dst.runtime.errors import NonFiniteError, StepError
from dst.runtime.tokenizer import encode_bytes

Array = npt.NDArray[np.generic]
Items = Array | bytes | bytearray | memoryview


def check_chunk(chunk: Chunk, value: Array, chunk_sizes: tuple[int, ...]) -> int:
    """Check a chunk's dtype and shape, and return its T.

    Raises:
        StepError: `chunk-type`: it is no array or a masked one, or of another dtype.
        StepError: `chunk-shape`: another shape, or a T this session does not run.
    """
    _dtype("chunk", chunk, value)
    wanted = [1 if size == "B" else size for size in chunk.shape]
    if value.ndim != len(wanted) or any(
        size not in ("T", got) for size, got in zip(wanted, value.shape, strict=True)
    ):
        cure = "; advance() takes items without a batch axis" if value.ndim < len(wanted) else ""
        raise StepError(
            f"chunk has shape {list(value.shape)}, expected {_spell(wanted)}{cure}",
            code="chunk-shape",
        )
    t: int = value.shape[chunk.time_axis] - chunk.lookahead
    if t not in chunk_sizes and chunk.lookahead:
        raise StepError(
            f"chunk has {t + chunk.lookahead} items, expected T + {chunk.lookahead} with T of "
            f"{list(chunk_sizes)}: the chunk and the {chunk.lookahead} items behind it; "
            "advance() takes any number of items",
            code="chunk-shape",
        )
    if t not in chunk_sizes:
        raise StepError(
            f"chunk has T = {t}, this session runs T = {list(chunk_sizes)}; "
            "advance() takes any number of items",
            code="chunk-shape",
        )
    return t


def check_items(chunk: Chunk, value: Items) -> Array:
    """Check a run of items and return it as an array `[n, ...]` of the contract's dtype.

    Args:
        chunk: the contract's chunk.
        value: an array `[n, ...]`, time first, without a batch axis; or bytes where the
            tokenizer is `bytes`.

    Raises:
        StepError: `chunk-type`: neither, or a masked array, or of another dtype.
        StepError: `chunk-shape`: another shape.
        StepError: `token-out-of-range`: an id outside the vocabulary.
        NonFiniteError: `input-not-finite`: a NaN or an infinity.
    """
    content = chunk.content
    tokens = isinstance(content, Tokens)
    if isinstance(value, bytes | bytearray | memoryview):
        if not (isinstance(content, Tokens) and content.tokenizer == "bytes"):
            raise StepError(
                f"items are bytes, this model reads {chunk.dtype} arrays; "
                f"{'encode them with its tokenizer' if tokens else 'use np.frombuffer'} first",
                code="chunk-type",
            )
        try:
            return encode_bytes(value).astype(chunk.dtype)
        except ValueError as error:  # a memoryview that was released
            raise StepError(f"items cannot be read: {error}", code="chunk-type") from None
    _dtype("items", chunk, value)
    item = list(item_shape(chunk))
    if value.ndim != 1 + len(item) or list(value.shape[1:]) != item:
        raise StepError(
            f"items have shape {list(value.shape)}, expected {_spell(['n', *item])} "
            f"(time first, no batch axis){_as_chunk(chunk, value)}",
            code="chunk-shape",
        )
    if isinstance(content, Tokens):
        check_tokens(value, content.vocabulary)
    elif not np.isfinite(value).all():
        place = int(np.argwhere(~np.isfinite(value))[0][0])
        raise NonFiniteError(
            f"items[{place}] holds a NaN or an infinity; nothing was read", code="input-not-finite"
        )
    return value


def check_tokens(ids: Array, vocabulary: int) -> None:
    """Check that every id lies in the vocabulary.

    Raises:
        StepError: `token-out-of-range`: one does not; the message gives the first.
    """
    flat = np.asarray(ids, np.int64).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= vocabulary):
        place = int(np.flatnonzero((flat < 0) | (flat >= vocabulary))[0])
        raise StepError(
            f"token {flat[place]} at place {place} lies outside 0 .. {vocabulary - 1}; "
            "nothing was read",
            code="token-out-of-range",
        )


def _dtype(what: str, chunk: Chunk, value: Array) -> None:
    if not isinstance(value, np.ndarray):
        raise StepError(
            f"{what} is a {type(value).__name__}, expected a numpy array of {chunk.dtype}"
            f"{_cure(what, chunk, value)}",
            code="chunk-type",
        )
    if isinstance(value, np.ma.MaskedArray):
        raise StepError(
            f"{what} is a masked array, and a model reads every value; use .filled() first",
            code="chunk-type",
        )
    if value.dtype != np.dtype(chunk.dtype):
        raise StepError(
            f"{what} has dtype {value.dtype}, expected {chunk.dtype}; use .astype('{chunk.dtype}')",
            code="chunk-type",
        )


def _cure(what: str, chunk: Chunk, value: object) -> str:
    """Say how to make an array of what came."""
    if isinstance(value, str):
        content = chunk.content
        if not isinstance(content, Tokens):
            return ""
        if content.tokenizer != "bytes":
            return "; this model reads token ids: encode the text with its tokenizer first"
        if what == "chunk":
            return "; advance() reads text as bytes: encode it first: text.encode()"
        return ", or bytes; encode it first: text.encode()"
    if isinstance(value, bytes | bytearray | memoryview):
        return "; advance() reads bytes, where the tokenizer is `bytes`"
    if hasattr(value, "detach"):  # a tensor of torch
        return f"; use .detach().cpu().numpy().astype('{chunk.dtype}')"
    return f"; use np.asarray({what}, '{chunk.dtype}')"


def _as_chunk(chunk: Chunk, value: Array) -> str:
    """Say what to do with a chunk that was given as items."""
    batch = chunk.batch_axis
    if value.ndim != len(chunk.shape) or value.shape[batch] != 1:
        return ""
    return f"; step() takes chunks, advance() items: take the batch axis off by .squeeze({batch})"


def _spell(shape: list[int | str] | list[str | int]) -> str:
    return "[" + ", ".join(str(size) for size in shape) + "]"
