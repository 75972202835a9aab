"""The work of `dst store`: a store's file goes in, what it holds or what was changed comes out."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import typer
from rich.table import Table

from dst.cli.errors import INTERRUPTED, WrongUseError
from dst.cli.output import Output, check_folder, foreign
from dst.cli.paths import check_apart, state_files
from dst.runtime import StateStore
from dst.runtime.state.file import read_record, write_record
from dst.runtime.state.record import Saved
from dst.runtime.store import Entry, Kept
from dst.words import counted, mib

KEY_BYTES = 32
_ALL_OF_IT = 2**62  # bytes of history: the app sets the budget, and the command drops nothing
_LAST_MS = 253_402_300_799_000  # the end of the year 9999


class At(NamedTuple):
    """Which state of a stream is meant: the newest, one at or before an item, or a record."""

    item: int | None
    record: int | None


class Listed(msgspec.Struct, frozen=True):
    """The streams of a store."""

    store: str
    streams: tuple[Entry, ...]
    total_bytes: int


class Shown(msgspec.Struct, frozen=True):
    """The kept states of a stream."""

    store: str
    name: str
    states: tuple[Kept, ...]


class Moved(msgspec.Struct, frozen=True):
    """A state that was written, read or put back; `file` is null where none has a part in it."""

    store: str
    name: str
    items_consumed: int
    pending: int
    precision: str
    model_id: str
    file: str | None


class Gone(msgspec.Struct, frozen=True):
    """What was deleted for good."""

    store: str
    streams: tuple[str, ...]
    states: int


def list_streams(path: Path, output: Output) -> int:
    """List the streams of a store, and return the exit code.

    Raises:
        StoreError: the store cannot be read.
        WrongUseError: there is no such file, or it would be overwritten.
    """
    check_apart(output, {"DB": path})
    with _existing(path) as store:
        entries = store.list()
    listed = Listed(str(path), entries, sum(entry.total_bytes for entry in entries))
    table = _table("stream", "items", "stored at (UTC)", "newest", "states", "together")
    for e in entries:
        table.add_row(
            foreign(e.name),
            f"{e.items_consumed:,}",
            _time(e.saved_at_ms),
            mib(e.size_bytes),
            f"{e.states:,}",
            mib(e.total_bytes),
        )
    if entries:
        output.out.print(table)
    output.out.print(f"[dim]{counted(len(entries), 'stream')}, {mib(listed.total_bytes)}[/]")
    output.write_json(listed)
    return 0


def show(path: Path, name: str, output: Output) -> int:
    """List the kept states of a stream, and return the exit code.

    Raises:
        StoreError: the store cannot be read, or has no such stream.
        WrongUseError: there is no such file, or it would be overwritten.
    """
    check_apart(output, {"DB": path})
    with _existing(path) as store:
        shown = Shown(str(path), name, store.history(name))
    table = _table("record", "items", "stored at (UTC)", "size", "")
    for kept in shown.states:
        table.add_row(
            str(kept.record),
            f"{kept.items_consumed:,}",
            _time(kept.saved_at_ms),
            mib(kept.size_bytes),
            "set aside" if kept.set_aside else "",
        )
    output.out.print(f"[bold]{foreign(name)}[/]")
    output.out.print(table)
    output.write_json(shown)
    return 0


def export(path: Path, name: str, file: Path, at: At, key_file: Path | None, output: Output) -> int:
    """Write a state to a file that `Stream.load` reads, and return the exit code.

    Raises:
        StoreError: the store cannot be read, or has no such stream.
        StateError: there is no such state, it was altered, or the file cannot be written.
        WrongUseError: there is no such store, the key file holds no key, or a file that is read
            would be overwritten.
    """
    check_folder("FILE", file)
    check_apart(output, {"DB": path, "--key-file": key_file}, state_files("FILE", file))
    with _existing(path, key_file) as store:
        saved = _at(store, name, at)
    write_record(file, saved)
    return _tell(_moved(path, name, saved, file), "written to", output)


def import_state(path: Path, name: str, file: Path, key_file: Path | None, output: Output) -> int:
    """Store a saved-state file as the newest state of a stream, and return the exit code.

    Raises:
        StateError: the file is no saved state.
        StoreError: the store cannot be written.
        WrongUseError: the key file holds no key, or a file that is read would be overwritten.
    """
    check_folder("DB", path)
    check_apart(output, {"FILE": file, "--key-file": key_file}, {"DB": path})
    saved = read_record(file)
    with _open(path, key_file) as store:
        store.put(name, saved)
    return _tell(_moved(path, name, saved, file), "stored from", output)


def rewind(path: Path, name: str, at: At, key_file: Path | None, output: Output) -> int:
    """Make an older state the newest again, and return the exit code.

    Raises:
        StoreError: the store cannot be read or written, or has no such stream.
        StateError: there is no such state, or it was altered.
        WrongUseError: there is no such store, the key file holds no key, or a file that is read
            would be overwritten.
    """
    check_apart(output, {"DB": path, "--key-file": key_file})
    with _existing(path, key_file) as store:
        saved = _at(store, name, at)
        store.put(name, saved)
    return _tell(_moved(path, name, saved, None), "put back", output)


def delete(path: Path, name: str, yes: bool, output: Output) -> int:
    """Delete a stream for good, and return the exit code.

    Raises:
        StoreError: the store cannot be written, or has no such stream.
        WrongUseError: there is no such file, it would be overwritten, or there is nobody to ask.
    """
    check_apart(output, {"DB": path})
    with _existing(path) as store:
        gone = Gone(str(path), (name,), len(store.history(name)))
        if not _agreed(f"delete stream {name!r} and its {counted(gone.states, 'state')}", yes):
            return INTERRUPTED
        store.delete(name)
        store.vacuum()
    output.out.print(f"deleted [bold]{foreign(name)}[/], {counted(gone.states, 'state')}")
    output.write_json(gone)
    return 0


def wipe(path: Path, yes: bool, output: Output) -> int:
    """Delete everything in a store for good, and return the exit code.

    Raises:
        StoreError: the store cannot be written.
        WrongUseError: there is no such file, it would be overwritten, or there is nobody to ask.
    """
    check_apart(output, {"DB": path})
    with _existing(path) as store:
        entries = store.list()
        gone = Gone(str(path), tuple(e.name for e in entries), sum(e.states for e in entries))
        held = f"{counted(len(entries), 'stream')}, {counted(gone.states, 'state')}"
        if not _agreed(f"wipe {path}: {held}", yes):
            return INTERRUPTED
        store.wipe()
    output.out.print(f"wiped {held}")
    output.write_json(gone)
    return 0


def read_key(file: Path) -> bytes:
    """Read a key: 32 bytes as they are, or as 64 hexadecimal digits.

    Raises:
        WrongUseError: the file holds neither.
        OSError: the file cannot be read.
    """
    with open(file, "rb") as source:
        held = source.read(100)
    if len(held) == KEY_BYTES:
        return held
    try:
        key = bytes.fromhex(held.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise WrongUseError(
            f"--key-file {file}: holds no key; expected {KEY_BYTES} bytes, "
            f"or {2 * KEY_BYTES} hexadecimal digits"
        )
    return key


def _open(path: Path, key_file: Path | None = None) -> StateStore:
    key = None if key_file is None else read_key(key_file)
    return StateStore(path, key=key, history_bytes=_ALL_OF_IT)


def _existing(path: Path, key_file: Path | None = None) -> StateStore:
    if not path.exists():
        raise WrongUseError(f"{path}: there is no such file; dst store import makes a store")
    return _open(path, key_file)


def _at(store: StateStore, name: str, at: At) -> Saved:
    if at.item is not None:
        return store.rewind(name, at.item)
    return store.get(name, at.record)


def _agreed(what: str, yes: bool) -> bool:
    """Ask, unless the answer was given."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise WrongUseError(f"to {what} needs a yes, and there is nobody to ask; add --yes")
    return typer.confirm(f"{what}?", err=True)


def _moved(path: Path, name: str, saved: Saved, file: Path | None) -> Moved:
    return Moved(
        store=str(path),
        name=name,
        items_consumed=saved.items_consumed,
        pending=len(saved.pending),
        precision=saved.identity.precision,
        model_id=saved.identity.model_id,
        file=None if file is None else str(file),
    )


def _tell(moved: Moved, what: str, output: Output) -> int:
    place = "" if moved.file is None else f" {foreign(moved.file)}"
    waiting = f" and {moved.pending} that wait" if moved.pending else ""
    output.out.print(
        f"[bold]{foreign(moved.name)}[/] at {moved.items_consumed:,} items{waiting}, {what}{place}"
    )
    output.write_json(moved)
    return 0


def _time(saved_at_ms: int) -> str:
    seconds = min(saved_at_ms, _LAST_MS) / 1000
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        left = name in ("stream", "")
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    return table
