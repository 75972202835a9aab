"""Find the odd hours of a made-up temperature sensor with daily and weekly habits.

Shape letter: `n` values, one every ten minutes.
"""

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
from rich.text import Text

from dst.runtime import Session, seconds_of, time_inputs

Values = npt.NDArray[np.float32]
BUNDLE = "feed-int8"
START, EVERY_S, WEEKS = "2026-03-02 00:00:00", 600, 5
DAY = 24 * 3600 // EVERY_S
ODD_DAYS = (24.6, 28.1, 32.35)
"""When the odd things begin, in days: a door left open, a stuck value, a heater left on."""
ALERT = 3.0  # -log10 of the share of items that look as odd
_PIECE = 512
_COLUMNS, _PER_COLUMN = 72, 18
"""Width of the picture; values that a column stands for, three hours."""


class OddHours(msgspec.Struct, frozen=True):
    """What was found.

    Attributes:
        values: how many were read.
        planted: the odd stretches, first and last value.
        alerts: values that were alerted of.
        found: how many of the stretches held an alert.
        false: alerts outside of them.
    """

    values: int
    planted: tuple[tuple[int, int], ...]
    alerts: tuple[int, ...]
    found: int
    false: int


def made_series() -> tuple[Values, tuple[tuple[int, int], ...]]:
    """Make the sensor's values `[n]` and say where the odd stretches are."""
    random = np.random.default_rng(3)
    n = 7 * WEEKS * DAY
    day = np.arange(n) / DAY
    work = (day.astype(int) % 7 < 5) * np.clip(np.sin((day % 1 - 0.3) * 2.5 * np.pi), 0, None)
    work *= (day % 1 > 0.3) & (day % 1 < 0.7)
    values = 19 + 4 * work + 0.8 * np.sin(2 * np.pi * (day - 0.4)) + random.normal(0, 0.15, n)
    door, stuck, heater = (int(start * DAY) for start in ODD_DAYS)
    values[door : door + 6] -= 5
    values[stuck : stuck + 12] = 30.0
    values[heater : heater + 9] += 3.0
    return values.astype(np.float32), ((door, door + 5), (stuck, stuck + 11), (heater, heater + 8))


def odd_hours(told: Callable[[int, int], None]) -> tuple[OddHours, Values]:
    """Read the values once, and return them too, to be drawn.

    `told` is called with the values read and their number in all.
    """
    values, planted = made_series()
    seconds = seconds_of(START) + EVERY_S * np.arange(len(values), dtype=np.float64)
    items = np.concatenate([values[:, None], time_inputs(seconds)], 1)  # [n, 3]
    stream, parts = Session.open(BUNDLE).stream(), list[Values]()
    for at in range(0, len(items), _PIECE):
        part = stream.advance(items[at : at + _PIECE])["alert"]
        parts.append(part.reshape(-1).astype(np.float32))
        told(min(at + _PIECE, len(items)), len(items))
    parts.append(stream.flush()["alert"].reshape(-1).astype(np.float32))
    alerts = np.flatnonzero(np.concatenate(parts) >= ALERT).tolist()
    inside = [[first <= at <= last for first, last in planted] for at in alerts]
    found = OddHours(
        values=len(values),
        planted=planted,
        alerts=tuple(alerts),
        found=sum(any(row[i] for row in inside) for i in range(len(planted))),
        false=sum(not any(row) for row in inside),
    )
    return found, values


def drawn(found: OddHours, values: Values) -> Text:
    """Draw the last days of the sensor, and mark what was alerted of."""
    last = values[-_COLUMNS * _PER_COLUMN :].tolist()
    first = len(values) - len(last)
    low, high = min(last), max(last)
    blocks, said = "▁▂▃▄▅▆▇█", Text()
    for at in range(0, len(last), _PER_COLUMN):
        part = last[at : at + _PER_COLUMN]
        odd = any(first + at <= alert < first + at + _PER_COLUMN for alert in found.alerts)
        level = max(part, key=lambda value: abs(value - sum(part) / len(part)))
        mark = blocks[round((level - low) / (high - low) * (len(blocks) - 1))]
        said.append(mark, "bold red" if odd else "cyan")
    said.append(
        f"\nalerts in {found.found} of {len(found.planted)} odd stretches, {found.false} "
        f"elsewhere, of {found.values:,} values; drawn: the last days, alerts in red"
    )
    return said
