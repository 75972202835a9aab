"""Turn the letters of a shape into sizes, and lay items out in the shape of a chunk.

A shape holds sizes and the letters `B` (batch) and `T` (items per chunk), each at most once. A run
of items is `[n, ...]`: time first, then the fixed axes in the shape's order, without a batch axis.
"""

from typing import cast

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.manifest import Chunk, Shape

Array = npt.NDArray[np.generic]


def sized(shape: Shape, t: int, batch: int = 1) -> tuple[int, ...]:
    """Return a shape with numbers in place of its letters.

    Examples:
        >>> sized(("B", "T", 40), t=8)
        (1, 8, 40)
    """
    sizes: dict[int | str, int] = {"B": batch, "T": t}
    return tuple(map(sizes.get, shape, cast(tuple[int, ...], shape)))  # a number is itself


def fixed(shape: Shape) -> tuple[int, ...]:
    """Return the axes of a shape that are neither batch nor time, in their order.

    Examples:
        >>> fixed(("B", 257, "T", 2))
        (257, 2)
    """
    return tuple(size for size in shape if not isinstance(size, str))


def laid_out(chunk: Chunk, items: Array) -> Array:
    """Lay out a run of items `[n, ...]` as the contract lays out a chunk, with B = 1.

    For a chunk `[B, 257, T, 2]`, items `[n, 257, 2]` become `[1, 257, n, 2]`. The result is
    contiguous and may share the items' memory.
    """
    time = chunk.time_axis - (chunk.batch_axis < chunk.time_axis)
    return np.ascontiguousarray(np.expand_dims(np.moveaxis(items, 0, time), chunk.batch_axis))


def rows_of(shape: Shape, array: Array) -> Array:
    """View an array of such a shape, B = 1, as `[T, ...]`: one row per item.

    Where the shape has no `T`, the result is `[1, ...]`: one row per chunk.

    Examples:
        >>> rows_of((2, "T", "B"), np.zeros((2, 8, 1))).shape
        (8, 2)
        >>> rows_of(("B", 2), np.zeros((1, 2))).shape
        (1, 2)
    """
    batch = shape.index("B")
    if "T" not in shape:
        return np.moveaxis(array, batch, 0)
    only: list[slice | int] = [slice(None)] * array.ndim
    only[batch] = 0
    time = shape.index("T")
    return np.moveaxis(array[tuple(only)], time - (batch < time), 0)
