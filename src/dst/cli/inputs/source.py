"""Read a file, a pipe or standard input in blocks of bytes, as they arrive."""

import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO

BLOCK_BYTES = 1 << 12  # small, so that Ctrl-C is answered soon
PAUSE_S = 0.05  # a pipe that is silent for so long has paused
_QUEUED_BLOCKS = 1

Stop = Callable[[], bool]
"""Asked now and then whether to read no further."""


def never() -> bool:
    """Read to the end."""
    return False


@dataclass(frozen=True, slots=True)
class Source:
    """An open input.

    Attributes:
        file: what is read.
        size: bytes in all, or None for a pipe or a terminal, which may pause.
    """

    file: FileIO
    size: int | None

    @staticmethod
    def open(path: str) -> "Source":
        """Open a file, a named pipe, or `-` for standard input.

        Raises:
            OSError: it cannot be read.
        """
        file = FileIO(0, closefd=False) if path == "-" else FileIO(path)
        status = os.fstat(file.fileno())
        return Source(file, status.st_size if stat.S_ISREG(status.st_mode) else None)

    def blocks(self, stop: Stop = never) -> Iterator[bytes]:
        """Yield what comes, in blocks of at most 4 KiB, until the input ends or `stop` says so.

        The file is closed then.

        Yields an empty block where a pipe has paused: then a reader should answer for all it
        has. A regular file never pauses, so that the same file is always cut in the same way.
        What was taken from a pipe before it stops is yielded still, so that nothing is lost.

        Raises:
            OSError: reading failed.
        """
        if self.size is None:
            yield from self._piped(stop)
            return
        with self.file:
            while not stop() and (block := self.file.read(BLOCK_BYTES)):
                yield block

    def _piped(self, stop: Stop) -> Iterator[bytes]:
        """Let a thread wait for the pipe, which works on every platform."""
        arrived: queue.Queue[bytes | OSError] = queue.Queue(_QUEUED_BLOCKS)
        stopped = threading.Event()

        def fetch() -> None:
            ended: bytes | OSError = b""
            try:
                with self.file:
                    while not stopped.is_set() and (block := self.file.read(BLOCK_BYTES)):
                        arrived.put(block)
            except OSError as error:
                ended = error
            arrived.put(ended)

        threading.Thread(target=fetch, daemon=True, name="dst-input").start()
        while True:
            if stop():
                stopped.set()
            try:
                block = arrived.get(timeout=PAUSE_S)
            except queue.Empty:
                if stopped.is_set():
                    return
                yield b""
                continue
            if isinstance(block, OSError):
                raise block
            if not block:
                return
            yield block


def input_size(path: str) -> int | None:
    """Return the bytes of a regular file that can be read; None for `-` and for what may pause.

    Raises:
        OSError: there is no such file, or it cannot be read.
    """
    if path == "-":
        return Source.open(path).size
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return None  # opening a named pipe twice would end it
    with FileIO(path) as file:
        return os.fstat(file.fileno()).st_size
