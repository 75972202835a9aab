"""Laws of going back: what is kept of the past, and that replay finds the exact item again."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.raising import refused

from dst.runtime import Session, StateStore, Stream, replay, write_bundle
from dst.runtime.bundle.manifest import Manifest
from dst.runtime.errors import StateMismatchError, StateNotFoundError, StepError, StoreError
from dst.runtime.state.record import Identity, Saved, pack
from dst.runtime.store.retention import MAX_ASIDE, Row, line_of, to_drop

TEXT = np.random.default_rng(5).integers(0, 256, 400).astype(np.uint8).tobytes()
SAMPLES = np.random.default_rng(6).normal(size=(400, 2)).astype(np.float32)


def saved_at(item: int) -> Saved:
    return Saved(
        identity=Identity("a" * 64, "b" * 64, "c" * 64, "float32"),
        items_consumed=item,
        seed=None,
        draws=0,
        state={"h": np.zeros((1, 8), np.float32)},
        pending=np.zeros(0, np.int64),
        lookback=np.zeros(0, np.int64),
    )


def thinned(puts: Sequence[tuple[int, int]], budget: int) -> list[list[Row]]:
    """What is kept, newest first, after each put of an item and a size."""
    kept: list[Row] = []
    stages = []
    for record, (item, size) in enumerate(puts, 1):
        kept.insert(0, Row(record, item, 0, size))
        gone = to_drop(kept, budget)
        kept = [mark for mark in kept if mark.record not in gone]
        stages.append(list(kept))
    return stages


def rising(steps: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    items = np.cumsum([step for step, _ in steps]).tolist()
    return [(item, size) for item, (_, size) in zip(items, steps, strict=True)]


STEPS = st.lists(st.tuples(st.integers(1, 200), st.integers(0, 90)), min_size=1, max_size=120)


@given(STEPS)
def test_gaps_grow_at_most_with_age(steps: Sequence[tuple[int, int]]) -> None:
    puts = rising(steps)
    for stage in thinned(puts, 1 << 40):
        newest = stage[0].item
        for young, old in pairwise(stage):
            together = old.record + 1 == young.record
            assert together or newest - old.item <= 2 * (newest - young.item)
        assert stage[-1].record == 1  # and nothing limits how far back it reaches
        assert [mark.record for mark in stage[1:2]] == [stage[0].record - 1][: len(stage) - 1]


@given(STEPS)
def test_the_number_kept_grows_with_the_logarithm(steps: Sequence[tuple[int, int]]) -> None:
    for stage in thinned(rising(steps), 1 << 40):
        ages = [stage[0].item - mark.item for mark in stage]
        for young, old in zip(ages[1:], ages[3:], strict=False):
            assert old > 2 * young
        assert len(stage) <= 2 * math.log2(ages[-1] + 1) + 3


@given(STEPS, st.integers(0, 400))
def test_the_budget_holds_and_the_newest_stays(
    steps: Sequence[tuple[int, int]], budget: int
) -> None:
    puts = rising(steps)
    within, free = thinned(puts, budget), thinned(puts, 1 << 40)
    assert within == thinned(puts, budget)
    roomy = True
    for record, (stage, whole) in enumerate(zip(within, free, strict=True), 1):
        assert stage[0].record == record
        assert sum(mark.size_bytes for mark in stage[1:]) <= budget
        roomy = roomy and sum(mark.size_bytes for mark in whole[1:]) <= budget
        assert not roomy or stage == whole
        for young, old in pairwise(stage):  # what the budget takes is the far end alone
            together = old.record + 1 == young.record
            assert together or puts[record - 1][0] - old.item <= 2 * (
                puts[record - 1][0] - young.item
            )


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 90)), min_size=1, max_size=80),
    st.sampled_from([0, 300, 1 << 40]),
)
def test_the_line_leads_up_to_the_newest(puts: Sequence[tuple[int, int]], budget: int) -> None:
    """Also where a stream goes back and forth, and whatever was dropped since."""
    for record, stage in enumerate(thinned(puts, budget), 1):
        assert stage[0].record == record
        assert sum(mark.size_bytes for mark in stage[1:]) <= budget
        line = line_of(stage)
        assert line[0] == stage[0]
        assert len(stage) - len(line) <= MAX_ASIDE
        for mark in stage[1:]:
            later = [put[0] for put in puts[mark.record : record]]
            assert (mark in line) == (min(later) > mark.item)


def test_the_store_keeps_what_the_rule_says(tmp_path: Path) -> None:
    stream = saved_at(0)
    with StateStore(tmp_path / "a.db", history_bytes=4000, durable=False) as store:
        puts = []
        for step in np.random.default_rng(0).integers(1, 40, 60):
            stream = msgspec.structs.replace(
                stream, items_consumed=stream.items_consumed + int(step)
            )
            store.put("a", stream)
            kept = store.history("a")
            puts.append((stream.items_consumed, kept[0].size_bytes))
            assert [k.items_consumed for k in kept] == [
                mark.item for mark in thinned(puts, 4000)[-1]
            ]
            assert sum(k.size_bytes for k in kept[1:]) <= 4000
        assert 3 < len(kept) < len(thinned(puts, 1 << 40)[-1])
    with StateStore(tmp_path / "a.db", history_bytes=0) as store:
        store.put("a", msgspec.structs.replace(stream, items_consumed=10**6))
        assert [k.items_consumed for k in store.history("a")] == [10**6]


# --- going back


def test_rewind_gives_the_nearest_kept_state_at_or_before(tmp_path: Path) -> None:
    with StateStore(tmp_path / "a.db", durable=False) as store:
        for item in range(10, 500, 7):
            store.put("a", saved_at(item))
        kept = [k.items_consumed for k in store.history("a")]
        for item in range(10, 520):
            assert store.rewind("a", item).items_consumed == max(k for k in kept if k <= item)
        with pytest.raises(StateNotFoundError, match=r"no state at or before item 9; .* item 10"):
            store.rewind("a", 9)
        assert [k.items_consumed for k in store.history("a")] == kept


def test_what_was_beyond_is_passed_over_but_not_lost(tmp_path: Path) -> None:
    with StateStore(tmp_path / "a.db", durable=False) as store:
        for item in (100, 200, 300):
            store.put("a", saved_at(item))
        lost = store.history("a")[0].record
        store.put("a", store.rewind("a", 250))  # back to 200, and on another way
        store.put("a", saved_at(280))
        assert [(k.items_consumed, k.set_aside) for k in store.history("a")] == [
            (280, False),
            (200, False),
            (300, True),
            (200, True),
            (100, False),
        ]
        assert store.get("a").items_consumed == 280
        assert store.rewind("a", 299).items_consumed == 280
        assert store.rewind("a", 279).items_consumed == 200
        store.put("a", saved_at(300))  # the new way comes by the same item
        assert store.get("a", lost).items_consumed == 300
        store.put("a", store.get("a", lost))  # and back to the way first taken
        assert store.rewind("a", 10**6).items_consumed == 300
        for _ in range(3):
            store.put("a", saved_at(310))
        assert [k.items_consumed for k in store.history("a")].count(310) == 1


def test_a_fresh_stream_put_by_mistake_loses_nothing(tmp_path: Path) -> None:
    with StateStore(tmp_path / "a.db", durable=False) as store:
        for item in (100, 200, 300):
            store.put("a", saved_at(item))
        store.put("a", saved_at(0))
        best = max(store.history("a"), key=lambda kept: kept.items_consumed)
        assert store.get("a", best.record).items_consumed == 300


def same(one: Stream, other: Stream) -> bool:
    return pack(one.saved()) == pack(other.saved())


@pytest.mark.parametrize("which", ["text", "sensor"])
def test_replay_finds_every_item_again(
    which: str, text: Session, sensor: Session, tmp_path: Path
) -> None:
    session = text if which == "text" else sensor
    whole = TEXT if which == "text" else SAMPLES
    stream, cuts = session.stream(), [0, 5, 33, 34, 47, 95, 150, 151, 240, 309]
    with StateStore(tmp_path / "a.db", durable=False) as store:
        for start, end in pairwise(cuts):
            stream.advance(whole[start:end])
            store.put("a", stream.saved())
        for item in range(0, 309, 3):
            try:
                nearest = store.rewind("a", item)
            except StateNotFoundError:
                assert item < 8
                continue
            first = nearest.items_consumed
            back = replay(session, nearest, whole[first:], first=first, item=item)
            never_stopped = session.stream()
            never_stopped.advance(whole[:item])
            assert (back.items_consumed + back.pending) == item
            assert same(back, never_stopped)
            assert same(
                back, replay(session, nearest, whole, first=0, item=item)
            )  # whatever part of the input is kept
            for one in (back, never_stopped):
                one.advance(whole[item : item + 30])
            assert same(back, never_stopped)


@settings(max_examples=30)
@given(data=st.data())
def test_replay_needs_just_what_is_missing(text: Session, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, 60))
    item = data.draw(st.integers(0, 90))
    first = data.draw(st.integers(0, 70))
    end = data.draw(st.integers(first, 100))
    stream = text.stream()
    stream.advance(TEXT[:begin])
    saved = stream.saved()
    kept = TEXT[first:end]
    wanted = text.stream()
    wanted.advance(TEXT[:item])
    if saved.items_consumed <= item and (item <= begin or first <= begin <= item <= end):
        assert same(replay(text, saved, kept, first=first, item=item), wanted)
    else:
        with refused(StoreError, "replay"):
            replay(text, saved, kept, first=first, item=item)


def test_replay_says_what_is_missing(text: Session) -> None:
    stream = text.stream()
    stream.advance(TEXT[:21])  # 16 in the state, 5 waiting
    saved = stream.saved()
    with refused(StoreError, "replay", match=r"items 21 to 29 .* has 22 to 99"):
        replay(text, saved, TEXT[22:100], first=22, item=30)
    with refused(StoreError, "replay", match=r"items 21 to 29 .* has 0 to 28"):
        replay(text, saved, TEXT[:29], first=0, item=30)
    with refused(StoreError, "replay", match=r"at item 16, after item 15; .*older one"):
        replay(text, saved, TEXT, first=0, item=15)
    with refused(StepError, "chunk-type"):
        replay(text, saved, SAMPLES, first=0, item=30)


# --- migration: whose state it is


def test_a_state_of_the_store_migrates_as_one_of_a_file_does(
    shelf: Path,
    text: Session,
    text_parts: tuple[Manifest, dict[str, bytes | Path]],
    tmp_path: Path,
) -> None:
    manifest, files = text_parts
    stream = text.stream()
    stream.advance(TEXT[:43])
    with StateStore(tmp_path / "a.db", durable=False) as store:
        store.put("a", stream.saved())
        saved = store.get("a")
    renamed = msgspec.structs.replace(manifest, description="exported once more")
    write_bundle(tmp_path / "again", renamed, files)
    again = Session.open(tmp_path / "again")
    assert again.identity.bundle_id != text.identity.bundle_id
    logits = again.stream(saved).advance(TEXT[43:99])["logits"]
    assert logits.tobytes() == stream.advance(TEXT[43:99])["logits"].tobytes()

    half = Session.open(shelf / "half")
    with refused(StateMismatchError, "other-precision", match="allow_precision=True"):
        half.stream(saved)
    with refused(StateMismatchError, "other-precision"):
        replay(half, saved, TEXT, first=0, item=60)
    taken = replay(half, saved, TEXT, first=0, item=60, allow_precision=True)
    assert taken.items_consumed + taken.pending == 60
    assert half.stream(saved, allow_precision=True).items_consumed == 40

    with refused(StateMismatchError, "other-model"):
        Session.open(shelf / "twin").stream(saved, allow_precision=True)

    h, n = manifest.contract.state
    state = (msgspec.structs.replace(h, role="window"), n)
    contract = msgspec.structs.replace(manifest.contract, state=state)
    write_bundle(tmp_path / "other", msgspec.structs.replace(manifest, contract=contract), files)
    with refused(StateMismatchError, "other-state-layout"):
        Session.open(tmp_path / "other").stream(saved, allow_precision=True)
