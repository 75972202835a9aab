"""Let one scheduler or fleet at a time serve a store, in any process of the machine."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from dst.runtime.errors import StoreBusyError, StoreError

_TRIES, _PAUSE_S = 20, 0.01


class StoreLock:
    """A lock on `<store>.lock`, by the store's own name and not that of a link to it.

    The operating system gives it up when the process ends, and Python when nobody refers to it.
    """

    __slots__ = ("_file", "_path", "_pid", "_store")

    def __init__(self, store: Path) -> None:
        self._file, self._pid = -1, os.getpid()
        self._store, self._path = store, f"{os.path.realpath(store)}.lock"

    def take(self) -> None:
        """Take the lock.

        Raises:
            StoreBusyError: `store-served`: another scheduler holds it.
            StoreError: `store-unopenable`: the file cannot be made.
        """
        while self._file < 0:
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise StoreError(
                    f"{self._path}: cannot be opened: {error.strerror}; a scheduler needs to write "
                    "there",
                    code="store-unopenable",
                ) from None
            try:
                _lock(file)
            except OSError:
                os.close(file)
                raise self._served() from None
            if self._lies_there(file):
                self._file = file
            else:  # it was removed before it was locked
                os.close(file)

    def check(self) -> None:
        """See that the lock still keeps others out, before a state is written.

        Whoever removes the file lets another scheduler in, which makes it anew. A file that nobody
        has made anew is.

        Raises:
            StoreBusyError: `store-served`: another scheduler serves the store, or has.
        """
        if self._file < 0 or self._lies_there(self._file):
            return
        if os.path.exists(self._path):
            raise self._served()
        self.release()
        self.take()

    def release(self) -> None:
        """Give the lock up; again, or in a process that was forked, that does nothing."""
        file, self._file = self._file, -1
        if file < 0:
            return
        if os.getpid() == self._pid:
            with suppress(OSError):
                _unlock(file)  # closing alone leaves it to a process that was forked
        with suppress(OSError):
            os.close(file)

    __del__ = release

    def _lies_there(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self._path))
        except OSError:
            return False

    def _served(self) -> StoreBusyError:
        return StoreBusyError(
            f"store {self._store}: another scheduler or fleet serves it ({self._path} is locked), "
            "and two would overwrite each other's states; send the requests there, or end it first",
            code="store-served",
        )


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

    def _unlock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        for left in reversed(range(_TRIES)):
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if not left:
                    raise
            time.sleep(_PAUSE_S)  # who only writes a state holds it briefly

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
