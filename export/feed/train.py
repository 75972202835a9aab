"""Fit a feed model to one table: train on its first part, calibrate alerts on the next, then test.

Shape letters: n rows of the table, B rows of a batch, T items, F value columns, Q quantile levels.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dst.export.errors import ExportError
from dst.export.feed.calibrate import knots_of
from dst.export.feed.config import LEVELS, FeedConfig
from dst.export.feed.network import Feed
from dst.export.model.network import State
from dst.runtime.monitor.calendar import time_inputs

Items = npt.NDArray[np.float32]
LARGE = 8.0
"""A loss beyond this counts by its logarithm."""
TRAIN, CALIBRATE = 0.6, 0.2
"""Shares of the rows that are trained and calibrated on; the rest is the test."""
BEGIN = 100
"""Rows at the begin of a stream that are not judged: little is known yet."""
LEAST_ROWS = 1000
ROWS, SEGMENT, WALK = 8, 128, 256
CHECK_EVERY = 20


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of a training.

    Attributes:
        steps: That were trained.
        start_loss: Pinball loss on the calibration rows before training, see ``pinball``.
        loss: The same of the model that was kept, the best of all that were tried.
        test_loss, test_naive_loss: On the test rows, and there of the model before training.
        test_inside: Share of the test values inside of the quantiles 0.05 and 0.95; 0.9 is right.
        test_alerts: Share of the test rows with an alert of a rate of 1e-2 at most.
    """

    steps: int
    start_loss: float
    loss: float
    test_loss: float
    test_naive_loss: float
    test_inside: float
    test_alerts: float


def pinball(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Return the pinball loss of each item, ``[B, T]``, in units of how foreseeable the stream is.

    Levels weigh ``1 / sqrt(l (1 - l))``, so that the tails count (Koenker and Bassett 1978).

    Args:
        outputs: Of a ``Feed`` in training mode: ``quantiles [B, T, F, Q]``, ``unit [B, T, F]``.
        targets: The next values, ``[B, T, F]``.
    """
    levels = torch.tensor(LEVELS, device=targets.device)
    unit = outputs["unit"]  # the first items of a stream know no scale yet: that of later ones
    unit = torch.maximum(unit, 0.3 * unit.median(1, keepdim=True).values)[..., None]
    short = (targets[..., None] - outputs["quantiles"]) / unit
    loss = torch.maximum(levels * short, (levels - 1.0) * short)
    weighed = (loss * (levels * (1.0 - levels)).rsqrt()).mean((-1, -2))
    # of a far outlier only the side matters, not how far it is
    far = LARGE * (1.0 + (weighed.clamp(min=LARGE) / LARGE).log())
    return torch.where(weighed > LARGE, far, weighed)


def items_of(values: npt.ArrayLike, seconds: npt.ArrayLike | None) -> Items:
    """Return the items of a feed model, ``[n, F + 2]`` float32.

    Args:
        values: ``[n, F]``, finite.
        seconds: ``[n]``, times in seconds since 1970, local; None where they are not known.

    Raises:
        ExportError: ``feed-data``: the values are not ``[n, F]`` finite numbers, or too few.
    """
    table = np.asarray(values, np.float32)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ExportError(
            f"values have the shape {list(table.shape)} or are not all finite; expected finite "
            "numbers [n, F]",
            code="feed-data",
        )
    if len(table) < LEAST_ROWS:
        raise ExportError(
            f"the table has {len(table)} rows; training needs at least {LEAST_ROWS}: give more "
            "rows, or run the shipped model `feed`, which needs no training",
            code="feed-data",
        )
    times = np.full(len(table), np.nan) if seconds is None else np.asarray(seconds, np.float64)
    return np.concatenate([table, time_inputs(times)], 1)


def fit(
    items: Items,
    columns: tuple[str, ...],
    *,
    start: Feed | None = None,
    seconds: float = 120.0,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[Feed, Fit]:
    """Train a model on the first rows of a table, and calibrate its alerts on the next.

    The model that foresees the calibration rows best is kept: that may be the one before training,
    which mixes simple forecasts by how far off they lately were.

    Args:
        items: As ``items_of`` returns them, ``[n, F + 2]``.
        columns: Names of the F values.
        start: A model of as many columns to train further; None: a new one.
        seconds: Of training, at most.
        seed: Of the weights and the order of rows.
        progress: Called with a label and the share done.

    Returns:
        The calibrated model in evaluation mode, and what came of it.
    """
    torch.manual_seed(seed)
    tell = progress or (lambda what, share: None)
    model = Feed(replace(FeedConfig(), columns=columns))
    if start is not None:
        model.load_state_dict(start.state_dict())
    before = copy.deepcopy(model)
    ends = [int(TRAIN * len(items)), int((TRAIN + CALIBRATE) * len(items))]
    known = torch.from_numpy(np.ascontiguousarray(items))
    start_loss = best = _loss(model, known, ends[0], ends[1])
    kept, steps, begun = copy.deepcopy(model.state_dict()), 0, time.monotonic()
    rate = 3e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    walkers, state = _Rows.of(known[: ends[0]], seed), model.initial_state(ROWS)
    done = 0.0
    while not steps or done < 1.0:
        tell("training", min(1.0, done))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (steps + 1) / 20) * max(0.01, 1.0 - done)
        model.train()
        rows, begun_again = walkers.next()
        state = _fresh(state, begun_again)
        outputs, state = model(rows[:, :-1], state)
        pinball(outputs, rows[:, 1:, : len(columns)]).mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        state = {name: tensor.detach() for name, tensor in state.items()}
        steps += 1
        done = (time.monotonic() - begun) / max(seconds, 1e-9)
        if steps % CHECK_EVERY == 0 or done >= 1.0:
            loss = _loss(model, known, ends[0], ends[1])
            if loss < best:
                best, kept = loss, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    tell("calibrating", 0.0)
    scores, _ = _run(model, known)
    untroubled = scores[max(BEGIN, ends[0]) : ends[1]]
    calibrated = Feed(model.config, knots_of(untroubled.numpy()))
    calibrated.load_state_dict(kept)
    levels, quantiles = _run(calibrated.eval(), known, raw=False)
    test = known[ends[1] + 1 :, : len(columns)]
    foreseen = quantiles[ends[1] : -1]
    low, high = foreseen[..., LEVELS.index(0.05)], foreseen[..., LEVELS.index(0.95)]
    return calibrated, Fit(
        steps=steps,
        start_loss=start_loss,
        loss=best,
        test_loss=_loss(calibrated, known, ends[1], len(items) - 1),
        test_naive_loss=_loss(before, known, ends[1], len(items) - 1),
        test_inside=float(((test >= low) & (test <= high)).float().mean()),
        test_alerts=float((levels[ends[1] :] >= 2.0).float().mean()),
    )


def _fresh(state: State, which: Tensor) -> State:
    """Start the rows ``which [B]`` anew: every state of a feed model begins with zeros."""
    kept = (~which).float()
    return {name: t * kept.view(-1, *[1] * (t.ndim - 1)) for name, t in state.items()}


@dataclass(slots=True)
class _Rows:
    """Streams that run through the training rows from different places, and begin again."""

    items: Tensor  # (n, F + 2)
    random: np.random.Generator
    places: npt.NDArray[np.int64]  # (B)

    @classmethod
    def of(cls, items: Tensor, seed: int) -> "_Rows":
        random = np.random.default_rng(seed)
        return cls(items, random, random.integers(0, len(items) - SEGMENT - 1, ROWS))

    def next(self) -> tuple[Tensor, Tensor]:
        """Return ``[B, T + 1, F + 2]`` and which rows have begun again, bool ``[B]``."""
        begun = self.places + SEGMENT + 1 > len(self.items)
        self.places[begun] = self.random.integers(0, SEGMENT, int(begun.sum()))
        rows = torch.stack([self.items[at : at + SEGMENT + 1] for at in self.places.tolist()])
        self.places += SEGMENT
        return rows, torch.from_numpy(begun)


def _loss(model: Feed, items: Tensor, first: int, last: int) -> float:
    """Mean loss of foreseeing the rows after ``first`` to ``last``, read from the begin on."""
    model.train()
    found = []
    with torch.no_grad():
        for outputs, targets in _walk(model, items[: last + 1]):
            found.append(pinball(outputs, targets))
    return float(torch.cat(found, 1)[0, first:].mean())


def _run(model: Feed, items: Tensor, raw: bool = True) -> tuple[Tensor, Tensor]:
    """Return the alerts of all rows ``[n]``, as scores where ``raw``; quantiles ``[n, F, Q]``."""
    alerts, quantiles, state = [], [], model.initial_state(1)
    model.eval()
    with torch.no_grad():
        for start in range(0, len(items), WALK):
            outputs, state = model(items[None, start : start + WALK], state, raw=raw)
            alerts.append(outputs["alert"][0])
            quantiles.append(outputs["quantiles"][0])
    return torch.cat(alerts), torch.cat(quantiles)


def _walk(model: Feed, items: Tensor) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Yield outputs and next values of consecutive pieces of the rows."""
    state = model.initial_state(1)
    columns = len(model.config.columns)
    for start in range(0, len(items) - 1, WALK):
        piece = items[None, start : start + WALK + 1]
        outputs, state = model(piece[:, :-1], state)
        yield outputs, piece[:, 1:, :columns]
