"""Let one scheduler at a time serve a store, in this process or any other of the machine."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from dst.runtime.errors import StoreBusyError, StoreError


class StoreLock:
    """A lock on `<store>.lock`; the operating system gives it up when the process ends.

    Raises:
        StoreBusyError: `store-served`: another scheduler holds it.
        StoreError: `store-unopenable`: the file cannot be made.
    """

    __slots__ = ("_file",)

    def __init__(self, store: Path) -> None:
        path = store.with_name(f"{store.name}.lock")
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(
                f"{path}: cannot be opened: {error.strerror}; a scheduler needs to write there",
                code="store-unopenable",
            ) from None
        try:
            _lock(self._file)
        except OSError:
            os.close(self._file)
            raise StoreBusyError(
                f"store {store}: another scheduler serves it ({path} is locked), and two would "
                "overwrite each other's states; send the requests there, or end it first",
                code="store-served",
            ) from None

    def release(self) -> None:
        """Give the lock up."""
        with suppress(OSError):  # closing twice is no error
            os.close(self._file)
        self._file = -1


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
