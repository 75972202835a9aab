"""A store stays within its budget, forgets what is too old, and takes what the page says."""

import math
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dst.runtime import Saved, Session, StateStore, StoreError
from dst.runtime.errors import StoreFullError, StreamNotFoundError
from dst.runtime.state.record import pack

PAGE = 16384


@pytest.fixture(scope="module")
def saved(shelf: Path) -> Saved:
    return Session.open(shelf / "text").stream().saved()


def at(session: Session, items: int) -> Saved:
    stream = session.stream()
    stream.advance(bytes(items))
    return stream.saved()


@pytest.fixture(scope="module")
def states(shelf: Path) -> list[Saved]:
    """States of one stream at items 8, 16, 24 and so on."""
    session = Session.open(shelf / "text")
    return [at(session, 8 * n) for n in range(1, 40)]


def test_the_oldest_states_of_all_streams_make_room(tmp_path: Path, states: list[Saved]) -> None:
    limit = 24 * PAGE
    with StateStore(tmp_path / "a.db", max_bytes=limit, durable=False) as store:
        for state in states:
            for name in ("ann", "bob", "cleo"):
                store.put(name, state)
                assert store.used_bytes() <= limit
        kept = {name: [k.items_consumed for k in store.history(name)] for name in ("ann", "bob")}
        for name, items in kept.items():
            assert items[0] == 8 * len(states)
            assert items == sorted(items, reverse=True)
            assert pack(store.get(name)) == pack(states[-1])


def test_history_is_given_up_before_a_put_is_refused(tmp_path: Path, states: list[Saved]) -> None:
    """One page holds some states, so that the budget here is reached by the number of streams."""
    counts, codes = [], []
    for history in (0, 1 << 20):
        path = tmp_path / f"{history}.db"
        with StateStore(path, max_bytes=12 * PAGE, history_bytes=history, durable=False) as store:
            for number in range(2000):
                try:
                    for state in states[:3]:
                        store.put(f"user {number}", state)
                except StoreFullError as error:
                    codes.append(error.code)
                    break
            counts.append(len(store.list()))
    assert counts[0] > 50
    assert counts[1] >= 0.75 * counts[0]  # what was older went first, all of it
    assert codes == ["store-budget"] * 2
    with StateStore(path, max_bytes=12 * PAGE, durable=False) as store:
        entries = store.list()
        before = store.list()
        with pytest.raises(StoreFullError):
            store.put_many({f"more {n}": states[0] for n in range(200)})
        assert store.list() == before
        for entry in entries[:-5]:
            store.delete(entry.name)
        store.put(entries[-1].name, states[5])  # there is room again


@pytest.mark.parametrize("state_bytes", [2_000, 7_500, 17_000])
def test_who_is_there_is_stored_again_where_the_budget_is_reached(
    tmp_path: Path, saved: Saved, state_bytes: int
) -> None:
    """States that share pages take more of them after some updates: that refuses new ones only."""
    chance = np.random.default_rng(0)
    name = next(iter(saved.state))

    def state() -> Saved:
        values = chance.standard_normal(state_bytes // 4).astype(np.float32)
        return msgspec.structs.replace(saved, state={name: values})

    limit, count = 64 * PAGE, 0
    with StateStore(tmp_path / "a.db", max_bytes=limit, history_bytes=0, durable=False) as store:
        with suppress(StoreFullError):
            while True:
                store.make_room(1, len(pack(state())))
                store.put(f"user {count}", state())
                count += 1
        for _ in range(3 * count):
            store.put(f"user {chance.integers(count)}", state())
        assert store.used_bytes() > limit  # what is tested has happened
        assert store.used_bytes() < 2 * limit
        with pytest.raises(StoreFullError):
            store.put_many({"new": state(), "user 0": state()})
        assert len(store.list()) == count


def test_without_a_limit_nothing_is_refused(tmp_path: Path, states: list[Saved]) -> None:
    with StateStore(tmp_path / "a.db", max_bytes=None, durable=False) as store:
        store.put_many({f"user {n}": states[0] for n in range(300)})
        assert len(store.list()) == 300


class Clock:
    """The clocks of the machine, in the hands of a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.steady = 1.7e9, 500.0
        monkeypatch.setattr("time.time", lambda: self.wall)
        monkeypatch.setattr("time.time_ns", lambda: int(self.wall * 1e9))
        monkeypatch.setattr("time.monotonic", lambda: self.steady)

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def test_what_is_too_old_is_forgotten(
    tmp_path: Path, states: list[Saved], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    with StateStore(tmp_path / "a.db", max_age_s=30 * 86400, durable=False) as store:
        store.put("ann", states[0])
        store.put("bob", states[0])
        clock.pass_by(20 * 86400)
        store.put("bob", states[3])
        clock.pass_by(20 * 86400)
        store.put("cleo", states[0])  # this looks for what is old
        assert [entry.name for entry in store.list()] == ["bob", "cleo"]
        assert [kept.items_consumed for kept in store.history("bob")] == [32]
        assert pack(store.get("bob")) == pack(states[3])
        with pytest.raises(StreamNotFoundError):
            store.get("ann")
        assert store.expire(1e-3 + 20 * 86400) == ()
        assert store.expire(20 * 86400 - 1) == ("bob",)
        assert [entry.name for entry in store.list()] == ["cleo"]


@pytest.mark.parametrize("jump_s", [400 * 86400, -400 * 86400])
def test_a_clock_that_jumps_forgets_nothing(
    tmp_path: Path, states: list[Saved], monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    clock = Clock(monkeypatch)
    with StateStore(tmp_path / "a.db", max_age_s=30 * 86400, durable=False) as store:
        store.put("ann", states[0])
        clock.wall += jump_s
        clock.pass_by(2 * 3600)
        store.put("bob", states[0])
        assert [entry.name for entry in store.list()] == ["ann", "bob"]


def test_a_state_set_aside_does_not_come_back_when_clocks_went_backwards(
    tmp_path: Path, states: list[Saved], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state by which it is recognised is put with an older time, and must not go alone."""
    clock = Clock(monkeypatch)
    with StateStore(tmp_path / "a.db", durable=False) as store:
        store.put("ann", states[9])
        clock.wall -= 1000
        store.put("ann", states[2])  # she went back: the one before is set aside
        clock.wall += 1000
        clock.pass_by(10)
        store.put("ann", states[4])
        store.expire(500)
        aside = [k.items_consumed for k in store.history("ann") if not k.set_aside]
        assert aside == [40, 24]
        assert store.rewind("ann", 1000).items_consumed == 40


@pytest.mark.parametrize("state_bytes", [2_000, 15_872, 60_000, 381_952])
def test_a_store_takes_what_the_page_says(
    tmp_path: Path, shelf: Path, saved: Saved, state_bytes: int
) -> None:
    """docs/state.md: whole pages of 16 KiB for each state, 10 pages, one more per 100 streams."""
    path = tmp_path / "a.db"
    with StateStore(path, durable=False, history_bytes=0) as store:
        store.put("a", saved)
    streams = 200
    with sqlite3.connect(path) as connection:  # states of a size of our choice
        connection.execute("DELETE FROM states")
        connection.execute("DELETE FROM streams")
        for n in range(streams):
            connection.execute("INSERT INTO streams VALUES (?, ?, ?)", (n, f"user {n}", n))
            row = (n, n, 8, 1, np.random.default_rng(n).bytes(state_bytes + 32))
            connection.execute("INSERT INTO states VALUES (?, ?, ?, ?, ?)", row)
    with StateStore(path) as store:
        found = store.used_bytes()
    estimate = streams * math.ceil((state_bytes + 100) / PAGE) * PAGE + (10 + streams / 100) * PAGE
    assert found <= estimate
    if state_bytes > PAGE / 2:
        assert found > 0.75 * estimate


@pytest.mark.parametrize(
    "wrong", [{"max_bytes": 0}, {"max_bytes": -5}, {"max_age_s": 0.0}, {"max_age_s": float("inf")}]
)
def test_limits_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(StoreError) as caught:
        StateStore(tmp_path / "a.db", **wrong)  # type: ignore[arg-type]
    assert caught.value.code == "argument"
    assert time.time() > 0
