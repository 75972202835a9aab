"""Turn the bits that a model needs for the bytes of a line into one number: how strange it is.

The sum of the bits is a poor answer: some kinds of lines always cost much (a random id in each),
and a strange word in a cheap line is lost beside them. So bits are compared with what this stream
usually needs at such a place. All forms here hold a fixed number of numbers, whatever the length of
the stream, need numpy only, and forget slowly, since programs change their ways.

    sum, mean   bits of a line, or of a byte of it
    kind        bits of a line over what lines of its kind need, in deviations
    slot        bits of each token over what tokens at such a place need: the three largest excesses
    both        kind and slot together
"""

import math
import re
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Form = Literal["sum", "mean", "kind", "slot", "both"]
FORMS: tuple[Form, ...] = ("sum", "mean", "kind", "slot", "both")
TOKEN = re.compile(rb"[A-Za-z_]+|[0-9]+|\s+|[^A-Za-z0-9_\s]")
BUCKETS = 4096
FORGET = 1 / 2000  # share by which the oldest memories fade with each new one, at least


class Running:
    """Running mean and deviation of values in hashed buckets, drawn towards those of all buckets.

    Args:
        buckets: how many; two kinds that share one are taken for the same.
        prior: how many values of its own a bucket needs to count as much as all others.
    """

    def __init__(self, buckets: int = BUCKETS, prior: float = 2.0) -> None:
        self.count = np.zeros(buckets + 1)  # the last one is that of all
        self.mean = np.zeros(buckets + 1)
        self.square = np.zeros(buckets + 1)  # mean of the squared distance from the mean
        self.prior = prior

    def excess(self, bucket: int, value: float) -> float:
        """Return how many deviations a value lies over what is usual in its bucket."""
        number, prior = self.count[bucket], self.prior
        if not self.count[-1]:
            return 0.0
        own = number / (number + prior)
        mean = own * self.mean[bucket] + (1 - own) * self.mean[-1]
        apart = own * (1 - own) * (self.mean[bucket] - self.mean[-1]) ** 2
        spread = own * self.square[bucket] + (1 - own) * self.square[-1] + apart
        return float((value - mean) / math.sqrt(spread + 1.0))

    def learn(self, bucket: int, value: float) -> None:
        """Take a value into account."""
        for place in (bucket, -1):
            self.count[place] += 1
            rate = max(FORGET, 1 / self.count[place])
            away = value - self.mean[place]
            self.mean[place] += rate * away
            self.square[place] += rate * ((1 - rate) * away * away - self.square[place])


class Tail:
    """Share of all earlier values that were at least as large, from counts on a fixed grid.

    Between grid points it interpolates; beyond the largest value it follows the exponential law.
    """

    def __init__(self, low: float = -8.0, high: float = 64.0, cells: int = 288) -> None:
        self.edges = np.linspace(low, high, cells)
        self.counts = np.zeros(cells + 1)

    def __call__(self, value: float) -> float:
        """Return the probability of a value this large or larger, and count the value."""
        place = int(np.searchsorted(self.edges, value))
        above = self.counts[place:].sum()
        chance = (above + math.exp(-max(value, 0.0) / 4)) / (self.counts.sum() + 1.0)
        self.counts *= 1 - FORGET
        self.counts[place] += 1
        return float(min(1.0, chance))


def skeleton(line: bytes) -> list[bytes]:
    """Return the tokens of a line with numbers as `0`."""
    return [b"0" if token[:1].isdigit() else token for token in TOKEN.findall(line)]


class LineScore:
    """Scores one line after another of one stream.

    Args:
        form: see the head of this module.
    """

    def __init__(self, form: Form = "both") -> None:
        self.form: Form = form
        self.kinds, self.slots, self.tail = Running(), Running(2 * BUCKETS), Tail()

    def __call__(self, line: bytes, bits: NDArray[np.float64]) -> float:
        """Score a line and learn from it.

        Args:
            line: its bytes.
            bits: what the model needed for each of them, float64 `[len(line)]`.

        Returns:
            More is stranger. Forms `sum` and `mean` are in bits, the others in deviations.
        """
        total = float(bits.sum())
        if self.form == "sum":
            return total
        if self.form == "mean":
            return total / max(1, len(bits))
        score = 0.0
        if self.form in ("kind", "both"):
            words = b" ".join(t for t in skeleton(line) if t != b"0" and not t.isspace())
            bucket = zlib.crc32(words) % BUCKETS
            value = math.log2(1.0 + total)
            score = self.kinds.excess(bucket, value * 4)
            self.kinds.learn(bucket, value * 4)
        if self.form in ("slot", "both"):
            score += self._by_slot(line, bits)
        return score

    def probability(self, score: float) -> float:
        """Return how likely a score this large is in this stream; call it once for each line."""
        return self.tail(score)

    def _by_slot(self, line: bytes, bits: NDArray[np.float64]) -> float:
        edges = [match.end() for match in TOKEN.finditer(line)]
        if not edges:
            return 0.0
        running = np.concatenate(([0.0], np.cumsum(bits)))
        costs = np.diff(running[[0, *edges]])
        before = last = b""
        found = []
        for token, cost in zip(skeleton(line), costs.tolist(), strict=True):
            kind = b"0" if token == b"0" else b"a" if token.isalpha() else token[:1]
            bucket = zlib.crc32(b"\0".join((before, last, kind))) % (2 * BUCKETS)
            found.append((self.slots.excess(bucket, cost), bucket, cost))
            if not token.isspace():
                before, last = last, token
        for _, bucket, cost in found:
            self.slots.learn(bucket, cost)
        return sum(max(0.0, excess) for excess, _, _ in sorted(found)[-3:])
