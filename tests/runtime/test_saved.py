"""Laws of saved states: save and load are the identity, and no altered bit goes unseen."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from tests.conformance.malformed import retold
from tests.raising import refused
from tests.safety.laws import with_checksum
from xxhash import xxh3_128

from dst.runtime import Session, Stream, generate
from dst.runtime.errors import StateCorruptError, StateError, StateMismatchError, StateNotFoundError
from dst.runtime.execution.checkpoint import put_saved
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.recurrence import Recurrence
from dst.runtime.state.file import read_record
from dst.runtime.state.record import Saved, pack, unpack

SAMPLES = np.random.default_rng(2).normal(size=(60, 2)).astype(np.float32)


def test_save_and_load_are_the_identity(sensor: Session, tmp_path: Path) -> None:
    stream = sensor.stream()
    stream.advance(SAMPLES[:23])  # 20 in the state, 3 waiting, 3 of lookback
    stream.save(tmp_path / "a.state")
    loaded = Stream.load(sensor, tmp_path / "a.state")
    first, second = stream.snapshot(), loaded.snapshot()
    for one, other in (
        *zip(first.state.values(), second.state.values(), strict=True),
        (first.lookback, second.lookback),
        (first.pending, second.pending),
    ):
        assert one.tobytes() == other.tobytes()
    assert (loaded.items_consumed, loaded.pending) == (20, 3)
    assert stream.advance(SAMPLES)["y"].tobytes() == loaded.advance(SAMPLES)["y"].tobytes()


def test_the_sampler_is_saved(text: Session, tmp_path: Path) -> None:
    stream = text.stream()
    list(generate(stream, "abc", 5, seed=2**64 - 1))
    stream.save(tmp_path / "a.state")
    loaded = Stream.load(text, str(tmp_path / "a.state"))
    assert loaded.sampler == stream.sampler
    assert loaded.sampler is not None
    assert (loaded.sampler.seed, loaded.sampler.draws) == (2**64 - 1, 5)


def test_equal_streams_give_equal_bytes(text: Session, tmp_path: Path) -> None:
    for name in "ab":
        stream = text.stream()
        stream.advance(b"the same")
        stream.save(tmp_path / name)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes()
    assert pack(unpack(data)) == data


def test_the_file_is_plain_safetensors(text: Session, tmp_path: Path) -> None:
    stream = text.stream()
    stream.advance(b"123456789")
    stream.save(tmp_path / "a.state")
    tensors = safetensors.numpy.load_file(tmp_path / "a.state")
    opening = rb'\{"__metadata__":\{"checksum":"[0-9a-f]{32}","format":"dst-state","version":"2",'
    assert re.match(opening, (tmp_path / "a.state").read_bytes()[8:])
    assert sorted(tensors) == ["lookback", "pending", "state/h", "state/n"]
    np.testing.assert_array_equal(tensors["state/h"], stream.state["h"])
    np.testing.assert_array_equal(tensors["pending"], [ord("9")])


def test_every_flipped_bit_is_refused(text: Session, tmp_path: Path) -> None:
    stream = text.stream()
    stream.advance(b"123456789")
    path = tmp_path / "a.state"
    stream.save(path)
    data = path.read_bytes()
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << at % 8
        with pytest.raises(StateCorruptError):
            unpack(bytes(broken))
    for size in (0, 7, 50, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(StateCorruptError, match=r"state .*a\.state"):
            Stream.load(text, path)
    path.write_bytes(data + b"\0")
    with pytest.raises(StateCorruptError):
        Stream.load(text, path)


def test_the_copy_before_is_kept_and_named(text: Session, tmp_path: Path) -> None:
    stream = text.stream()
    path, previous = tmp_path / "a.state", tmp_path / "a.state.previous"
    stream.advance(b"12345678")
    stream.save(path)
    assert not previous.exists()
    first = path.read_bytes()
    stream.advance(b"12345678")
    stream.save(path)
    assert previous.read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.state", "a.state.previous"]
    path.write_bytes(b"junk")
    with pytest.raises(StateCorruptError, match=r"saved before it is a\.state\.previous"):
        Stream.load(text, path)
    path.unlink()
    with pytest.raises(StateNotFoundError, match=r"no such file.*a\.state\.previous"):
        Stream.load(text, path)
    assert Stream.load(text, previous).items_consumed == 8


def test_a_save_in_the_middle_of_a_load_is_no_damage(
    text: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, path = text.stream(), tmp_path / "a.state"
    stream.save(path)
    stat, saved = Path.stat, False

    def stat_and_save(self: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        nonlocal saved
        found = stat(self, follow_symlinks=follow_symlinks)
        if self == path and not saved:
            saved = True
            stream.advance(b"12345678 and more")
            stream.save(path)
        return found

    monkeypatch.setattr(Path, "stat", stat_and_save)
    assert Stream.load(text, path).items_consumed == 16
    assert saved


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
@pytest.mark.parametrize("target", ["target", "nothing"])
def test_a_save_leaves_a_link_alone(text: Session, tmp_path: Path, target: str) -> None:
    stream, link = text.stream(), tmp_path / "a.state"
    stream.save(tmp_path / "target")
    link.symlink_to(target)
    with pytest.raises(StateError, match="no plain file") as error:
        stream.save(link)
    assert error.value.code == "state-unwritable"
    assert link.readlink() == Path(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.state", "target"]


def test_a_save_that_fails_leaves_the_old_file(text: Session, tmp_path: Path) -> None:
    stream = text.stream()
    path = tmp_path / "a.state"
    stream.save(path)
    first = path.read_bytes()
    (tmp_path / ".a.state.tmp").mkdir()  # stands where the new file would be written
    stream.advance(b"12345678")
    with pytest.raises(StateError, match=r"a\.state: cannot be written"):
        stream.save(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("name", ["nowhere/a.state", "", "a\0.state"])
def test_a_path_that_names_no_file_is_a_state_error(
    text: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StateError, match="cannot be written"):
        text.stream().save(name)
    with pytest.raises(StateError, match=r"cannot be read|no such file"):
        Stream.load(text, name)
    assert not list(tmp_path.iterdir())


def test_whose_state_it_is(shelf: Path, text: Session, tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    stream = text.stream()
    stream.advance(b"12345678abc")
    stream.save(path)
    with refused(StateMismatchError, "other-model", match=r"made by model aaaa.*runs bbbb"):
        Stream.load(Session.open(shelf / "twin"), path)
    half = Session.open(shelf / "half")
    with refused(
        StateMismatchError, "other-precision", match=r"float32.*int8.*allow_precision=True"
    ):
        Stream.load(half, path)
    taken = Stream.load(half, path, allow_precision=True)
    assert (taken.items_consumed, taken.pending) == (8, 3)
    with refused(StateMismatchError, "other-model"):
        Session.open(shelf / "twin").stream().restore(stream.snapshot())
    saved = read_record(path)
    identity = msgspec.structs.replace(saved.identity, state_hash="c" * 64)
    path.write_bytes(pack(msgspec.structs.replace(saved, identity=identity)))
    with refused(StateMismatchError, "other-state-layout"):
        Stream.load(text, path)


def test_content_that_breaks_the_contract_is_refused(text: Session, tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    text.stream().save(path)
    saved = read_record(path)
    h = saved.state["h"]
    for state in (
        {"h": h},
        {**saved.state, "more": h},
        {**saved.state, "h": h[:, :4]},
        {**saved.state, "h": h.astype(np.float64)},
        {**saved.state, "h": np.full_like(h, np.nan)},
    ):
        path.write_bytes(pack(msgspec.structs.replace(saved, state=state)))
        with pytest.raises(StateCorruptError):
            Stream.load(text, path)


@pytest.mark.parametrize(("version", "places"), [(b"3", 32), (b"1", 64)])
def test_another_version_is_told_from_damage(
    text: Session, tmp_path: Path, version: bytes, places: int
) -> None:
    path = tmp_path / "a.state"
    data = pack(text.stream().saved()).replace(b'"version":"2"', b'"version":"' + version + b'"')
    at = data.index(b'"checksum":"') + len(b'"checksum":"')
    blank = data[:at] + b"0" * places + data[at + 32 :]
    digest = hashlib.sha256(blank) if version == b"1" else xxh3_128(blank)
    path.write_bytes(blank.replace(b"0" * places, digest.hexdigest().encode(), 1))
    with refused(
        StateMismatchError, "state-version", match=f"version is {version.decode()}; .* reads 2"
    ):
        Stream.load(text, path)


def test_another_format_is_refused(text: Session) -> None:
    other = pack(text.stream().saved()).replace(b'"format":"dst-state"', b'"format":"dst-stats"')
    with pytest.raises(StateCorruptError, match="checksum holds but its content does not"):
        unpack(with_checksum(other))


def test_a_state_is_read_to_where_it_will_be_used(text: Session, tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    stream = text.stream()
    stream.advance(b"12345678")
    stream.save(path)
    state = stream.state
    fits = np.zeros_like(state["h"])
    room = {"h": fits, "n": np.zeros((1, 9), state["n"].dtype), "pending": np.zeros(0, np.int64)}
    saved = read_record(path, room)
    assert saved.state["h"] is fits
    assert saved.pending is not room["pending"]
    for name, value in state.items():
        np.testing.assert_array_equal(saved.state[name], value)
    assert not room["n"].any()


def test_loading_makes_no_second_copy(
    text: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.state"
    stream = text.stream()
    stream.advance(b"12345678")
    stream.save(path)
    rooms: list[bool] = []

    def watched(
        engine: Engine, core: Recurrence, saved: Saved, allow_precision: bool, where: str
    ) -> None:
        rooms.extend(saved.state[name] is room for name, room in core.room().items())
        put_saved(engine, core, saved, allow_precision, where)

    monkeypatch.setattr("dst.runtime.stream.put_saved", watched)
    loaded = Stream.load(text, path)
    assert rooms == [True] * len(stream.state)
    for name, value in stream.state.items():
        np.testing.assert_array_equal(loaded.state[name], value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("items_consumed", -1, "items_consumed is '-1'"),
        ("items_consumed", 2**63, "items_consumed is '9223372036854775808'"),
        ("seed", -1, "seed is '-1'"),
        ("seed", 2**64, "seed is '18446744073709551616'"),
        ("draws", -1, "draws is '-1'"),
        ("draws", 2**63, "draws is"),
        ("pending", np.array([256]), "'pending': token 256 at place 0"),
        ("pending", np.array([-1]), "'pending': token -1"),
        ("pending", np.array([1.0]), "'pending': items has dtype float64"),
        ("pending", np.array([[1]]), r"'pending': items have shape \[1, 1\]"),
        ("lookback", np.array([1]), "'lookback' is int64"),
    ],
)
def test_numbers_and_items_no_stream_can_have_are_refused(
    text: Session, tmp_path: Path, name: str, value: object, words: str
) -> None:
    path = tmp_path / "a.state"
    list(generate(stream := text.stream(), "abc", 2, seed=3))
    stream.save(path)
    if isinstance(value, int):
        path.write_bytes(retold(path.read_bytes(), {name: str(value)}))
    else:
        path.write_bytes(pack(msgspec.structs.replace(read_record(path), **{name: value})))
    with pytest.raises(StateCorruptError, match=rf"state .*a\.state: .*{words}"):
        Stream.load(text, path)


@pytest.mark.parametrize("name", ["pending", "lookback"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_items_that_are_not_finite_are_refused(
    sensor: Session, tmp_path: Path, name: str, value: float
) -> None:
    path = tmp_path / "a.state"
    stream = sensor.stream()
    stream.advance(SAMPLES[:23])
    stream.save(path)
    saved = read_record(path)
    items = {"pending": saved.pending, "lookback": saved.lookback}[name].copy()
    items[1, 0] = value
    path.write_bytes(pack(msgspec.structs.replace(saved, **{name: items})))
    with pytest.raises(StateCorruptError, match=rf"a\.state: '{name}': items\[1\] holds a NaN"):
        Stream.load(sensor, path)


CHILD = """
import sys
from dst.runtime import Session
stream = Session.open(sys.argv[1]).stream()
print("ready", flush=True)
while True:
    stream.advance(b"12345678")
    stream.save(sys.argv[2])
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a POSIX signal")
def test_a_kill_while_saving_leaves_a_loadable_file(
    shelf: Path, text: Session, tmp_path: Path
) -> None:
    for number, pause in enumerate((0.05, 0.11, 0.23)):
        path = tmp_path / f"{number}.state"
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(shelf / "text"), str(path)],
            stdout=subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        too_long = threading.Timer(120, child.kill)  # a child that hangs fails the test
        too_long.start()
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            while not path.exists():
                assert child.poll() is None, "the child ended before it saved"
                time.sleep(0.001)
            time.sleep(pause)
            child.send_signal(signal.SIGKILL)
        finally:
            too_long.cancel()
            child.kill()
            child.communicate()
        stream = Stream.load(text, path)
        assert stream.items_consumed % 8 == 0
        assert stream.items_consumed > 0
        by_hand = text.stream()
        by_hand.advance(b"12345678" * (stream.items_consumed // 8))
        assert by_hand.state["h"].tobytes() == stream.state["h"].tobytes()
