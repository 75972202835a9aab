"""Keep the saved states of named streams: the newest of each, and older ones to go back to.

One SQLite file holds any number of streams, each with its newest state and a history that grows
thinner with age (`dst.runtime.store.retention`). FORMAT.md tells what lies where.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, SupportsIndex

import msgspec

from dst.runtime.errors import (
    StateCorruptError,
    StateNotFoundError,
    StoreError,
    StoreKeyError,
)
from dst.runtime.state.record import Saved
from dst.runtime.store.checks import check_name, check_state
from dst.runtime.store.database import Database
from dst.runtime.store.limits import Limits, room_for, used_bytes
from dst.runtime.store.records import Records, are_counts
from dst.runtime.store.retention import line_of
from dst.runtime.store.sealing import check_key, seal, unseal


class Entry(msgspec.Struct, frozen=True):
    """A stream in a store.

    Attributes:
        name: the stream's name.
        items_consumed: items in its newest state.
        saved_at_ms: when that was stored, in milliseconds since 1970 UTC.
        size_bytes: what that takes.
        states: how many states are kept, the newest among them.
        total_bytes: what they take together.
    """

    name: str
    items_consumed: int
    saved_at_ms: int
    size_bytes: int
    states: int
    total_bytes: int


class Kept(msgspec.Struct, frozen=True):
    """One kept state of a stream.

    Attributes:
        record: its number in the store, rising with every put.
        items_consumed: items in it.
        saved_at_ms: when it was stored, in milliseconds since 1970 UTC.
        size_bytes: what it takes.
        set_aside: the stream was later stored at fewer or as many items, so that this state
            does not lead up to the newest one; `rewind` passes it over.
    """

    record: int
    items_consumed: int
    saved_at_ms: int
    size_bytes: int
    set_aside: bool


class StateStore:
    """A file of named streams. Threads may share a store; each process opens it for itself.

    Every method raises `StoreError` where the file cannot be read or written; a subclass or the
    code says why. It is `StreamNotFoundError` for a stream that is not there, `StoreKeyError`
    (`key-missing`) where states are put or read and the key was not given, and `StoreBusyError`
    (`store-served`) for whoever would write to a store that a scheduler serves. A `put` that has
    returned survives a kill of the process and, with `durable`, a loss of power.

    Args:
        path: the file; made if it does not exist. Not on a network share: SQLite's WAL mode
            needs the memory of one machine.
        key: 32 random bytes that encrypt the states (not the names); never stored. Whether a
            store is encrypted is settled when it is made. Without its key an encrypted store
            can be listed, deleted from and wiped.
        history_bytes: what the older states of each stream may take; 0 keeps the newest only.
        max_bytes: what the whole file may take, 8 GiB by default; None for no limit. When it is
            reached, the older states of all streams go, those that were put first at first; the
            newest state of a stream never does: where nothing is left to drop, new streams are
            refused. Those that are there can be stored again, which may take some pages more.
        max_age_s: forget streams that were not stored for so many seconds, and older states of
            the others; once an hour, in a `put`. None, the default, forgets nothing.
        durable: SQLite's `synchronous`: True for FULL, which syncs each commit; False for
            NORMAL, which after a loss of power may lack the last puts, and is whole otherwise.
        timeout_s: how long a call waits for a lock that others hold.

    Raises:
        StoreError: it cannot be opened; a subclass says why.
        StoreKeyError: the key is of another length, wrong or not wanted, or the package
            `cryptography` is not installed.

    Examples:
        >>> import tempfile
        >>> from dst.runtime import Session
        >>> stream = Session.open("text").stream()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with StateStore(f"{folder}/memory.db") as store:
        ...         store.put("alice", stream.saved())
        ...         store.get("alice").items_consumed
        0
    """

    __slots__ = ("_database", "_label", "_limits", "_locked", "_records", "path")

    def __init__(
        self,
        path: str | Path,
        *,
        key: bytes | None = None,
        history_bytes: int = 16 << 20,
        max_bytes: int | None = 8 << 30,
        max_age_s: float | None = None,
        durable: bool = True,
        timeout_s: float = 10.0,
    ) -> None:
        self._label = f"store {path}"
        self.path = Path(path).absolute()
        if history_bytes < 0:
            raise StoreError(
                f"{self._label}: history_bytes is {history_bytes}, expected 0 or more",
                code="argument",
            )
        for name, value in (("max_bytes", max_bytes), ("max_age_s", max_age_s)):
            if value is not None and not 0 < value < 1 << 62:
                raise StoreError(
                    f"{self._label}: {name} is {value}, expected more than 0, or None for no limit",
                    code="argument",
                )
        self._limits = Limits(self._label, max_bytes, max_age_s)
        if not 0 <= timeout_s <= 86_400:
            raise StoreError(
                f"{self._label}: timeout_s is {timeout_s}, expected 0 .. 86400", code="argument"
            )
        if key is not None:
            check_key(key)
        uuid = os.urandom(16)
        proof = None if key is None else seal(key, _proof_place(uuid), b"")
        self._database = Database(Path(path), (uuid, proof), durable, timeout_s)
        try:
            uuid, self._locked = self._identify(key)
        except BaseException:
            self._database.close()
            raise
        self._database.uuid = uuid
        self._records = Records(self._label, uuid, key, history_bytes)

    # --- storing

    def put(self, name: str, saved: Saved) -> None:
        """Store what `Stream.saved` returned as the newest state of a stream, as `put_many` does.

        A name has 1 to 200 printable characters.
        """
        self.put_many({name: saved})

    def put_many(self, states: Mapping[str, Saved]) -> tuple[str, ...]:
        """Store the states of several streams in one transaction: all of them, or none.

        Returns:
            The streams that were forgotten in the same transaction, by `max_age_s`.

        Raises:
            StoreError: `stream-name`: a name that no stream can have.
            NonFiniteError: `state-not-finite`: a state holds a NaN or an infinity.
            StateError: a state is too large for a store, or at an item beyond 2^63 - 1.
            StoreFullError: the disk is full, or (`store-budget`) `max_bytes` is reached and one of
                these streams is new.
        """
        self._unlock()
        for name, saved in states.items():
            check_name(self._label, name)
            check_state(self._label, name, saved)
        saved_at_ms = time.time_ns() // 1_000_000
        with self._database.writing() as connection:
            new = [self._records.insert(connection, *one, saved_at_ms) for one in states.items()]
            expired = self._limits.expire_now_and_then(connection)
            self._limits.make_room(connection, any(new))
        return expired

    def make_room(self, streams: int, state_bytes: int) -> None:
        """Make sure that new streams can be stored, by giving up older states of the others.

        Args:
            streams: how many; other writers may take the room before they come.
            state_bytes: what the state of each takes at most.

        Raises:
            StoreFullError: `store-budget`: `max_bytes` leaves no room for them.
        """
        more = room_for(streams, state_bytes)
        with self._database.reading() as connection:
            fits = self._limits.fits(connection, more)
        if not fits:
            with self._database.writing() as connection:
                self._limits.make_room(connection, True, more)

    # --- loading

    def get(self, name: str, record: int | None = None) -> Saved:
        """Return a stream's newest state, or the one of a record that `history` names.

        Raises:
            StateNotFoundError: the stream has no such record.
            StateCorruptError: the state was altered; the message names the newest good one kept.
        """
        self._unlock()
        check_name(self._label, name)
        with self._database.reading() as connection:
            stream, newest = self._records.find(connection, name)
            rows = self._records.rows(connection, stream)
            if record is None:
                return self._records.newest(connection, name, newest, rows)
            for row in rows:
                if row.record == record:
                    return self._records.load(connection, name, row, rows)
        raise StateNotFoundError(
            f"{self._label}: stream {name!r} has no record {record}; its history lists them "
            "(`dst store show`)"
        )

    def rewind(self, name: str, item: int) -> Saved:
        """Return the nearest kept state at or before `item`; its `items_consumed` says where.

        Nothing is stored: `put` the result to make it the newest, or give it to
        `dst.runtime.replay` to go on to the exact item. States that an earlier going back has
        set aside are passed over.

        Raises:
            StateNotFoundError: the oldest state kept lies beyond `item`.
            StateCorruptError: the state was altered; the message names a good one before it.
        """
        self._unlock()
        check_name(self._label, name)
        with self._database.reading() as connection:
            rows = self._records.rows(connection, self._records.find(connection, name)[0])
            line = {row.record: row.item for row in line_of(rows)}
            before = tuple(row for row in rows if row.record in line and row.item <= item)
            if before:
                return self._records.load(connection, name, before[0], before)
        oldest = f"the oldest is at item {min(line.values())}" if line else "none is kept"
        raise StateNotFoundError(
            f"{self._label}: stream {name!r} has no state at or before item {item}; {oldest}"
        )

    # --- listing

    def list(self) -> tuple[Entry, ...]:
        """Return the streams by name.

        Raises:
            StoreError: `store-corrupt`: a stream has lost its newest state.
        """
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT name, item, saved_at_ms, length(blob), n, total FROM streams "
                "LEFT JOIN states ON states.id = newest AND states.stream = streams.id "
                "LEFT JOIN (SELECT stream, count(*) AS n, sum(length(blob)) AS total "
                "FROM states GROUP BY stream) AS kept ON kept.stream = streams.id ORDER BY name"
            ).fetchall()
        for name, *numbers in rows:
            if not are_counts(tuple(numbers)):
                raise StoreError(
                    f"{self._label}: stream {name!r} has lost its newest state; "
                    f"history({name!r}) lists what is left of it",
                    code="store-corrupt",
                )
        return tuple(Entry(*row) for row in rows)

    def history(self, name: str) -> tuple[Kept, ...]:
        """Return the kept states of a stream, the newest first."""
        check_name(self._label, name)
        with self._database.reading() as connection:
            rows = self._records.rows(connection, self._records.find(connection, name)[0])
        line = {row.record for row in line_of(rows)}
        return tuple(Kept(*row, set_aside=row.record not in line) for row in rows)

    # --- forgetting

    def delete(self, name: str) -> None:
        """Forget a stream and its history.

        Its room in the database is overwritten with zeros, but the files may hold copies of it
        until `vacuum` is called.
        """
        check_name(self._label, name)
        with self._database.writing() as connection:
            stream, _ = self._records.find(connection, name)
            connection.execute("DELETE FROM states WHERE stream = ?", (stream,))
            connection.execute("DELETE FROM streams WHERE id = ?", (stream,))

    def expire(self, max_age_s: float) -> tuple[str, ...]:
        """Forget streams that were not stored for so many seconds; return their names.

        Of the other streams the states that are as old go. As for `delete`, copies may be left
        in the files until `vacuum`.
        """
        with self._database.writing() as connection:
            return self._limits.expire(connection, max_age_s)

    def used_bytes(self) -> int:
        """Return what the file takes, room of deleted states not counted."""
        with self._database.reading() as connection:
            return used_bytes(connection)

    def vacuum(self) -> None:
        """Give the room of what was deleted back to the disk, and leave no copy of it.

        Raises:
            StoreBusyError: others use the store without a pause; copies may be left.
        """
        self._database.compact()

    def wipe(self) -> None:
        """Forget everything; when this returns, no byte of a state or a name is in the files.

        The files are the database, its -wal and its -shm. Copies that others have made, such as
        backups, and blocks that a file system or a flash disk has set aside are out of reach.
        The store stays in use, with the same key.

        Raises:
            StoreBusyError: others use the store without a pause; everything is deleted, but
                copies may be left in the -wal file: wipe again.
        """
        with self._database.writing() as connection:
            connection.execute("DELETE FROM states")
            connection.execute("DELETE FROM streams")
        self._database.compact()

    # --- ending

    def close(self) -> None:
        """Close the file; every later call raises `StoreError`."""
        self._database.close()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled: a copy would close this one's file."""
        raise StoreError(
            f"{self._label}: a store cannot be copied or pickled; threads may share it, and a "
            "process opens its own by StateStore(path)",
            code="not-copyable",
        )

    def __enter__(self) -> "StateStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- inside

    def _identify(self, key: bytes | None) -> tuple[bytes, bool]:
        """Return the store's uuid and whether it is encrypted and there is no key."""
        with self._database.reading() as connection:
            rows = connection.execute("SELECT uuid, key_check FROM store").fetchall()
        uuid, proof = rows[0] if len(rows) == 1 else (None, None)
        if not isinstance(uuid, bytes) or not isinstance(proof, bytes | None):
            raise StoreError(f"{self._label}: its identity was altered", code="store-corrupt")
        if key is None:
            return uuid, proof is not None
        if proof is None:
            raise StoreKeyError(
                f"{self._label}: is not encrypted, and a key was given; open it without the key, "
                "or make a new store with it",
                code="key-unwanted",
            )
        try:
            unseal(key, _proof_place(uuid), proof)
        except StateCorruptError:
            raise StoreKeyError(
                f"{self._label}: is encrypted with another key; nothing was touched",
                code="key-wrong",
            ) from None
        return uuid, False

    def _unlock(self) -> None:
        if self._locked:
            raise StoreKeyError(
                f"{self._label}: is encrypted; open it with its key", code="key-missing"
            )


def _proof_place(uuid: bytes) -> bytes:
    return b"dst-store 1 key\0" + uuid
