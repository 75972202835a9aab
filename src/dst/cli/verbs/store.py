"""`dst store`: list, show, export, import, rewind and delete the states in a store's file."""

import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dst.cli.errors import INTERRUPTED, WrongUseError
from dst.cli.options import Json, argument, flag, option
from dst.cli.output import Output, check_folder, check_paths, foreign, state_files, table
from dst.words import counted, mib

if TYPE_CHECKING:
    from dst.runtime import StateStore
    from dst.runtime.state.record import Saved

KEY_BYTES = 32
_ALL_OF_IT = 2**62  # bytes of history: the app sets the budget, and the command drops nothing
_LAST_MS = 253_402_300_799_000  # the end of the year 9999

store = typer.Typer(name="store", add_completion=False, rich_markup_mode="rich")


@store.callback()
def about() -> None:
    """Look after a store: one file that holds the states of many streams, with their past.

    Apps write it through dst.runtime.StateStore.

        dst store list memory.db          what is in it
        dst store show memory.db alice    the kept states of one stream
        dst store wipe memory.db          leave nothing behind
    """


Database = Annotated[Path, argument("DB", "The store's file.")]
Name = Annotated[str, argument("NAME", "A stream in it.")]
KeyFile = Annotated[
    Path | None,
    option(
        "--key-file", "FILE", "The key of an encrypted store: 32 bytes, or 64 hexadecimal digits."
    ),
]
Record = Annotated[
    int | None, option("--record", "N", "Take this record; dst store show has them.", least=1)
]
Yes = Annotated[bool, flag("--yes", "Do not ask.")]


@store.command("list")
def list_streams(database: Database, json: Json = None) -> int:
    """List the streams of a store with their newest states.

    Needs no key: the names in an encrypted store are readable.

        dst store list memory.db
        dst store list memory.db --json -
    """
    output = Output.to(json)
    check_paths(output, {"DB": database})
    with _existing(database) as states:
        entries = states.list()
    total = sum(entry.total_bytes for entry in entries)
    listed = table("stream", ">items", ">stored at (UTC)", ">newest", ">states", ">together")
    for e in entries:
        newest = f"{e.items_consumed:,}", _time(e.saved_at_ms), mib(e.size_bytes)
        listed.add_row(foreign(e.name), *newest, f"{e.states:,}", mib(e.total_bytes))
    if entries:
        output.out.print(listed)
    output.out.print(f"[dim]{counted(len(entries), 'stream')}, {mib(total)}[/]")
    output.write_json({"store": str(database), "streams": entries, "total_bytes": total})
    return 0


@store.command()
def show(database: Database, name: Name, json: Json = None) -> int:
    """List the kept states of a stream, the newest first.

    States that are set aside do not lead up to the newest one: the stream was put back since.

        dst store show memory.db alice
    """
    output = Output.to(json)
    check_paths(output, {"DB": database})
    with _existing(database) as states:
        history = states.history(name)
    listed = table(">record", ">items", ">stored at (UTC)", ">size", "")
    for kept in history:
        what = f"{kept.items_consumed:,}", _time(kept.saved_at_ms), mib(kept.size_bytes)
        listed.add_row(str(kept.record), *what, "set aside" if kept.set_aside else "")
    output.out.print(f"[bold]{foreign(name)}[/]")
    output.out.print(listed)
    output.write_json({"store": str(database), "name": name, "states": history})
    return 0


@store.command()
def export(
    database: Database,
    name: Name,
    file: Annotated[Path, argument("FILE", "The saved state to write.")],
    item: Annotated[
        int | None, option("--item", "ITEM", "Take the nearest kept at or before.", least=0)
    ] = None,
    record: Record = None,
    key_file: KeyFile = None,
    json: Json = None,
) -> int:
    """Write a state of a stream to a file, which --state of the other verbs and Stream.load read.

    The newest one, unless --item or --record names another. The file is not encrypted. One that
    stood there is kept as FILE.previous.

        dst store export memory.db alice alice.state
        dst store export memory.db alice before.state --item 100000
    """
    from dst.runtime.state.file import write_record

    output = Output.to(json)
    if item is not None and record is not None:
        raise WrongUseError("--item and --record exclude each other; give one of them, or none")
    check_paths(output, {"DB": database, "--key-file": key_file}, state_files("FILE", file))
    with _existing(database, key_file) as states:
        saved = _chosen(states, name, item, record)
    write_record(file, saved)
    return _tell(database, name, saved, file, "written to", output)


@store.command("import")
def import_state(
    database: Database,
    name: Name,
    file: Annotated[Path, argument("FILE", "A saved state.")],
    key_file: KeyFile = None,
    json: Json = None,
) -> int:
    """Store a saved state as the newest of a stream; a store that does not exist is made.

    With --key-file a new store is encrypted.

        dst store import memory.db alice alice.state
    """
    from dst.runtime.state.file import read_record

    output = Output.to(json)
    check_folder("DB", database)
    check_paths(output, {"FILE": file, "--key-file": key_file}, {"DB": database})
    saved = read_record(file)
    with _open(database, key_file) as states:
        states.put(name, saved)
    return _tell(database, name, saved, file, "stored from", output)


@store.command()
def rewind(
    database: Database,
    name: Name,
    item: Annotated[int | None, argument("[ITEM]", "How far back to go.", least=0)] = None,
    record: Record = None,
    key_file: KeyFile = None,
    json: Json = None,
) -> int:
    """Make the nearest kept state at or before ITEM the newest of its stream.

    What was stored beyond it is set aside, not deleted: --record brings it back.

        dst store rewind memory.db alice 100000
        dst store rewind memory.db alice --record 17
    """
    output = Output.to(json)
    if (item is None) == (record is None):
        raise WrongUseError("give either ITEM or --record N; dst store show lists both")
    check_paths(output, {"DB": database, "--key-file": key_file})
    with _existing(database, key_file) as states:
        saved = _chosen(states, name, item, record)
        states.put(name, saved)
    return _tell(database, name, saved, None, "put back", output)


@store.command()
def delete(database: Database, name: Name, yes: Yes = False, json: Json = None) -> int:
    """Delete a stream with its history, and leave no copy of it in the store's files.

    Asks first, unless --yes answers.

        dst store delete memory.db alice
    """
    output = Output.to(json)
    check_paths(output, {"DB": database})
    with _existing(database) as states:
        count = len(states.history(name))
        if not _agreed(f"delete stream {name!r} and its {counted(count, 'state')}", yes):
            return INTERRUPTED
        states.delete(name)
        states.vacuum()
    output.out.print(f"deleted [bold]{foreign(name)}[/], {counted(count, 'state')}")
    output.write_json({"store": str(database), "streams": [name], "states": count})
    return 0


@store.command()
def wipe(database: Database, yes: Yes = False, json: Json = None) -> int:
    """Delete all that a store holds, and leave no byte of it in its files.

    Backups and blocks that the disk has set aside are out of reach. Needs no key.

        dst store wipe memory.db --yes
    """
    output = Output.to(json)
    check_paths(output, {"DB": database})
    with _existing(database) as states:
        entries = states.list()
        count = sum(e.states for e in entries)
        held = f"{counted(len(entries), 'stream')}, {counted(count, 'state')}"
        if not _agreed(f"wipe {database}: {held}", yes):
            return INTERRUPTED
        states.wipe()
    output.out.print(f"wiped {held}")
    names = [e.name for e in entries]
    output.write_json({"store": str(database), "streams": names, "states": count})
    return 0


def read_key(file: Path) -> bytes:
    """Read a key: 32 bytes as they are, or as 64 hexadecimal digits."""
    with open(file, "rb") as source:
        key = source.read(100)
    if len(key) != KEY_BYTES:
        with suppress(ValueError):
            key = bytes.fromhex(key.decode("ascii"))
    if len(key) != KEY_BYTES:
        raise WrongUseError(
            f"--key-file {file}: holds no key; expected {KEY_BYTES} bytes, "
            f"or {2 * KEY_BYTES} hexadecimal digits"
        )
    return key


def _open(path: Path, key_file: Path | None = None) -> "StateStore":
    from dst.runtime import StateStore

    key = None if key_file is None else read_key(key_file)
    return StateStore(path, key=key, history_bytes=_ALL_OF_IT, max_bytes=None)


def _existing(path: Path, key_file: Path | None = None) -> "StateStore":
    if not path.exists():
        raise WrongUseError(f"{path}: there is no such file; dst store import makes a store")
    return _open(path, key_file)


def _chosen(states: "StateStore", name: str, item: int | None, record: int | None) -> "Saved":
    """Get the state at or before an item, the record of that number, or else the newest."""
    return states.get(name, record) if item is None else states.rewind(name, item)


def _agreed(what: str, yes: bool) -> bool:
    """Ask, unless the answer was given."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise WrongUseError(f"to {what} needs a yes, and there is nobody to ask; add --yes")
    return typer.confirm(f"{what}?", err=True)


def _tell(
    database: Path, name: str, saved: "Saved", file: Path | None, what: str, output: Output
) -> int:
    """Say where a state went or came from; `file` is None, null in the JSON, where no file did."""
    place = "" if file is None else f" {foreign(str(file))}"
    pending = len(saved.pending)
    waiting = f" and {pending} that wait" if pending else ""
    output.out.print(
        f"[bold]{foreign(name)}[/] at {saved.items_consumed:,} items{waiting}, {what}{place}"
    )
    output.write_json(
        {
            "store": str(database),
            "name": name,
            "items_consumed": saved.items_consumed,
            "pending": pending,
            "precision": saved.identity.precision,
            "model_id": saved.identity.model_id,
            "file": None if file is None else str(file),
        }
    )
    return 0


def _time(saved_at_ms: int) -> str:
    seconds = min(saved_at_ms, _LAST_MS) / 1000
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
