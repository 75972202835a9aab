"""Print the items of a stream that a model judges as odd, and what it had expected of them.

Shape letters: `n` items, `F` value columns, `Q` quantile levels.
"""

import math

import msgspec
import numpy as np
import numpy.typing as npt

from dst.cli.answers.lines import escape
from dst.cli.answers.rows import Answers
from dst.cli.errors import WrongUseError
from dst.runtime.bundle.manifest import Contract

Array = npt.NDArray[np.generic]
INSIDE = 0.9
"""How much of the foreseen probability the range that is told holds."""


class AlertItem(msgspec.Struct, frozen=True):
    """An item that was alerted of; `item` counts from 1 at the start of the stream.

    `low` and `high` bound where 90 % of the values were expected, null where nothing was foreseen;
    `rate` is the share of the items of an untroubled stream that look as odd.
    """

    item: int
    time: str | None
    values: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    surprise_nats: tuple[float, ...]
    rate: float


class Alerts:
    """Finds the items whose rate of false alerts is at most `rate`."""

    def __init__(self, contract: Contract, rate: float) -> None:
        """Look up the outputs of a feed model.

        Raises:
            WrongUseError: the model has no alerts, or the rate is not in (0, 1).
        """
        outputs = {output.name: output for output in contract.outputs}
        if not {"alert", "surprise", "quantiles"} <= set(outputs):
            raise WrongUseError(
                "--alert needs a model of bytes, such as log, or of numbers, such as feed, or "
                f"one that dst train made; this one answers {', '.join(outputs)}"
            )
        if not 0 < rate < 1:
            raise WrongUseError(
                f"--alert {rate:g}: expected a share of false alerts, such as 1e-4 for one item in "
                "10,000"
            )
        levels = outputs["quantiles"].levels
        self._low = min(range(len(levels)), key=lambda q: abs(levels[q] - (1 - INSIDE) / 2))
        self._high = min(range(len(levels)), key=lambda q: abs(levels[q] - (1 + INSIDE) / 2))
        self._least = -math.log10(rate)
        self._before: Array | None = None  # [F, Q], foreseen for the next item
        self.count = 0

    def find(self, answers: Answers, items: Array, times: list[str] | None) -> list[AlertItem]:
        """Return the alerts among some items `[n, F + 2]`, which follow the ones before."""
        level = answers.items["alert"].astype(np.float64)
        foreseen = answers.items["quantiles"].astype(np.float64)
        surprise = answers.items["surprise"].astype(np.float64)
        found = []
        for row in np.flatnonzero(level >= self._least).tolist():
            expected = foreseen[row - 1] if row else self._before
            bounds = [(None,) * foreseen.shape[1]] * 2
            if expected is not None:
                bounds = [tuple(expected[:, at].tolist()) for at in (self._low, self._high)]
            found.append(
                AlertItem(
                    item=answers.first + row,
                    time=None if times is None else times[row],
                    values=tuple(map(float, items[row, : foreseen.shape[1]].tolist())),
                    low=bounds[0],
                    high=bounds[1],
                    surprise_nats=tuple(surprise[row].tolist()),
                    rate=float(10.0 ** -level[row]),
                )
            )
        if len(foreseen):
            self._before = foreseen[-1]
        self.count += len(found)
        return found


def alert_line(alert: AlertItem) -> str:
    """Write an alert as a line: number, time, each value with what was expected, the rate."""
    told = []
    for value, low, high in zip(alert.values, alert.low, alert.high, strict=True):
        expected = "" if low is None else f" (expected {low:.6g} .. {high:.6g})"
        told.append(f"{value:.6g}{expected}")
    time = "" if not alert.time else f"{escape(alert.time.encode())}  "
    return f"{alert.item:9}  {time}{'  '.join(told)}  rate {alert.rate:.1e}\n"
