"""Read a file, a pipe or standard input as it arrives: in blocks of bytes, or as token ids of text.

Text is encoded line by line, each with its line end. So a stream of any length takes little memory,
and how the input comes in does not change the ids.
"""

import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO

import numpy as np
import numpy.typing as npt

from dst.cli.errors import WrongUseError
from dst.runtime import Bundle, TextTokenizer
from dst.runtime.bundle.manifest import Tokens

BLOCK_BYTES = 1 << 12  # small, so that Ctrl-C is answered soon
PAUSE_S = 0.05  # a pipe that is silent for so long has paused

Stop = Callable[[], bool]  # asked now and then whether to read no further


def never() -> bool:
    """Read to the end."""
    return False


@dataclass(frozen=True, slots=True)
class Source:
    """An open input."""

    file: FileIO  # what is read
    size: int | None  # bytes in all, or None for a pipe or a terminal, which may pause

    @staticmethod
    def open(path: str) -> "Source":
        """Open a file, a named pipe, or `-` for standard input."""
        file = FileIO(0, closefd=False) if path == "-" else FileIO(path)
        status = os.fstat(file.fileno())
        return Source(file, status.st_size if stat.S_ISREG(status.st_mode) else None)

    def blocks(self, stop: Stop = never) -> Iterator[bytes]:
        """Yield what comes, in blocks of at most 4 KiB, until the input ends or `stop` says so.

        The file is closed then.

        Yields an empty block where a pipe has paused: then a reader should answer for all it
        has. A regular file never pauses, so that the same file is always cut in the same way.
        What was taken from a pipe before it stops is yielded still, so that nothing is lost.
        """
        if self.size is None:
            yield from self._piped(stop)
            return
        with self.file:
            while not stop() and (block := self.file.read(BLOCK_BYTES)):
                yield block

    def _piped(self, stop: Stop) -> Iterator[bytes]:
        """Let a thread wait for the pipe, which works on every platform."""
        arrived: queue.Queue[bytes | OSError] = queue.Queue(1)
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
    """Return the bytes of a regular file that can be read; None for `-` and for what may pause."""
    if path == "-":
        return Source.open(path).size
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return None  # opening a named pipe twice would end it
    with FileIO(path) as file:
        return os.fstat(file.fileno()).st_size


LINE_BYTES = 1 << 20  # a longer line is cut here, between two characters


def tokenizer_for(bundle: Bundle) -> TextTokenizer | None:
    """Load the tokenizer of a bundle; None where its contract names none."""
    content = bundle.manifest.contract.chunk.content
    named = isinstance(content, Tokens) and content.tokenizer == "tokenizers"
    return TextTokenizer.of(bundle) if named else None


def token_blocks(
    path: str, tokenizer: TextTokenizer, dtype: str, stop: Stop
) -> Iterator[npt.NDArray[np.generic]]:
    """Yield the ids `[n]` of the lines that each block of an input completes."""
    left, number = b"", 1
    for block in Source.open(path).blocks(stop):
        if not block:
            yield np.zeros(0, dtype)
        left += block
        cut = left.rfind(b"\n") + 1
        if not cut and len(left) > LINE_BYTES:
            cut = _between_characters(left)
        whole, left = left[:cut], left[cut:]
        ids = _encoded(whole, tokenizer, path, number)
        number += whole.count(b"\n")
        if len(ids):  # none would mean a pause
            yield ids.astype(dtype)
    if left:
        yield _encoded(left, tokenizer, path, number).astype(dtype)


def _between_characters(text: bytes) -> int:
    place = LINE_BYTES
    while place > LINE_BYTES - 4 and text[place] & 0xC0 == 0x80:
        place -= 1
    return place


def _encoded(
    text: bytes, tokenizer: TextTokenizer, path: str, number: int
) -> npt.NDArray[np.int64]:
    ids = [np.zeros(0, np.int64)]
    *lines, last = text.split(b"\n")
    for place, line in enumerate([*(line + b"\n" for line in lines), last], number):
        try:
            ids.append(tokenizer.encode(line.decode()))
        except UnicodeDecodeError:
            raise WrongUseError(
                f"{path}: line {place} is no UTF-8 text, and this model reads text; ids go into a "
                ".npy file"
            ) from None
    return np.concatenate(ids)
