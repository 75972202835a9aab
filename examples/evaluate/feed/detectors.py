"""Simple anomaly detectors to compare with, each in one pass without looking ahead.

Shape letters: n rows.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
DAY_S = 86400


def windowed_gaussian(values: Floats, window: int = 6400, step: int = 100) -> Floats:
    """1 - Q(|z|) under the mean and spread of the last values, as the benchmark's own baseline.

    The window grows to 6,400 rows and then moves on in steps of 100.
    """
    held: list[float] = []
    waiting: list[float] = []
    scores = np.zeros(len(values))
    total = squares = 0.0
    for row, value in enumerate(values.tolist()):
        if held:
            mean = total / len(held)
            spread = math.sqrt(max(squares / len(held) - mean * mean, 0.0)) or 1e-6
            scores[row] = 1 - 0.5 * math.erfc(abs(value - mean) / spread / math.sqrt(2))
        if len(held) < window:
            held.append(value)
            total, squares = total + value, squares + value * value
        else:
            waiting.append(value)
            if len(waiting) == step:
                held, waiting = held[step:] + waiting, []
                total, squares = sum(held), sum(v * v for v in held)
    return scores


def seasonal_naive(values: Floats, seconds: Floats, memory: int = 1000) -> Floats:
    """How far a value is from that of a day before, over the mean of such distances lately."""
    scores = np.zeros(len(values))
    usual, count = 0.0, 0
    before = np.searchsorted(seconds, seconds - DAY_S, side="right") - 1
    for row, past in enumerate(before.tolist()):
        if past < 0:
            continue
        far = abs(values[row] - values[past])
        if count:
            scores[row] = far / (usual + 1e-9)
        count += 1
        usual += (far - usual) / min(count, memory)
    return scores


def random_scores(n: int, seed: int) -> Floats:
    """Numbers that know nothing."""
    return np.random.default_rng(seed).random(n)


def seconds_of(times: Sequence[str]) -> Floats:
    """Seconds since 1970 of times without a zone."""
    moments = np.array([text.replace(" ", "T") for text in times], "datetime64[us]")
    return np.asarray(moments.astype(np.int64) / 1e6)
