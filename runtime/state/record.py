"""Hold everything a stream is in one record; turn it into the bytes of a file, and back.

The bytes are one checksummed safetensors file, whose layout FORMAT.md tells. The header is written
here, not by a library, because the checksum must stand at a fixed place and the same state must
give the same bytes. `dst.runtime.state.file` and `dst.runtime.store` keep them.
"""

import io
import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128

from dst.runtime.bundle.validation import MAX_STREAM_BYTES
from dst.runtime.errors import (
    NonFiniteError,
    StateCorruptError,
    StateError,
    StateMismatchError,
    shown,
)
from dst.runtime.state.header import (
    DTYPE_OF,
    DTYPES,
    MOST,
    Metadata,
    Tensor,
    Version,
    read_constants,
    read_count,
    spelled,
)
from dst.runtime.state.sampler import Sampler

STATE_FORMAT = "dst-state"
STATE_VERSION = "2"
MAX_STATE_BYTES = 2 * MAX_STREAM_BYTES

Array = npt.NDArray[np.generic]

_OPENING = b'{"__metadata__":{"checksum":"'
_SUM_AT = 8 + len(_OPENING)
_BLANK = b"0" * 32
_VERSION_1 = re.compile(rb'[0-9a-f]{64}","format":"dst-state","version":"1"')


class Identity(msgspec.Struct, frozen=True):
    """Whose state it is: the ids, the precision and the constants of the bundle that made it.

    `constants` are told by `dst.runtime.bundle.constants.constant_mark`, by name. They are empty
    where there are none, and in a state that was saved before constants were.
    """

    model_id: str
    state_hash: str
    bundle_id: str
    precision: str
    constants: Mapping[str, str] = {}


class Saved(msgspec.Struct, frozen=True):
    """Everything a stream is, in memory: for a file, a store, a message, or to go back to.

    Attributes:
        identity: the bundle that made it.
        items_consumed: items in the state.
        seed: the sampler's seed, or None where nothing was sampled.
        draws: numbers drawn from it.
        state: the state tensors by input name, B = 1.
        pending: the items that wait for their chunk, `[n, ...]`.
        lookback: the items before the next chunk, `[L, ...]`.
        inputs: what the stream was given when it started, by input name.

    Examples:
        >>> from dst.runtime import Saved, Session
        >>> session = Session.open("text")
        >>> stream = session.stream()
        >>> outputs = stream.advance(b"The quick brown fox")
        >>> data = stream.saved().to_bytes()
        >>> session.stream(Saved.from_bytes(data)).items_consumed == stream.items_consumed
        True
    """

    identity: Identity
    items_consumed: int
    seed: int | None
    draws: int
    state: Mapping[str, Array]
    pending: Array
    lookback: Array
    inputs: Mapping[str, Array] = {}

    @property
    def sampler(self) -> Sampler | None:
        """The random source: seed and draws; None where nothing was sampled."""
        return None if self.seed is None else Sampler(self.seed, self.draws)

    def to_bytes(self) -> bytes:
        """Return the bytes that `Stream.save` writes to a file, for a database or a message.

        Raises:
            NonFiniteError: `state-not-finite`: a tensor holds a NaN or an infinity.
            StateError: `state-numbers`: a counter has passed what a state can tell.
        """
        check_finite(self, "saved state", "", "nothing was written")
        return pack(self)

    @staticmethod
    def from_bytes(data: bytes | bytearray | memoryview, where: str = "saved state") -> "Saved":
        """Read what `to_bytes` returned, or the bytes of a file that `Stream.save` has written.

        Whether the state belongs to a model is checked when a stream is made of it. Messages of
        errors call the bytes `where`.

        Raises:
            StateCorruptError: not a saved state, or any bit of it has changed.
            StateMismatchError: `state-version`: a version this runtime does not read.
            StateError: not bytes.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise StateError(
                f"{where}: is a {type(data).__name__}, expected bytes as to_bytes() returned them",
                code="not-bytes",
            )
        try:
            return unpack(bytes(data))
        except StateError as error:
            raise error.within(where) from None


Snapshot = Saved
"""What `Stream.snapshot` returns for `Stream.restore`: another name of `Saved`.

`Stream.saved` alone has found the state finite.
"""


def check_finite(saved: Saved, where: str, of: str, outcome: str) -> None:
    """Raise unless every float of a record is finite.

    The message begins with `where`, says `of` whom the tensor is, and ends with the `outcome`.

    Raises:
        NonFiniteError: `state-not-finite`: one is not.
    """
    tensors = {**saved.state, **saved.inputs}
    tensors |= {"pending": saved.pending, "lookback": saved.lookback}
    for name, value in tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise NonFiniteError(
                f"{where}: `{name}`{of} holds a NaN or an infinity; {outcome}",
                code="state-not-finite",
            )


# --- bytes ---------------------------------------------------------------------------------------


class _Span(NamedTuple):
    """One tensor of the file, as its header describes it."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


def pack(saved: Saved) -> bytes:
    """Return the bytes of a saved-state file; equal records give equal bytes."""
    return b"".join(parts_of(saved))


def parts_of(saved: Saved) -> list[bytes | memoryview]:
    """Return those bytes in parts: the header, then each tensor where it lies, uncopied.

    Raises:
        StateError: `state-numbers`: a counter has passed what a state can tell.
    """
    for name, number in (("items_consumed", saved.items_consumed), ("draws", saved.draws)):
        if number > MOST[name]:
            raise StateError(
                f"saved state: {name} is {number}, expected at most {MOST[name]}; reset the stream",
                code="state-numbers",
            )
    tensors = {"pending": saved.pending, "lookback": saved.lookback}
    tensors |= {f"state/{name}": value for name, value in saved.state.items()}
    tensors |= {f"stream/{name}": value for name, value in saved.inputs.items()}
    identity = msgspec.structs.asdict(saved.identity)
    constants = identity.pop("constants")
    header: dict[str, object] = {
        "__metadata__": {
            "checksum": _BLANK.decode(),
            "format": STATE_FORMAT,
            "version": STATE_VERSION,
            **identity,
            "items_consumed": str(saved.items_consumed),
            "seed": "" if saved.seed is None else str(saved.seed),
            "draws": str(saved.draws),
            **({"constants": spelled(constants)} if constants else {}),
        }
    }
    parts: list[memoryview] = []
    end = 0
    # Widest dtype first, so that every tensor lies at a multiple of its item size.
    for name, value in sorted(tensors.items(), key=lambda t: (-t[1].dtype.itemsize, t[0])):
        data = _bytes_in(np.ascontiguousarray(value))
        header[name] = {
            "dtype": DTYPES[value.dtype.name],
            "shape": value.shape,
            "data_offsets": (end, end + data.nbytes),
        }
        end += data.nbytes
        parts.append(data)
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return [head[:_SUM_AT] + _checksum(head, parts) + head[_SUM_AT + len(_BLANK) :], *parts]


def unpack(data: bytes) -> Saved:
    """Read the bytes of a saved-state file, as `unpack_from` does."""
    return unpack_from(io.BytesIO(data), len(data), {})


def unpack_from(
    file: io.BufferedReader | io.BytesIO, size: int, room: Mapping[str, Array]
) -> Saved:
    """Read a saved-state file of `size` bytes that stands at its beginning.

    `room` holds contiguous arrays by state input. The state is read into those whose dtype and
    shape it has, and is then made of them; on failure they hold anything.

    Raises:
        StateCorruptError: not a saved state, or any bit of it has changed.
        StateCorruptError: `state-too-large`: it has more than `MAX_STATE_BYTES`.
        StateMismatchError: `state-version`: a version this runtime does not read.
        OSError: the file cannot be read.
    """
    check_size(size)
    head = file.read(_SUM_AT)
    if head[8:] != _OPENING:
        raise StateCorruptError(
            "it is no saved state, or its beginning was altered", code="state-header"
        )
    length = min(size, 8 + int.from_bytes(head[:8], "little"))
    head += file.read(max(0, length - _SUM_AT))
    spans, record = _claim(head, size - len(head))
    tensors = [_room_for(span, room) for span in spans]
    for tensor in tensors:
        if file.readinto(_bytes_in(tensor)) != tensor.nbytes:
            raise StateCorruptError("it became shorter while it was read", code="state-checksum")
    told = head[_SUM_AT : _SUM_AT + len(_BLANK)]
    if _checksum(head, [_bytes_in(tensor) for tensor in tensors]) != told:
        if _VERSION_1.match(head, _SUM_AT):
            raise _other_version("1")
        raise StateCorruptError("its bytes do not match its checksum", code="state-checksum")
    if isinstance(record, StateError):
        raise record
    named = {span.name: tensor for span, tensor in zip(spans, tensors, strict=True)}
    return msgspec.structs.replace(
        record,
        pending=named.pop("pending"),
        lookback=named.pop("lookback"),
        state=_below("state/", named),
        inputs=_below("stream/", named),
    )


def check_size(size: int, where: str = "") -> None:
    """Refuse a saved state that is larger than the format allows, before it takes memory.

    The message begins with `where`.

    Raises:
        StateCorruptError: `state-too-large`: it is.
    """
    if size > MAX_STATE_BYTES:
        raise StateCorruptError(
            f"{where}it has {size} bytes or more, expected at most {MAX_STATE_BYTES}",
            code="state-too-large",
        )


def _claim(head: bytes, rest: int) -> tuple[list[_Span], Saved | StateError]:
    """Read what a header says of the `rest` bytes behind it, unproved before the checksum is.

    Returns:
        Spans that fill those bytes, in this order; and the record without its tensors, or what is
        wrong with the header.
    """
    everything = [_Span("", np.dtype(np.uint8), (max(0, rest),))]
    try:
        header = msgspec.json.decode(head[8:], type=dict[str, msgspec.Raw])
        plain = header.pop("__metadata__")
        version = msgspec.json.decode(plain, type=Version).version
        if version != STATE_VERSION:
            return everything, _other_version(version)
        metadata = msgspec.json.decode(plain, type=Metadata)
        spans = _spans(header, rest)
        missing = np.empty(0, np.uint8)
        constants = read_constants(metadata.constants) if metadata.constants else {}
        ids = metadata.model_id, metadata.state_hash, metadata.bundle_id, metadata.precision
        record = Saved(
            identity=Identity(*ids, constants),
            items_consumed=read_count("items_consumed", metadata.items_consumed),
            seed=read_count("seed", metadata.seed) if metadata.seed else None,
            draws=read_count("draws", metadata.draws),
            pending=missing,
            lookback=missing,
            state={},
        )
    except (ValueError, KeyError, RecursionError, msgspec.MsgspecError) as error:
        why = f"its checksum holds but its content does not: {shown(error)}"
        return everything, StateCorruptError(why, code="state-header")
    return spans, record


def _spans(header: Mapping[str, msgspec.Raw], rest: int) -> list[_Span]:
    """Read where the tensors lie; they must fill the file, one after the other.

    Raises:
        ValueError: they do not, or one is unknown or missing.
        KeyError: one is of a dtype that no state has.
    """
    told = {name: msgspec.json.decode(raw, type=Tensor) for name, raw in header.items()}
    if absent := sorted({"pending", "lookback"} - told.keys()):
        raise ValueError(f"it has no tensor {absent[0]!r}")
    spans: list[_Span] = []
    end = 0
    for name, tensor in sorted(told.items(), key=lambda item: item[1].data_offsets):
        if not name.startswith(("state/", "stream/")) and name not in ("pending", "lookback"):
            raise ValueError(f"it holds an unknown tensor {name!r}")
        dtype = DTYPE_OF[tensor.dtype]
        start, stop = tensor.data_offsets
        size = math.prod(tensor.shape) * dtype.itemsize
        # numpy takes no array whose axes other than those of length 0 are too long
        longest = math.prod(length or 1 for length in tensor.shape) * dtype.itemsize
        if start != end or stop - start != size or longest > MAX_STREAM_BYTES:
            raise ValueError(f"{name!r} lies at {start} .. {stop}, which does not fit its shape")
        spans.append(_Span(name, dtype, tensor.shape))
        end = stop
    if end != rest:
        raise ValueError(f"its tensors end at {end}, its bytes at {rest}")
    return spans


def _below(prefix: str, named: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {n.removeprefix(prefix): value for n, value in named.items() if n.startswith(prefix)}


def _checksum(head: bytes, body: Iterable[memoryview]) -> bytes:
    """Return the checksum of a file, whatever stands in the place of its own."""
    found = xxh3_128(head[:_SUM_AT] + _BLANK + head[_SUM_AT + len(_BLANK) :])
    for part in body:
        found.update(part)
    return found.hexdigest().encode()


def _room_for(span: _Span, room: Mapping[str, Array]) -> Array:
    """Return the array that is offered for a tensor, if it fits, or a new one."""
    part, _, name = span.name.partition("/")
    offered = room.get(name) if part == "state" else None
    if offered is not None and (offered.dtype, offered.shape) == (span.dtype, span.shape):
        return offered
    return np.empty(span.shape, span.dtype)


def _bytes_in(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _other_version(version: str | None) -> StateMismatchError:
    return StateMismatchError(
        f"its format version is {shown(version):.40}; this runtime reads {STATE_VERSION}",
        code="state-version",
    )
