"""Weights go in; what rounding may cost at most is held for each way of rounding."""

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from dst.quantize.rounded_weights import Seen
from dst.quantize.rounding import (
    Rounded,
    by_block,
    by_block_compensated,
    by_block_search,
    by_column,
    by_row,
    limits,
    packed4,
)

Floats = npt.NDArray[np.float32]
SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 9))


def weight(shape: tuple[int, int], seed: int) -> Floats:
    """Normal values with some columns of zeros and some large values."""
    random = np.random.default_rng(seed)
    values = random.normal(size=shape) * random.choice([0.0, 1.0, 1e-6, 1e6], shape[1])
    return np.asarray(values, np.float32)


def restored(rounded: Rounded, block: int) -> Floats:
    rows = rounded.values.shape[0]
    scale = rounded.scale.repeat(block, axis=0)[:rows]
    return np.asarray(rounded.values * scale, np.float32)


@settings(deadline=None, max_examples=50)
@given(SHAPES, st.integers(0, 999), st.sampled_from([7, 8]))
def test_a_column_is_never_off_by_more_than_half_a_step(
    shape: tuple[int, int], seed: int, bits: int
) -> None:
    values = weight(shape, seed)
    rounded = by_column(values, bits)
    assert np.abs(values - rounded.values * rounded.scale).max() <= rounded.scale.max() * 0.5001
    off = np.abs(values - rounded.values * rounded.scale) / rounded.scale
    assert off.max() <= 0.5001
    turned = by_row(values.T, bits)
    assert np.array_equal(turned.values.T, rounded.values)
    assert np.array_equal(turned.scale, rounded.scale)


def test_seven_bits_never_overflow_sixteen() -> None:
    rounded = by_column(weight((64, 64), 0), 7)
    largest = int(np.abs(rounded.values.astype(np.int64)).max())
    assert largest == 64
    assert 2 * 255 * largest <= 2**15 - 1
    assert 2 * 255 * int(np.abs(by_column(weight((64, 64), 0), 8).values).max()) > 2**15 - 1


@settings(deadline=None, max_examples=50)
@given(SHAPES, st.integers(0, 999), st.sampled_from([4, 8]), st.sampled_from([16, 32]))
def test_a_block_is_never_off_by_more_than_a_step(
    shape: tuple[int, int], seed: int, bits: int, block: int
) -> None:
    values = weight(shape, seed)
    rounded = by_block(values, bits, block)
    low, high = limits(bits)
    assert rounded.values.min() >= low
    assert rounded.values.max() <= high
    step = np.abs(rounded.scale).repeat(block, axis=0)[: shape[0]]
    # the value opposite to the largest may need the number that is missing: a whole step
    assert (np.abs(values - restored(rounded, block)) <= step * 1.0001).all()


def test_search_is_never_worse_than_rounding() -> None:
    values = weight((96, 32), 4) + weight((96, 32), 5)
    for bits in (4, 8):
        plain, searched = by_block(values, bits, 32), by_block_search(values, bits, 32)
        errors = [
            np.square(values.astype(np.float64) - restored(r, 32)).sum() for r in (plain, searched)
        ]
        assert errors[1] < errors[0]


def test_compensation_lowers_the_error_of_the_product() -> None:
    random = np.random.default_rng(0)
    mix = random.normal(size=(64, 64))
    items = (random.normal(size=(500, 64)) @ mix).astype(np.float32)  # correlated inputs
    values = random.normal(size=(64, 48)).astype(np.float32)
    seen = Seen()
    seen.add(items, moments=True)
    errors = [
        np.square(items @ (values - restored(r, 32))).sum()
        for r in (
            by_block_search(values, 4, 32),
            by_block_compensated(values, 4, 32, seen.moments),
        )
    ]
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("shape", [(4, 6), (3, 5)])
def test_onnx_reads_the_packed_values(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(-8, 8, shape).astype(np.int8)
    tensor = onnx.TensorProto(
        data_type=TensorProto.INT4, dims=shape, raw_data=packed4(values), name="w"
    )
    assert np.array_equal(numpy_helper.to_array(tensor).astype(np.int8), values)


def test_statistics_reach_over_all_that_was_seen() -> None:
    seen = Seen()
    first, second = (np.array(v, np.float32) for v in ([[[1.0, -2.0]]], [[[5.0, 0.5]]]))
    seen.add(first, moments=True)
    seen.add(second, moments=True)
    assert (seen.low, seen.high) == (-2.0, 5.0)
    both = np.concatenate([first, second])[:, 0]
    assert np.allclose(seen.moments if seen.moments is not None else 0, both.T @ both / 2)
    scale, zero = seen.scale_and_zero()
    assert np.isclose((0 - zero) * scale, -2.0, atol=scale)
    assert np.isclose((255 - zero) * scale, 5.0, atol=scale)
