"""Measure any log: how well it packs, how long its lines are, how they repeat."""

import re
import zlib

import numpy as np

DIGITS = re.compile(rb"[0-9]+|\b[0-9a-f]{6,}\b")
NAMES = (
    "gzip -9, bits per byte",
    "bytes of a line, median",
    "bytes of a line, 95 %",
    "known line, digits masked",
    "line like the one before",
    "lines, digits masked, kinds",
    "share of digits",
    "share of letters",
)


def measured(text: bytes) -> list[float]:
    """Return the figures of `NAMES` for a log."""
    lines = text.splitlines()
    lengths = [len(line) for line in lines]
    seen: set[bytes] = set()
    known = same = 0
    before = b""
    for line in lines:
        masked = DIGITS.sub(b"0", line)
        known += masked in seen
        same += masked == before
        seen.add(masked)
        before = masked
    items = np.frombuffer(text, np.uint8)
    return [
        8 * len(zlib.compress(text, 9)) / len(text),
        float(np.median(lengths)),
        float(np.percentile(lengths, 95)),
        known / len(lines),
        same / len(lines),
        float(len(seen)),
        float(np.mean((items >= 48) & (items < 58))),
        float(np.mean((items | 32 >= 97) & (items | 32 < 123))),
    ]
