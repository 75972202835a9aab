"""Laws of a pool: a slot is a stream, whatever the other slots do."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.raising import Fault, refused
from tests.runtime.pool.conftest import all_of, positive, same
from tests.steps import Array

from dst.runtime import Session, Stream
from dst.runtime.errors import (
    NonFiniteError,
    PartialChunkError,
    SessionError,
    SlotError,
    StateCorruptError,
    StateMismatchError,
    StepError,
)
from dst.runtime.execution.step import BoundStep
from dst.runtime.pool import StreamPool
from dst.runtime.state.record import Saved, pack
from dst.runtime.state.sampler import Sampler

random = np.random.default_rng(5)
BYTES = bytes(random.integers(0, 256, 400, np.uint8))
SAMPLES = random.normal(size=(80, 2)).astype(np.float32)

# --- a slot is a stream

lengths = st.dictionaries(st.integers(0, 4), st.integers(0, 21), max_size=5)


@settings(max_examples=30, deadline=None)
@given(st.lists(lengths, max_size=6))
def test_slots_that_read_different_lengths_are_streams(
    sensor: Session, calls: list[dict[int, int]]
) -> None:
    pool, streams = StreamPool(sensor, 5), [sensor.stream() for _ in range(5)]
    for number, call in enumerate(calls):
        items = {slot: SAMPLES[number + slot :][:n] for slot, n in call.items()}
        answers = pool.advance(items)
        assert answers.keys() == items.keys()
        for slot, given_items in items.items():
            same(answers[slot], streams[slot].advance(given_items))
    answers = pool.flush(range(5))
    for slot, stream in enumerate(streams):
        same(answers[slot], stream.flush())
        assert pack(pool.swap_out(slot)) == pack(stream.saved())
        assert pool.items_consumed(slot) == stream.items_consumed
        assert pool.pending(slot) == stream.pending == 0


@pytest.mark.parametrize("slots", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("t", [4, 8])
def test_every_batch_size_gives_what_a_stream_gives(text: Session, slots: int, t: int) -> None:
    pool, streams = StreamPool(text, slots), [text.stream() for _ in range(slots)]
    pick = np.random.default_rng(slots)
    for ready in [*range(1, slots + 1), *pick.integers(1, slots + 1, 12)]:
        chosen = [int(slot) for slot in pick.permutation(slots)[:ready]]
        chunks = {slot: pick.integers(0, 256, (1, t)) for slot in chosen}
        answers = pool.step(chunks)
        for slot, chunk in chunks.items():
            same(answers[slot], streams[slot].step(chunk))
    for slot, stream in enumerate(streams):
        assert pack(pool.swap_out(slot)) == pack(stream.saved())


def test_a_single_item_is_within_the_bound_of_a_stream(text: Session) -> None:
    pool, stream = StreamPool(text, 3), text.stream()
    for byte in BYTES[:100]:
        chunk = np.array([[byte]])
        answer = pool.step({1: chunk})[1]["logits"].astype(np.float64)
        alone = stream.step(chunk)["logits"].astype(np.float64)
        assert np.abs(answer - alone).max() / np.sqrt(np.mean(alone**2)) <= 1e-5


@settings(max_examples=25, deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, 5), st.integers(0, 30), max_size=6), max_size=6))
def test_a_slot_ignores_the_others_bit_for_bit(text: Session, calls: list[dict[int, int]]) -> None:
    """The very kernels for single items included: `flush` steps T = 1 here."""
    busy, calm = StreamPool(text, 6), StreamPool(text, 2)
    for number, call in enumerate(calls):
        items = {slot: BYTES[7 * slot + number :][:n] for slot, n in call.items()}
        answers = busy.advance(items)
        ends = busy.flush(call)
        if 2 in items:
            same(answers[2], calm.advance({1: items[2]})[1])
            same(ends[2], calm.flush([1])[1])
    assert pack(busy.swap_out(2)) == pack(calm.swap_out(1))


@pytest.mark.parametrize("slots", [2, 3, 5])
def test_a_batch_axis_that_is_not_the_first(batched: Path, slots: int) -> None:
    session = Session.open(batched / "columns")
    pool, streams = StreamPool(session, slots), [session.stream() for _ in range(slots)]
    pick = np.random.default_rng(slots)
    for _ in range(20):
        chosen = [int(slot) for slot in pick.permutation(slots)[: pick.integers(1, slots + 1)]]
        items = {slot: pick.normal(size=pick.integers(0, 20)).astype(np.float32) for slot in chosen}
        answers = pool.advance(items)
        for slot in chosen:
            same(answers[slot], streams[slot].advance(items[slot]))
    ends = pool.flush(range(slots))
    for slot, stream in enumerate(streams):
        same(ends[slot], stream.flush())
        assert pack(pool.swap_out(slot)) == pack(stream.saved())


def test_chunks_of_different_t_step_in_one_call(sensor: Session) -> None:
    pool, streams = StreamPool(sensor, 4), [sensor.stream() for _ in range(4)]
    chunks = {slot: SAMPLES[None, slot : slot + t] for slot, t in enumerate((1, 4, 2, 4))}
    for _ in range(3):
        for slot, answer in pool.step(chunks).items():
            same(answer, streams[slot].step(chunks[slot]))


def test_a_slot_that_is_not_named_is_not_touched(text: Session) -> None:
    pool = StreamPool(text, 4)
    pool.advance({slot: BYTES[slot : slot + 21] for slot in range(4)})
    before = all_of(pool)
    pool.advance({0: BYTES, 1: BYTES[:9], 3: BYTES[:50]})
    pool.reset(0)
    pool.flush([1])
    assert all_of(pool)[2] == before[2]
    assert pool.advance({}) == pool.step({}) == pool.flush([]) == {}


def test_a_number_of_numpy_names_a_slot(text: Session) -> None:
    pool = StreamPool(text, 3)
    answer = pool.advance({int(slot): BYTES[:8] for slot in range(3)})[2]
    pool.reset(0)
    same(pool.flush(np.arange(1, 3))[1], pool.flush([1])[1])
    same(pool.advance({np.int64(0): BYTES[:8]})[0], answer)  # type: ignore[dict-item]
    with refused(StepError, "no-such-slot", match="slot 'ada'"):
        pool.reset("ada")  # type: ignore[arg-type]


@pytest.mark.parametrize("tail", ["pad", "refuse"])
def test_flush_follows_the_tail_rule(batched: Path, tail: str) -> None:
    session = Session.open(batched / tail)
    pool, streams = StreamPool(session, 3), [session.stream() for _ in range(3)]
    items = {slot: positive(11 + 5 * slot) + 0.5 for slot in range(3)}  # 3, 0 and 5 wait
    pool.advance(items)
    for slot, stream in enumerate(streams):
        stream.advance(items[slot])
    before = all_of(pool)
    if tail == "pad":
        for slot, answer in pool.flush(range(3)).items():
            same(answer, streams[slot].flush())
    else:
        with pytest.raises(SlotError) as caught:
            pool.flush(range(3))
        assert {slot: Fault.of(e) for slot, e in caught.value.failed.items()} == {
            0: Fault(PartialChunkError, "partial-chunk"),
            2: Fault(PartialChunkError, "partial-chunk"),
        }
        same(caught.value.outputs[1], streams[1].flush())
    assert all_of(pool) == before
    more = {slot: positive(13, slot) for slot in range(3)}
    for slot, answer in pool.advance(more).items():
        same(answer, streams[slot].advance(more[slot]))


# --- swapping


def test_a_slot_goes_on_as_a_stream_and_back(sensor: Session) -> None:
    pool, twin = StreamPool(sensor, 3), sensor.stream()
    same(pool.advance({2: SAMPLES[:23]})[2], twin.advance(SAMPLES[:23]))
    moved = sensor.stream(pool.swap_out(2))
    same(moved.advance(SAMPLES[23:31]), twin.advance(SAMPLES[23:31]))
    pool.swap_in(0, moved.saved())
    pool.advance({1: SAMPLES[:3]})
    same(pool.advance({0: SAMPLES[31:]})[0], twin.advance(SAMPLES[31:]))
    same(pool.flush([0])[0], twin.flush())
    assert pack(pool.swap_out(0)) == pack(twin.saved())


def test_swap_out_gives_a_copy_and_leaves_the_slot(text: Session) -> None:
    pool = StreamPool(text, 2)
    pool.advance({0: BYTES[:20]})
    saved = pool.swap_out(0)
    before = pack(saved)
    pool.advance({0: BYTES[20:60], 1: BYTES})
    assert pack(saved) == before
    pool.swap_in(0, saved)
    assert pack(pool.swap_out(0)) == before


def test_the_random_source_goes_with_the_stream(text: Session) -> None:
    stream = text.stream()
    stream.predict(b"abc", lambda outputs, sampler: (7, Sampler(11, 3)))
    pool = StreamPool(text, 2)
    pool.swap_in(1, stream.saved())
    pool.advance({1: BYTES[:9]})
    saved = pool.swap_out(1)
    assert (saved.seed, saved.draws) == (11, 3)
    assert text.stream(saved).sampler == Sampler(11, 3)


def test_many_streams_over_few_slots(sensor: Session) -> None:
    pool = StreamPool(sensor, 4)
    at_rest: dict[int, Saved] = {}
    streams = {name: sensor.stream() for name in range(11)}
    pick = np.random.default_rng(3)
    for _ in range(12):
        names = pick.permutation(11)[:4]
        for slot, name in enumerate(names):
            if name in at_rest:
                pool.swap_in(slot, at_rest[name])
            else:
                pool.reset(slot)
        items = {slot: SAMPLES[: pick.integers(0, 30)] for slot in range(4)}
        for slot, answer in pool.advance(items).items():
            same(answer, streams[names[slot]].advance(items[slot]))
        at_rest |= {name: pool.swap_out(slot) for slot, name in enumerate(names)}
    for name, saved in at_rest.items():
        assert pack(saved) == pack(streams[name].saved())


def test_reset_is_fresh(text: Session) -> None:
    pool, fresh = StreamPool(text, 3), text.stream()
    pool.advance({slot: BYTES[:33] for slot in range(3)})
    pool.reset(1)
    assert pack(pool.swap_out(1)) == pack(fresh.saved())
    same(pool.advance({1: BYTES})[1], fresh.advance(BYTES))


def test_a_state_that_does_not_belong_is_refused(text: Session, shelf: Path) -> None:
    pool = StreamPool(text, 2)
    pool.advance({slot: BYTES[:20] for slot in range(2)})
    before = all_of(pool)
    half = Session.open(shelf / "half").stream().saved()
    with refused(StateMismatchError, "other-model"):
        pool.swap_in(0, Session.open(shelf / "twin").stream().saved())
    with refused(StateMismatchError, "other-precision", match="allow_precision"):
        pool.swap_in(0, half)
    saved = text.stream().saved()
    broken: list[Saved] = [
        msgspec.structs.replace(saved, state={"h": saved.state["h"]}),
        msgspec.structs.replace(
            saved, state={**saved.state, "h": np.full((1, 8), np.nan, np.float32)}
        ),
        msgspec.structs.replace(saved, pending=np.array([256])),
        msgspec.structs.replace(saved, lookback=np.array([1])),
    ]
    for wrong in broken:
        with pytest.raises(StateCorruptError, match="saved state"):
            pool.swap_in(1, wrong)
    assert all_of(pool) == before
    pool.swap_in(0, half, allow_precision=True)
    assert pool.items_consumed(0) == 0


# --- what a pool refuses


def test_a_graph_of_fixed_batch_is_refused(shelf: Path) -> None:
    with refused(SessionError, "no-batches", match=r"step.onnx runs T = 1 for B = \[1\] only"):
        StreamPool(Session.open(shelf / "gain"), 4)
    with refused(SessionError, "no-batches", match=r"step_t1.onnx .* session.stream\(\)"):
        StreamPool(Session.open(shelf / "text", lowering="portable"), 4)


def test_a_provider_whose_state_lies_on_a_device_is_refused(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session.open(shelf / "text", lowering="fused")
    monkeypatch.setattr(session, "provider", "cuda")
    with refused(
        SessionError, "no-batches", match=r"'cuda' wants them on cuda; use session.stream\(\)"
    ):
        StreamPool(session, 4)


def test_a_graph_whose_rows_mix_is_refused(batched: Path) -> None:
    session = Session.open(batched / "mixed")
    pool = StreamPool(session, 4)
    before = all_of(pool)
    with refused(SessionError, "no-batches", match=r"step.onnx at B = 2, T = 8 .* one by one"):
        pool.advance({0: positive(9)})
    assert all_of(pool) == before
    assert session.stream().advance(positive(9))["y"].shape == (1, 8)


def test_a_graph_that_rounds_by_place_is_refused(batched: Path) -> None:
    rows = np.tile(positive(7), (2, 1))
    feed = {"x": rows, "c": np.zeros(2, np.float32), "g": np.ones(2, np.float32)}
    first, second = ort.InferenceSession(batched / "placed/step.onnx").run(["y"], feed)[0]
    if first.tobytes() == second.tobytes():
        pytest.skip("this build of ONNX Runtime rounds every place of an array alike")
    pool = StreamPool(Session.open(batched / "placed"), 4)
    with refused(SessionError, "no-batches", match=r"B = 2, T = 7 .* or on its place there"):
        pool.advance({0: positive(7)})


def test_a_slot_that_is_not_there(text: Session) -> None:
    for slots in (1, 0, -3):
        with pytest.raises(SessionError, match="expected 2 or more"):
            StreamPool(text, slots)
    pool = StreamPool(text, 3)
    calls: list[Callable[[int], object]] = [
        pool.reset,
        pool.swap_out,
        pool.pending,
        pool.items_consumed,
        lambda slot: pool.flush([slot]),
        lambda slot: pool.advance({0: BYTES, slot: BYTES}),
        lambda slot: pool.step({0: np.zeros((1, 8), np.int64), slot: np.zeros((1, 8), np.int64)}),
    ]
    before = all_of(pool)
    for slot in (-1, 3):
        for call in calls:
            with refused(
                StepError, "no-such-slot", match=rf"slot {slot}: this pool has slots 0 \.\. 2"
            ):
                call(slot)
    assert all_of(pool) == before


def test_what_cannot_be_read_fails_its_slot_alone(text: Session) -> None:
    pool, twin = StreamPool(text, 8), text.stream()
    good = np.arange(8)[None]
    pool.advance({6: b"ab"})
    before = all_of(pool)
    wrong: dict[int, Array] = {
        0: good - 1,
        1: good.astype(np.int32),
        2: good[0],
        3: good[:, :5],
        4: good.tolist(),
        5: good + 249,
        6: good,
        7: good,
    }
    with pytest.raises(
        SlotError, match=r"^7 of 8 slots failed \(.*\); the others .*Slot"
    ) as caught:
        pool.step(wrong)
    assert {slot: Fault.of(error) for slot, error in caught.value.failed.items()} == {
        0: Fault(StepError, "token-out-of-range"),
        1: Fault(StepError, "chunk-type"),
        2: Fault(StepError, "chunk-shape"),
        3: Fault(StepError, "chunk-shape"),
        4: Fault(StepError, "chunk-type"),
        5: Fault(StepError, "token-out-of-range"),
        6: Fault(StepError, "items-pending"),
    }
    same(caught.value.outputs[7], twin.step(good))
    assert all_of(pool)[:7] == before[:7]
    assert pack(pool.swap_out(7)) == pack(twin.saved())
    with pytest.raises(SlotError, match=r"^1 of 2 .*Slot 1: token 300") as caught:
        pool.advance({0: BYTES[:16], 1: np.array([1, 300])})
    assert caught.value.outputs.keys() == {0}
    with pytest.raises(SlotError, match=r"^1 of 1 slots"):
        pool.advance({1: "text"})  # type: ignore[dict-item]


def test_a_session_without_the_t_that_is_needed(shelf: Path) -> None:
    pool = StreamPool(Session.open(shelf / "text", chunk_sizes=[1]), 2)
    with pytest.raises(SlotError) as caught:
        pool.advance({0: BYTES, 1: b"abc"})
    assert Fault.of(caught.value.failed[0]) == Fault(SessionError, "chunk-size")
    assert (pool.pending(0), pool.pending(1)) == (0, 3)
    assert pool.flush([1])[1]["logits"].shape == (1, 3, 256)


def test_features_that_are_not_finite(sensor: Session) -> None:
    pool = StreamPool(sensor, 3)
    pool.advance({slot: SAMPLES[:8] for slot in range(3)})
    before, twin = all_of(pool), sensor.stream(pool.swap_out(1))
    bad = SAMPLES[None, 8:12].copy()
    bad[0, 2, 1] = np.inf
    for _ in range(2):  # what a failed step leaves in the buffers harms nobody
        with pytest.raises(SlotError) as caught:
            pool.step({0: bad, 1: SAMPLES[None, 8:12], 2: bad})
        assert {Fault.of(e) for e in caught.value.failed.values()} == {
            Fault(NonFiniteError, "input-not-finite")
        }
        same(caught.value.outputs[1], twin.step(SAMPLES[None, 8:12]))
    assert (all_of(pool)[0], all_of(pool)[2]) == (before[0], before[2])
    same(
        pool.step({0: SAMPLES[None, :4]})[0],
        sensor.stream(pool_saved(before, pool, 2)).step(SAMPLES[None, :4]),
    )


def pool_saved(before: list[bytes], pool: StreamPool, slot: int) -> Saved:
    """What a slot is, when it still is what it was."""
    saved = pool.swap_out(slot)
    assert pack(saved) == before[slot]
    return saved


# --- memory


def test_bindings_are_made_once(text: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = StreamPool(text, 5)

    def every_shape() -> None:
        for t in (1, 4, 8):
            for ready in range(1, 6):
                pool.step({slot: np.zeros((1, t), np.int64) for slot in range(ready)})

    every_shape()
    made = sorted(pool._rounds.steps)
    assert made == [(b, t) for b in (2, 4, 5) for t in (1, 4, 8)]

    def refuse(step: BoundStep, *states: object) -> ort.IOBinding:
        raise AssertionError("a binding was made")

    monkeypatch.setattr(BoundStep, "bind", refuse)
    every_shape()
    assert sorted(pool._rounds.steps) == made


@pytest.mark.parametrize("ready", [1, 2, 4])
def test_a_step_allocates_nothing_of_the_size_of_a_state(batched: Path, ready: int) -> None:
    import tracemalloc

    session = Session.open(batched / "wide", check_state_every=1)
    state_bytes = session.layout.state_bytes
    pool = StreamPool(session, 4)
    chunks = {slot: np.ones((8, 1), np.float32) for slot in range(ready)}
    uneven = {0: np.ones((8, 1), np.float32)}
    for call in (chunks, chunks, uneven, chunks):
        pool.step(call)
    tracemalloc.start()
    try:
        for call in (chunks, uneven, chunks, chunks):
            pool.step(call)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < state_bytes / 4
    assert isinstance(session.stream(pool.swap_out(0)), Stream)
