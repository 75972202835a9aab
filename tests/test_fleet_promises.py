"""What a fleet promises when a worker dies at a given moment, with the Ray that the tests play."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.conftest import text_files, text_manifest
from tests.test_fleet_deaths import Lot, lot

from dst.runtime import StateStore, write_bundle
from dst.runtime.errors import (
    DstError,
    ServingError,
    StepError,
    StoreBusyError,
    StoreError,
    StreamNotFoundError,
)

__all__ = ["lot"]  # the fixture

KEYS = [f"s{n}" for n in range(10)]


@pytest.fixture
def make(lot: Lot, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Make a fleet over one folder, whose last one is closed."""
    from dst.fleet import Fleet

    write_bundle(tmp_path / "text", text_manifest(), text_files())
    made: list[Any] = []

    def new(workers: int, **given: Any) -> Any:
        for fleet in made:
            fleet.close()
        given = {"slots": 4, "durable": False} | given
        made.append(Fleet(tmp_path / "text", tmp_path / "states", workers=workers, **given))
        return made[-1]

    yield new
    for fleet in made:
        fleet.close()


def kill(fleet: Any, key: str = "s0") -> str:
    """Let the first holder of a stream die; nobody has noticed yet."""
    name: str = fleet.where[key][0]
    sys.modules["ray"].kill(fleet.workers[name])
    return name


def read(fleet: Any, items: bytes = b"12345678") -> None:
    fleet.advance(dict.fromkeys(KEYS, items))


def codes_of(call: Callable[[], object]) -> dict[str, str]:
    """Return the codes of the streams that fail in a call."""
    from dst.fleet import FleetError

    with pytest.raises(FleetError) as caught:
        call()
    return {key: getattr(error, "code", "") for key, error in caught.value.failed.items()}


def test_a_stream_with_unreadable_items_gets_its_copy_too(make: Any) -> None:
    """In the very call that fails: its second holder may die right after it."""
    fleet = make(3)
    read(fleet)
    kill(fleet)
    assert codes_of(lambda: fleet.advance({"s0": 3, "s1": b"x"})) == {"s0": "chunk-type"}
    assert all(len(where) == 2 for where in fleet.where.values())
    kill(fleet)
    read(fleet)
    assert fleet.get("s0").items_consumed == 16


def test_what_cannot_be_moved_is_tried_again_and_loses_nothing(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new worker cannot store for a while; until it can, the old copies stay."""
    fleet = make(2)
    read(fleet)
    old, works = {*fleet.workers}, StateStore.put_many

    def put_many(self: StateStore, states: Any) -> None:
        if self.path.parent.name not in old:
            raise StoreError("full")
        works(self, states)

    with monkeypatch.context() as patch:
        patch.setattr(StateStore, "put_many", put_many)
        fleet.add_worker()  # no stream was asked for: there is nothing to report
        held = {key: where for key, where in fleet.where.items() if where != fleet._homes[key]}
        assert held
        for key, where in held.items():
            assert {*where} == old
            for name in where:
                assert fleet.workers[name].made._store.get(fleet._names[key])
        with pytest.raises(DstError, match="full"):
            fleet.remove_worker(next(iter(old)))
        assert old <= fleet.workers.keys()
    read(fleet)
    assert all(where == fleet._homes[key] for key, where in fleet.where.items())
    assert not fleet._stale


def test_a_new_worker_that_dies_at_once_leaves_two_holders(make: Any) -> None:
    """The members are then those of before, and yet every copy has to be looked at."""
    fleet = make(2, replace=False)
    read(fleet)
    one_round = fleet._round

    def and_die(*given: Any) -> Iterator[Any]:
        yield from one_round(*given)
        fleet._round = one_round
        sys.modules["ray"].kill(fleet.workers[[*fleet.workers][-1]])

    fleet._round = and_die
    assert fleet.add_worker() not in fleet.workers
    assert all(len(where) == 2 for where in fleet.where.values())
    kill(fleet)
    read(fleet)


def test_one_death_at_reopening_loses_nothing(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both holders are known before anything is copied, and nothing is copied that lies well."""
    read(make(3))
    fleet_type = type(fleet := make(3))
    names = {key: [*where] for key, where in fleet.where.items()}
    stored = dict(fleet._names)
    assert all(len(where) == 2 for where in names.values())
    fleet = make(3)
    assert (fleet.where, fleet._names) == (names, stored)
    run = fleet_type._run

    def die_first(self: Any, *given: Any, **named: Any) -> Any:
        monkeypatch.setattr(fleet_type, "_run", run)
        kill(self)
        return run(self, *given, **named)

    monkeypatch.setattr(fleet_type, "_run", die_first)
    fleet = make(3)
    read(fleet)
    assert {fleet.get(key).items_consumed for key in KEYS} == {16}


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("away", [True, False])
def test_what_was_deleted_stays_away(make: Any, tmp_path: Path, replace: bool, away: bool) -> None:
    """The worker that died has it still; its folder may be out of sight when it is deleted."""
    fleet = make(3, replace=replace)
    read(fleet)
    dead = kill(fleet)
    path = tmp_path / "states" / dead
    if away:
        path.rename(tmp_path / "away")
    fleet.delete("s0")
    if away:
        (tmp_path / "away").rename(path)
    fleet = make(2, replace=replace)
    assert {*fleet.where} == {*KEYS} - {"s0"}
    assert dead not in fleet.workers
    assert not path.exists()
    read(fleet, b"abcd")
    assert fleet.get("s0").items_consumed + len(fleet.get("s0").pending) == 4


def test_a_worker_that_dies_of_a_delete_is_not_listened_to(make: Any, lot: Lot) -> None:
    fleet = make(3)
    for n in range(8):
        read(fleet)
        lot.chance = 0.2
        fleet.delete("s0")
        lot.chance = 0.0
        fleet = make(3)
        assert "s0" not in fleet.where, n
    assert "store" in lot.deaths


def test_of_a_worker_that_died_only_lost_streams_come_back(make: Any, tmp_path: Path) -> None:
    """Two die at once; what was deleted and what went on since is not taken from their folders."""
    fleet = make(4)
    read(fleet)
    lost = fleet.where["s0"]
    gone = {key for key, where in fleet.where.items() if {*where} == {*lost}}
    other = next(key for key, where in fleet.where.items() if len({*where} & {*lost}) == 1)
    for name in lost:
        sys.modules["ray"].kill(fleet.workers[name])
    fleet.delete(other)
    assert codes_of(lambda: read(fleet)) == dict.fromkeys(gone, "stream-lost")
    fleet.delete(other)
    for key in gone:
        with pytest.raises(ServingError, match="both holders died") as caught:
            fleet.get(key)
        assert caught.value.code == "stream-lost"
    (tmp_path / "states" / lost[0]).rename(tmp_path / "0")
    (tmp_path / "states" / lost[1]).rename(tmp_path / "1")
    fleet = make(2)  # their folders are out of sight: the streams are not new ones
    assert {key for key, where in fleet.where.items() if not where} == gone
    (tmp_path / "0").rename(tmp_path / "states" / lost[0])
    (tmp_path / "1").rename(tmp_path / "states" / lost[1])
    fleet = make(2)
    assert {*fleet.where} == {*KEYS} - {other}
    assert fleet.get("s0").items_consumed == 8
    assert all(fleet.get(key).items_consumed == 16 for key in fleet.where if key not in gone)
    fleet = make(2)
    assert {*fleet.where} == {*KEYS} - {other}


def test_items_that_wait_survive_a_clock_that_was_set_back(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = [*range(1000)]
    monkeypatch.setattr("time.time_ns", lambda: hours.pop() * 3600 * 10**9)
    fleet = make(2)
    for n in range(1, 5):
        fleet.advance({"s0": b"x"})
        fleet = make(2)
        assert len(fleet.get("s0").pending) == n
    assert len(hours) < 1000  # the stores did look at the clock


def test_an_unreadable_copy_is_not_taken_at_reopening(make: Any, tmp_path: Path) -> None:
    fleet = make(2)
    read(fleet)
    path = tmp_path / "states" / fleet.where["s0"][0] / "states.db"
    with sqlite3.connect(path) as database:
        database.execute("UPDATE states SET blob = zeroblob(length(blob))")
    database.close()
    fleet = make(2)
    read(fleet)
    assert {fleet.get(key).items_consumed for key in KEYS} == {16}


def test_the_last_that_lives_cannot_be_removed(make: Any) -> None:
    fleet = make(2, replace=False)
    read(fleet)
    kill(fleet, "s0")
    (last,) = {*fleet.workers} - {fleet.where["s0"][0]}
    with pytest.raises(ServingError, match=f"{last} is the only worker") as caught:
        fleet.remove_worker(last)
    assert caught.value.code == "no-workers"
    read(fleet)


def test_nothing_is_no_items(make: Any) -> None:
    fleet = make(2)
    assert codes_of(lambda: fleet.advance({"s0": None, "s1": b"x"})) == {"s0": "chunk-type"}
    assert [*fleet.where] == ["s1"]


def test_errors_of_workers_are_what_they_are(make: Any) -> None:
    fleet = make(2)
    read(fleet)
    with pytest.raises(StepError, match="expected a list of names") as caught:
        fleet.advance({"s0": b"x"}, outputs=["no"])
    assert caught.type is StepError  # and nothing of Ray's
    for name in fleet.where["s0"]:
        fleet.workers[name].made._store.delete(fleet._names["s0"])
    with pytest.raises(StreamNotFoundError):
        fleet.get("s0")
    fleet.add_worker()
    with pytest.raises(DstError, match="no stream"):
        fleet.advance({"s0": b"x"})


def test_a_closed_fleet_starts_nothing(make: Any) -> None:
    fleet = make(2)
    read(fleet)
    fleet.close()
    calls: list[Callable[[], object]] = [
        lambda: fleet.advance({"new": b"x"}), lambda: fleet.get("s0"), lambda: fleet.delete("s0"),
        fleet.add_worker, lambda: fleet.remove_worker(next(iter(fleet.workers))),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ServingError, match="closed") as caught:
            call()
        assert caught.value.code == "fleet-closed"
    fleet.close()
    assert {*make(2).where} == {*KEYS}


def test_recorded_numbers_are_not_rounded(lot: Lot) -> None:
    """A data set has numbers in 64 bits, which is none of its reader's business."""
    from dst.fleet import StreamMap

    reader = StreamMap("text")
    good: list[Any] = [[65, 66], np.array([65, 66]), b"AB", []]
    answers = reader({"items": good})["logits"]  # type: ignore[dict-item]
    assert answers[0].tobytes() == answers[1].tobytes() == answers[2].tobytes()
    assert answers[3].shape[0] == 0
    for bad in ([1.7, 2.2], ["a"], [2**40], [float("nan")]):
        rows: dict[str, Any] = {"name": ["good", "bad"], "items": [[65], bad]}
        with pytest.raises(
            DstError, match=r"row 1 of this batch, {'name': 'bad'}: .*(items ha|token)"
        ):
            reader(rows)


def test_a_second_fleet_is_refused_and_harms_nothing(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    from dst.fleet import Fleet

    fleet = make(2)
    read(fleet)
    with pytest.raises(StoreBusyError, match="another scheduler or fleet"):
        Fleet(tmp_path / "text", tmp_path / "states", workers=2, slots=4)
    read(fleet)
    assert fleet.get("s0").items_consumed == 16
    fleet.close()
    assert make(2).get("s0").items_consumed == 16


def test_a_fleet_that_cannot_start_leaves_its_folder_free(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    from dst.fleet import Fleet

    with pytest.raises(Exception, match="no such") as kept:  # with all that it refers to
        Fleet(tmp_path / "none", tmp_path / "states", workers=2, slots=4)
    read(make(2))
    assert kept.value is not None


def test_a_damaged_state_fails_alone_and_its_copy_counts_in_a_new_fleet(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    fleet = make(2)
    read(fleet)
    before = {name: value.tobytes() for name, value in fleet.get("s0").state.items()}
    file = tmp_path / "states" / fleet.where["s0"][0] / "states.db"
    with sqlite3.connect(file) as store:
        (number, blob), *_ = store.execute(
            "SELECT states.id, blob FROM states JOIN streams ON streams.id = stream "
            "WHERE name = 's0#0' ORDER BY states.id DESC"
        )
        broken = bytes([*blob[:-40], blob[-40] ^ 1, *blob[-39:]])
        store.execute("UPDATE states SET blob = ? WHERE id = ?", (broken, number))
    assert codes_of(lambda: read(fleet)) == {"s0": "state-checksum"}
    again = make(2)
    after = {name: value.tobytes() for name, value in again.get("s0").state.items()}
    assert after == before
    assert again.get("s1").items_consumed == 16
    read(again)
    assert again.get("s0").items_consumed == 16
