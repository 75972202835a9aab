"""Numbers of options: they go in, and are refused or not."""

import math

from dst.cli.errors import WrongUseError


def at_least(option: str, value: float, least: float) -> None:
    """Check that an option is a finite number and not too small; typer's `min` may let others pass.

    Raises:
        WrongUseError: it is not.
    """
    if not (math.isfinite(value) and value >= least):
        raise WrongUseError(f"{option} {value:g}: expected a number of {least:g} or more")
