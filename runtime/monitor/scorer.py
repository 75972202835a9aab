"""Judge each line of a text stream by how far it is out of the habits of this very stream.

A model of bytes says how many bits each byte of a line costs. The sum says little: some kinds of
lines always cost much (a random id in each), and a strange word in a cheap line is lost beside
them. So each token's bits are compared with what tokens at such a place, and this token there, have
usually cost. The two largest excesses, and how far the bits of the line stand out from those of all
lines, are the line's score; and the score is compared with those of all earlier lines, which gives
the probability that a line of this stream looks as strange.

Everything is a fixed number of numbers, whatever the length of the stream, and forgets slowly,
since programs change their ways.
"""

import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
TOKEN = re.compile(rb"[A-Za-z_]+|[0-9]+|\s+|[^A-Za-z0-9_\s]")
PLACES, TOKENS, KINDS = 1 << 14, 1 << 15, 1 << 12
"""Hashed buckets for places in a line, for tokens at a place, and for kinds of lines. Where two
want the same bucket, the later one begins it anew."""
PRIOR = 2.0
"""How many values of its own a bucket needs to count as much as the coarser one."""
FLOOR = 0.3
"""Added to the variance of bits, so that what never cost anything may cost a little, bits^2."""
FORGET = 1 / 2000
"""Share by which the oldest values of a bucket fade with each new one, at least."""
LARGEST, WHOLE = 2, 4.0
"""How many of a line's excesses are added, and what the excess of the whole line counts."""
LINE_FLOOR = 0.05
"""Added to the variance of the logarithm of lines' bits."""
TAIL_SHARE, TAIL_SHAPE, TAIL_FORGET = 0.05, 0.2, 1 / 4000
"""Above the score that this share of lines reaches, probabilities follow a generalized Pareto law
of this shape (peaks over threshold; Pickands 1975); and how fast the counts of scores fade."""
MOST_BITS = 1e6
"""Bits of a byte, at most."""
LEAST_SHARE = 0.2
"""No probability is lower than this over the number of lines so far."""
CELLS, HIGHEST = 512, 64.0
"""Cells of the counts of scores, and the score at which the last one ends."""


ALL = -1
"""The bucket of all values together, the last one of a table."""
Buckets = list[tuple[float, float, float, float]]
"""Count, mean and mean squared distance from the mean of the values in each bucket, and the hash of
whose they are; tuples, since single numbers of an array are slow to read."""


@dataclass(frozen=True, slots=True)
class LineScore:
    """How strange a line is.

    Attributes:
        bits: what the model needed for the bytes that were judged, the newline included.
        usual_bits: what lines of its kind (the same words, any numbers) have needed on average; of
            all lines, where the kind is new.
        score: how many deviations its tokens cost more than usual; 0 is ordinary.
        probability: share of the lines of this stream that look as strange, in (0, 1]. An alert at
            a probability of at most 0.001 raises about one false alarm in 1,000 lines.
    """

    bits: float
    usual_bits: float
    score: float
    probability: float


class LineScorer:
    r"""Scores one line after another of one stream, and learns from each.

    Examples:
        >>> scorer = LineScorer()
        >>> for _ in range(100):
        ...     usual = scorer.judge(b"request done\n", np.full(13, 0.1))
        >>> odd = scorer.judge(b"request lost\n", np.array([0.1] * 8 + [9.0, 4, 2, 1, 0.1]))
        >>> odd.probability < 0.01
        True
    """

    def __init__(self) -> None:
        tables = _tables()
        self.places, self.tokens, self.kinds = tables["places"], tables["tokens"], tables["kinds"]
        self.counts = np.zeros(CELLS)

    def judge(self, line: bytes, bits: Floats) -> LineScore:
        """Score a line and learn from it.

        Args:
            line: its bytes, the newline included.
            bits: what the model needed for each of them, float64 `[len(line)]`.

        Raises:
            ValueError: there are not as many bits as bytes, or one is negative or not finite.
        """
        if not np.isfinite(bits).all() or (bits < 0).any() or (bits > MOST_BITS).any():
            raise ValueError(f"bits must lie in [0, {MOST_BITS:g}]")
        if bits.shape != (len(line),):
            raise ValueError(f"bits {list(bits.shape)} do not fit a line of {len(line)} bytes")
        tokens, ends = [], []
        for match in TOKEN.finditer(line):
            tokens.append(b"0" if match[0][:1].isdigit() else match[0])
            ends.append(match.end())
        costs = np.diff(np.concatenate(([0.0], np.cumsum(bits)))[[0, *ends]])
        total = float(bits.sum())
        size = math.log2(1.0 + total)
        kind = zlib.crc32(b" ".join(t for t in tokens if t != b"0" and not t.isspace()))
        known, usual, _ = _known(self.kinds, kind)
        lines, mean, spread = _known(self.kinds, ALL)
        if not known:
            usual = 2.0**mean - 1.0
        score = self._score(tokens, costs.tolist())
        if lines > 1:
            score += WHOLE * max(0.0, (size - mean) / math.sqrt(spread + LINE_FLOOR))
        _learn(self.kinds, kind, total)
        _learn(self.kinds, ALL, size)
        chance = max(self._probability(score), LEAST_SHARE / (lines + 1.0))
        return LineScore(total, usual, score, min(1.0, chance))

    def arrays(self) -> dict[str, Floats]:
        """What it has learned, to be saved; `restore` takes it."""
        tables = {"places": self.places, "tokens": self.tokens, "kinds": self.kinds}
        return {name: np.array(table) for name, table in tables.items()} | {"counts": self.counts}

    def restore(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on from what `arrays` gave.

        Raises:
            ValueError: an array is missing or has another shape.
        """
        for name, own in self.arrays().items():
            given = arrays.get(name)
            if given is None or given.shape != own.shape:
                came = "nothing" if given is None else list(given.shape)
                raise ValueError(f"line scores: {name}: expected {list(own.shape)}, came {came}")
        self.places, self.tokens, self.kinds = (
            [(*row,) for row in arrays[name].tolist()] for name in ("places", "tokens", "kinds")
        )
        self.counts = np.array(arrays["counts"], np.float64)

    def _score(self, tokens: list[bytes], costs: list[float]) -> float:
        before = last = b""
        found, learned = [0.0] * LARGEST, []
        for token, cost in zip(tokens, costs, strict=True):
            kind = b"a" if token.isalpha() else token[:1]
            here = b"\0".join((before, last))
            place = zlib.crc32(kind, zlib.crc32(here))
            exact = zlib.crc32(token, zlib.crc32(here, 1))
            known, mean, spread = _known(self.places, ALL)
            if known:
                for table, bucket in ((self.places, place), (self.tokens, exact)):
                    count, own_mean, own_spread = _known(table, bucket)
                    own = count / (count + PRIOR)
                    spread = own * own_spread + (1 - own) * (spread + own * (own_mean - mean) ** 2)
                    mean += own * (own_mean - mean)
                found.append((cost - mean) / math.sqrt(spread + FLOOR))
            learned.append((place, exact, cost))
            if not token.isspace():
                before, last = last, token
        for place, exact, cost in learned:
            _learn(self.places, place, cost)
            _learn(self.places, ALL, cost)
            _learn(self.tokens, exact, cost)
        return sum(sorted(found)[-LARGEST:])

    def _probability(self, score: float) -> float:
        width = HIGHEST / CELLS
        cell = min(int(max(score, 0.0) / width), CELLS - 1)
        counted = self.counts.sum()
        above = np.cumsum(self.counts[::-1])[::-1]  # scores in this cell or a higher one
        chance = 1.0
        if counted:
            few = max(TAIL_SHARE * counted, 5.0)
            edge = max(int(np.searchsorted(-above, -few)) - 1, 0)
            start = width * edge
            if score <= start or above[edge] <= 0:
                chance = max(above[cell], 1.0) / (counted + 1.0)
            else:
                middles = width * (np.arange(edge, CELLS) + 0.5) - start
                excess = (float(self.counts[edge:] @ middles) + 1.0) / (above[edge] + 1.0)
                tail = (1.0 + TAIL_SHAPE * (score - start) / excess) ** (-1.0 / TAIL_SHAPE)
                chance = above[edge] / counted * tail
        self.counts *= 1.0 - TAIL_FORGET
        self.counts[cell] += 1.0
        return float(min(1.0, chance))


def _tables() -> dict[str, Buckets]:
    """Tables that know nothing yet; behind the buckets that are hashed stands that of all."""
    sizes = {"places": PLACES, "tokens": TOKENS, "kinds": KINDS}
    return {name: [(0.0, 0.0, 0.0, ALL)] * (size + 1) for name, size in sizes.items()}


def _known(buckets: Buckets, wanted: int) -> tuple[float, float, float]:
    """Return count, mean and spread of a bucket; zeros where it is another's."""
    count, mean, spread, owner = buckets[wanted if wanted == ALL else wanted % (len(buckets) - 1)]
    return (count, mean, spread) if owner == wanted else (0.0, 0.0, 0.0)


def _learn(buckets: Buckets, wanted: int, value: float) -> None:
    count, mean, spread = _known(buckets, wanted)
    rate = max(FORGET, 1.0 / (count + 1.0))
    away = value - mean
    spread += rate * ((1.0 - rate) * away * away - spread)
    at = wanted if wanted == ALL else wanted % (len(buckets) - 1)
    buckets[at] = count + 1.0, mean + rate * away, spread, wanted
