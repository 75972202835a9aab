"""Laws of a stream: the cut changes nothing, copies are whole, a fork goes its own way."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.raising import Fault, refused

from dst.runtime import Session, Stream
from dst.runtime.errors import (
    NonFiniteError,
    PartialChunkError,
    SessionError,
    StateCorruptError,
    StepError,
)
from dst.runtime.state.record import pack

Array = npt.NDArray[np.generic]
BYTES = bytes(np.random.default_rng(1).integers(0, 256, 200, np.uint8))
SAMPLES = np.random.default_rng(2).normal(size=(60, 2)).astype(np.float32)
cuts = st.lists(st.integers(0, 60), max_size=8).map(sorted)


def same(first: dict[str, Array], second: dict[str, Array]) -> None:
    """Bit for bit, dtype and shape included."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        assert value.shape == second[name].shape
        assert value.tobytes() == second[name].tobytes()


def joined(parts: list[dict[str, Array]]) -> dict[str, Array]:
    axes = {"logits": 1, "y": 1, "peak": 0}
    return {n: np.concatenate([p[n] for p in parts], axis=axes[n]) for n in parts[0]}


@settings(max_examples=40, deadline=None)
@given(cuts)
def test_the_cut_of_features_changes_nothing(sensor: Session, points: list[int]) -> None:
    whole, cut = sensor.stream(), sensor.stream()
    expected = joined([whole.advance(SAMPLES), whole.flush()])
    edges = [0, *points, len(SAMPLES)]
    pieces = [cut.advance(SAMPLES[a:b]) for a, b in pairwise(edges)]
    same(joined([*pieces, cut.flush()]), expected)
    same(cut.state, whole.state)
    assert cut.items_consumed == whole.items_consumed == len(SAMPLES)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 197), max_size=8).map(sorted), st.integers(0, 197))
def test_the_cut_and_a_save_change_nothing(
    text: Session, shelf: Path, points: list[int], at: int
) -> None:
    data = BYTES[:197]
    whole, cut = text.stream(), text.stream()
    expected = joined([whole.advance(data), whole.flush()])
    edges = sorted([0, *points, at, len(data)])
    pieces = []
    for a, b in pairwise(edges):
        if a == at:
            cut.save(shelf / "cut.state")
            cut = Stream.load(text, shelf / "cut.state")
        pieces.append(cut.advance(data[a:b]))
    same(joined([*pieces, cut.flush()]), expected)
    same(cut.state, whole.state)


def test_outputs_are_those_of_the_equations(sensor: Session) -> None:
    stream = sensor.stream()
    out = joined([stream.advance(SAMPLES), stream.flush()])
    raw = np.concatenate([np.full((3, 2), 0.25, np.float32), SAMPLES]).astype(np.float64)
    fed = (raw - [1.0, -1.0]) / [2.0, 0.5]
    mean = sum(fed[i : i + len(SAMPLES)] for i in range(4)) / 4
    expected = mean + np.cumsum(fed[3:], axis=0)
    np.testing.assert_allclose(out["y"][0].astype(np.float64), expected, rtol=1e-4, atol=1e-4)
    peaks = fed[3:].reshape(15, 4, 2).max(axis=1)
    np.testing.assert_allclose(out["peak"][:, 0].astype(np.float64), peaks, rtol=1e-5)


def test_other_grids_agree_within_float32(text: Session) -> None:
    eights, ones = text.stream(), text.stream()
    first = eights.advance(BYTES)["logits"].astype(np.float64)
    steps = [ones.step(np.array([[b]])) for b in BYTES]
    second = np.concatenate([s["logits"] for s in steps], axis=1)
    assert np.abs(first - second).max() / np.sqrt(np.mean(first**2)) <= 1e-5
    assert eights.state["n"] == ones.state["n"] == len(BYTES)


def test_nothing_filled_gives_length_zero(text: Session, sensor: Session) -> None:
    stream = text.stream()
    assert stream.advance(b"")["logits"].shape == (1, 0, 256)
    assert stream.flush()["logits"].shape == (1, 0, 256)
    assert stream.advance(b"abc")["logits"].shape == (1, 0, 256)
    assert (stream.pending, stream.items_consumed) == (3, 0)
    assert sensor.stream().advance(SAMPLES[:3])["peak"].shape == (0, 1, 2)


def test_exact_flush_takes_the_largest_chunks_and_starts_the_grid_anew(text: Session) -> None:
    stream, by_hand = text.stream(), text.stream()
    tail = stream.advance(BYTES[:7])["logits"].shape[1], stream.flush()["logits"]
    ids = np.frombuffer(BYTES[:7], np.uint8).astype(np.int64)[None]
    parts = [by_hand.step(ids[:, a:b]) for a, b in ((0, 4), (4, 5), (5, 6), (6, 7))]
    assert tail[0] == 0
    same({"logits": tail[1]}, joined(parts))
    assert (stream.pending, stream.items_consumed) == (0, 7)
    assert stream.advance(BYTES[7:15])["logits"].shape[1] == 8


def test_exact_flush_prefers_large_chunks(sensor: Session) -> None:
    stream = sensor.stream()
    stream.advance(SAMPLES[:3])
    peaks = stream.flush()["peak"][:, 0]
    fed = (SAMPLES[:3] - np.array([1, -1], np.float32)) / np.array([2, 0.5], np.float32)
    np.testing.assert_array_equal(peaks, [fed[:2].max(axis=0), fed[2]])


def test_pad_flush_answers_and_leaves_all_as_it_was(shelf: Path) -> None:
    stream = Session.open(shelf / "pad").stream()
    samples = np.arange(1, 12, dtype=np.float32)
    stream.advance(samples)
    before, state = stream.snapshot(), stream.state
    out = stream.flush()["y"]
    np.testing.assert_array_equal(out, np.sqrt(samples[8:])[None] + samples[:8].sum())
    assert (stream.pending, stream.items_consumed) == (3, 8)
    same(stream.state, state)
    same(stream.flush(), {"y": out})
    rest = np.arange(12, 17, dtype=np.float32)
    full = stream.advance(rest)["y"]
    np.testing.assert_array_equal(full[:, :3], out)
    stream.restore(before)
    same(stream.advance(rest), {"y": full})


def test_refuse_flush_refuses_and_keeps_the_items(shelf: Path) -> None:
    stream = Session.open(shelf / "refuse").stream()
    stream.advance(np.ones(3, np.float32))
    with pytest.raises(PartialChunkError, match=r"3 items wait.*give 5 more"):
        stream.flush()
    assert stream.pending == 3
    assert stream.advance(np.ones(5, np.float32))["y"].shape == (1, 8)
    assert stream.flush()["y"].shape == (1, 0)


def test_reset_is_fresh(sensor: Session) -> None:
    used, fresh = sensor.stream(), sensor.stream()
    used.advance(SAMPLES[:23])
    used.reset()
    same(used.state, fresh.state)
    assert (used.pending, used.items_consumed, used.sampler) == (0, 0, None)
    same(used.advance(SAMPLES), fresh.advance(SAMPLES))


def test_the_initial_state_is_the_contracts(text: Session, shelf: Path) -> None:
    np.testing.assert_array_equal(
        text.stream().state["h"], np.linspace(-1, 1, 8, dtype=np.float32)[None]
    )
    assert Session.open(shelf / "gain").stream().state["g"] == 1.0


def test_fork_goes_its_own_way(sensor: Session) -> None:
    stream, twin = sensor.stream(), sensor.stream()
    for s in (stream, twin):
        s.advance(SAMPLES[:21])
    fork = stream.fork()
    fork.advance(SAMPLES[40:])
    same(stream.state, twin.state)
    same(stream.advance(SAMPLES[21:]), twin.advance(SAMPLES[21:]))
    other = twin.fork()
    twin.reset()
    same(stream.advance(SAMPLES[:9]), other.advance(SAMPLES[:9]))


def test_snapshot_restores_all(sensor: Session) -> None:
    stream = sensor.stream()
    stream.advance(SAMPLES[:13])
    kept = stream.snapshot()
    first = stream.advance(SAMPLES[13:40])
    stream.restore(kept)
    assert (stream.items_consumed, stream.pending) == (12, 1)
    same(stream.advance(SAMPLES[13:40]), first)


def test_a_snapshot_of_a_bundle_with_another_lookback_is_refused(
    shelf: Path, sensor: Session
) -> None:
    """The ids of two bundles may agree where only what they read before a chunk differs."""
    stream = sensor.stream()
    stream.advance(SAMPLES[:13])
    kept, before = stream.snapshot(), stream.saved()
    for rows in (kept.lookback[:1], np.tile(kept.lookback, (2, 1))):
        with pytest.raises(StateCorruptError, match=r"snapshot: 'lookback' is float32 .* expected"):
            stream.restore(replace(kept, lookback=rows))
    with pytest.raises(StateCorruptError, match="snapshot: 'pending'"):
        stream.restore(replace(kept, pending=np.full((1, 2), np.nan, np.float32)))
    assert pack(stream.saved()) == pack(before)


def test_views_are_read_only_and_copies_are_the_callers(text: Session) -> None:
    stream, ids = text.stream(), np.zeros((1, 4), np.int64)
    copied = stream.step(ids)["logits"]
    kept = copied.copy()
    view = stream.step(ids + 1, copy=False)["logits"]
    np.testing.assert_array_equal(copied, kept)
    assert not np.array_equal(view, kept)
    with pytest.raises(ValueError, match="read-only"):
        view[:] = 0
    copied[:] = 0


def test_the_state_given_out_is_a_copy(text: Session) -> None:
    stream = text.stream()
    stream.state["h"][:] = 7
    assert not (stream.state["h"] == 7).any()


def test_step_would_overtake_pending_items(text: Session) -> None:
    stream = text.stream()
    stream.advance(b"ab")
    with refused(StepError, "items-pending", match="2 items"):
        stream.step(np.zeros((1, 8), np.int64))
    assert (stream.pending, stream.items_consumed) == (2, 0)


IDS = np.zeros((1, 8), np.int64)


@pytest.mark.parametrize(
    ("chunk", "error", "words"),
    [
        (IDS.astype(np.int32), Fault(StepError, "chunk-type"), "dtype int32, expected int64"),
        (IDS.tolist(), Fault(StepError, "chunk-type"), "is a list, expected a numpy array"),
        (
            np.ma.masked_array(IDS, IDS == 0),
            Fault(StepError, "chunk-type"),
            r"masked array.*filled\(\)",
        ),
        (IDS[0], Fault(StepError, "chunk-shape"), r"shape \[8\], expected \[1, T\]"),
        (np.zeros((2, 8), np.int64), Fault(StepError, "chunk-shape"), r"shape \[2, 8\]"),
        (
            np.zeros((1, 5), np.int64),
            Fault(StepError, "chunk-shape"),
            r"T = 5, this session runs T = \[1, 4, 8\]",
        ),
        (
            IDS - 1,
            Fault(StepError, "token-out-of-range"),
            r"token -1 at place 0 lies outside 0 \.\. 255",
        ),
        (IDS + 256, Fault(StepError, "token-out-of-range"), "token 256"),
    ],
)
def test_a_chunk_that_does_not_fit(text: Session, chunk: Array, error: Fault, words: str) -> None:
    stream = text.stream()
    stream.step(IDS + 3)
    before = stream.state
    with refused(*error, match=words):
        stream.step(chunk)
    same(stream.state, before)
    assert stream.items_consumed == 8


@pytest.mark.parametrize(
    ("items", "error"),
    [
        (np.zeros((1, 8), np.int64), Fault(StepError, "chunk-shape")),
        (np.zeros(8, np.uint8), Fault(StepError, "chunk-type")),
        (np.array([1, 2, 256]), Fault(StepError, "token-out-of-range")),
        ("text", Fault(StepError, "chunk-type")),
        (np.ma.masked_array([1, 2, 3], [False, True, False]), Fault(StepError, "chunk-type")),
    ],
)
def test_items_that_do_not_fit(text: Session, items: Array, error: Fault) -> None:
    stream = text.stream()
    with refused(*error):
        stream.advance(items)
    assert (stream.pending, stream.items_consumed) == (0, 0)


def test_bytes_are_read_in_order_wherever_they_lie(text: Session) -> None:
    stream, other = text.stream(), text.stream()
    same(stream.advance(memoryview(BYTES)[::2]), other.advance(BYTES[::2]))
    same(stream.advance(memoryview(BYTES)[::-1]), other.advance(BYTES[::-1]))
    gone = memoryview(BYTES)
    gone.release()
    with refused(StepError, "chunk-type", match="released"):
        stream.advance(gone)


def test_arrays_of_other_layouts_are_read_by_value(
    text: Session, sensor: Session, tmp_path: Path
) -> None:
    ids = np.arange(16).reshape(2, 8)
    backwards, plain = text.stream(), text.stream()
    same(backwards.step(ids[:1, ::-1]), plain.step(ids[:1, ::-1].copy()))
    mapped = np.memmap(tmp_path / "ids", np.int64, "w+", shape=(1, 8))
    mapped[...] = ids[1]
    same(backwards.step(mapped), plain.step(ids[1:]))
    turned, straight = sensor.stream(), sensor.stream()
    same(turned.advance(np.asfortranarray(SAMPLES)), straight.advance(SAMPLES))


def test_features_that_are_not_finite_are_refused(sensor: Session) -> None:
    stream = sensor.stream()
    bad = SAMPLES[:10].copy()
    bad[7, 1] = np.nan
    with refused(NonFiniteError, "input-not-finite", match=r"items\[7\]"):
        stream.advance(bad)
    with refused(NonFiniteError, "input-not-finite"):
        stream.step(bad[None, 6:8])
    with refused(StepError, "chunk-type", match="are bytes"):
        stream.advance(b"abc")
    same(stream.state, sensor.stream().state)
    same(stream.step(SAMPLES[None, :4]), sensor.stream().step(SAMPLES[None, :4]))


def test_a_session_without_the_nominal_t_cannot_advance(shelf: Path) -> None:
    stream = Session.open(shelf / "text", chunk_sizes=[1]).stream()
    with refused(SessionError, "chunk-size", match=r"T = 8 is not open.*runs T = \[1\]"):
        stream.advance(BYTES)
    assert stream.advance(BYTES[:5])["logits"].shape[1] == 0
    assert stream.flush()["logits"].shape[1] == 5
