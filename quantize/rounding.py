"""Round float weights to whole numbers and scales: per column, per row or by block.

In blocks, the rows that are not rounded yet may be corrected for the errors made so far (GPTQ).
Shape letters: ``K`` inputs and ``N`` outputs of a product, ``V`` rows of a table, ``D`` width,
``n`` blocks along K.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dst.quantize.errors import QuantizeError

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.int8]

_SHRINK = np.linspace(1.0, 0.6, 21)
"""Scales that ``search`` tries, as shares of the one that the largest value sets."""
DAMPING = 0.01
"""Share of the mean moment that is added to the diagonal: inputs seldom seen weigh less."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """A weight as whole numbers and scales: the value is their product.

    Attributes:
        values: the whole numbers, int8 whatever their range, in the weight's shape.
        scale: ``(N,)`` per column, ``(V,)`` per row, ``(n, N)`` by block.
    """

    values: Bytes
    scale: Floats


def by_column(weight: Floats, bits: int) -> Rounded:
    """Round a weight (K, N) to int8, each column with its own scale.

    Args:
        weight: (K, N).
        bits: 8 for -127..127; 7 for -64..64, where two products with 8 bits fit in 16.

    Examples:
        >>> by_column(np.array([[1.0, 0.5], [-0.5, 2.0]], np.float32), 8).values.tolist()
        [[127, 32], [-64, 127]]
    """
    highest = {7: 64, 8: 127}[bits]
    scale = _peak(np.abs(weight).max(axis=0)) / np.float32(highest)
    return Rounded(_round(weight / scale, -highest, highest), scale)


def by_row(table: Floats, bits: int) -> Rounded:
    """Round a table (V, D) to int8, each row with its own scale; ``bits`` as in ``by_column``."""
    turned = by_column(table.T, bits)
    return Rounded(np.ascontiguousarray(turned.values.T), turned.scale)


def by_block(weight: Floats, bits: int, block: int) -> Rounded:
    """Round a weight (K, N) by blocks of ``block`` along K; the last may be shorter.

    The value of largest magnitude becomes the lowest number, -8 of -8 .. 7 for example: the
    positive side has one number less.

    Returns:
        Values in -2^(bits-1) .. 2^(bits-1) - 1 and scales (n, N), which may be negative.

    Examples:
        >>> found = by_block(np.array([[4.0], [-2.0], [1.0]], np.float32), 4, 2)
        >>> found.values.tolist(), found.scale.tolist()
        ([[-8], [4], [-8]], [[-0.5], [-0.125]])
    """
    blocks = blocked(weight, block)  # (n, block, N)
    scale = block_scale(blocks, bits)
    low, high = limits(bits)
    values = _round(blocks / scale[:, None], low, high)
    return Rounded(unblocked(values, weight.shape[0]), scale)


def from_blocks(rounded: Rounded, block: int) -> Floats:
    """The weight (K, N) that numbers rounded by blocks of ``block`` stand for."""
    rows = np.arange(len(rounded.values)) // block
    return np.asarray(rounded.values * rounded.scale[rows], np.float32)


def by_block_search(
    weight: Floats, bits: int, block: int, importance: Floats | None = None
) -> Rounded:
    """As ``by_block``, with the scale that leaves the least squared error.

    ``importance`` (K,) is what an error of each row counts; equal by default.
    """
    blocks = blocked(weight, block)  # (n, block, N)
    counts = np.ones(weight.shape[0], np.float32) if importance is None else importance
    counts = blocked(counts[:, None], block)  # (n, block, 1)
    low, high = limits(bits)
    start = block_scale(blocks, bits)
    best = np.full(start.shape, np.inf, np.float32)
    scale = start.copy()
    for sign in (1.0, -1.0):
        for share in _SHRINK:
            tried = (start * np.float32(sign * share))[:, None]
            values = np.clip(np.rint(blocks / tried), low, high)
            # the best scale for these values, in closed form, then its error
            weighed = values * counts
            norm = (weighed * values).sum(axis=1)
            fitted = np.where(norm > 0, (weighed * blocks).sum(axis=1) / _peak(norm), start)
            error = (counts * (blocks - values * fitted[:, None]) ** 2).sum(axis=1)
            better = (error < best) & (fitted != 0)
            best = np.where(better, error, best)
            scale = np.where(better, fitted, scale)
    values = _round(blocks / scale[:, None], low, high)
    return Rounded(unblocked(values, weight.shape[0]), scale.astype(np.float32))


def by_block_compensated(
    weight: Floats, bits: int, block: int, moments: npt.NDArray[np.float64] | None
) -> Rounded:
    """Round a weight (K, N) by blocks along K so that the error of the output is smallest (GPTQ).

    Each row is rounded, and what that costs on the inputs seen is made good in the rows that are
    not rounded yet (Frantar et al. 2022, https://arxiv.org/abs/2210.17323), in the rows' order.
    ``moments`` (K, K) is the mean of x x^T.

    Raises:
        QuantizeError: `calibration`: ``moments`` is None.
    """
    if moments is None:
        raise QuantizeError(
            "the method gptq needs calibration data, and none was given", code="calibration"
        )
    rows = weight.shape[0]
    damped = moments + np.eye(rows) * (DAMPING * max(float(np.mean(np.diagonal(moments))), 1e-12))
    # U with U^T U = H^-1: row i of U says how an error of row i spreads over the rows after it
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    low, high = limits(bits)
    left = weight.astype(np.float64)
    values = np.empty(weight.shape, np.int8)
    scales = []
    for start in range(0, rows, block):
        end = min(start + block, rows)
        importance = 1.0 / np.square(np.diagonal(upper)[start:end])
        found = by_block_search(
            left[start:end].astype(np.float32), bits, block, importance.astype(np.float32)
        )
        scale = found.scale[0].astype(np.float64)
        for i in range(start, end):
            values[i] = np.clip(np.rint(left[i] / scale), low, high).astype(np.int8)
            error = (left[i] - values[i] * scale) / upper[i, i]
            left[i + 1 :] -= upper[i, i + 1 :, None] * error
        scales.append(found.scale[0])
    return Rounded(values, np.stack(scales))


def blocked(weight: npt.NDArray[np.float32], block: int) -> Floats:
    """Cut (K, N) into (n, block, N), zeros behind the last row."""
    rows, columns = weight.shape
    count = -(-rows // block)
    padded = np.zeros((count * block, columns), np.float32)
    padded[:rows] = weight
    return padded.reshape(count, block, columns)


def unblocked(values: Bytes, rows: int) -> Bytes:
    """Undo ``blocked``: (n, block, N) -> (K, N)."""
    return np.ascontiguousarray(values.reshape(-1, values.shape[2])[:rows])


def block_scale(blocks: Floats, bits: int) -> Floats:
    """The scale (n, N) at which each block's value of largest magnitude is the lowest number."""
    at = np.abs(blocks).argmax(axis=1)[:, None]
    extreme = np.take_along_axis(blocks, at, axis=1)[:, 0]
    return _peak(extreme) / np.float32(limits(bits)[0])


def without_idle_scales(rounded: Rounded, block: int) -> Rounded:
    """Give blocks whose numbers are all 0 the scale 0: any scale says the same of them.

    A scale that is far above those of its column would overflow in half precision, in which chunks
    round the blocks of `int4-rows` once more.
    """
    idle = (blocked(rounded.values.astype(np.float32), block) == 0).all(axis=1)
    return Rounded(rounded.values, np.where(idle, np.float32(0), rounded.scale))


def limits(bits: int) -> tuple[int, int]:
    """The lowest and the highest whole number of so many bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def packed4(values: Bytes) -> bytes:
    """Pack values in -8..7 as ONNX does: two in a byte, the first in its low half.

    >>> packed4(np.array([1, -1, 7], np.int8)).hex()
    'f107'
    """
    flat = values.reshape(-1).view(np.uint8) & 15
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return (flat[0::2] | (flat[1::2] << 4)).tobytes()


def _peak(values: Floats) -> Floats:
    """Replace zeros by ones, to avoid a division by zero."""
    return np.where(values == 0, np.float32(1), values).astype(np.float32)


def _round(values: Floats, low: int, high: int) -> Bytes:
    return np.clip(np.rint(values), low, high).astype(np.int8)
