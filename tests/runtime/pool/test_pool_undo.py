"""The last call of a pool can be taken back, slot by slot; and one call may read and flush."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.pool.conftest import all_of, positive, same

from dst.runtime import Session, SlotError, StepError, StreamPool
from dst.runtime.state.record import pack

SLOTS = 4
CALLS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, SLOTS - 1), st.integers(0, 20), min_size=1),  # items
        st.sets(st.integers(0, SLOTS - 1)),  # to flush
        st.sets(st.integers(0, SLOTS - 1)),  # to undo
    ),
    max_size=12,
)


@pytest.mark.parametrize("name", ["gain", "pad"])
@settings(max_examples=60, deadline=None)
@given(calls=CALLS)
def test_what_is_undone_never_was(name: str, calls: list, batched: Path) -> None:  # type: ignore[type-arg]
    session = Session.open(batched / name)
    pool = StreamPool(session, SLOTS)
    twins = [session.stream() for _ in range(SLOTS)]
    for number, (counts, flushed, undone) in enumerate(calls):
        items = {slot: positive(count, seed=number) for slot, count in counts.items()}
        found = pool.advance(items, flush=flushed)
        kept = items.keys() - undone
        pool.undo(items.keys() & undone)
        for slot in kept:
            expected = [twins[slot].advance(items[slot])]
            if slot in flushed:
                expected.append(twins[slot].flush())
            joined = {"y": np.concatenate([out["y"] for out in expected], axis=1)}
            same(found[slot], joined)
    assert all_of(pool) == [pack(twin.saved()) for twin in twins]


def test_only_the_last_call_is_undone_and_only_once(batched: Path) -> None:
    pool = StreamPool(Session.open(batched / "gain"), 3)
    pool.advance({0: positive(8), 1: positive(8)})
    before = all_of(pool)

    def refuse(slots: list[int]) -> None:
        with pytest.raises(StepError) as caught:
            pool.undo(slots)
        assert caught.value.code == "nothing-to-undo"

    refuse([0])  # swap_out came after the call
    pool.advance({0: positive(8), 1: positive(8)})
    refuse([0, 2])  # none of them is put back then
    pool.undo([0, 1])
    refuse([0])
    pool.advance({1: positive(8)})
    refuse([0])
    pool.undo([1])
    assert all_of(pool) == before
    pool.advance({1: positive(8)})
    pool.reset(1)
    refuse([1])


def test_a_slot_that_failed_has_nothing_to_undo(batched: Path) -> None:
    pool = StreamPool(Session.open(batched / "gain"), 2)
    with pytest.raises(SlotError):
        pool.advance({0: positive(8), 1: np.full(8, -1, np.float32)})
    with pytest.raises(StepError):
        pool.undo([1])
    pool.undo([0])
    assert pool.items_consumed(0) == 0


def test_last_and_outputs_choose_what_is_answered(shelf: Path) -> None:
    session = Session.open(shelf / "sensor")
    pool = StreamPool(session, 2)
    items = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    whole = pool.advance({0: items})[0]
    pool.reset(0)
    found = pool.advance({0: items}, last=True, outputs=["y"])[0]
    same(found, {"y": whole["y"][:, -1:]})
    pool.advance({1: items[:3]})
    assert {n: v.shape for n, v in pool.flush([1], last=True)[1].items()}["y"] == (1, 1, 2)
    with pytest.raises(StepError) as caught:
        pool.advance({0: items}, outputs=["nothing"])
    assert caught.value.code == "no-such-output"
