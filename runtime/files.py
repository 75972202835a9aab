"""Files that survive a crash: bytes or files in, complete and synced files on disk out."""

import hashlib
import os
import shutil
from pathlib import Path

_PIECE = 1 << 20


def sync_directory(path: Path) -> None:
    """Make a rename inside `path` durable, on platforms whose directories can be synced."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def copy_synced(source: Path, path: Path) -> None:
    """Copy a file's content piece by piece and wait until the disk has it."""
    with open(source, "rb") as origin, open(path, "wb") as file:
        shutil.copyfileobj(origin, file, _PIECE)
        file.flush()
        os.fsync(file.fileno())


def replace_keeping_previous(path: Path, data: bytes, previous: Path) -> None:
    """Replace `path` by `data` in one rename; what stood there becomes `previous`.

    At every moment `path` is either the old file or the new one, complete. Only one writer
    may write a path at a time.

    Raises:
        OSError: the disk is full, or a file cannot be written; `path` is then the old file.
    """
    fresh = path.with_name(f".{path.name}.tmp")
    kept = path.with_name(f".{previous.name}.tmp")
    try:
        write_synced(fresh, data)
        if path.exists():
            kept.unlink(missing_ok=True)
            try:
                os.link(path, kept)
            except OSError:  # a file system without hard links
                copy_synced(path, kept)
            os.replace(kept, previous)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
        kept.unlink(missing_ok=True)
    sync_directory(path.parent)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, read piece by piece."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
