"""Turn a header of texts and named tensors into one checksummed safetensors file, and back.

FORMAT.md tells the layout. The header is written here, not by a library, because the checksum
must stand at a fixed place and the same state must give the same bytes.
"""

import io
import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128

from dst.runtime.bundle.schema import MAX_AXES, Count, Hash, Name
from dst.runtime.bundle.validation import MAX_STREAM_BYTES
from dst.runtime.errors import StateCorruptError, StateError, StateMismatchError, shown

STATE_FORMAT = "dst-state"
STATE_VERSION = "2"

Array = npt.NDArray[np.generic]

_OPENING = b'{"__metadata__":{"checksum":"'
_SUM_AT = 8 + len(_OPENING)
_BLANK = b"0" * 32
_VERSION_1 = re.compile(rb'[0-9a-f]{64}","format":"dst-state","version":"1"')
_DTYPES = {
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "bool": "BOOL",
}
_BY_CODE = {code: np.dtype(name) for name, code in _DTYPES.items()}


class _Version(msgspec.Struct, frozen=True):
    version: str | None = None


class Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The texts of a header; `dst.runtime.state.record` knows what they mean."""

    checksum: str
    format: Literal["dst-state"]
    version: str
    model_id: Hash
    state_hash: Hash
    bundle_id: Hash
    precision: Name
    items_consumed: str
    seed: str
    draws: str
    constants: str = ""


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=MAX_AXES)]
    data_offsets: tuple[Count, Count]


class _Span(NamedTuple):
    """One tensor of the file, as its header describes it."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]


class _Claim(NamedTuple):
    """What a header says of its file; not believed before the checksum was found right.

    Attributes:
        spans: they fill what lies behind the header, in this order.
        metadata: its texts; or what is wrong with the header.
    """

    spans: list[_Span]
    metadata: Metadata | StateError


def file_parts(texts: Mapping[str, str], tensors: Mapping[str, Array]) -> list[bytes | memoryview]:
    """Return the bytes of a file in parts: the header, then each tensor where it lies, uncopied.

    Args:
        texts: the fields of `Metadata` between `version` and the end, in their order.
        tensors: their names and values.
    """
    start = {"checksum": _BLANK.decode(), "format": STATE_FORMAT, "version": STATE_VERSION}
    header: dict[str, object] = {"__metadata__": {**start, **texts}}
    parts: list[memoryview] = []
    end = 0
    # Widest dtype first, so that every tensor lies at a multiple of its item size.
    for name, value in sorted(tensors.items(), key=lambda t: (-t[1].dtype.itemsize, t[0])):
        data = _bytes_in(np.ascontiguousarray(value))
        header[name] = {
            "dtype": _DTYPES[value.dtype.name],
            "shape": value.shape,
            "data_offsets": (end, end + data.nbytes),
        }
        end += data.nbytes
        parts.append(data)
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return [head[:_SUM_AT] + _checksum(head, parts) + head[_SUM_AT + len(_BLANK) :], *parts]


def read_parts(
    file: io.BufferedReader | io.BytesIO, size: int, room: Mapping[str, Array]
) -> tuple[Metadata, dict[str, Array]]:
    """Read a file that stands at its beginning, and check its checksum.

    Args:
        file: where to read.
        size: its bytes.
        room: contiguous arrays by state input. The state is read into those whose dtype and shape
            it has, and is then made of them; on failure they hold anything.

    Raises:
        StateCorruptError: not a saved state, or any bit of it has changed.
        StateMismatchError: `state-version`: a version this runtime does not read.
        OSError: the file cannot be read.
    """
    head = file.read(_SUM_AT)
    head += file.read(max(0, _head_bytes(head, size) - _SUM_AT))
    claim = _claim(head, size - len(head))
    tensors = [_room_for(span, room) for span in claim.spans]
    for tensor in tensors:
        if file.readinto(_bytes_in(tensor)) != tensor.nbytes:
            raise StateCorruptError("it ends too early", code="state-truncated")
    told = head[_SUM_AT : _SUM_AT + len(_BLANK)]
    if _checksum(head, [_bytes_in(tensor) for tensor in tensors]) != told:
        if _VERSION_1.match(head, _SUM_AT):
            raise _other_version("1")
        raise StateCorruptError("its bytes do not match its checksum", code="state-checksum")
    if isinstance(claim.metadata, StateError):
        raise claim.metadata
    return claim.metadata, {s.name: t for s, t in zip(claim.spans, tensors, strict=True)}


def bad_header(error: Exception) -> StateCorruptError:
    """Say that a file is whole and its header makes no sense."""
    return StateCorruptError(
        f"its checksum holds but its content does not: {shown(error)}", code="state-header"
    )


def _head_bytes(start: bytes, size: int) -> int:
    """How long the header of a file of `size` bytes is, its first 8 bytes included.

    Raises:
        StateCorruptError: it does not begin like one.
    """
    if start[8:] != _OPENING:
        raise StateCorruptError(
            "it is no saved state, or its beginning was altered", code="state-header"
        )
    return min(size, 8 + int.from_bytes(start[:8], "little"))


def _claim(head: bytes, rest: int) -> _Claim:
    """Read what a header says of the `rest` bytes behind it."""
    everything = [_Span("", np.dtype(np.uint8), (max(0, rest),))]
    try:
        header = msgspec.json.decode(head[8:], type=dict[str, msgspec.Raw])
        plain = header.pop("__metadata__")
        version = msgspec.json.decode(plain, type=_Version).version
        if version != STATE_VERSION:
            return _Claim(everything, _other_version(version))
        return _Claim(_spans(header, rest), msgspec.json.decode(plain, type=Metadata))
    except (ValueError, KeyError, RecursionError, msgspec.MsgspecError) as error:
        return _Claim(everything, bad_header(error))


def _spans(header: Mapping[str, msgspec.Raw], rest: int) -> list[_Span]:
    """Read where the tensors lie; they must fill the file, one after the other.

    Raises:
        ValueError: they do not, or one is unknown or missing.
        KeyError: one is of a dtype that no state has.
    """
    told = {name: msgspec.json.decode(raw, type=_Tensor) for name, raw in header.items()}
    if absent := sorted({"pending", "lookback"} - told.keys()):
        raise ValueError(f"it has no tensor {absent[0]!r}")
    spans: list[_Span] = []
    end = 0
    for name, tensor in sorted(told.items(), key=lambda item: item[1].data_offsets):
        if not name.startswith(("state/", "stream/")) and name not in ("pending", "lookback"):
            raise ValueError(f"it holds an unknown tensor {name!r}")
        dtype = _BY_CODE[tensor.dtype]
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
