"""Numbers: those of options go in and are refused or not; counts go in, words come out."""

import math

from dst.command.errors import WrongUseError


def at_least(option: str, value: float, least: float) -> None:
    """Check that an option is a finite number and not too small; typer's `min` may let others pass.

    Raises:
        WrongUseError: it is not.
    """
    if not (math.isfinite(value) and value >= least):
        raise WrongUseError(f"{option} {value:g}: expected a number of {least:g} or more")


def counted(count: int, what: str) -> str:
    """Say how many there are: `1 item`, `2,000 items`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
