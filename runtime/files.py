"""Write files that survive a crash: complete and synced, or not there."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

Bytes = bytes | bytearray | memoryview

_PIECE = 1 << 20
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)


class NotSyncedError(OSError):
    """The new file stands at its path, but the disk may not have the rename yet."""


def sync_directory(path: Path) -> None:
    """Make a rename inside `path` durable, where directories can be synced."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(handle)


def write_synced(path: Path, parts: Iterable[Bytes], durable: bool = True) -> None:
    """Write a file that is not there yet and, where it is durable, wait until the disk has it."""
    with open(path, "xb") as file:
        file.writelines(parts)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def copy_synced(source: Path, path: Path) -> None:
    """Copy a file to a path that is free, piece by piece, and wait until the disk has it."""
    with open(source, "rb") as origin:
        write_synced(path, iter(partial(origin.read, _PIECE), b""))


def replace_keeping_previous(
    path: Path, parts: Iterable[Bytes], previous: Path, durable: bool = True
) -> None:
    """Replace `path` by these bytes in one rename; what stood there becomes `previous`.

    At every moment `path` is either the old file or the new one, complete; after a loss of power
    too, where it is durable. Only one writer may write a path at a time.

    Raises:
        NotSyncedError: `path` is the new file, but a loss of power may bring the old one back.
        OSError: the disk is full, a file cannot be written, or a link or something else that is no
            plain file stands there; `path` is then what it was.
    """
    # A device or a pipe would become a plain file; of a link the rename would replace the link, and
    # leave alone the file that it leads to.
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise OSError(errno.EINVAL, "what stands there is no plain file")
    fresh = path.with_name(f".{path.name}.tmp")
    kept = path.with_name(f".{previous.name}.tmp")
    # What a killed writer left goes first and is never written into: it may share its content
    # with `path` where a crash cut a rename in half, or be a link to another file.
    fresh.unlink(missing_ok=True)
    kept.unlink(missing_ok=True)
    try:
        write_synced(fresh, parts, durable)
        if path.exists():
            try:
                os.link(path, kept)
            except OSError:  # a file system without hard links
                copy_synced(path, kept)
            os.replace(kept, previous)
        os.replace(fresh, path)
    finally:
        for left_over in (fresh, kept):
            with contextlib.suppress(OSError):
                left_over.unlink()
    try:
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        raise NotSyncedError(error.errno, error.strerror) from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, read piece by piece."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
