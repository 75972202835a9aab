"""Files made by a verb: bytes go in, a complete file stands at its path, or none."""

import os
import shutil
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one rename; a device or a pipe is written into.

    Raises:
        OSError: it cannot be written; the error names it, and what stood there still does.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        target = Path(os.path.realpath(path))  # a link stays, and what it names is replaced
        work = target.with_name(f".{target.name}.tmp")
        try:
            work.touch()
            if target.exists():
                shutil.copymode(target, work)
            work.write_bytes(data)
            work.replace(target)
        finally:
            work.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
