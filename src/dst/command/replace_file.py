"""Files made by a verb: bytes go in, a complete file stands at its path, or none."""

from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one rename.

    Raises:
        OSError: it cannot be written; what stood there still does.
    """
    work = path.with_name(f".{path.name}.tmp")
    try:
        work.write_bytes(data)
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)
