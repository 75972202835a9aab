"""Parts of made-up streams: habits, noises, regimes, repeats, and what goes wrong now and then.

Shape letters: n items.
"""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Random = np.random.Generator
DAY_S = 86400.0


def log_uniform(random: Random, low: float, high: float) -> float:
    """Draw a number whose logarithm is spread evenly."""
    return math.exp(random.uniform(math.log(low), math.log(high)))


def filtered(x: Floats, back: list[float], ahead: tuple[float, float] = (1.0, 0.0)) -> Floats:
    """Run `y_t = back . (y_t-1, y_t-2, ...) + ahead . (x_t, x_t-1)`, with nothing before."""
    made, one, two, before = [], 0.0, 0.0, 0.0
    first, second = back[0], back[1] if len(back) > 1 else 0.0
    for value in x.tolist():
        one, two = first * one + second * two + ahead[0] * value + ahead[1] * before, one
        before = value
        made.append(one)
    return np.asarray(made)


# Habits


def daily(random: Random, part: Floats) -> Floats:
    """A habit of the day, by the part of the day that has passed, `[n]` in [0, 1)."""
    kind = random.integers(4)
    if kind == 0:  # a few waves
        value = np.zeros_like(part)
        for wave in range(1, random.integers(2, 6)):
            size = random.normal() / wave
            value += size * np.sin(2 * math.pi * (wave * part + random.random()))
        return value
    if kind == 1:  # working hours
        begin, length = random.uniform(0.2, 0.5), random.uniform(0.1, 0.5)
        sharp = log_uniform(random, 0.003, 0.05)
        up = 1 / (1 + np.exp(-np.clip((part - begin) / sharp, -50, 50)))
        down = 1 / (1 + np.exp(-np.clip((part - begin - length) / sharp, -50, 50)))
        return 2 * (up - down)
    value = np.zeros_like(part)  # peaks; or short jobs at fixed times
    for _ in range(random.integers(1, 4)):
        far = np.abs(part - random.random())
        far = np.minimum(far, 1 - far)
        width = log_uniform(random, 0.02, 0.15) if kind == 2 else log_uniform(random, 0.003, 0.03)
        bump = np.exp(-0.5 * (far / width) ** 2) if kind == 2 else (far < width).astype(float)
        value += random.uniform(0.5, 3.0) * bump
    return value


def weekly(random: Random, day: npt.NDArray[np.int64]) -> Floats:
    """A factor for each item by its day of the week, `[n]` in 0 .. 6, Monday 0."""
    factors = 1 + 0.15 * random.normal(size=7)
    if random.random() < 0.7:
        factors[5:] *= random.uniform(0.1, 1.2)
    return np.asarray(factors[day])


# Noise


def white(random: Random, n: int) -> Floats:
    """Independent numbers of mean absolute value about 1, of one of several laws."""
    kind = random.integers(6)
    if kind <= 1:
        return random.normal(size=n)
    if kind == 2:
        return random.laplace(size=n)
    if kind == 3:
        return np.clip(random.standard_t(random.uniform(1.8, 5.0), size=n), -60, 60)
    if kind == 4:
        skewed = random.gamma(random.uniform(0.5, 3.0), size=n)
        return np.asarray((skewed - skewed.mean()) * random.choice([-1, 1]))
    calm, wild, mix = random.uniform(0.3, 1), random.uniform(2, 8), random.uniform(0.01, 0.2)
    return random.normal(size=n) * np.where(random.random(n) < mix, wild, calm)


def coloured(random: Random, n: int) -> Floats:
    """Noise with a memory: an ARMA process of order up to 2."""
    radius, angle = random.uniform(0, 0.995), random.uniform(0, math.pi)
    if random.random() < 0.6:
        back = [random.uniform(-0.5, 0.995)]
    else:
        back = [2 * radius * math.cos(angle), -(radius**2)]
    ahead = 1.0, random.uniform(-0.8, 0.8) if random.random() < 0.4 else 0.0
    made = filtered(white(random, n + 200), back, ahead)[200:]
    return np.asarray(made / (np.abs(made).mean() + 1e-9))


def clustered(random: Random, n: int) -> Floats:
    """A volatility that wanders, as a factor of mean about 1."""
    slow = filtered(random.normal(size=n), [random.uniform(0.95, 0.999)])
    return np.asarray(np.exp(random.uniform(0.2, 1.0) * slow / (np.std(slow) + 1e-9)))


# Regimes and repeats


def regimes(random: Random, n: int) -> tuple[Floats, Floats]:
    """A level and a scale that switch between a few states, as a hidden Markov chain does."""
    states = random.integers(2, 5)
    level, scale = random.normal(size=states) * 3, np.exp(random.normal(size=states) * 0.7)
    stay = log_uniform(random, 5, 800)
    lengths = random.geometric(1 / stay, size=int(n / stay * 2) + 20)
    while lengths.sum() < n:
        lengths = np.concatenate([lengths, lengths])
    path = np.repeat(random.integers(states, size=len(lengths)), lengths)[:n]
    return np.asarray(level[path]), np.asarray(scale[path])


def repeats(random: Random, n: int) -> Floats:
    """A wave whose period has nothing to do with the calendar."""
    period = log_uniform(random, 3, 400)
    phase = np.arange(n) / period + random.random()
    if random.random() < 0.3:  # the period wavers
        phase = phase + np.cumsum(random.normal(size=n)) * 0.02
    part = phase % 1
    kind = random.integers(4)
    if kind == 0:
        return np.asarray(np.sin(2 * math.pi * phase))
    if kind == 1:
        return np.asarray(2 * part)
    if kind == 2:
        return 2 * (part < random.uniform(0.05, 0.6)).astype(float)
    return np.asarray(np.exp(-part * random.uniform(2, 10)) * 2)


def walk(random: Random, n: int) -> Floats:
    """A level that wanders without end, or back to its middle."""
    back = 1.0 if random.random() < 0.3 else 1 - log_uniform(random, 1e-4, 1e-1)
    made = filtered(white(random, n), [back])
    return np.asarray(made / (np.abs(made - made.mean()).mean() + 1e-9))


def shifts(random: Random, n: int) -> Floats:
    """A level that changes now and then, in one step or slowly."""
    made = np.zeros(n)
    for place in random.integers(n, size=random.poisson(n / 2500)):
        made[place:] += random.normal() * 3
    return made


def trend(random: Random, n: int) -> Floats:
    """A straight line."""
    return np.linspace(0, random.normal() * log_uniform(random, 0.3, 10), n)


# What goes wrong


def trouble(random: Random, y: Floats, size: float) -> None:
    """Change a stream in place as faults do: spikes, drops, flat lines, other habits."""
    n = len(y)
    for place in random.integers(n, size=random.poisson(n / 1200)):
        length = int(log_uniform(random, 1, 300))
        part = slice(place, place + length)
        kind = random.integers(7)
        if kind <= 1:
            short = slice(place, place + random.integers(1, 4))
            y[short] += random.choice([-1, 1]) * size * log_uniform(random, 3, 60)
        elif kind == 2:
            y[part] = y[place]
        elif kind == 3:
            y[part] = 0.0 if random.random() < 0.5 else y.min()
        elif kind == 4:
            y[part] += random.normal() * 5 * size
        elif kind == 5:
            y[part] += random.normal(size=len(y[part])) * size * random.uniform(1, 5)
        else:
            y[part] = y.mean() + (y[part] - y.mean()) * random.uniform(-1, 2)
