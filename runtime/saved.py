"""The saved-state file: a `Saved` record in, one checksummed safetensors file out, and back.

FORMAT.md tells the layout. The header is written here, not by a library, because the checksum
must stand at a fixed place and the same state must give the same bytes.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from dst.runtime.errors import (
    OtherModelError,
    OtherPrecisionError,
    OtherStateError,
    StateCorruptError,
    StateError,
    StateNotFoundError,
    StateVersionError,
)
from dst.runtime.files import replace_keeping_previous
from dst.runtime.rules import MAX_STREAM_BYTES

STATE_FORMAT = "dst-state"
STATE_VERSION = "1"

Array = npt.NDArray[np.generic]

_OPENING = b'{"__metadata__":{"checksum":"'
_DIGEST_AT = 8 + len(_OPENING)
_BLANK = b"0" * 64
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
    model_id: str
    state_hash: str
    bundle_id: str
    precision: str
    items_consumed: str
    seed: str
    draws: str


def pack(saved: Saved) -> bytes:
    """Return the bytes of a saved-state file; equal records give equal bytes."""
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
    parts: list[bytes] = []
    end = 0
    # Widest dtype first, so that every tensor lies at a multiple of its item size.
    for name, value in sorted(tensors.items(), key=lambda t: (-t[1].dtype.itemsize, t[0])):
        data = value.tobytes()
        header[name] = {
            "dtype": _DTYPES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [end, end + len(data)],
        }
        end += len(data)
        parts.append(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    whole = bytearray(b"".join([len(text).to_bytes(8, "little"), text, *parts]))
    digest = hashlib.sha256(whole).hexdigest().encode()
    whole[_DIGEST_AT : _DIGEST_AT + 64] = digest
    return bytes(whole)


def unpack(data: bytes) -> Saved:
    """Read the bytes of a saved-state file.

    Raises:
        StateCorruptError: not a saved state, or any bit of it has changed.
        StateVersionError: a version this runtime does not read.
    """
    if data[8:_DIGEST_AT] != _OPENING:
        raise StateCorruptError("it is no saved state, or its beginning was altered")
    whole = bytearray(data)
    digest = bytes(whole[_DIGEST_AT : _DIGEST_AT + 64])
    whole[_DIGEST_AT : _DIGEST_AT + 64] = _BLANK
    if hashlib.sha256(whole).hexdigest().encode() != digest:
        raise StateCorruptError("its bytes do not match its checksum")
    try:
        length = int.from_bytes(data[:8], "little")
        header: dict[str, object] = json.loads(data[8 : 8 + length])
        plain = header["__metadata__"]
        version = plain.get("version") if isinstance(plain, dict) else None
        if version != STATE_VERSION:
            raise StateVersionError(
                f"its format version is {version}; this runtime reads {STATE_VERSION}"
            )
        metadata = msgspec.convert(plain, _Metadata)
        tensors: dict[str, Array] = safetensors.numpy.load(data)
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
    except (ValueError, KeyError, TypeError, msgspec.ValidationError) as error:
        raise StateCorruptError(f"its checksum holds but its content does not: {error}") from None
    except safetensors.SafetensorError as error:
        raise StateCorruptError(f"its checksum holds but its tensors do not: {error}") from None


def _count(name: str, text: str) -> int:
    """Read a number of the header; `ValueError` if it is none that a stream can have."""
    if not _DECIMAL.fullmatch(text) or int(text) >= 1 << 64:
        raise ValueError(f"{name} is {text[:40]!r}, expected a decimal number in 0 .. 2^64 - 1")
    return int(text)


def previous_of(path: Path) -> Path:
    """Where the saved state before the one at `path` is kept."""
    return path.with_name(path.name + ".previous")


def write_saved(path: Path, saved: Saved) -> None:
    """Write a saved state in one rename and keep the one before it.

    Raises:
        StateError: the disk refused, or `path` can name no file; what stood there still does.
    """
    data = pack(saved)
    try:
        replace_keeping_previous(path, data, previous_of(path))
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
        if path.stat().st_size > 2 * MAX_STREAM_BYTES:
            raise StateCorruptError(f"state {path}: larger than any state of this format{hint}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise StateNotFoundError(f"state {path}: no such file{hint}") from None
    except (OSError, ValueError) as error:
        raise StateError(f"state {path}: cannot be read: {_reason(error)}") from None
    try:
        return unpack(data)
    except StateError as error:
        raise type(error)(f"state {path}: {error}{hint}") from None


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
            f"{where}: made at precision {theirs.precision}, this session runs "
            f"{ours.precision}; pass allow_precision=True to go on with it"
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
