"""Finiteness: arrays of floats in, whether every value is a number out, at the least cost."""

from math import isfinite
from typing import cast

import numpy as np
import numpy.typing as npt
from numpy import vdot

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.floating]

PIECE = 8192  # values; a longer product would make BLAS call for its threads


def pieces(array: Array) -> list[Floats]:
    """View a contiguous array of floats as flat pieces that `finite` takes."""
    flat = cast(Floats, array.reshape(-1))
    return [flat[start : start + PIECE] for start in range(0, flat.size, PIECE)]


def finite(pieces: list[Floats]) -> bool:
    """Say whether every value is finite.

    A NaN or an infinity shows in the sum of squares. So does an overflow of that sum, and then
    the values are looked at one by one. `vdot` alone gives no floating-point warnings.
    """
    for piece in pieces:
        if not isfinite(vdot(piece, piece)) and not np.isfinite(piece).all():
            return False
    return True
