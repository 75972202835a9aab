"""Describe the calls of scripts, and draw the numbers that they read."""

from typing import Any

import numpy as np
from tests.conformance.runner import Call
from tests.steps import Array

Script = tuple[Call, dict[str, Array]]


def ids(count: int, seed: int, below: int = 16) -> Array:
    """Draw token ids `[count]`."""
    return np.random.default_rng(seed).integers(0, below, count)


def eighths(*shape: int, seed: int, dtype: str = "float32") -> Array:
    """Draw numbers that are multiples of an eighth, so that sums of them are exact."""
    return (np.random.default_rng(seed).integers(-32, 33, shape) / 8).astype(dtype)


def call(kind: str, stream: str = "a", **more: Any) -> Call:
    """Describe a call on a stream."""
    return {"call": kind, "stream": stream, **more}


def new(name: str = "a", **more: Any) -> Call:
    """Describe the start of a stream."""
    return {"call": "stream", "as": name, **more}


def rough(kind: str, **more: Any) -> Call:
    """Describe a call whose numbers are compared within the tolerance of the bundle."""
    return call(kind, exact=False, **more)
