"""Check what callers feed a stream, and normalise chunks for a graph.

A stream reads chunks, items (`[n, ...]`: time first, then the chunk's other axes in their order,
without the batch axis), and inputs that it is given once, when it starts.

Shape letters: `B` batch, `T` items per chunk, `L` lookback, `A` look-ahead, `n` items of any
number.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime.bundle.layout import fixed, sized
from dst.runtime.bundle.manifest import (
    Chunk,
    Contract,
    StreamInput,
    Tokens,
    item_shape,
    normalised_in,
    window,
)
from dst.runtime.errors import NonFiniteError, SessionError, StepError
from dst.runtime.execution.buffers import Floats, finite, pieces
from dst.runtime.tokenizer import encode_bytes

Array = npt.NDArray[np.generic]
Items = Array | bytes | bytearray | memoryview

# After a graph has run, the caches hold its weights and none of this code: a call into numpy then
# costs ten times what it costs alone, and a reduction twice a dot product or a list. Hence the
# check of few tokens by a list, and that of floats by `finite` (examples/bench/step_overhead.py).
FEW_TOKENS = 64
_largest = np.maximum.reduce

_UNSIGNED = {1: np.uint8, 4: np.uint32, 8: np.uint64}


class ChunkInput:
    """The buffers of a step's chunk, for B streams, made once.

    Attributes:
        raw: lookback, chunk and look-ahead as callers give them, L + T + A items on the time axis.
        feed: the same as the graph takes them; `raw` itself where nothing is normalised.
        vocabulary: how many ids there are; 0 for features.
    """

    __slots__ = (
        *("_few", "_floats", "_mean", "_std", "_unsigned", "_wide"),
        *("feed", "raw", "vocabulary"),
    )

    def __init__(self, chunk: Chunk, t: int, batch: int = 1) -> None:
        self.raw: Array = np.zeros(sized(chunk.shape, window(chunk, t), batch), chunk.dtype)
        self.feed = self.raw
        self.vocabulary = 0
        self._unsigned: Array | None = None
        self._mean: Array | None = None
        self._std: Array | None = None
        self._wide = self.raw
        self._few = self.raw.size <= FEW_TOKENS
        content = chunk.content
        if isinstance(content, Tokens):
            self.vocabulary = content.vocabulary
            if not (self.raw.itemsize == 1 and content.vocabulary == 256):  # all ids are valid
                # a negative id reads as a huge unsigned one: one comparison finds both
                self._unsigned = self.raw.reshape(-1).view(_UNSIGNED[self.raw.itemsize])
        elif content.normalisation is not None:
            wide, row = normalised_in(chunk), sized(chunk.shape, 1)
            self.feed = np.zeros_like(self.raw)
            same = wide == chunk.dtype
            self._wide = self.feed if same else np.zeros(self.raw.shape, wide)
            self._mean = np.asarray(content.normalisation.mean, wide).reshape(row)
            self._std = np.asarray(content.normalisation.std, wide).reshape(row)
        self._floats: list[Floats] = pieces(self.feed)

    def readable(self) -> bool:
        """Bring `feed` up to date with `raw`, and say whether a graph can read all of it.

        It cannot read ids outside the vocabulary, NaN and infinity.
        """
        ids = self._unsigned
        if ids is not None:
            top = max(ids.tolist()) if self._few else _largest(ids)
            return bool(top < self.vocabulary)
        if self._mean is not None and self._std is not None:
            with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
                np.subtract(self.raw, self._mean, out=self._wide)
                np.divide(self._wide, self._std, out=self.feed, casting="same_kind")
        return finite(self._floats)


# --- chunks and items -----------------------------------------------------------------------


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
    """Check items and return them as an array `[n, ...]` of the contract's dtype.

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
    if flat.size and int(flat.view(np.uint64).max()) >= vocabulary:  # below 0 is huge there
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
    if _masked(value):
        raise StepError(
            f"{what} is a masked array, and a model reads every value; use .filled() first",
            code="chunk-type",
        )
    if value.dtype != np.dtype(chunk.dtype):
        raise StepError(
            f"{what} has dtype {value.dtype}, expected {chunk.dtype}; use .astype('{chunk.dtype}')",
            code="chunk-type",
        )


def _masked(value: Array) -> bool:
    # a plain array needs no look at `np.ma`, which numpy imports when it is first asked for
    return type(value) is not np.ndarray and isinstance(value, np.ma.MaskedArray)


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


# --- the inputs of a stream -----------------------------------------------------------------


class GivenInputs(NamedTuple):
    """The inputs of one stream; what is in here never changes, so that streams may share it.

    Attributes:
        arrays: input name -> read-only array in the contract's shape with B = 1.
        values: the same, as the graphs are bound to it.
    """

    arrays: Mapping[str, Array]
    values: Mapping[str, ort.OrtValue]

    @staticmethod
    def of(contract: Contract, inputs: Mapping[str, Array] | None) -> "GivenInputs":
        """Check what a caller gives and copy it.

        Args:
            contract: names the inputs.
            inputs: input name -> array in the contract's dtype and shape, with B = 1 or without
                the batch axis; None is the same as nothing.

        Raises:
            SessionError: one is missing, unknown, of another dtype or shape, or not finite.
        """
        wanted = {wants.input: wants for wants in contract.stream_inputs}
        held: Mapping[str, Array] = {} if inputs is None else inputs
        if not isinstance(held, Mapping):
            raise SessionError(
                f"inputs is a {type(held).__name__}, expected a dict of input name -> array",
                code="stream-input-type",
            )
        for name in held:
            if name not in wanted:
                takes = ", ".join(_spelled(wants) for wants in wanted.values()) or "none"
                raise SessionError(
                    f"stream input {name!r} is not known; this model takes {takes}",
                    code="stream-input-unknown",
                )
        for name, wants in wanted.items():
            if name not in held:
                raise SessionError(
                    f"stream input {_spelled(wants)} is missing; it is given once when a stream "
                    f'starts: session.stream(inputs={{"{name}": array}})',
                    code="stream-input-missing",
                )
        if not wanted:
            return NO_INPUTS
        arrays = {name: _checked(wants, held[name]) for name, wants in wanted.items()}
        values = {n: ort.OrtValue.ortvalue_from_numpy(array) for n, array in arrays.items()}
        for array in arrays.values():
            array.flags.writeable = False
        return GivenInputs(arrays, values)


NO_INPUTS = GivenInputs({}, {})


def _checked(wants: StreamInput, value: Array) -> Array:
    """Return a copy of one input in the contract's shape with B = 1."""
    name, shape = wants.input, sized(wants.shape, 0)
    if not isinstance(value, np.ndarray) or _masked(value):
        raise SessionError(
            f"stream input `{name}` is a {type(value).__name__}, expected a numpy array: "
            f"np.asarray(value, '{wants.dtype}')",
            code="stream-input-type",
        )
    if value.dtype != np.dtype(wants.dtype):
        raise SessionError(
            f"stream input `{name}` has dtype {value.dtype}, expected {wants.dtype}; "
            f"use .astype('{wants.dtype}')",
            code="stream-input-type",
        )
    row = fixed(wants.shape)
    if value.shape not in (shape, row):
        other = f", or {list(row)} without the batch axis" if row != shape else ""
        raise SessionError(
            f"stream input `{name}` has shape {list(value.shape)}, expected {list(shape)}{other}",
            code="stream-input-shape",
        )
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise SessionError(
            f"stream input `{name}` holds a NaN or an infinity", code="stream-input-not-finite"
        )
    return np.array(value.reshape(shape), order="C")


def _spelled(wants: StreamInput) -> str:
    return f"`{wants.input}` ({wants.dtype} {list(sized(wants.shape, 0))})"
