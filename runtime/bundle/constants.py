"""Turn the constants of a contract into arrays, and tell the constants of two models apart."""

import hashlib
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.manifest import Constant

Array = npt.NDArray[np.generic]

SHOWN_VALUES = 8
"""The mark of a constant shows at most so many values; a larger constant is shown by a digest."""


def constant_array(constant: Constant) -> Array:
    """Return the values of a constant in its dtype and shape."""
    return np.asarray(constant.values).astype(constant.dtype).reshape(constant.shape)


def constant_mark(constant: Constant) -> str:
    """Say in one line what a constant is; equal lines are equal constants.

    Returns:
        dtype, shape and the value, such as `int64 [] 16000` or `float32 [2] [0.5, 1.0]`; beyond
        `SHOWN_VALUES` values `sha256` and 32 hex digits of their little-endian bytes.

    Examples:
        >>> constant_mark(Constant(input="rate", dtype="int64", shape=(), values=(16000,)))
        'int64 [] 16000'
    """
    array = constant_array(constant)
    if array.size > SHOWN_VALUES:
        data = array.astype(array.dtype.newbyteorder("<")).tobytes()
        value = f"sha256 {hashlib.sha256(data).hexdigest()[:32]}"
    else:
        values = ", ".join(map(_spelled, array.reshape(-1)))
        value = values if array.size == 1 else f"[{values}]"
    return f"{constant.dtype} {list(constant.shape)} {value}"


def _spelled(value: np.generic) -> str:
    """Spell a number as FORMAT.md says; `str` of numpy's floats changes with numpy's version."""
    if not isinstance(value, np.floating):
        return str(value)
    return repr(float(np.format_float_scientific(value)))  # no shorter digits read back the same


def respelled(mark: str) -> str:
    """Return a mark as `constant_mark` spells it now; as it is where it tells no floats."""
    head, _, text = mark.partition("] ")
    dtype = head.partition(" ")[0]
    if dtype not in ("float16", "float32", "float64"):
        return mark
    try:
        told = msgspec.json.decode(text, type=float | list[float])
    except msgspec.MsgspecError:
        return mark  # the digest of many values, or no mark at all
    with np.errstate(over="ignore"):
        array = np.atleast_1d(told).astype(dtype)
    if not np.isfinite(array).all():
        return mark
    values = ", ".join(map(_spelled, array))
    return f"{head}] [{values}]" if isinstance(told, list) else f"{head}] {values}"


def constant_marks(constants: Sequence[Constant]) -> dict[str, str]:
    """Return `constant_mark` of each constant by its name."""
    return {constant.input: constant_mark(constant) for constant in constants}


def model_id_with_constants(weights_id: str, constants: Sequence[Constant]) -> str:
    """Return the `model_id` of a model of these weights and constants.

    A constant can choose among the weights (one file for 8 and 16 kHz), so it tells models apart.

    Returns:
        `weights_id`, the SHA-256 (hex) of the source weights, where there are no constants; else
        the SHA-256 of it and of the lines `<name> <constant_mark>` by name, each with a newline.
    """
    if not constants:
        return weights_id
    lines = [f"{name} {mark}" for name, mark in sorted(constant_marks(constants).items())]
    return hashlib.sha256("".join(f"{x}\n" for x in (weights_id, *lines)).encode()).hexdigest()
