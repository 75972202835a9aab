"""The saved-state file: a `Saved` record in, one durable file out with the copy before it kept."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import StateCorruptError, StateError, StateNotFoundError
from dst.runtime.files import NotSyncedError, replace_keeping_previous
from dst.runtime.packed import parts_of, read_packed
from dst.runtime.rules import MAX_STREAM_BYTES
from dst.runtime.saved import Saved

Array = npt.NDArray[np.generic]

_NOWHERE: Mapping[str, Array] = {}


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
        replace_keeping_previous(path, parts_of(saved), previous_of(path), durable)
    except NotSyncedError as error:
        raise StateError(
            f"state {path}: the new state is in place, but its directory cannot be synced: "
            f"{_reason(error)}; a loss of power may bring back the one before, save again"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: an empty name, a NUL in it
        raise StateError(f"state {path}: cannot be written: {_reason(error)}") from error


def read_saved(path: Path, room: Mapping[str, Array] = _NOWHERE) -> Saved:
    """Read a saved state.

    Args:
        path: the file.
        room: contiguous arrays by state input. The state is read into those whose dtype and shape
            it has, and is then made of them; on failure they hold anything.

    Raises:
        StateNotFoundError: there is no file at `path`.
        StateCorruptError: the file is not what was written; the message names the copy before it.
        StateVersionError: a version this runtime does not read.
        StateError: the file cannot be read.
    """
    try:
        return _read(path, room)
    except FileNotFoundError:
        raise StateNotFoundError(f"state {path}: no such file{_hint(path)}") from None
    except (OSError, ValueError) as error:
        why = f"cannot be read: {_reason(error)}"
        raise StateError(f"state {path}: {why}{_hint(path)}") from None
    except MemoryError:
        raise StateError(f"state {path}: is larger than the free memory{_hint(path)}") from None
    except StateError as error:
        raise type(error)(f"state {path}: {error}{_hint(path)}") from None


def _read(path: Path, room: Mapping[str, Array]) -> Saved:
    """Read a file that may be a saved state; another is refused before it takes memory."""
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block, a device might never end
        raise StateError("cannot be read: it is no plain file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size  # of this file: another may stand there by now
        if size > 2 * MAX_STREAM_BYTES:
            raise StateCorruptError("larger than any state of this format")
        return read_packed(file, size, room)


def _hint(path: Path) -> str:
    """Name the copy before, if there is one."""
    try:
        before = previous_of(path)
        return f"; the state saved before it is {before.name}" if before.is_file() else ""
    except (OSError, ValueError):  # an empty name, a NUL in it
        return ""


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
