"""Turn times into the inputs by which feed models know the hour, the weekday and gaps.

Shape letters: n items.
"""

from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

TIME_INPUTS = ("time.days", "time.seconds")
"""Names of these inputs in a contract: whole days since 1970-01-01, -1 where the time is not known,
and the seconds of that day that have passed. Both are of the local time."""
DAY_S = 86_400.0
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))  # from so many on: nano-, micro-, milliseconds


def seconds_of(text: str) -> float:
    """Read a time: ISO 8601, or a number of seconds (or milli-, micro-, nanoseconds) since 1970.

    A time with a zone is taken by its local part, since habits follow the local day.

    Raises:
        ValueError: the text is no time.

    Examples:
        >>> seconds_of("1970-01-02 00:00:30")
        86430.0
        >>> seconds_of("1970-01-02T00:00:30+02:00")
        86430.0
        >>> seconds_of("864300000000000")
        864300000.0
    """
    text = text.strip()
    try:
        number = float(text)
    except ValueError:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    if not np.isfinite(number):
        raise ValueError(f"{text!r} is no time")
    return number / next((unit for least, unit in _UNITS if abs(number) >= least), 1.0)


def time_inputs(seconds: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return the inputs of `TIME_INPUTS` for items at these times, `[n, 2]` float32.

    Args:
        seconds: `[n]`, seconds since 1970 in local time. NaN, or a time before 1970, is a time that
            is not known.

    Examples:
        >>> time_inputs([86400.0, 129600.0, float("nan")]).tolist()
        [[1.0, 0.0], [1.0, 43200.0], [-1.0, 0.0]]
    """
    given = np.asarray(seconds, np.float64).reshape(-1)
    known = np.nan_to_num(given, nan=-1.0) >= 0
    days = np.floor(np.where(known, given, 0.0) / DAY_S)
    rest = np.where(known, given, 0.0) - days * DAY_S
    return np.stack([np.where(known, days, -1.0), rest], 1).astype(np.float32)
