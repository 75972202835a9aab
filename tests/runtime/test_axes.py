"""Laws of chunks with several fixed axes: frames, cameras, spectrograms."""

import math
import warnings
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.raising import refused
from tests.windows import close, drawn_items, right_answers, window_contract, write_window

from dst.runtime import Session, Stream, StreamPool
from dst.runtime.bundle.layout import laid_out, rows_of
from dst.runtime.bundle.manifest import DType, Features, Normalisation, Shape
from dst.runtime.bundle.validation import check_contract
from dst.runtime.errors import BundleError, StepError
from dst.runtime.execution.inputs import ChunkInput
from dst.runtime.execution.memory import predict
from dst.runtime.state.record import pack

SHAPES: tuple[Shape, ...] = (
    ("B", 3, "T", 2),  # a spectrogram
    ("B", "T", 2, 3),
    ("B", 2, 3, "T"),
    (2, "B", "T", 3),
    ("B", "T", 2, 2, 2),
)


@pytest.fixture(scope="module", params=SHAPES, ids=lambda s: "x".join(map(str, s)))
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    contract = window_contract(request.param, lookback=2, normalised=True)
    return Session.open(write_window(tmp_path_factory.mktemp("axes") / "b", contract))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 21), max_size=5).map(sorted), st.integers(0, 21))
def test_every_cut_and_a_save_give_the_right_answers(
    session: Session, tmp_path_factory: pytest.TempPathFactory, points: list[int], at: int
) -> None:
    contract, path = session.contract, tmp_path_factory.mktemp("s") / "a.state"
    items = drawn_items(contract, 21)
    stream, parts = session.stream(), []
    for a, b in pairwise(sorted([0, *points, at, 21])):
        if a == at:
            stream.save(path)
            stream = Stream.load(session, path)
        parts.append(stream.advance(items[a:b])["y"])
    parts.append(stream.flush()["y"])
    y = np.concatenate(parts, contract.chunk.time_axis)
    whole = session.stream()
    expected = [whole.advance(items)["y"], whole.flush()["y"]]
    assert y.tobytes() == np.concatenate(expected, contract.chunk.time_axis).tobytes()
    right = right_answers(contract, items)
    close(rows_of(contract.chunk.shape, y), right)


def test_a_chunk_is_laid_out_as_the_contract_has_it(session: Session) -> None:
    contract = session.contract
    items = drawn_items(contract, 4)
    chunk = laid_out(contract.chunk, items)
    np.testing.assert_array_equal(rows_of(contract.chunk.shape, chunk), items)
    by_chunk, by_items = session.stream(), session.stream()
    out = by_chunk.step(chunk)
    assert out["y"].tobytes() == by_items.advance(items)["y"].tobytes()
    assert out["y"].shape == chunk.shape
    with refused(StepError, "chunk-shape", match=r"items have shape .*, expected \[n, "):
        by_items.advance(items.reshape(4, -1))
    with refused(StepError, "chunk-shape", match=r"chunk has shape .*, expected \["):
        by_chunk.step(chunk.reshape(1, 4, -1))


def test_a_slot_of_a_pool_answers_as_a_stream_does(session: Session) -> None:
    pool = StreamPool(session, 3)
    items = drawn_items(session.contract, 13)
    alone = [session.stream() for _ in range(2)]
    expected = [stream.advance(items[i:]) for i, stream in enumerate(alone)]
    found = pool.advance({0: items, 2: items[1:]})
    for slot, right in ((0, expected[0]), (2, expected[1])):
        for name, value in right.items():
            close(found[slot][name], value, 1e-6)
    stream = session.stream(pool.swap_out(2))
    assert (stream.items_consumed, stream.pending) == (12, 0)
    assert pack(stream.saved()) == pack(pool.swap_out(2))


def test_memory_counts_every_value_of_an_item(session: Session) -> None:
    chunk = session.contract.chunk
    values = math.prod(size for size in chunk.shape if isinstance(size, int))
    memory = predict(session.bundle.manifest, 1, 1, [4])
    assert memory.waiting_bytes == (3 * 4 + 4 * 2) * values * 4


def test_names_label_one_axis_alone() -> None:
    frames = window_contract(("B", "T", 2, 3))
    named = replace(frames.chunk, content=Features(names=tuple("abcdef")))
    with refused(BundleError, "contract", match=r"names label one axis .* leave them out"):
        check_contract(replace(frames, chunk=named))


def test_normalisation_has_one_number_for_each_value_of_an_item() -> None:
    frames = window_contract(("B", 2, "T", 3))
    few = Normalisation(mean=(0.0,) * 5, std=(1.0,) * 5)
    chunk = replace(frames.chunk, content=Features(normalisation=few))
    with refused(BundleError, "contract", match="5 means and 5 stds for 6 features"):
        check_contract(replace(frames, chunk=chunk))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_normalisation_rounds_once_and_warns_of_nothing(dtype: DType, data: st.DataObject) -> None:
    info = np.finfo(dtype)
    bound = float(info.max)
    numbers = st.floats(-bound, bound, width=cast(Literal[16, 32, 64], info.bits))
    mean = data.draw(numbers, "mean")
    std = data.draw(st.floats(1e-20, bound), "std")
    items: Any = np.array([data.draw(numbers, "item"), bound, -bound, 0], dtype)
    content = Features(normalisation=Normalisation(mean=(mean,), std=(std,)))
    contract = window_contract(("B", "T", 1), (1, 4))
    chunk = replace(contract.chunk, dtype=dtype, content=content)
    check_contract(replace(contract, chunk=chunk))
    with np.errstate(all="ignore"):
        wide = "float64" if dtype == "float64" else "float32"
        centred = items.astype(wide) - np.asarray(mean, wide)
        expected = (centred / np.asarray(std, wide)).astype(dtype)
    held = ChunkInput(chunk, 4)
    held.raw[...] = items.reshape(held.raw.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        readable = held.readable()
    assert readable == bool(np.isfinite(expected).all())
    assert held.feed.reshape(-1).tobytes() == expected.tobytes()


@pytest.mark.parametrize(("dtype", "least"), [("float16", 1e-45), ("float64", 5e-324)])
def test_a_deviation_that_rounds_to_zero_is_refused(dtype: DType, least: float) -> None:
    contract = window_contract(("B", "T", 1), (1, 4))
    for std, good in ((least, True), (least / 10, False), (0.0, False), (-1.0, False)):
        content = Features(normalisation=Normalisation(mean=(0.0,), std=(std,)))
        chunk = replace(contract.chunk, dtype=dtype, content=content)
        if good:
            check_contract(replace(contract, chunk=chunk))
            continue
        with refused(BundleError, "contract", match="expected numbers above 0 in float"):
            check_contract(replace(contract, chunk=chunk))
