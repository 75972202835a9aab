"""Laws of a state as bytes and in open files: the identity, and every flipped bit is refused."""

import gzip
import io
import os
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.raising import refused
from tests.safety.laws import named
from tests.windows import drawn_items, window_contract, write_window

from dst.runtime import Saved, Session, Stream
from dst.runtime.errors import NonFiniteError, StateCorruptError, StateError, StateMismatchError
from dst.runtime.health import Health


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """A stream with everything that a record can hold: state, items, lookback and inputs."""
    contract = window_contract(lookback=1, lookahead=2, tail="pad", given=True, offset=True)
    session = Session.open(write_window(tmp_path_factory.mktemp("bytes") / "b", contract))
    made = session.stream(
        inputs={"gain": np.array([2.0, 3.0], np.float32), "offset": np.array([4])}
    )
    made.advance(drawn_items(contract, 9))
    return made


def session_of(stream: Stream) -> Session:
    assert isinstance(stream.engine, Session)
    return stream.engine


def test_to_bytes_and_from_bytes_are_the_identity(stream: Stream, tmp_path: Path) -> None:
    stream.save(tmp_path / "a.state")
    data = stream.saved().to_bytes()
    assert data == (tmp_path / "a.state").read_bytes()
    for given_as in (data, bytearray(data), memoryview(data), memoryview(b"x" + data)[1:]):
        saved = Saved.from_bytes(given_as)
        assert saved.to_bytes() == data
        again = session_of(stream).stream(saved)
        items = drawn_items(stream.engine.contract, 11, 5)
        assert again.advance(items)["y"].tobytes() == stream.fork().advance(items)["y"].tobytes()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_refused_by_the_errors_of_a_file(stream: Stream, data: st.DataObject) -> None:
    right = stream.saved().to_bytes()
    at = data.draw(st.integers(0, len(right) * 8 - 1))
    flipped = bytearray(right)
    flipped[at // 8] ^= 1 << at % 8
    cut = right[: data.draw(st.integers(0, len(right) - 1))]
    longer = right + data.draw(st.binary(min_size=1, max_size=9))
    for broken in (bytes(flipped), cut, longer, data.draw(st.binary(max_size=200))):
        for read in (
            lambda: Saved.from_bytes(broken),  # noqa: B023 - called here
            lambda: Stream.load(session_of(stream), io.BytesIO(broken)),  # noqa: B023
        ):
            with pytest.raises((StateCorruptError, StateMismatchError)) as caught:
                read()
            named(caught.value, StateError)
            assert caught.value.code != "other-model"


def test_what_is_no_record_or_not_finite(stream: Stream) -> None:
    for value in ("text", None, 3):
        with pytest.raises(StateError, match=r"is a .*, expected bytes as to_bytes\(\)") as caught:
            Saved.from_bytes(value)  # type: ignore[arg-type]
        assert caught.value.code == "not-bytes"
    saved = stream.saved()
    with refused(NonFiniteError, "state-not-finite", match=r"`c` holds a NaN.*nothing was written"):
        replace(saved, state={"c": np.full_like(saved.state["c"], np.nan)}).to_bytes()


def test_another_model_is_refused_when_a_stream_is_made(text: Session, shelf: Path) -> None:
    saved = Saved.from_bytes(text.stream().saved().to_bytes())
    with refused(StateMismatchError, "other-model"):
        Session.open(shelf / "twin").stream(saved)


class Trickle:
    """A raw file that takes and gives three bytes at a time and cannot seek."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, part: memoryview) -> int:
        self.data += part[:3]
        return min(3, len(part))

    def read(self, most: int) -> bytes:
        piece = bytes(self.data[: min(3, most)])
        del self.data[:3]
        return piece


def test_files_of_every_kind_hold_the_same_bytes(stream: Stream, tmp_path: Path) -> None:
    session, right = session_of(stream), stream.saved().to_bytes()
    memory = io.BytesIO()
    stream.save(memory)
    assert memory.getvalue() == right
    memory.seek(0)
    assert Stream.load(session, memory).saved().to_bytes() == right
    raw = Trickle()
    stream.save(raw)  # type: ignore[arg-type]
    assert bytes(raw.data) == right
    assert Stream.load(session, raw).saved().to_bytes() == right  # type: ignore[arg-type]
    with open(tmp_path / "plain", "wb") as file:
        stream.save(file)
    with gzip.open(tmp_path / "packed", "wb") as packed:
        stream.save(packed)  # type: ignore[arg-type]
    assert (tmp_path / "plain").read_bytes() == right
    with open(tmp_path / "plain", "rb") as file:
        assert Stream.load(session, file).saved().to_bytes() == right
    with gzip.open(tmp_path / "packed", "rb") as packed:
        assert Stream.load(session, packed).saved().to_bytes() == right  # type: ignore[arg-type]
    Health(stream).save(memory := io.BytesIO())
    assert memory.getvalue() == right


def test_a_pipe_carries_a_state(stream: Stream) -> None:
    session, right = session_of(stream), stream.saved().to_bytes()
    there, here = os.pipe()

    def send() -> None:
        with os.fdopen(here, "wb") as file:
            stream.save(file)

    sender = threading.Thread(target=send)
    sender.start()
    with os.fdopen(there, "rb") as file:
        assert Stream.load(session, file).saved().to_bytes() == right
    sender.join()


def test_a_file_is_read_from_where_it_stands(stream: Stream) -> None:
    memory = io.BytesIO(b"head")
    memory.seek(4)
    stream.save(memory)
    memory.seek(4)
    loaded = Stream.load(session_of(stream), memory)
    assert loaded.saved().to_bytes() == stream.saved().to_bytes()


class Full:
    def write(self, part: memoryview) -> int:
        raise OSError(28, "No space left on device")


def closed() -> BinaryIO:
    file = io.BytesIO()
    file.close()
    return file


@pytest.mark.parametrize("call", ["save", "load"])
def test_files_that_cannot_be_used_are_named(stream: Stream, tmp_path: Path, call: str) -> None:
    def use(place: object) -> None:
        if call == "save":
            stream.save(place)  # type: ignore[arg-type]
        else:
            Stream.load(session_of(stream), place)  # type: ignore[arg-type]

    (tmp_path / "f").write_bytes(b"")
    mode = "wb" if call == "save" else "rb"
    with open(tmp_path / "f", "rb" if call == "save" else "wb") as other_way:
        for place, words, code in (
            (closed(), "is closed; open it again", "file-closed"),
            (io.StringIO(), f"is open as text.*'{mode}'", "file-is-text"),
            (other_way, f"cannot be .*; it must be open with '{mode}'", "file-not-usable"),
            (17, "expected a path or an open binary file, came a int", "no-file"),
            (None, "came a NoneType", "no-file"),
        ):
            with pytest.raises(StateError, match=f"state: .*{words}") as caught:
                use(place)
            assert caught.value.code == code
    if call == "save":
        with pytest.raises(StateError, match="No space left"):
            use(Full())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_what_is_no_plain_file_is_not_replaced(stream: Stream, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with refused(StateError, "state-unwritable", match="no plain file"):
            stream.save(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


@pytest.mark.parametrize(
    "change",
    [
        {"items_consumed": -1},
        {"items_consumed": 2**64},
        {"items_consumed": 1.5},
        {"seed": "x"},
        {"draws": -1},
    ],
)
def test_numbers_that_no_stream_has_are_refused(stream: Stream, change: dict[str, object]) -> None:
    session = session_of(stream)
    with refused(StateError, "state-numbers", match=next(iter(change))):
        session.stream(replace(stream.saved(), **change))
