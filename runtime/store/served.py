"""Keep others from writing to a store that a scheduler serves.

A scheduler has users' states in memory and writes them over whatever others have put. It holds a
lock on `<store>.lock` for as long as it runs (`dst.runtime.serving.lock`). Whoever else writes
shares that lock meanwhile, or is refused. The operating system gives a lock up with its process.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from dst.runtime.errors import StoreBusyError

_SERVING = ContextVar("serving", default=False)


@contextmanager
def serving() -> Iterator[None]:
    """Let the scheduler itself write, in this thread and until this is left."""
    token = _SERVING.set(True)
    try:
        yield
    finally:
        _SERVING.reset(token)


if sys.platform == "win32":

    @contextmanager
    def unserved(store: Path) -> Iterator[None]:
        """Do nothing: locks cannot be shared here."""
        yield
else:
    import fcntl

    @contextmanager
    def unserved(store: Path) -> Iterator[None]:
        """Keep a store from being served while its caller writes to it.

        Raises:
            StoreBusyError: `store-served`: a scheduler serves it.
        """
        try:
            path = f"{os.path.realpath(store)}.lock"
            file = None if _SERVING.get() else os.open(path, os.O_RDONLY)
        except OSError:  # no scheduler was ever there
            file = None
        if file is None:
            yield
            return
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                raise StoreBusyError(
                    f"store {store}: a scheduler serves it, and would write over what others "
                    "store; nothing was changed; use its put(), delete() or expire(), or end it",
                    code="store-served",
                ) from None
            yield
        finally:
            os.close(file)
