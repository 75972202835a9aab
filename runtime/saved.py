"""The saved-state file: a `Saved` record in, one checksummed safetensors file out, and back.

FORMAT.md tells the layout. The header is written here, not by a library, because the checksum
must stand at a fixed place and the same state must give the same bytes.
"""

import hashlib
import json
import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from dst.runtime.errors import (
    OtherModelError,
    OtherPrecisionError,
    OtherStateError,
    StateCorruptError,
    StateError,
    StateNotFoundError,
    StateVersionError,
    shown,
)
from dst.runtime.files import NotSyncedError, replace_keeping_previous
from dst.runtime.rules import MAX_STREAM_BYTES
from dst.runtime.schema import MAX_AXES, Count, Hash, Name

STATE_FORMAT = "dst-state"
STATE_VERSION = "1"

Array = npt.NDArray[np.generic]

_OPENING = b'{"__metadata__":{"checksum":"'
_DIGEST_AT = 8 + len(_OPENING)
_BLANK = b"0" * 64
_NO_STATE = "it is no saved state, or its beginning was altered"
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")
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


class Identity(msgspec.Struct, frozen=True):
    """Whose state it is: the ids and the precision of the bundle that made it."""

    model_id: str
    state_hash: str
    bundle_id: str
    precision: str


class Saved(msgspec.Struct, frozen=True):
    """Everything a stream is, at rest.

    Attributes:
        identity: the bundle that made it.
        items_consumed: items in the state.
        seed: the sampler's seed, or None where nothing was sampled.
        draws: numbers drawn from it.
        state: the state tensors by input name.
        pending: items waiting for their chunk, time first.
        lookback: the items before the next chunk, time first.
    """

    identity: Identity
    items_consumed: int
    seed: int | None
    draws: int
    state: Mapping[str, Array]
    pending: Array
    lookback: Array


class _Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    checksum: str
    format: str
    version: str
    model_id: Hash
    state_hash: Hash
    bundle_id: Hash
    precision: Name
    items_consumed: str
    seed: str
    draws: str


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=MAX_AXES)]
    data_offsets: tuple[Count, Count]


def pack(saved: Saved) -> bytes:
    """Return the bytes of a saved-state file; equal records give equal bytes."""
    return b"".join(_parts(saved))


def _parts(saved: Saved) -> list[bytearray | memoryview]:
    """Return those bytes in parts: the opening, then each tensor where it lies, uncopied."""
    tensors = {"pending": saved.pending, "lookback": saved.lookback}
    tensors |= {f"state/{name}": value for name, value in saved.state.items()}
    header: dict[str, object] = {
        "__metadata__": {
            "checksum": _BLANK.decode(),
            "format": STATE_FORMAT,
            "version": STATE_VERSION,
            **msgspec.structs.asdict(saved.identity),
            "items_consumed": str(saved.items_consumed),
            "seed": "" if saved.seed is None else str(saved.seed),
            "draws": str(saved.draws),
        }
    }
    parts: list[memoryview] = []
    end = 0
    # Widest dtype first, so that every tensor lies at a multiple of its item size.
    for name, value in sorted(tensors.items(), key=lambda t: (-t[1].dtype.itemsize, t[0])):
        data = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        header[name] = {
            "dtype": _DTYPES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [end, end + data.nbytes],
        }
        end += data.nbytes
        parts.append(data.data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    opening = bytearray(len(text).to_bytes(8, "little") + text)
    digest = hashlib.sha256(opening)
    for part in parts:
        digest.update(part)
    opening[_DIGEST_AT : _DIGEST_AT + 64] = digest.hexdigest().encode()
    return [opening, *parts]


def unpack(data: bytes) -> Saved:
    """Read the bytes of a saved-state file.

    Raises:
        StateCorruptError: not a saved state, or any bit of it has changed.
        StateVersionError: a version this runtime does not read.
    """
    if data[8:_DIGEST_AT] != _OPENING:
        raise StateCorruptError(_NO_STATE)
    hashed = hashlib.sha256(data[:_DIGEST_AT] + _BLANK)
    hashed.update(memoryview(data)[_DIGEST_AT + 64 :])
    if hashed.hexdigest().encode() != data[_DIGEST_AT : _DIGEST_AT + 64]:
        raise StateCorruptError("its bytes do not match its checksum")
    try:
        length = int.from_bytes(data[:8], "little")
        header: dict[str, object] = json.loads(data[8 : 8 + length])
        plain = header["__metadata__"]
        version = plain.get("version") if isinstance(plain, dict) else None
        if version != STATE_VERSION:
            raise StateVersionError(
                f"its format version is {shown(version):.40}; this runtime reads {STATE_VERSION}"
            )
        metadata = msgspec.convert(plain, _Metadata)
        tensors = _tensors(header, memoryview(data)[8 + length :])
        return Saved(
            identity=Identity(
                metadata.model_id, metadata.state_hash, metadata.bundle_id, metadata.precision
            ),
            items_consumed=_count("items_consumed", metadata.items_consumed),
            seed=_count("seed", metadata.seed) if metadata.seed else None,
            draws=_count("draws", metadata.draws),
            pending=tensors.pop("pending"),
            lookback=tensors.pop("lookback"),
            state={name.removeprefix("state/"): value for name, value in tensors.items()},
        )
    except (ValueError, KeyError, TypeError, RecursionError, msgspec.ValidationError) as error:
        raise StateCorruptError(
            f"its checksum holds but its content does not: {shown(error)}"
        ) from None


def _tensors(header: Mapping[str, object], body: memoryview) -> dict[str, Array]:
    """View the tensors of a file in its bytes; they must fill them, one after the other.

    Raises:
        ValueError: they do not, or one is unknown or of a dtype that no state has.
    """
    told = {
        name: msgspec.convert(value, _Tensor)
        for name, value in header.items()
        if name != "__metadata__"
    }
    tensors: dict[str, Array] = {}
    end = 0
    for name, tensor in sorted(told.items(), key=lambda item: item[1].data_offsets):
        if not name.startswith("state/") and name not in ("pending", "lookback"):
            raise ValueError(f"it holds an unknown tensor {name!r}")
        dtype = _BY_CODE[tensor.dtype]
        start, stop = tensor.data_offsets
        if start != end or stop - start != math.prod(tensor.shape) * dtype.itemsize:
            raise ValueError(f"{name!r} lies at {start} .. {stop}, which does not fit its shape")
        tensors[name] = np.frombuffer(body[start:stop], dtype).reshape(tensor.shape)
        end = stop
    if end != len(body):
        raise ValueError(f"its tensors end at {end}, its bytes at {len(body)}")
    return tensors


def _count(name: str, text: str) -> int:
    """Read a number of the header; `ValueError` if it is none that a stream can have."""
    if not _DECIMAL.fullmatch(text) or int(text) >= 1 << 64:
        raise ValueError(f"{name} is {text[:40]!r}, expected a decimal number in 0 .. 2^64 - 1")
    return int(text)


def previous_of(path: Path) -> Path:
    """Where the saved state before the one at `path` is kept."""
    return path.with_name(path.name + ".previous")


def write_saved(path: Path, saved: Saved, durable: bool = True) -> None:
    """Write a saved state in one rename and keep the one before it.

    Args:
        path: the file.
        saved: what to write.
        durable: wait until the disk has it.

    Raises:
        StateError: the disk refused, or `path` can name no file; what stood there still does,
            unless the message says that the new state is in place and its directory not synced.
    """
    try:
        replace_keeping_previous(path, _parts(saved), previous_of(path), durable)
    except NotSyncedError as error:
        raise StateError(
            f"state {path}: the new state is in place, but its directory cannot be synced: "
            f"{_reason(error)}; a loss of power may bring back the one before, save again"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: an empty name, a NUL in it
        raise StateError(f"state {path}: cannot be written: {_reason(error)}") from error


def read_saved(path: Path) -> Saved:
    """Read a saved state.

    Raises:
        StateNotFoundError: there is no file at `path`.
        StateCorruptError: the file is not what was written; the message names the copy before it.
        StateVersionError: a version this runtime does not read.
        StateError: the file cannot be read.
    """
    hint = ""
    try:
        before = previous_of(path)
        if before.is_file():
            hint = f"; the state saved before it is {before.name}"
        return unpack(_bytes_of(path))
    except FileNotFoundError:
        raise StateNotFoundError(f"state {path}: no such file{hint}") from None
    except (OSError, ValueError) as error:
        raise StateError(f"state {path}: cannot be read: {_reason(error)}{hint}") from None
    except MemoryError:
        raise StateError(f"state {path}: is larger than the free memory{hint}") from None
    except StateError as error:
        raise type(error)(f"state {path}: {error}{hint}") from None


def _bytes_of(path: Path) -> bytes:
    """Read a file that may be a saved state; another is refused before it takes memory."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would block, a device might never end
        raise StateError("cannot be read: it is no plain file")
    if found.st_size > 2 * MAX_STREAM_BYTES:
        raise StateCorruptError("larger than any state of this format")
    with open(path, "rb") as file:
        if file.read(_DIGEST_AT)[8:] != _OPENING:
            raise StateCorruptError(_NO_STATE)
        file.seek(0)
        return file.read(found.st_size)


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def check_identity(
    theirs: Identity, ours: Identity, where: str, allow_precision: bool = False
) -> None:
    """Raise unless a state made under one identity may go on under another.

    Raises:
        OtherModelError, OtherStateError, OtherPrecisionError: it may not; `where` says which.
    """
    if theirs.model_id != ours.model_id:
        raise OtherModelError(
            f"{where}: made by model {theirs.model_id[:16]}…, this session runs "
            f"{ours.model_id[:16]}…; a state belongs to one model"
        )
    if theirs.state_hash != ours.state_hash:
        raise OtherStateError(
            f"{where}: made with state layout {theirs.state_hash[:16]}…, this session has "
            f"{ours.state_hash[:16]}…; the same model was exported in another way"
        )
    if theirs.precision != ours.precision and not allow_precision:
        raise OtherPrecisionError(
            f"{where}: made at precision {theirs.precision!r}, this session runs "
            f"{ours.precision!r}; pass allow_precision=True to go on with it"
        )


def check_tensors(where: str, wanted: Mapping[str, Array], held: Mapping[str, Array]) -> None:
    """Raise unless saved tensors have the names, dtypes and shapes that are wanted.

    Raises:
        StateCorruptError: they have not; `where` says which file.
    """
    for name in wanted.keys() | held.keys():
        want, have = wanted.get(name), held.get(name)
        if want is None or have is None:
            raise StateCorruptError(
                f"{where}: {'holds an unknown' if want is None else 'has no'} tensor {name!r}"
            )
        if want.shape != have.shape or want.dtype != have.dtype:
            raise StateCorruptError(
                f"{where}: {name!r} is {have.dtype} {list(have.shape)}, "
                f"expected {want.dtype} {list(want.shape)}"
            )
