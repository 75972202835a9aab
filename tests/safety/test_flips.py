"""Laws of flipped bits: a bundle, a state or a store with one is refused by name or is exact.

Some hundred places in the default run, 10,000 in each with `pytest -m soak -s`, which also prints
how many were refused.
"""

import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tests.safety.laws import PLACE, named, printable
from tests.safety.writer import synthetic

from dst.runtime import open_bundle, shipped
from dst.runtime.errors import BundleError, DstError, StateError
from dst.runtime.state.file import read_record
from dst.runtime.state.record import Saved, pack, unpack
from dst.runtime.store import Entry, Kept, StateStore
from dst.runtime.store.database import SCHEMA
from dst.runtime.store.sealing import seal, unseal

NAMES = ("ann", "bob", "cy")
KEY = bytes(range(32))


def flip(data: bytes, bit: int) -> bytes:
    """Return the bytes with one bit turned."""
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


def flip_bundle(root: Path, places: int) -> None:
    """Turn single bits of a bundle's files, each file as often as its length says."""
    files = {path: path.read_bytes() for path in sorted(root.iterdir())}
    chance = random.Random(0)
    drawn = chance.choices(list(files), [len(data) for data in files.values()], k=places)
    for path in [*files, *drawn]:  # each at least once
        data = files[path]
        path.write_bytes(flip(data, chance.randrange(len(data) * 8)))
        with pytest.raises(BundleError) as caught:
            open_bundle(root)
        named(caught.value, BundleError)
        path.write_bytes(data)
    open_bundle(root)


def test_a_bundle_with_a_flipped_bit_is_refused(bundle: Path, tmp_path: Path) -> None:
    flip_bundle(Path(shutil.copytree(bundle, tmp_path / "b")), 300)


@pytest.mark.soak
def test_a_bundle_with_a_flipped_bit_is_refused_10000_times(bundle: Path, tmp_path: Path) -> None:
    flip_bundle(Path(shutil.copytree(bundle, tmp_path / "b")), 10_000)
    print("\nbundle: 10,000 of 10,000 refused")


@pytest.mark.soak
def test_the_shipped_bundle_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    flip_bundle(Path(shutil.copytree(shipped()["text"], tmp_path / "text")), 300)
    print("\nshipped bundle: 300 of 300 refused")


def flip_states(folder: Path, places: int) -> None:
    """Turn single bits of saved states and of sealed blobs; cut some and lengthen some."""
    chance = random.Random(0)
    path = folder / "a.state"
    for turn in range(places):
        data = pack(synthetic(turn % 50, 400))
        bit = chance.randrange(len(data) * 8)
        with pytest.raises(StateError) as caught:
            unpack(flip(data, bit))
        named(caught.value, StateError)
        for key in (None, KEY):
            blob = seal(key, PLACE, data)
            with pytest.raises(StateError) as caught:
                unpack(unseal(key, PLACE, flip(blob, chance.randrange(len(blob) * 8))))
            named(caught.value, StateError)
        if turn % 10 == 0:
            size = chance.randrange(len(data))
            for broken in (data[:size], data + bytes(1), data[:size] + bytes(len(data) - size)):
                if broken != data:
                    path.write_bytes(broken)
                    with pytest.raises(StateError):
                        read_record(path)


def test_a_state_or_blob_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    flip_states(tmp_path, 500)


@pytest.mark.soak
def test_a_state_or_blob_with_a_flipped_bit_is_refused_10000_times(tmp_path: Path) -> None:
    flip_states(tmp_path, 10_000)
    print("\nsaved states and blobs, plain and encrypted: 10,000 of 10,000 each refused")


@dataclass(frozen=True, slots=True)
class Held:
    """What a store holds: its listing, and of each stream its history and the packed states."""

    entries: tuple[Entry, ...]
    history: dict[str, tuple[Kept, ...]]
    states: dict[str, list[bytes]]

    @staticmethod
    def of(store: StateStore) -> "Held":
        history = {name: store.history(name) for name in NAMES}
        states = {
            name: [pack(store.get(name, kept.record)) for kept in kept_of]
            for name, kept_of in history.items()
        }
        return Held(store.list(), history, states)


def make_store(path: Path, key: bytes | None = None) -> Held:
    """Make a store with three streams, and tell what it holds."""
    path.unlink(missing_ok=True)
    with StateStore(path, key=key) as store:
        for number in range(1, 31):
            for writer, name in enumerate(NAMES):
                store.put(name, synthetic(number, 400 * (1 + writer), writer))
        store.delete("cy")  # leaves free pages
        store.put("cy", synthetic(1, 30_000, 2))  # and one that takes many
        return Held.of(store)


class Reading:
    """A store that is read whole; a state that is not right ends it.

    Attributes:
        refused: something was refused by a named error.
        mislisted: a listing was given that is not right; its states are right or refused.
    """

    def __init__(self, path: Path, right: Held, key: bytes | None) -> None:
        self.refused = self.mislisted = False
        try:
            store = StateStore(path, key=key, timeout_s=0)
        except DstError as error:
            printable(error)
            self.refused = True
            return
        with store:
            self._listing(store.list, right.entries)
            for name, states in right.states.items():
                history = right.history[name]
                self._listing(partial(store.history, name), history)
                self._state(partial(store.get, name), states[0])
                for kept, state in zip(history, states, strict=True):
                    self._state(partial(store.get, name, kept.record), state)
                for at in (0, -1):
                    item = history[at].items_consumed
                    self._state(partial(store.rewind, name, item), states[at])

    def _state(self, load: Callable[[], Saved], right: bytes) -> None:
        try:
            assert pack(load()) == right, f"{load} gave another state"
        except DstError as error:
            printable(error)
            self.refused = True

    def _listing(self, load: Callable[[], object], right: object) -> None:
        try:
            self.mislisted |= load() != right
        except DstError as error:
            printable(error)
            self.refused = True


def flip_store(folder: Path, places: int, key: bytes | None) -> tuple[int, int, int]:
    """Turn single bits anywhere in a store's file.

    Returns:
        How many were refused; how many were not, and changed a listing and no state; and how
        many changed nothing at all.
    """
    path = folder / "memory.db"
    right = make_store(path, key)
    assert not path.with_name("memory.db-wal").exists()
    data = path.read_bytes()
    assert not Reading(path, right, key).refused
    chance = random.Random(0)
    refused = mislisted = 0
    for _ in range(places):
        for left in folder.iterdir():
            left.unlink()
        path.write_bytes(flip(data, chance.randrange(len(data) * 8)))
        reading = Reading(path, right, key)
        refused += reading.refused
        mislisted += reading.mislisted and not reading.refused
    return refused, mislisted, places - refused - mislisted


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_a_store_with_a_flipped_bit_never_gives_another_state(
    tmp_path: Path, key: bytes | None
) -> None:
    refused, _, harmless = flip_store(tmp_path, 50, key)
    assert refused > 5
    assert harmless > 5  # free space


def test_a_store_with_an_altered_schema_never_gives_another_state(tmp_path: Path) -> None:
    """Every fourth byte of the schema's rows; SQLite's own message may not even be text then."""
    path = tmp_path / "memory.db"
    right = make_store(path)
    data = path.read_bytes()
    places = [data.index(sql.encode()) for sql in SCHEMA.values()]
    tried = (*range(min(places) - 40, max(places) + 80, 4), data.index(b"streams"))
    refused = 0
    for at in tried:
        for left in tmp_path.iterdir():
            left.unlink()
        path.write_bytes(flip(data, at * 8 + 7))
        refused += Reading(path, right, None).refused
    assert refused > len(tried) // 2


@pytest.mark.soak
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
def test_a_store_with_a_flipped_bit_never_gives_another_state_10000_times(
    tmp_path: Path, key: bytes | None
) -> None:
    refused, mislisted, harmless = flip_store(tmp_path, 10_000, key)
    kind = "encrypted" if key else "plain"
    print(
        f"\n{kind} store: {refused} of 10,000 refused, {harmless} harmless, {mislisted} in a "
        "listing alone; no state but the right one"
    )


def flip_log(folder: Path, places: int) -> tuple[int, int]:
    """Turn bits in the log that a killed process leaves; return (all right, refused or older)."""
    path, log = folder / "memory.db", folder / "memory.db-wal"
    put: dict[str, list[bytes]] = {name: [] for name in NAMES}
    with StateStore(path) as store:
        for number in range(1, 11):
            for writer, name in enumerate(NAMES):
                saved = synthetic(number, 400, writer)
                put[name].append(pack(saved))
                store.put(name, saved)
        data, tail = path.read_bytes(), log.read_bytes()
    assert len(tail) > 10_000
    chance = random.Random(0)
    right = 0
    for turn in range(places + 1):  # first without a flip
        for left in folder.iterdir():
            left.unlink()
        path.write_bytes(data)
        log.write_bytes(flip(tail, chance.randrange(len(tail) * 8)) if turn else tail)
        newest = 0
        try:
            with StateStore(path, timeout_s=0) as store:
                for name in NAMES:
                    found = pack(store.get(name))
                    assert found in put[name]
                    newest += found == put[name][-1]
        except DstError as error:
            printable(error)
        assert newest == len(NAMES) or turn
        right += turn > 0 and newest == len(NAMES)
    return right, places - right


def test_a_flipped_bit_in_the_log_gives_an_older_state_but_a_whole_one(tmp_path: Path) -> None:
    flip_log(tmp_path, 40)


@pytest.mark.soak
def test_a_flipped_bit_in_the_log_gives_a_whole_state_10000_times(tmp_path: Path) -> None:
    right, older = flip_log(tmp_path, 10_000)
    print(f"\n-wal file: {right} of 10,000 all newest, {older} an older whole state or refused")


def test_pages_swapped_zeroed_or_cut_off_never_give_another_state(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    right = make_store(path)
    data = path.read_bytes()
    connection = sqlite3.connect(path)
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    pages = [data[at : at + size] for at in range(0, len(data), size)]
    chance = random.Random(0)
    refused = 0
    for turn in range(30):
        for left in tmp_path.iterdir():
            left.unlink()
        one, other = chance.randrange(len(pages)), chance.randrange(1, len(pages))
        broken = list(pages)
        if turn % 3 == 0:
            broken[one], broken[other] = broken[other], broken[one]
        elif turn % 3 == 1:
            broken[other] = bytes(size)
        else:
            broken = broken[:other]
        path.write_bytes(b"".join(broken))
        refused += Reading(path, right, None).refused
    assert refused > 15
