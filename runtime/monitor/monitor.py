"""Watch a stream of text line by line, with a memory that survives the process.

What a monitor has learned of lines is kept in a file of its own beside the stream's state.
"""

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
from dst.runtime.state.file import previous_of, read_record
from dst.runtime.state.record import Snapshot
from dst.runtime.stream import Stream

Arrays = Mapping[str, npt.NDArray[np.generic]]
LONGEST = 4096
"""Bytes of a line that are judged; the rest of a longer one is read and not judged."""
PIECE = 4096
"""Bytes that are stepped at a time: their logits take a kilobyte each."""


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
        with open("server.log", "rb") as log:
            while text := log.read(65_536):
                for line in monitor.read(text):
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
        if stream.pending:  # what waits for its chunk foretells the next byte
            self._guess = stream.flush()[self._logits][0, -1:].astype(np.float32)

    def read(self, text: bytes) -> list[JudgedLine]:
        """Read some bytes; return the lines that are complete now.

        A line may come in any number of pieces; how they are cut moves bits by rounding alone. The
        stream keeps no bytes back. Where this raises, nothing has been read.

        Raises:
            TypeError: this is no `bytes`.
        """
        if not isinstance(text, bytes | bytearray | memoryview):
            raise TypeError(f"text is a {type(text).__name__}, expected bytes")
        text = bytes(text)
        before, guess = self.stream.snapshot(), self._guess
        try:
            bits = np.concatenate(
                [np.zeros(0)]
                + [self._step(text[at : at + PIECE]) for at in range(0, len(text), PIECE)]
            )
        except BaseException:
            self.stream.restore(before)
            self._guess = guess
            raise
        found: list[JudgedLine] = []
        items = np.frombuffer(text, np.uint8)
        at = 0
        for end in (np.flatnonzero(items == ord("\n")) + 1).tolist():
            self._add(text[at:end], bits[at:end])
            score = self.scorer.judge(self._text, self._bits)
            found.append(JudgedLine(self._number, self._text.removesuffix(b"\n"), score))
            self._text, self._bits, self._number = b"", np.zeros(0), self._number + 1
            at = end
        self._add(text[at:], bits[at:])
        return found

    def _step(self, text: bytes) -> Floats:
        """Step some bytes and return the bits of each."""
        items = np.frombuffer(text, np.uint8).astype(np.int64)
        parts = self.stream.advance(items), self.stream.flush()
        logits = np.concatenate([self._guess, *(part[self._logits][0] for part in parts)])
        self._guess = logits[-1:]
        return surprise_bits(logits[:-1], items)

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
        save_lines(path, self.stream.snapshot(), {**self.scorer.arrays(), **own})
        self.stream.save(path)

    @staticmethod
    def load(session: Session, path: str | Path) -> "LineMonitor":
        """Go on from what `save` wrote, or `dst run --alert RATE --state PATH`.

        Raises:
            StateError: the state cannot be read (see `Stream.load`), or `lines-missing`: no file
                beside it holds the lines that belong to it.
        """
        stream = Stream.load(session, path)
        arrays = load_lines(path, stream.snapshot())
        if arrays is None:
            raise StateError(
                f"state {path}: neither {lines_of(Path(path))} nor its previous copy holds what "
                "was known of lines at this moment; copy it along with the state, or begin anew",
                code="lines-missing",
            )
        monitor = LineMonitor(stream)
        monitor.scorer.restore(arrays)
        if "guess" in arrays:  # `dst run` keeps the last byte back instead
            monitor._guess = arrays["guess"].astype(np.float32)
        monitor._text, monitor._bits = arrays["text"].tobytes(), arrays["bits"].astype(np.float64)
        monitor._number = int(arrays["line"][0])
        return monitor


def lines_of(state: Path) -> Path:
    """Where the lines that belong to a saved state are kept."""
    return state.with_name(state.name + ".lines")


def save_lines(state: str | Path, record: Snapshot, arrays: Arrays) -> None:
    """Write what is known of a stream's lines beside its state; call it before saving that.

    The lines that belong to the state which stands there now are kept as the previous copy.

    Args:
        state: path of the state.
        record: the state that will be saved there.
        arrays: of a `LineScorer`, and whatever else belongs to them.

    Raises:
        StateError: `state-unwritable`: the file cannot be written; what stood there still does.
    """
    path = lines_of(Path(state))
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    head = f"dst-lines 1 {moment_of(record)} {xxhash.xxh3_128_hexdigest(content)}\n".encode()
    try:
        if _belongs_to_disk(Path(state), previous_of(path)):  # a kill left a newer file at `path`
            path.unlink(missing_ok=True)
        replace_keeping_previous(path, [head, content], previous_of(path))
    except OSError as error:
        raise StateError(
            f"lines {path}: cannot be written: {error.strerror or error}", code="state-unwritable"
        ) from error


def load_lines(state: str | Path, record: Snapshot) -> Arrays | None:
    """Read the lines that belong to a state; None where there are none, or they are damaged."""
    path = lines_of(Path(state))
    for place in (path, previous_of(path)):
        arrays = _read(place, moment_of(record))
        if arrays is not None:
            return arrays
    return None


def moment_of(record: Snapshot) -> str:
    """What tells a state from all others: the bytes it has read, and a hash of its tensors."""
    digest = xxhash.xxh3_64()
    for name, array in sorted(record.state.items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(np.ascontiguousarray(record.pending).tobytes())
    return f"{record.items_consumed + len(record.pending)} {digest.hexdigest()}"


def _belongs_to_disk(state: Path, lines: Path) -> bool:
    """Tell whether a file of lines belongs to the state that stands on the disk."""
    try:
        return lines.exists() and _read(lines, moment_of(read_record(state))) is not None
    except StateError:
        return False


def _read(path: Path, moment: str) -> Arrays | None:
    """Read a file of lines; None where it is not of this moment, or not sound."""
    try:
        head, _, content = path.read_bytes().partition(b"\n")
        wanted = f"dst-lines 1 {moment} {xxhash.xxh3_128_hexdigest(content)}"
        arrays = load(content) if head == wanted.encode() else None
    except (OSError, ValueError, KeyError, safetensors.SafetensorError):
        return None
    return arrays if arrays is not None and _sound(arrays) else None


def _sound(arrays: Arrays) -> bool:
    """Tell whether the arrays have the shapes and values that `LineMonitor` and `dst run` write."""
    shapes = {name: array.shape for name, array in LineScorer().arrays().items()}
    shapes |= {"line": (3,), "guess": (1, 256)} if "guess" in arrays else {"line": (3,)}
    if set(arrays) != {*shapes, "text", "bits"}:
        return False
    text, bits = arrays["text"], arrays["bits"]
    if text.dtype != np.uint8 or text.ndim != 1 or not text.shape == bits.shape <= (LONGEST,):
        return False
    if any(array.shape != shapes.get(name, text.shape) for name, array in arrays.items()):
        return False
    doubles = {n: a.astype(np.float64) for n, a in arrays.items() if n not in ("text", "guess")}
    counts = [doubles["counts"], doubles["line"], bits]
    counts += [doubles[name][:, [0, 2]] for name in ("places", "tokens", "kinds")]
    return bool(
        all(arrays[name].dtype == np.float64 for name in doubles)
        and all(np.isfinite(array).all() for name, array in arrays.items() if name != "text")
        and all((np.asarray(part, np.float64) >= 0).all() for part in counts)
        and (doubles["line"] < 2**53).all()
    )
