"""Watch a stream of text line by line, with a memory that survives the process.

What a monitor has learned of lines is kept in a file of its own beside the stream's state.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import xxhash
from safetensors.numpy import load, save

from dst.runtime.errors import SessionError, StateError
from dst.runtime.files import replace_keeping_previous
from dst.runtime.monitor.scorer import LineScore, LineScorer
from dst.runtime.scoring import Floats, surprise_bits
from dst.runtime.session import Session
from dst.runtime.state.file import previous_of
from dst.runtime.stream import Stream

Arrays = Mapping[str, npt.NDArray[np.generic]]
LONGEST = 4096
"""Bytes of a line that are judged; the rest of a longer one is read and not judged."""


@dataclass(frozen=True, slots=True)
class JudgedLine:
    """A line that is complete.

    Attributes:
        number: 1 for the first line of the stream.
        text: its first bytes, `LONGEST` at most, without the newline.
        score: how strange it is.
    """

    number: int
    text: bytes
    score: LineScore


class LineMonitor:
    """Reads text as it comes and judges each line by the habits of this very stream.

    Args:
        stream: of a model that reads and predicts bytes, such as `log`, in its initial state.

    Raises:
        SessionError: `no-bytes`: the model does not read bytes.

    Examples:
        Print what is out of habit, and go on tomorrow:

        ```python
        monitor = LineMonitor(Session.open("log").stream())
        for line in monitor.read(open("server.log", "rb").read()):
            if line.score.probability <= 0.001:
                print(line.number, line.text)
        monitor.save("server.state")
        monitor = LineMonitor.load(Session.open("log"), "server.state")
        ```
    """

    def __init__(self, stream: Stream) -> None:
        contract = stream.engine.contract
        logits = [output.name for output in contract.outputs if output.meaning == "logits"]
        if getattr(contract.chunk.content, "tokenizer", None) != "bytes" or not logits:
            raise SessionError(
                "a line monitor needs a model that reads and predicts bytes, such as `log`",
                code="no-bytes",
            )
        self.stream, self.scorer, self._logits = stream, LineScorer(), logits[0]
        self._guess = np.zeros((1, 256), np.float32)  # logits of the byte that comes next
        self._text, self._bits, self._number = b"", np.zeros(0), 1

    def read(self, text: bytes) -> list[JudgedLine]:
        """Read some bytes; return the lines that are complete now.

        A line may come in any number of pieces. The stream keeps no bytes back.
        """
        found: list[JudgedLine] = []
        if not text:
            return found
        items = np.frombuffer(text, np.uint8).astype(np.int64)
        parts = self.stream.advance(items), self.stream.flush()
        logits = np.concatenate([self._guess, *(part[self._logits][0] for part in parts)])
        bits = surprise_bits(logits[:-1], items)
        self._guess = logits[-1:]
        at = 0
        for end in (np.flatnonzero(items == ord("\n")) + 1).tolist():
            self._add(text[at:end], bits[at:end])
            score = self.scorer.judge(self._text, self._bits)
            found.append(JudgedLine(self._number, self._text.removesuffix(b"\n"), score))
            self._text, self._bits, self._number = b"", np.zeros(0), self._number + 1
            at = end
        self._add(text[at:], bits[at:])
        return found

    def _add(self, text: bytes, bits: Floats) -> None:
        room = LONGEST - len(self._text)
        self._text, self._bits = self._text + text[:room], np.concatenate([self._bits, bits[:room]])

    def save(self, path: str | Path) -> None:
        """Save the stream's state to a path, and what is known of its lines to `PATH.lines`.

        Of both files the one before is kept. A process that is killed at any moment leaves a state
        and the lines that belong to it.

        Raises:
            StateError: one of them cannot be written.
        """
        own: Arrays = {
            "guess": self._guess,
            "text": np.frombuffer(self._text, np.uint8),
            "bits": self._bits,
            "line": np.array([self._number, self._bits.sum(), len(self._text)], np.float64),
        }
        save_lines(path, self.stream.items_consumed, {**self.scorer.arrays(), **own})
        self.stream.save(path)

    @staticmethod
    def load(session: Session, path: str | Path) -> "LineMonitor":
        """Go on from what `save` wrote, or `dst run --alert RATE --state PATH`.

        Raises:
            StateError: the state cannot be read (see `Stream.load`), or `lines-missing`: no file
                beside it holds the lines that belong to it.
        """
        monitor = LineMonitor(Stream.load(session, path))
        arrays = load_lines(path, monitor.stream.items_consumed + monitor.stream.pending)
        if arrays is None:
            raise StateError(
                f"state {path}: neither {lines_of(Path(path))} nor its previous copy holds what "
                "was known of lines at this moment; copy it along with the state, or begin anew",
                code="lines-missing",
            )
        monitor.scorer.restore(arrays)
        if "guess" in arrays:
            monitor._guess = arrays["guess"].astype(np.float32).reshape(1, 256)
        else:  # `dst run` keeps the last byte back instead
            rest = monitor.stream.flush()[monitor._logits][0, -1:]
            monitor._guess = rest.astype(np.float32)
        monitor._text, monitor._bits = arrays["text"].tobytes(), arrays["bits"].astype(np.float64)
        monitor._number = int(arrays["line"][0])
        return monitor


def lines_of(state: Path) -> Path:
    """Where the lines that belong to a saved state are kept."""
    return state.with_name(state.name + ".lines")


def save_lines(state: str | Path, items: int, arrays: Arrays) -> None:
    """Write what is known of a stream's lines beside its state; call it before saving that.

    Args:
        state: path of the state.
        items: bytes that the stream has read.
        arrays: of a `LineScorer`, and whatever else belongs to them.

    Raises:
        StateError: `state-unwritable`: the file cannot be written; what stood there still does.
    """
    path = lines_of(Path(state))
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    head = f"dst-lines 1 {items} {xxhash.xxh3_128_hexdigest(content)}\n".encode()
    try:
        replace_keeping_previous(path, [head, content], previous_of(path))
    except OSError as error:
        raise StateError(
            f"lines {path}: cannot be written: {error.strerror or error}", code="state-unwritable"
        ) from error


def load_lines(state: str | Path, items: int) -> Arrays | None:
    """Read the lines that belong to a state after so many bytes; None where there are none."""
    path = lines_of(Path(state))
    for place in (path, previous_of(path)):
        with contextlib.suppress(OSError, ValueError, safetensors.SafetensorError):
            head, _, content = place.read_bytes().partition(b"\n")
            if head.split()[:3] != [b"dst-lines", b"1", str(items).encode()]:
                continue
            if head.split()[3].decode() == xxhash.xxh3_128_hexdigest(content):
                return load(content)
    return None
