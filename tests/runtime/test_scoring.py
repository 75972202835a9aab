"""Laws of surprise: bits are those of the softmax, and bytes are their own ids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dst.runtime import decode_bytes, encode_bytes, surprise_bits


def test_bits_are_those_of_the_softmax() -> None:
    logits = np.array([[0.0, 0.0, 0.0, 0.0], [np.log(3.0), 0.0, -800.0, -800.0]], np.float32)
    np.testing.assert_allclose(surprise_bits(logits, np.array([2, 1])), [2.0, 2.0], rtol=1e-6)
    shifted = surprise_bits(logits + np.float32(1e4), np.array([2, 0]))
    np.testing.assert_allclose(shifted, [2.0, np.log2(4 / 3)], atol=2e-3)
    assert surprise_bits(logits, np.array([0, 2]))[1] > 1000  # far, and still finite
    with pytest.raises(ValueError, match="do not fit"):
        surprise_bits(logits, np.array([0]))


@given(st.binary())
def test_bytes_are_their_own_ids(data: bytes) -> None:
    assert decode_bytes(encode_bytes(data)) == data


def test_text_is_read_as_utf8() -> None:
    assert encode_bytes("aé").tolist() == [97, 195, 169]
