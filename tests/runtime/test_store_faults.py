"""A store on bad days: every fault has its name, and what was good before still loads."""

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from tests.raising import refused

from dst.runtime import StateStore
from dst.runtime.errors import (
    DstError,
    StateCorruptError,
    StoreBusyError,
    StoreError,
    StoreFullError,
)
from dst.runtime.state.record import Identity, Saved, pack


def state(item: int, size: int = 64) -> Saved:
    noise = np.random.default_rng(item).normal(size=(1, size)).astype(np.float32)
    return Saved(
        identity=Identity("a" * 64, "b" * 64, "c" * 64, "float32"),
        items_consumed=item,
        seed=None,
        draws=0,
        state={"h": noise},
        pending=np.zeros(0, np.int64),
        lookback=np.zeros(0, np.int64),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store with three states of `a` and one of `b`."""
    with StateStore(tmp_path / "a.db", durable=False) as store:
        for item in (8, 16, 24):
            store.put("a", state(item))
        store.put("b", state(40, size=9000))
    return tmp_path / "a.db"


def sql(path: Path, *statements: str) -> None:
    """Alter the database behind the store's back."""
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.executescript(statement)
    connection.close()


# --- the disk


def test_a_full_disk(path: Path) -> None:
    with StateStore(path) as store:
        with store._database.reading() as connection:  # its only one, so the next call gets it
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreFullError, match=r"a\.db: the disk is full; .* still stands"):
            store.put_many({"a": state(32), "c": state(8, size=100_000)})
        assert pack(store.get("a")) == pack(state(24))
        assert [entry.name for entry in store.list()] == ["a", "b"]
        store.put("c", state(8, size=100_000))  # there is room again
        assert pack(store.get("c")) == pack(state(8, size=100_000))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of a file")
def test_a_disk_that_refuses_a_write(path: Path) -> None:
    code = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from test_store_faults import state
from dst.runtime import StateStore
from dst.runtime.errors import StoreError
with StateStore(sys.argv[1]) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        store.put("a", state(32, size=200_000))
    except StoreError as error:
        print(error.code, error)
    print(store.get("a").items_consumed)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    first, last = done.stdout.splitlines()
    assert first.startswith(("sqlite", "store-full"))
    assert last == "24"
    with StateStore(path) as store:
        assert pack(store.get("a")) == pack(state(24))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that any user may look into."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
        os.chmod(folder, 0o755)


READER = """
import os, sys
from pathlib import Path
from dst.runtime import StateStore, Saved
from dst.runtime.errors import StoreError
if os.geteuid() == 0:
    os.setuid(65534)  # for root nothing is read-only
with StateStore(sys.argv[1]) as store:
    saved = store.get("a")
    print(saved.items_consumed, [entry.name for entry in store.list()])
    try:
        store.put("a", saved)
    except StoreError as error:
        print(error.code, error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize("folder_mode", [0o555, 0o777])
def test_a_read_only_file_can_be_read(place: Path, folder_mode: int) -> None:
    path = place / "a.db"
    with StateStore(path) as store:
        store.put("a", state(24))
    path.chmod(0o444)
    place.chmod(folder_mode)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.splitlines()[0] == "24 ['a']"
    assert done.stdout.splitlines()[1].startswith("store-read-only store")
    assert "cannot be written to" in done.stdout


def test_writing_where_nothing_may_be_written(path: Path) -> None:
    with StateStore(path) as store:
        with store._database.reading() as connection:
            connection.execute("PRAGMA query_only = ON")
        with refused(StoreError, "store-read-only", match=r"a\.db: cannot be written to"):
            store.put("a", state(32))
        assert pack(store.get("a")) == pack(state(24))


def test_a_lock_held_too_long(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    with StateStore(path, timeout_s=0.05) as store:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError, match=r"a\.db: others held its lock for 0\.05 s"):
            store.put("a", state(32))
        assert pack(store.get("a")) == pack(state(24))
        other.execute("ROLLBACK")
        store.put("a", state(32))
        other.execute("BEGIN")
        other.execute("SELECT * FROM states").fetchone()  # a reader that stays
        with pytest.raises(StoreBusyError, match="-wal file still holds what was deleted"):
            store.wipe()
        assert store.list() == ()
        other.execute("ROLLBACK")
        store.wipe()
        assert Path(f"{path}-wal").stat().st_size == 0
    other.close()


# --- what is no store


def test_files_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"these are no bytes of a database " * 1000)
    sql(tmp_path / "other", "CREATE TABLE notes (text)")
    sql(tmp_path / "marked", "PRAGMA application_id = 77")
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("words", "is no SQLite database"),
        ("other", "of another program"),
        ("marked", "of another program"),
    ):
        before = (tmp_path / name).read_bytes()
        with refused(StoreError, "not-a-store", match=f"store .*{name}: .*{words}"):
            StateStore(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    for name, words in (
        ("folder", "it is a directory"),
        ("no/such/file", "there is no directory .*no/such; make it first"),
        ("a\0b", "cannot be opened"),
    ):
        with pytest.raises(StoreError, match=words):
            StateStore(tmp_path / name)


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    """A process killed while it makes a store may leave one."""
    (tmp_path / "a.db").touch()
    with StateStore(tmp_path / "a.db") as store:
        store.put("a", state(8))
        assert store.get("a").items_consumed == 8


def test_names_that_mean_something_to_sqlite_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "file:a?mode=memory"):
        with StateStore(name) as store:
            store.put("a", state(8))
        assert (tmp_path / name).is_file()
        with StateStore(name) as store:
            assert store.get("a").items_consumed == 8


def test_a_store_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with StateStore("a.db") as store:
        monkeypatch.chdir(tmp_path / "elsewhere")
        threads = [Thread(target=store.put, args=(str(i), state(8 + i))) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not any((tmp_path / "elsewhere").iterdir())
    with StateStore(tmp_path / "a.db") as store:
        assert [store.get(str(i)).items_consumed for i in range(4)] == [8, 9, 10, 11]


def test_a_store_that_was_replaced_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with StateStore(path) as store:
        store.put("a", state(8))
        with store._database.reading():  # so that the next call needs a second connection
            for file in tmp_path.glob("a.db*"):
                file.rename(tmp_path / f"old-{file.name}")
            with pytest.raises(StoreError, match="was taken away or replaced"):
                store.put("b", state(16))
            path.unlink()
            with StateStore(path) as other:
                other.put("c", state(24))
            with pytest.raises(StoreError, match="was taken away or replaced"):
                store.put("b", state(16))
    with StateStore(path) as other:
        assert [entry.name for entry in other.list()] == ["c"]


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened: File name too long"):
        StateStore(tmp_path / ("a" * 300))


def test_a_newer_version_and_an_altered_schema(path: Path) -> None:
    sql(path, "PRAGMA user_version = 2")
    with refused(StoreError, "store-version", match="format version is 2, this runtime reads 1"):
        StateStore(path)
    sql(path, "PRAGMA user_version = 1", "CREATE VIEW more AS SELECT 1")
    with refused(StoreError, "store-corrupt", match="schema"):
        StateStore(path)
    sql(path, "DROP VIEW more", "DELETE FROM store")
    with refused(StoreError, "store-corrupt", match="identity"):
        StateStore(path)


# --- altered content

FLIP = (
    "UPDATE states SET blob = CAST(substr(blob, 1, 400) || x'00' || substr(blob, 402) AS BLOB) "
    "WHERE id = {}"
)


def test_where_every_kept_state_was_altered(path: Path) -> None:
    for record in (1, 2, 3):
        sql(path, FLIP.format(record))
    with (
        StateStore(path) as store,
        pytest.raises(StateCorruptError, match="no good state of it is kept"),
    ):
        store.get("a")


@pytest.mark.parametrize(
    "statement",
    [
        FLIP.format(3),
        "UPDATE states SET blob = substr(blob, 1, length(blob) - 1) WHERE id = 3",
        "UPDATE states SET blob = 'text' WHERE id = 3",
        "UPDATE states SET blob = x'' WHERE id = 3",
        "UPDATE states SET blob = (SELECT blob FROM states WHERE id = 2) WHERE id = 3",
        "UPDATE states SET blob = (SELECT blob FROM states WHERE id = 4) WHERE id = 3",
        "UPDATE states SET item = 25 WHERE id = 3",
        "UPDATE states SET item = -1 WHERE id = 3",
        "UPDATE states SET item = 'x' WHERE id = 3",
        "UPDATE states SET saved_at_ms = saved_at_ms + 1 WHERE id = 3",
        "UPDATE states SET stream = 2 WHERE id = 3",
        "DELETE FROM states WHERE id = 3",
        "UPDATE states SET id = 9 WHERE id = 3",
        "UPDATE sqlite_sequence SET seq = 0; DELETE FROM states WHERE id = 3",
        "UPDATE streams SET newest = 2 WHERE id = 1",
        "UPDATE streams SET newest = 9 WHERE id = 1",
    ],
)
def test_whatever_of_the_newest_was_altered_it_is_not_believed(path: Path, statement: str) -> None:
    sql(path, statement)
    with StateStore(path) as store:
        with pytest.raises(
            StateCorruptError, match=r"'a'.*newest good state kept is record"
        ) as told:
            store.get("a")
        record = int(str(told.value).rpartition("record=")[2].rstrip(")"))
        good = store.get("a", record)
        assert pack(good) == pack(state(good.items_consumed))
        assert good.items_consumed >= 16
        store.put("a", good)  # what the message leads to
        assert pack(store.get("a")) == pack(good)
        assert pack(store.get("b")) == pack(state(40, size=9000))


def test_states_do_not_pass_for_those_of_another_name(path: Path) -> None:
    sql(
        path,
        "UPDATE streams SET name = 'x' WHERE name = 'a'",
        "UPDATE streams SET name = 'a' WHERE name = 'b'",
    )
    with StateStore(path) as store:
        for name in ("a", "x"):
            with pytest.raises(StateCorruptError, match="belongs to another record"):
                store.get(name)


def test_an_altered_older_state_is_met_when_it_is_wanted(path: Path) -> None:
    sql(path, FLIP.format(2))
    with StateStore(path) as store:
        assert pack(store.get("a")) == pack(state(24))
        with pytest.raises(StateCorruptError, match=r"record 2.*is record 1, at item 8"):
            store.rewind("a", 20)
        assert pack(store.rewind("a", 15)) == pack(state(8))
        store.put("a", state(32))
        assert pack(store.get("a")) == pack(state(32))


def test_a_lost_newest_state_shows_in_the_list(path: Path) -> None:
    sql(path, "DELETE FROM states WHERE id = 3")
    with StateStore(path) as store:
        with refused(StoreError, "store-corrupt", match="'a' has lost its newest state"):
            store.list()
        store.delete("a")
        assert [entry.name for entry in store.list()] == ["b"]


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_of_the_file_never_load_silently(path: Path, seed: int) -> None:
    """The newest state, or an error with a name; pages of free space may hold any bits."""
    data, source = path.read_bytes(), random.Random(seed)
    newest = {"a": pack(state(24)), "b": pack(state(40, size=9000))}
    refused = 0
    for number in range(50):
        broken, at = bytearray(data), source.randrange(len(data))
        broken[at] ^= 1 << source.randrange(8)
        copy = path.with_name(f"{number}.db")
        copy.write_bytes(broken)
        try:
            with StateStore(copy) as store:
                for name, wanted in newest.items():
                    try:
                        assert pack(store.get(name)) == wanted
                    except DstError:
                        refused += 1
        except DstError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("cut", [2, 100, 16384, 20_000])
def test_a_file_that_was_cut_off(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises((StoreError, StateCorruptError)) as caught:  # noqa: PT012
        store = StateStore(path)
        store.get("a")
    error = caught.value
    assert isinstance(error, StateCorruptError) or error.code in {"store-corrupt", "not-a-store"}
