"""A long input is read chunk by chunk, with a deadline and a cancel between the chunks."""

import threading
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.pool.conftest import same

from dst.runtime import DstError, Session, StepError
from dst.runtime.errors import DeadlineError
from dst.runtime.state.record import pack


@pytest.fixture(scope="module")
def session(shelf: Path) -> Session:
    return Session.open(shelf / "text")


def test_the_parts_are_what_one_advance_answers(session: Session) -> None:
    text = bytes(range(45))
    whole, parts = session.stream(), session.stream()
    for stream in (whole, parts):
        stream.advance(b"abc")  # so that the chunks begin in the middle
    expected = whole.advance(text)
    found = [out["logits"] for out in parts.iter_advance(text)]
    assert [part.shape[1] for part in found] == [8] * 6
    same({"logits": np.concatenate(found, axis=1)}, expected)
    assert pack(parts.saved()) == pack(whole.saved())


def test_last_and_outputs_are_those_of_advance(shelf: Path) -> None:
    session = Session.open(shelf / "sensor")
    items = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    whole = session.stream().advance(items)
    ends = [*session.stream().iter_advance(items, last=True)]
    assert [out["y"].shape for out in ends] == [(1, 1, 2)] * 3
    assert np.concatenate([out["y"] for out in ends], axis=1).tobytes() == (
        whole["y"][:, 3::4].tobytes()
    )
    only = [*session.stream().iter_advance(items, outputs=["peak"])]
    assert [list(out) for out in only] == [["peak"]] * 3
    same(session.stream().advance(items, outputs=["peak"]), {"peak": whole["peak"]})
    stream = session.stream()
    stream.advance(items[:3])
    tail = stream.flush(last=True, outputs=["y"])
    assert tail["y"].tobytes() == session.stream().advance(items)["y"][:, 2:3].tobytes()
    assert list(tail) == ["y"]


@pytest.mark.parametrize("names", ["y", ["y", "z"]])
def test_an_unknown_output_is_refused_and_nothing_is_read(shelf: Path, names: list[str]) -> None:
    stream = Session.open(shelf / "sensor").stream()
    items = np.zeros((5, 2), np.float32)
    for call in (
        lambda: stream.advance(items, outputs=names),
        lambda: [*stream.iter_advance(items, outputs=names)],
    ):
        with pytest.raises(StepError, match="expected a list of names from") as caught:
            call()
        assert caught.value.code == "no-such-output"
    assert stream.items_consumed + stream.pending == 0


def test_a_cancel_stops_between_two_chunks_and_says_where(session: Session) -> None:
    stream, text, cancel = session.stream(), bytes(64), threading.Event()
    parts = stream.iter_advance(text, cancel=cancel)
    next(parts)
    next(parts)
    cancel.set()
    with pytest.raises(StepError, match=r"16 of 64 items were read; go on with items\[16:\]") as e:
        next(parts)
    assert e.value.code == "cancelled"
    assert stream.items_consumed == 16
    rest = [*stream.iter_advance(text[16:])]
    assert len(rest) == 6
    assert pack(stream.saved()) == pack(read_alone(session, text))


def test_a_deadline_stops_between_two_chunks(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stream = session.stream()
    parts = stream.iter_advance(bytes(64), deadline_ms=50)
    next(parts)
    now[0] += 0.049
    next(parts)
    now[0] += 0.002
    with pytest.raises(DeadlineError, match=r"16 of 64 items were read"):
        next(parts)
    assert stream.items_consumed == 16


def test_a_bad_item_stops_at_its_chunk(shelf: Path) -> None:
    stream = Session.open(shelf / "sensor").stream()
    items = np.zeros((12, 2), np.float32)
    items[9] = np.nan
    parts = stream.iter_advance(items)
    next(parts)
    next(parts)
    with pytest.raises(DstError) as caught:
        next(parts)
    assert caught.value.code == "input-not-finite"
    assert stream.items_consumed == 8


@pytest.mark.parametrize("items", ["a text", 5, [1, 2], np.zeros((3, 3))])
def test_what_is_no_items_is_refused_before_any_work(session: Session, items: object) -> None:
    stream = session.stream()
    with pytest.raises(StepError):
        next(stream.iter_advance(items))  # type: ignore[arg-type]
    assert stream.pending == 0


def test_bytes_of_every_kind_are_read(session: Session) -> None:
    for kind in (bytes, bytearray, memoryview):
        stream = session.stream()
        assert len([*stream.iter_advance(kind(bytes(range(20))))]) == 2
        assert pack(stream.saved()) == pack(read_alone(session, bytes(range(20))))


def read_alone(session: Session, text: bytes):  # type: ignore[no-untyped-def]
    stream = session.stream()
    stream.advance(text)
    return stream.saved()
