"""GPTQ: round one row of a weight, then correct the remaining rows for its error.

Each row is rounded, and what that costs on the inputs seen is made good in the rows that are not
rounded yet (GPTQ, Frantar et al. 2022, https://arxiv.org/abs/2210.17323; the order is that of the
rows). Shape letters: ``K`` inputs and ``N`` outputs of a product.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dst.quantize.errors import QuantizeError
from dst.quantize.rounding.rounding import Floats, Rounded, by_block_search, limits

DAMPING = 0.01
"""Share of the mean moment that is added to the diagonal: rare inputs are not trusted."""


def by_block_compensated(
    weight: Floats, bits: int, block: int, moments: npt.NDArray[np.float64] | None
) -> Rounded:
    """Round a weight (K, N) by blocks along K so that its product strays least.

    Args:
        weight: (K, N).
        bits: 4 or 8.
        block: values per scale.
        moments: (K, K), the mean of x x^T.

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
