"""Laws of the encrypted store: without the key there is nothing to read, with it all is there."""

import re
import secrets
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.raising import refused

from dst.runtime import StateStore
from dst.runtime.errors import StateCorruptError, StoreKeyError
from dst.runtime.install import install_line
from dst.runtime.state.record import Identity, Saved, pack

pytest.importorskip("cryptography")

FILL = np.float32(1.2345e-7)


def state(item: int) -> Saved:
    return Saved(
        identity=Identity("a" * 64, "b" * 64, "c" * 64, "float32"),
        items_consumed=item,
        seed=None,
        draws=0,
        state={"h": np.full((1, 3000), FILL, np.float32)},
        pending=np.zeros(0, np.int64),
        lookback=np.zeros(0, np.int64),
    )


def held(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in sorted(path.parent.glob(f"{path.name}*")))


@pytest.fixture
def key() -> bytes:
    return secrets.token_bytes(32)


def test_with_the_key_all_is_there(tmp_path: Path, key: bytes) -> None:
    with StateStore(tmp_path / "a.db", key=key) as store:
        for item in (8, 16):
            store.put("a", state(item))
    with StateStore(tmp_path / "a.db", key=key) as store:
        assert pack(store.get("a")) == pack(state(16))
        assert pack(store.rewind("a", 9)) == pack(state(8))


def test_the_file_tells_names_but_no_state_and_no_key(tmp_path: Path, key: bytes) -> None:
    tell = [FILL.tobytes() * 4, b"dst-state", b"a" * 64]
    for name, given in (("plain", None), ("sealed", key)):
        with StateStore(tmp_path / name, key=given) as store:
            store.put("somebody", state(8))
            found = [part in held(tmp_path / name) for part in tell]
            assert found == [given is None] * len(tell)
            assert b"somebody" in held(tmp_path / name)
            assert key not in held(tmp_path / name)
            assert key.hex().encode() not in held(tmp_path / name)


def test_equal_states_are_sealed_differently(tmp_path: Path, key: bytes) -> None:
    with StateStore(tmp_path / "a.db", key=key) as store:
        store.put_many({"a": state(8), "b": state(8)})
    connection = sqlite3.connect(tmp_path / "a.db")
    one, other = [blob for (blob,) in connection.execute("SELECT blob FROM states")]
    connection.close()
    assert one[:12] != other[:12]
    blocks = [{blob[i : i + 16] for i in range(12, len(blob) - 16, 16)} for blob in (one, other)]
    assert not blocks[0] & blocks[1]


def test_wrong_keys(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "a.db"
    with StateStore(path, key=key) as store:
        store.put("a", state(8))
    before = path.read_bytes()
    with refused(StoreKeyError, "key-wrong", match=r"a\.db: is encrypted with another key"):
        StateStore(path, key=secrets.token_bytes(32))
    for wrong, came in ((key[:16], "16 bytes"), (b"", "0 bytes"), ("k" * 32, "a str")):
        with refused(
            StoreKeyError, "key-length", match=f"the key is {came}, expected 32 random bytes"
        ):
            StateStore(path, key=wrong)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    with StateStore(path, key=key) as store:
        assert pack(store.get("a")) == pack(state(8))


def test_without_its_key_a_store_can_be_listed_and_wiped(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "a.db"
    with StateStore(path, key=key) as store:
        store.put_many({"a": state(8), "b": state(8)})
    with StateStore(path) as store:
        assert [entry.name for entry in store.list()] == ["a", "b"]
        assert [kept.items_consumed for kept in store.history("a")] == [8]
        for call in (
            lambda: store.get("a"),
            lambda: store.rewind("a", 8),
            lambda: store.put("a", state(16)),
        ):
            with refused(
                StoreKeyError, "key-missing", match=r"a\.db: is encrypted; open it with its key"
            ):
                call()
        store.delete("a")
        store.wipe()
        assert store.list() == ()
    with StateStore(path, key=key) as store:
        store.put("a", state(8))
        assert store.get("a").items_consumed == 8


def test_a_key_that_is_not_wanted(tmp_path: Path, key: bytes) -> None:
    with StateStore(tmp_path / "a.db") as store:
        store.put("a", state(8))
    with refused(
        StoreKeyError, "key-unwanted", match=r"a\.db: is not encrypted, and a key was given"
    ):
        StateStore(tmp_path / "a.db", key=key)


def test_without_the_package(tmp_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    StateStore(tmp_path / "a.db", key=key).close()
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    for name in ("a.db", "new.db"):
        with refused(
            StoreKeyError, "encryption-not-installed", match=re.escape(install_line("encrypt"))
        ):
            StateStore(tmp_path / name, key=key)
    with StateStore(tmp_path / "plain.db") as store:  # which needs no package
        store.put("a", state(8))
        assert store.get("a").items_consumed == 8
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE states SET blob = (SELECT blob FROM states WHERE id = 1) WHERE id = 2",
        "UPDATE states SET blob = (SELECT blob FROM states WHERE id = 3) WHERE id = 2",
        "UPDATE states SET blob = substr(blob, 1, 11) WHERE id = 2",
        "UPDATE states SET blob = substr(blob, 1, 27) WHERE id = 2",
        "UPDATE states SET blob = x'' WHERE id = 2",
        "UPDATE states SET item = 17 WHERE id = 2",
        "UPDATE states SET saved_at_ms = 0 WHERE id = 2",
        "UPDATE streams SET name = 'a' WHERE id = 1",
        "UPDATE store SET uuid = x'00'",
    ],
)
def test_a_sealed_state_fits_no_other_place(tmp_path: Path, key: bytes, statement: str) -> None:
    path = tmp_path / "a.db"
    with StateStore(path, key=key) as store:
        store.put("x", state(8))
        store.put("x", state(16))
        store.put("y", state(16))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement)
    connection.close()
    if "uuid" in statement:
        with refused(StoreKeyError, "key-wrong"):
            StateStore(path, key=key)
        return
    with (
        StateStore(path, key=key) as store,
        pytest.raises(StateCorruptError, match="altered, or belongs to another record"),
    ):
        store.get("a" if "name" in statement else "x")
