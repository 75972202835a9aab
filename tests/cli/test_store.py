"""`dst store`: states go in, come out, go back and are gone for good."""

import json
import os
import secrets
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dst.runtime import Session, StateStore, Stream

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command

VERBS = ("list", "show", "export", "import", "rewind", "delete", "wipe")


@pytest.fixture
def db(shelf: Path, tmp_path: Path) -> Path:
    """A store with three states of `alice`, at 8, 16 and 24 items, and one of `bob`."""
    path = tmp_path / "memory.db"
    stream = Session.open(shelf / "text").stream()
    with StateStore(path, durable=False) as store:
        for _ in range(3):
            stream.advance(b"12345678")
            store.put("alice", stream.saved())
        stream.advance(b"123")
        store.put("bob", stream.saved())
    return path


def refused(done: Any, *words: str) -> None:
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("dst: ")
    assert done.err.count("\n") == 1
    assert [word for word in words if word not in done.err] == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_examples(dst: Dst, verb: str) -> None:
    done = dst("store", verb, "--help")
    assert done.code == 0
    assert f"dst store {verb} memory.db" in done.out.partition("Usage")[2][20:]
    assert "--json" in done.out
    assert f" {verb} " in dst("store", "--help").out


def test_list_and_show(dst: Dst, db: Path) -> None:
    listed = json.loads(dst("store", "list", db, "--json", "-").out)
    assert [(s["name"], s["items_consumed"], s["states"]) for s in listed["streams"]] == [
        ("alice", 24, 3),
        ("bob", 24, 1),
    ]
    assert listed["total_bytes"] == sum(s["total_bytes"] for s in listed["streams"])
    shown = json.loads(dst("store", "show", db, "alice", "--json", "-").out)
    assert [(s["record"], s["items_consumed"]) for s in shown["states"]] == [
        (3, 24),
        (2, 16),
        (1, 8),
    ]
    printed = dst("store", "list", db)
    assert (printed.code, printed.err) == (0, "")
    assert [w for w in ("alice", "bob", "24", "2 streams") if w not in printed.out] == []
    assert "16" in dst("store", "show", db, "alice").out


def test_export_and_import_are_the_identity(
    dst: Dst, db: Path, shelf: Path, tmp_path: Path
) -> None:
    file, session = tmp_path / "bob.state", Session.open(shelf / "text")
    done = json.loads(dst("store", "export", db, "bob", file, "--json", "-").out)
    assert (done["items_consumed"], done["pending"], done["file"]) == (24, 3, str(file))
    stream = Stream.load(session, file)
    assert (stream.items_consumed, stream.pending) == (24, 3)
    assert dst("store", "import", tmp_path / "new.db", "carol", file).code == 0
    dst("store", "export", tmp_path / "new.db", "carol", tmp_path / "carol.state")
    assert (tmp_path / "carol.state").read_bytes() == file.read_bytes()
    assert dst("generate", shelf / "text", "--items", 3, "--state", file, "--seed", 1).code == 0


@pytest.mark.parametrize(
    ("option", "value", "items"), [("--item", 17, 16), ("--item", 8, 8), ("--record", 2, 16)]
)
def test_export_and_rewind_take_older_states(
    dst: Dst, db: Path, tmp_path: Path, option: str, value: int, items: int
) -> None:
    done = dst("store", "export", db, "alice", tmp_path / "old", option, value, "--json", "-")
    assert done.json["items_consumed"] == items
    where = (value,) if option == "--item" else (option, value)
    assert (
        dst("store", "rewind", db, "alice", *where, "--json", "-").json["items_consumed"] == items
    )
    with StateStore(db) as store:
        assert store.get("alice").items_consumed == items
        assert max(kept.items_consumed for kept in store.history("alice")) == 24
    dst("store", "export", db, "alice", tmp_path / "now")
    assert (tmp_path / "now").read_bytes() == (tmp_path / "old").read_bytes()


def test_an_altered_state_can_be_left_behind(dst: Dst, db: Path, tmp_path: Path) -> None:
    connection = sqlite3.connect(db, isolation_level=None)
    connection.execute("UPDATE states SET blob = x'00' WHERE id = 3")
    connection.close()
    refused(dst("store", "export", db, "alice", tmp_path / "a"), "record 3", "is record 2")
    assert not (tmp_path / "a").exists()
    assert dst("store", "rewind", db, "alice", "--record", 2).code == 0
    assert (
        dst("store", "export", db, "alice", tmp_path / "a", "--json", "-").json["items_consumed"]
        == 16
    )


def test_delete_and_wipe(dst: Dst, db: Path) -> None:
    assert b"alice" in db.read_bytes()
    gone = json.loads(dst("store", "delete", db, "alice", "--yes", "--json", "-").out)
    assert (gone["streams"], gone["states"]) == (["alice"], 3)
    assert b"alice" not in db.read_bytes()
    assert b"bob" in db.read_bytes()
    refused(dst("store", "delete", db, "alice", "--yes"), "no stream 'alice'")
    gone = json.loads(dst("store", "wipe", db, "--yes", "--json", "-").out)
    assert (gone["streams"], gone["states"]) == (["bob"], 1)
    assert b"bob" not in db.read_bytes()
    assert json.loads(dst("store", "list", db, "--json", "-").out)["streams"] == []


@pytest.mark.parametrize("arguments", [("delete", "alice"), ("wipe",)])
def test_nothing_is_deleted_unasked(
    dst: Dst, db: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    verb, *name = arguments
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115
    refused(dst("store", verb, db, *name), "--yes")
    monkeypatch.setattr("dst.cli.verbs.store.sys.stdin.isatty", lambda: True, raising=False)
    for answer, left in ((False, 2), (True, 1 if name else 0)):
        monkeypatch.setattr("typer.confirm", lambda text, err, answer=answer: answer)
        assert dst("store", verb, db, *name).code == (0 if answer else 130)
        with StateStore(db) as store:
            assert len(store.list()) == left


def test_wrong_use(dst: Dst, db: Path, tmp_path: Path) -> None:
    none = tmp_path / "none.db"
    calls: list[tuple[object, ...]] = [
        ("list", none),
        ("show", none, "a"),
        ("export", none, "a", tmp_path / "f"),
        ("rewind", none, "a", 1),
        ("delete", none, "a", "--yes"),
        ("wipe", none, "--yes"),
    ]
    for call in calls:
        refused(dst("store", *call), "none.db", "no such file")
    assert not none.exists()
    refused(dst("store"), "dst store --help")
    refused(dst("store", "show", db, "carol"), "no stream 'carol'")
    refused(dst("store", "rewind", db, "alice"), "ITEM", "--record")
    refused(dst("store", "rewind", db, "alice", 3, "--record", 1), "ITEM", "--record")
    refused(dst("store", "rewind", db, "alice", 3), "at or before item 3", "item 8")
    refused(dst("store", "export", db, "alice", tmp_path / "no" / "f"), "no directory")
    refused(
        dst("store", "export", db, "alice", tmp_path / "f", "--item", 8, "--record", 1), "--item"
    )
    (tmp_path / "words").write_bytes(b"no database" * 1000)
    refused(dst("store", "list", tmp_path / "words"), "is no SQLite database")
    refused(dst("store", "import", db, "x", tmp_path / "words"), "no saved state")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("list memory.db --json memory.db", ["--json memory.db", "DB"]),
        ("show memory.db alice --json memory.db", ["--json", "DB"]),
        ("export memory.db alice memory.db", ["FILE memory.db", "DB"]),
        ("export memory.db alice x --json x", ["--json x", "FILE"]),
        ("export memory.db alice key --key-file key", ["FILE key", "--key-file"]),
        ("import memory.db bob state --json state", ["--json state", "FILE"]),
        ("import state bob state", ["DB state", "FILE"]),
        ("rewind memory.db alice 10 --json memory.db", ["--json", "DB"]),
        ("delete memory.db alice --yes --json memory.db", ["--json", "DB"]),
        ("wipe memory.db --yes --json memory.db", ["--json", "DB"]),
    ],
)
def test_nothing_that_is_read_is_overwritten(
    dst: Dst, db: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: list[str]
) -> None:
    monkeypatch.chdir(db.parent)
    db.rename("memory.db")
    Path("key").write_bytes(bytes(32))
    assert dst("store", "export", "memory.db", "alice", "state").code == 0
    before = {path: path.read_bytes() for path in db.parent.rglob("*") if path.is_file()}
    refused(dst("store", *line.split()), *words)
    after = {path: path.read_bytes() for path in db.parent.rglob("*") if path.is_file()}
    assert after == before


def test_names_are_printed_as_they_are(dst: Dst, db: Path) -> None:
    with StateStore(db) as store:
        store.put("[bold]x[/] :smile:", store.get("bob"))
    for arguments in (("list", db), ("show", db, "[bold]x[/] :smile:")):
        assert "[bold]x[/] :smile:" in dst("store", *arguments).out


@pytest.mark.parametrize("written", ["raw", "hex"])
def test_an_encrypted_store(dst: Dst, db: Path, tmp_path: Path, written: str) -> None:
    pytest.importorskip("cryptography")
    key, sealed = secrets.token_bytes(32), tmp_path / "sealed.db"
    file, wrong, short = (tmp_path / name for name in ("key", "wrong", "short"))
    file.write_bytes(key if written == "raw" else key.hex().encode() + b"\n")
    wrong.write_bytes(secrets.token_bytes(32))
    short.write_bytes(b"hunter2\n")
    state = tmp_path / "state"
    dst("store", "export", db, "bob", state)
    assert dst("store", "import", sealed, "bob", state, "--key-file", file).code == 0
    with StateStore(sealed, key=key) as store:
        assert store.get("bob").items_consumed == 24
    take = ("store", "export", sealed, "bob", tmp_path / "again")
    refused(dst(*take), "is encrypted; open it with its key")
    refused(dst(*take, "--key-file", wrong), "another key")
    refused(dst(*take, "--key-file", short), "64 hexadecimal digits")
    refused(dst(*take, "--key-file", tmp_path / "none"), "none: No such file")
    assert dst(*take, "--key-file", file).code == 0
    assert (tmp_path / "again").read_bytes() == state.read_bytes()
    assert "bob" in dst("store", "list", sealed).out
    assert dst("store", "wipe", sealed, "--yes").code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="locks cannot be shared")
def test_what_writes_is_refused_while_a_scheduler_serves_the_store(
    dst: Dst, db: Path, tmp_path: Path
) -> None:
    import fcntl

    writing = (
        ("import", db, "alice", tmp_path / "a"),
        ("rewind", db, "alice", 8),
        ("delete", db, "alice", "--yes"),
        ("wipe", db, "--yes"),
    )
    assert dst("store", "export", db, "bob", tmp_path / "a").code == 0
    with open(f"{db}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as dst.runtime.serving.lock does
        for words in writing:
            refused(dst("store", *words), "a scheduler serves it")
        assert dst("store", "export", db, "alice", tmp_path / "b").code == 0
    for words in writing:
        assert dst("store", *words).code == 0
