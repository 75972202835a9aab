"""Streams whose best possible forecast is known, and how far from it a bundle is.

ARMA(2, 1) signals under measurement noise: the Kalman filter that knows the process has the least
mean squared error there is. Values of a hidden Markov chain with Gaussian emissions: the Bayes
filter that knows the chain has the least mean negative log-likelihood; that of a bundle is taken
from its quantiles, as the density that is constant between two of them.

Shape letters: n items, S states, Q quantile levels.
"""

import math

import numpy as np
import numpy.typing as npt

from dst.runtime import Session
from dst.runtime.monitor.calendar import time_inputs

Floats = npt.NDArray[np.float64]
ITEMS, WARM_UP, STREAMS = 6000, 1000, 8


def arma(random: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Return a noisy ARMA(2, 1) series `[n]` and the Kalman filter's forecast of each value."""
    radius, angle, theta = (
        random.uniform(0.6, 0.97),
        random.uniform(0.1, 2.0),
        random.uniform(-0.5, 0.7),
    )
    a1, a2, noise = 2 * radius * math.cos(angle), -(radius**2), random.uniform(0.3, 1.5)
    move = np.array([[a1, 1.0], [a2, 0.0]])
    push = np.array([1.0, theta])
    state = np.zeros(2)
    mean, cover = np.zeros(2), np.eye(2) * 10
    values, foreseen = np.zeros(n), np.zeros(n)
    spread = np.outer(push, push)
    for at in range(n):
        state = move @ state + push * random.normal()
        values[at] = state[0] + noise * random.normal()
        mean, cover = move @ mean, move @ cover @ move.T + spread
        foreseen[at] = mean[0]
        gain = cover[:, 0] / (cover[0, 0] + noise**2)
        mean = mean + gain * (values[at] - mean[0])
        cover = cover - np.outer(gain, cover[0])
    return values, foreseen


def hidden(random: np.random.Generator, n: int) -> tuple[Floats, Floats]:
    """Return values `[n]` of a hidden Markov chain, and the nats of each to the Bayes filter."""
    stay = random.uniform(0.95, 0.995)
    move = np.full((3, 3), (1 - stay) / 2) + np.eye(3) * (stay - (1 - stay) / 2)
    level, scale = random.normal(size=3) * 3, np.exp(random.normal(size=3) * 0.5)
    state, belief = 0, np.full(3, 1 / 3)
    values, nats = np.zeros(n), np.zeros(n)
    for at in range(n):
        state = random.choice(3, p=move[state])
        values[at] = level[state] + scale[state] * random.normal()
        belief = belief @ move
        density = np.exp(-0.5 * ((values[at] - level) / scale) ** 2) / (scale * math.sqrt(math.tau))
        nats[at] = -math.log(float(belief @ density))
        belief = belief * density / (belief @ density)
    return values, nats


def quantiles_of(session: Session, values: Floats) -> tuple[Floats, Floats]:
    """Return the quantiles `[n - 1, Q]` foreseen of each value but the first, and the levels."""
    unknown = time_inputs(np.full(len(values), np.nan))
    items = np.concatenate([values[:, None].astype(np.float32), unknown], 1)
    stream = session.stream()
    parts = [stream.advance(items)["quantiles"], stream.flush()["quantiles"]]
    found = np.concatenate([part[0, :, 0] for part in parts]).astype(np.float64)
    levels = next(o.levels for o in session.contract.outputs if o.name == "quantiles")
    return found[:-1], np.asarray(levels)


def mean_of(quantiles: Floats, levels: Floats) -> Floats:
    """The mean of a distribution by its quantiles: the area beside the curve of levels."""
    inner = ((quantiles[:, 1:] + quantiles[:, :-1]) / 2 * np.diff(levels)).sum(1)
    outer = quantiles[:, 0] * levels[0] + quantiles[:, -1] * (1 - levels[-1])
    return np.asarray(inner + outer)


def nats_of(quantiles: Floats, levels: Floats, values: Floats) -> Floats:
    """-ln of the density: constant between quantiles, falling exponentially beyond the last."""
    widths = np.maximum(np.diff(quantiles, axis=1), 1e-9)
    place = (values[:, None] >= quantiles).sum(1)
    row = np.arange(len(values))
    inner = np.clip(place - 1, 0, widths.shape[1] - 1)
    nats = -np.log(np.diff(levels)[inner] / widths[row, inner])
    for beyond, edge, width, mass, ratio in (
        (place == 0, quantiles[:, 0] - values, widths[:, 0], levels[0], levels[1] / levels[0]),
        (place == len(levels), values - quantiles[:, -1], widths[:, -1], 1 - levels[-1],
         (1 - levels[-2]) / (1 - levels[-1])),
    ):  # fmt: skip
        rate = math.log(ratio) / width
        nats = np.where(beyond, rate * edge - np.log(mass * rate), nats)
    return np.asarray(nats)


def measured(bundle: str) -> dict[str, list[float]]:
    """Return the ratio of squared errors, and the excess in nats, of each stream."""
    session = Session.open(bundle)
    ratios, excess = [], []
    for seed in range(STREAMS):
        values, best = arma(np.random.default_rng(seed), ITEMS)
        quantiles, levels = quantiles_of(session, values)
        miss = (mean_of(quantiles, levels) - values[1:])[WARM_UP:]
        ratios.append(float((miss**2).mean() / ((best - values)[1 + WARM_UP :] ** 2).mean()))
        values, nats = hidden(np.random.default_rng(1000 + seed), ITEMS)
        quantiles, levels = quantiles_of(session, values)
        ours = nats_of(quantiles, levels, values[1:])[WARM_UP:]
        excess.append(float(ours.mean() - nats[1 + WARM_UP :].mean()))
    return {"squared error over Kalman": ratios, "nats over the Bayes filter": excess}


def table(found: dict[str, list[float]]) -> list[str]:
    """Return a line for each kind: the mean over the streams, the best and the worst."""
    return [
        f"  {name:28} mean {np.mean(rows):.4f}, {min(rows):.4f} to {max(rows):.4f}"
        for name, rows in found.items()
    ]
