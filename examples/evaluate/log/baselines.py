"""Score lines without a model: by compression, by rare tokens, by pairs of tokens never seen.

A scorer is called with one line after another, in the order of the log, and returns how strange
each is: more is stranger. It knows the lines it was called with before; `RareTokens` may be given
counts of the whole log beforehand, which no program that watches a live log can have.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Protocol

TOKEN = re.compile(rb"[A-Za-z0-9_]+|[^A-Za-z0-9_\s]+")
DIGITS = re.compile(rb"[0-9]+")
HEXADECIMAL = re.compile(rb"(?=[a-f]*[0-9])[0-9a-f]{6,}", re.I)
CONTEXT_BYTES = 16 * 1024


class Scorer(Protocol):
    """Tells how strange a line is, after the lines before it."""

    def __call__(self, line: bytes) -> float:
        """Score the next line; more is stranger."""
        ...


def masked(line: bytes) -> list[bytes]:
    """Return the tokens of a line: digits become `0`, long hexadecimal numbers `#`."""
    return [
        b"#" if HEXADECIMAL.fullmatch(token) else DIGITS.sub(b"0", token)
        for token in TOKEN.findall(line)
    ]


class GzipDelta:
    """Bytes that deflate needs for a line when it knows the 16 KiB before it."""

    def __init__(self) -> None:
        self.context = b""

    def __call__(self, line: bytes) -> float:
        """Score the next line."""
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, self.context)
        size = len(packer.compress(line) + packer.flush())
        self.context = (self.context + line)[-CONTEXT_BYTES:]
        return float(size)


class RareTokens:
    """Bits of the three rarest tokens of a line, by how often tokens were seen.

    Args:
        whole: lines to count first, for the batch form; the online form counts as it goes.
    """

    def __init__(self, whole: Iterable[bytes] = ()) -> None:
        self.counts: Counter[bytes] = Counter()
        for line in whole:
            self.counts.update(masked(line))
        self.online = not self.counts
        self.total = sum(self.counts.values())

    def __call__(self, line: bytes) -> float:
        """Score the next line."""
        tokens = masked(line)
        rare = sorted(self.counts[token] for token in set(tokens))[:3]
        score = sum(math.log2((self.total + 1.0) / (count + 0.5)) for count in rare)
        if self.online:
            self.counts.update(tokens)
            self.total += len(tokens)
        return score


class NewBigrams:
    """How many pairs of neighbouring tokens of a line were never seen before."""

    def __init__(self) -> None:
        self.seen: set[tuple[bytes, bytes]] = set()

    def __call__(self, line: bytes) -> float:
        """Score the next line."""
        tokens = [b"", *masked(line), b""]
        pairs = set(pairwise(tokens))
        new = len(pairs - self.seen)
        self.seen |= pairs
        return float(new)


def baselines(lines: list[bytes]) -> dict[str, Scorer]:
    """Return every baseline by name, before its first line."""
    return {
        "gzip delta, 16 KiB": GzipDelta(),
        "rare tokens, batch": RareTokens(lines),
        "rare tokens, online": RareTokens(),
        "new bigrams": NewBigrams(),
    }
