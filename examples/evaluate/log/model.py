"""Stream a log through a bundle from its cold state: bits per byte, and scores of lines."""

import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dst.runtime import LineScore, LineScorer, Session, Stream, surprise_bits

PIECE = 1 << 15
Bits = NDArray[np.float64]


@dataclass(slots=True)
class Reader:
    """Reads a log byte by byte, as a program that watches it does.

    Attributes:
        stream: of a bundle whose items are bytes.
        guess: logits of the byte that comes next; None before the first.
    """

    stream: Stream
    guess: NDArray[np.float32] | None = None

    def fork(self) -> "Reader":
        """Return a reader that stands where this one does."""
        return Reader(self.stream.fork(), self.guess)

    def read(self, text: bytes) -> Bits:
        """Return the bits of each byte, `[len(text)]`; the first byte of all costs 8."""
        found = []
        for start in range(0, len(text), PIECE):
            items = np.frombuffer(text[start : start + PIECE], np.uint8).astype(np.int64)
            parts = [self.stream.advance(items)["logits"], self.stream.flush()["logits"]]
            logits = np.concatenate(parts, 1)[0]
            first = np.zeros((1, logits.shape[1]), np.float32) if self.guess is None else self.guess
            found.append(surprise_bits(np.concatenate([first, logits[:-1]]), items))
            self.guess = logits[-1:]
        return np.concatenate(found) if found else np.zeros(0)


def opened(bundle: str) -> Reader:
    """Open a bundle in its cold state.

    Raises:
        ValueError: its items are not bytes.
    """
    session = Session.open(bundle)
    chunk = session.contract.chunk.content
    if getattr(chunk, "vocabulary", 0) != 256:
        raise ValueError(f"bundle {bundle}: its items are not bytes, choose one that reads bytes")
    return Reader(session.stream())


FORMS = ("sum", "mean", "habit")
"""Scores of a line: its bits, its bits per byte, and how far it is out of the stream's habits."""


class ModelScorers:
    """Every form of the score of a line, after a part of a log.

    Args:
        reader: it stands where that part ends.
        lines: of that part.
        bits: of their bytes.
    """

    def __init__(self, reader: Reader, lines: list[bytes], bits: Bits) -> None:
        self.reader, self.scorer = reader, LineScorer()
        self.found = scored(self.scorer, lines, bits)

    def continued(self, lines: list[bytes], bits: Bits) -> list[LineScore]:
        """Score the lines that follow; what is learned of them is thrown away afterwards."""
        return scored(copy.deepcopy(self.scorer), lines, bits)


def scored(scorer: LineScorer, lines: list[bytes], bits: Bits) -> list[LineScore]:
    """Score lines whose bits are known; the scorer learns from them."""
    found, start = [], 0
    for line in lines:
        found.append(scorer.judge(line, bits[start : start + len(line)]))
        start += len(line)
    return found


def by_form(lines: list[bytes], found: list[LineScore]) -> dict[str, list[float]]:
    """Return each form's scores of the lines."""
    sums = [one.bits for one in found]
    means = [one.bits / len(line) for one, line in zip(found, lines, strict=True)]
    return dict(zip(FORMS, (sums, means, [one.score for one in found]), strict=True))
