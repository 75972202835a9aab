"""Write a record to a path, with the one before it kept, or to an open file; and read it.

At a path a save is one rename. An open file (a buffer in memory, a pipe, an upload) gets the same
bytes from where it stands; it is the caller's, who flushes, syncs and closes it.
"""

import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import StateError, StateNotFoundError
from dst.runtime.files import NotSyncedError, replace_keeping_previous
from dst.runtime.state.record import Saved, check_size, parts_of, unpack_from

Array = npt.NDArray[np.generic]

Place = str | os.PathLike[str] | BinaryIO

_NOWHERE: Mapping[str, Array] = {}
_PIECE = 1 << 20


def previous_of(path: Path) -> Path:
    """Where the saved state before the one at `path` is kept."""
    return path.with_name(path.name + ".previous")


def write_record(place: Place, record: Saved, durable: bool = True) -> None:
    """Write a record to a path in one rename, or to a binary file that is open for writing.

    The file that stood at the path is kept as its `.previous`. A `durable` write waits until the
    disk has it, which an open file leaves to its owner.

    Raises:
        StateError: it cannot be written, or `place` is neither. What stood at the path still does,
            unless the message says that the new state is in place and its directory not synced; to
            an open file a part of the state may have been written.
    """
    if not isinstance(place, str | os.PathLike):
        _write_open(_binary(place, "write", "wb"), record)
        return
    path = Path(place)
    try:
        replace_keeping_previous(path, parts_of(record), previous_of(path), durable)
    except NotSyncedError as error:
        raise StateError(
            f"state {path}: the new state is in place, but its directory cannot be synced: "
            f"{_reason(error)}; a loss of power may bring back the one before, save again",
            code="not-synced",
        ) from error
    except (OSError, ValueError) as error:  # ValueError: an empty name, a NUL in it
        raise StateError(
            f"state {path}: cannot be written: {_reason(error)}", code="state-unwritable"
        ) from error


def read_record(place: Place, room: Mapping[str, Array] = _NOWHERE) -> Saved:
    """Read a record from a path, or from a binary file that is open for reading.

    An open file is read to its end, from where it stands; it need not be one that can seek. From a
    path the state is read into the arrays of `room` that fit, as `unpack_from` does.

    Raises:
        StateNotFoundError: there is no file at the path.
        StateCorruptError: it is not what was written; the message names the copy before it.
        StateMismatchError: `state-version`: a version this runtime does not read.
        StateError: it cannot be read, or `place` is neither.
    """
    if not isinstance(place, str | os.PathLike):
        return Saved.from_bytes(_read_open(_binary(place, "read", "rb")), "state")
    path = Path(place)
    kind, code = StateError, "state-unreadable"
    try:
        return _read(path, room)
    except FileNotFoundError:
        kind, code, why = StateNotFoundError, "", "no such file"
    except (OSError, ValueError) as error:
        why = f"cannot be read: {_reason(error)}"
    except MemoryError:
        why = "is larger than the free memory"
    except StateError as error:
        kind, code, why = type(error), error.code, str(error)
    raise kind(f"state {path}: {why}{_hint(path)}", code=code)


# --- open files


def _binary(place: BinaryIO, method: str, mode: str) -> BinaryIO:
    """Return an open file that can be used, or say why it cannot."""
    if not callable(getattr(place, method, None)):
        raise StateError(
            f"state: expected a path or an open binary file, came a {type(place).__name__}",
            code="no-file",
        )
    if getattr(place, "closed", False):
        raise StateError("state: the file is closed; open it again", code="file-closed")
    if isinstance(place, io.TextIOBase):
        raise StateError(
            f"state: the file is open as text, and a state is bytes; open it with {mode!r}",
            code="file-is-text",
        )
    return place


def _write_open(file: BinaryIO, record: Saved) -> None:
    try:
        for part in parts_of(record):
            left = memoryview(part)
            while len(left):
                written = file.write(left)
                if written is None:  # a file that does not block and has no room now
                    raise StateError(
                        "state: the file takes no more bytes now; give one that blocks",
                        code="file-not-usable",
                    )
                left = left[written:]
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(error, "written to", "wb") from error


def _read_open(file: BinaryIO) -> bytes:
    data = bytearray()
    try:
        while piece := file.read(_PIECE):
            data += piece
            check_size(len(data), "state: ")
    except (OSError, ValueError, TypeError) as error:
        raise _unusable(error, "read", "rb") from error
    return bytes(data)


def _unusable(error: OSError | ValueError | TypeError, what: str, mode: str) -> StateError:
    why = str(error) if isinstance(error, TypeError) else _reason(error)
    return StateError(
        f"state: the file cannot be {what}: {why}; it must be open with {mode!r}",
        code="file-not-usable",
    )


# --- paths


def _read(path: Path, room: Mapping[str, Array]) -> Saved:
    """Read a file that may be a saved state; another is refused before it takes memory."""
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block, a device might never end
        raise StateError("cannot be read: it is no plain file", code="state-unreadable")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size  # of this file: another may stand there by now
        return unpack_from(file, size, room)


def _hint(path: Path) -> str:
    """Name the copy before, if there is one."""
    try:
        before = previous_of(path)
        return f"; the state saved before it is {before.name}" if before.is_file() else ""
    except (OSError, ValueError):  # an empty name, a NUL in it
        return ""


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
