"""Laws of surprise: bits are those of the softmax, however items and logits arrive."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dst.runtime import Scorer, Session, decode_bytes, encode_bytes, surprise_bits


def test_bits_are_those_of_the_softmax() -> None:
    logits = np.array([[0.0, 0.0, 0.0, 0.0], [np.log(3.0), 0.0, -800.0, -800.0]], np.float32)
    np.testing.assert_allclose(surprise_bits(logits, np.array([2, 1])), [2.0, 2.0], rtol=1e-6)
    shifted = surprise_bits(logits + np.float32(1e4), np.array([2, 0]))
    np.testing.assert_allclose(shifted, [2.0, np.log2(4 / 3)], atol=2e-3)
    assert surprise_bits(logits, np.array([0, 2]))[1] > 1000  # far, and still finite
    with pytest.raises(ValueError, match="do not fit"):
        surprise_bits(logits, np.array([0]))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 100), max_size=6).map(sorted))
def test_the_scores_do_not_depend_on_the_cut(text: Session, points: list[int]) -> None:
    data = bytes(np.random.default_rng(4).integers(0, 256, 100, np.uint8))
    stream = text.stream()
    logits = np.concatenate([stream.advance(data)["logits"], stream.flush()["logits"]], axis=1)[0]
    ids = encode_bytes(data)
    expected = np.concatenate([[8.0], surprise_bits(logits[:-1], ids[1:])])
    stream.reset()
    scorer = Scorer(256)
    found = []
    for a, b in zip([0, *points], [*points, 100], strict=True):
        found.append(scorer.feed(ids[a:b], stream.advance(data[a:b])["logits"][0]))
    found.append(scorer.feed(ids[:0], stream.flush()["logits"][0]))
    assert np.concatenate(found).tobytes() == expected.tobytes()


def test_more_logits_than_items_is_an_error() -> None:
    with pytest.raises(ValueError, match="more than items"):
        Scorer(4).feed(np.zeros(0, np.int64), np.zeros((1, 4), np.float32))


@given(st.binary())
def test_bytes_are_their_own_ids(data: bytes) -> None:
    assert decode_bytes(encode_bytes(data)) == data


def test_text_is_read_as_utf8() -> None:
    assert encode_bytes("aé").tolist() == [97, 195, 169]
