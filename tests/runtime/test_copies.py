"""Copies by Python's own means: a stream's is a fork, and what cannot be copied says what to do."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dst.runtime import Session, StateStore, Stream, StreamPool
from dst.runtime.errors import DstError, SessionError, StateError, StoreError
from dst.runtime.health import Health
from dst.runtime.state.record import pack

SAMPLES = np.random.default_rng(2).normal(size=(60, 2)).astype(np.float32)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_of_a_stream_is_a_fork(sensor: Session, way: object) -> None:
    assert callable(way)
    stream = sensor.stream()
    stream.advance(SAMPLES[:23])
    right, twin = stream.fork(), way(stream)
    assert isinstance(twin, Stream)
    assert pack(twin.saved()) == pack(stream.saved())
    stream.advance(SAMPLES[40:])  # which must not move the twin
    assert twin.advance(SAMPLES[23:])["y"].tobytes() == right.advance(SAMPLES[23:])["y"].tobytes()
    assert pack(twin.saved()) == pack(right.saved())
    assert twin.engine is sensor


def test_a_deep_copy_of_what_holds_a_stream_forks_it_once(sensor: Session) -> None:
    stream = sensor.stream()
    beam = {"session": sensor, "best": stream, "also": [stream], "health": Health(stream)}
    twin = copy.deepcopy(beam)
    assert twin["session"] is sensor
    assert twin["best"] is not stream
    assert twin["also"] == [twin["best"]]


def test_records_and_snapshots_copy_whole(sensor: Session) -> None:
    stream = sensor.stream()
    stream.advance(SAMPLES[:23])
    saved, snapshot = stream.saved(), stream.snapshot()
    for other in (copy.copy(saved), copy.deepcopy(saved), pickle.loads(pickle.dumps(saved))):
        assert pack(other) == pack(saved)
    before = pack(saved)
    for kept in (
        copy.copy(snapshot),
        copy.deepcopy(snapshot),
        pickle.loads(pickle.dumps(snapshot)),
    ):
        stream.advance(SAMPLES)
        stream.restore(kept)
        assert pack(stream.saved()) == before


def test_a_session_is_shared_and_never_copied(sensor: Session) -> None:
    assert copy.copy(sensor) is sensor
    assert copy.deepcopy({"s": sensor})["s"] is sensor


def test_what_cannot_be_copied_says_what_to_do(sensor: Session, tmp_path: Path) -> None:
    stream, pool = sensor.stream(), StreamPool(sensor, 2)
    with StateStore(tmp_path / "memory.db") as store:
        store.put("ann", stream.saved())
        tried: list[tuple[object, bool, type[DstError], str]] = [
            (stream, False, StateError, r"saved\(\)\.to_bytes\(\)"),
            (sensor, False, SessionError, r"open the bundle in each process"),
            (pool, True, SessionError, r"swap_in\(slot, old\.swap_out\(slot\)\)"),
            (store, True, StoreError, r"StateStore\(path\)"),
        ]
        for value, copies_too, error, words in tried:
            ways: list[Callable[[object], object]] = [pickle.dumps]
            if copies_too:
                ways += [copy.copy, copy.deepcopy]
            for way in ways:
                with pytest.raises(error, match=words) as caught:
                    way(value)
                assert caught.value.code in ("not-copyable", "not-picklable")
        assert store.get("ann").items_consumed == 0  # and it still works
