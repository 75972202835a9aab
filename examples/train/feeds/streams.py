"""Endlessly many made-up numeric streams with their times, no two of them alike.

Shape letters: n items.
"""

import numpy as np
import numpy.typing as npt
from feeds import parts as p

from dst.runtime.monitor.calendar import time_inputs

Items = npt.NDArray[np.float32]
PERIODS_S = (10, 60, 60, 300, 300, 300, 300, 600, 900, 1800, 1800, 3600, 3600, 14400, 86400)
FIRST_DAY_S = 18_001 * p.DAY_S  # a Monday, in seconds since 1970


def clock(random: p.Random, n: int) -> p.Floats:
    """Times of n items, in seconds since midnight of a Monday; some have gaps, some no rhythm."""
    period = float(random.choice(PERIODS_S))
    steps = np.full(n, period)
    if random.random() < 0.25:
        lost = random.random(n) < p.log_uniform(random, 1e-3, 0.2)
        steps[lost] *= random.integers(2, 40, size=int(lost.sum()))
    if random.random() < 0.15:
        steps = random.exponential(period, size=n) + 0.001
    return np.asarray(random.uniform(0, 7 * p.DAY_S) + np.cumsum(steps))


def stream(random: p.Random, n: int, trouble: bool = True) -> Items:
    """Make a stream of n items: value, day, second of the day.

    In half of the streams something goes wrong now and then, unless `trouble` is False.
    """
    seconds = clock(random, n)
    y = values(random, seconds, trouble)
    times = time_inputs(seconds + FIRST_DAY_S)
    if random.random() < 0.1:
        times[:, 0] = -1.0  # nobody knows the time
    return np.concatenate([y[:, None].astype(np.float32), times], 1)


def values(random: p.Random, seconds: p.Floats, trouble: bool = True) -> p.Floats:
    """Make the values of a stream at these times."""
    n = len(seconds)
    y, spread = np.zeros(n), np.ones(n)
    if random.random() < 0.6:
        habit = p.daily(random, seconds / p.DAY_S % 1)
        if random.random() < 0.6:
            habit = habit * p.weekly(random, (seconds / p.DAY_S).astype(np.int64) % 7)
        y += habit * p.log_uniform(random, 0.5, 20)
        if random.random() < 0.3:  # the spread follows the habit
            spread = spread * (0.2 + np.abs(habit))
    if random.random() < 0.2:
        y += p.repeats(random, n) * p.log_uniform(random, 0.5, 20)
    if random.random() < 0.3:
        y += p.walk(random, n) * p.log_uniform(random, 0.3, 10)
    if random.random() < 0.25:
        y += p.shifts(random, n) * p.log_uniform(random, 0.5, 5)
    if random.random() < 0.2:
        y += p.trend(random, n)
    if random.random() < 0.2:
        level, scale = p.regimes(random, n)
        y += level * p.log_uniform(random, 0.3, 5)
        if random.random() < 0.5:
            spread = spread * scale
    if random.random() < 0.2:
        spread = spread * p.clustered(random, n)
    if random.random() < 0.92:
        noise = p.white(random, n) if random.random() < 0.55 else p.coloured(random, n)
        y += noise * spread * p.log_uniform(random, 0.05, 2)
    y = observed(random, y).astype(np.float64)
    if random.random() < 0.5 and trouble:
        p.trouble(random, y, float(np.abs(np.diff(y)).mean() + 0.3 * y.std() + 1e-3))
    if random.random() < 0.15 and (y >= 0).all():
        y = np.round(y)
    return y * p.log_uniform(random, 1e-3, 1e5) if random.random() < 0.7 else y


def observed(random: p.Random, y: p.Floats) -> p.Floats:
    """Turn a signal into what a meter shows: counts, shares, positive numbers, a coarse grid."""
    kind = random.integers(12)
    middle, size = y.mean(), y.std() + 1e-6
    z = (y - middle) / size
    if kind <= 3:
        return np.asarray(y + size * random.choice([0.0, 1.0, 5.0, 50.0]) * random.random())
    if kind == 4:
        return np.asarray(np.exp(np.clip(z * random.uniform(0.3, 1.5), -10, 10)))
    if kind == 5:
        rate = np.exp(np.clip(z * 0.7, -5, 5)) * p.log_uniform(random, 0.1, 300)
        return np.asarray(random.poisson(rate))
    if kind == 6:
        return np.asarray(np.maximum(z + random.uniform(-1, 3), 0.0))
    if kind == 7:
        return np.asarray(100 / (1 + np.exp(-z * random.uniform(0.5, 2) + random.normal())))
    if kind == 8:
        return np.asarray(np.round(z * p.log_uniform(random, 0.5, 50)) * 1.0)
    if kind == 9:  # mostly nothing
        busy = random.random(len(z)) < p.log_uniform(random, 0.01, 0.5)
        return np.asarray(np.where(busy, np.abs(z) + 0.1, 0.0))
    if kind == 10:
        return np.asarray(np.clip(z, -random.uniform(0.5, 2), random.uniform(0.5, 3)))
    held = random.integers(2, 30)  # the meter is read more often than it changes
    return np.asarray(np.repeat(z[::held], held)[: len(z)])
