"""Read and write the records of a store inside a transaction, and check what was read.

Nothing that is read here is believed: SQLite keeps no checksums, so a flipped bit of the file may
show as any number, name or blob. A record counts only if its seal fits its row and its stream.
"""

import sqlite3
import struct
from typing import NamedTuple

from dst.runtime.errors import StateCorruptError, StateError, StoreError, StreamNotFoundError
from dst.runtime.state.record import Saved, pack, unpack
from dst.runtime.store.retention import Row, to_drop
from dst.runtime.store.sealing import seal, unseal

MAX_BLOB_BYTES = 999_000_000  # SQLite takes a row of 1,000,000,000
MAX_RECORD = 2**62


class Records(NamedTuple):
    """The records of one store, which messages call `label`; `key` encrypts the blobs.

    The older states of a stream may take `history_bytes`.
    """

    label: str
    uuid: bytes
    key: bytes | None
    history_bytes: int

    # --- writing

    def insert(
        self, connection: sqlite3.Connection, name: str, saved: Saved, saved_at_ms: int
    ) -> bool:
        """Add a state, point to it as the newest and thin out the history.

        Returns:
            Whether the stream is new.

        Raises:
            StateError: it is too large.
        """
        found = connection.execute("SELECT id FROM streams WHERE name = ?", (name,)).fetchone()
        if new := found is None:
            cursor = connection.execute("INSERT INTO streams (name, newest) VALUES (?, 0)", (name,))
            found = (cursor.lastrowid,)
        (stream,) = found
        row = Row(self._unused(connection), saved.items_consumed, saved_at_ms, 0)
        blob = seal(self.key, self._place(name, row), pack(saved))
        if len(blob) > MAX_BLOB_BYTES:
            raise StateError(
                f"{self.label}: the state of stream {name!r} has {len(blob)} bytes, a store takes "
                f"{MAX_BLOB_BYTES}; save it to a file",
                code="state-too-large",
            )
        kept = (row._replace(size_bytes=len(blob)), *self.rows(connection, stream))
        drop = to_drop(kept, self.history_bytes)
        # Before the new state comes, which then lies where they lay: half as much is written.
        connection.executemany("DELETE FROM states WHERE id = ?", ((record,) for record in drop))
        connection.execute(
            "INSERT INTO states VALUES (?, ?, ?, ?, ?)",
            (row.record, stream, row.item, row.saved_at_ms, blob),
        )
        connection.execute("UPDATE streams SET newest = ? WHERE id = ?", (row.record, stream))
        return new

    def _unused(self, connection: sqlite3.Connection) -> int:
        """Return a record number above all that were ever used."""
        used = connection.execute(
            "SELECT coalesce(max(seq), 0), (SELECT coalesce(max(id), 0) FROM states) "
            "FROM sqlite_sequence WHERE name = 'states'"
        ).fetchone()
        if not are_counts(used) or max(used) >= MAX_RECORD:
            raise StoreError(f"{self.label}: its record numbers were altered", code="store-corrupt")
        return int(max(used)) + 1

    # --- reading

    def find(self, connection: sqlite3.Connection, name: str) -> tuple[int, int]:
        """Return a stream's row number and its newest record.

        Raises:
            StreamNotFoundError: there is no such stream.
            StoreError: `store-corrupt`: its row was altered.
        """
        found = connection.execute(
            "SELECT id, newest FROM streams WHERE name = ?", (name,)
        ).fetchone()
        if found is None:
            raise StreamNotFoundError(f"{self.label}: there is no stream {name!r}")
        if not are_counts(found):
            raise StoreError(
                f"{self.label}: the row of stream {name!r} was altered", code="store-corrupt"
            )
        stream, newest = found
        return stream, newest

    def rows(self, connection: sqlite3.Connection, stream: int) -> tuple[Row, ...]:
        """Return the rows of a stream, the newest record first; none with absurd numbers."""
        found = connection.execute(
            "SELECT id, item, saved_at_ms, length(blob) FROM states WHERE stream = ? "
            "ORDER BY id DESC",
            (stream,),
        ).fetchall()
        return tuple(Row(*row) for row in found if are_counts(row))

    def newest(
        self, connection: sqlite3.Connection, name: str, newest: int, rows: tuple[Row, ...]
    ) -> Saved:
        """Read the newest state of a stream.

        Raises:
            StateCorruptError: it is not there or was altered; the message names a good one.
        """
        if rows and rows[0].record == newest:
            return self.load(connection, name, rows[0], rows)
        raise StateCorruptError(
            f"{self.label}: the newest state of stream {name!r}, record {newest}, is not where it "
            f"should be{self._hint(connection, name, rows)}"
        )

    def load(
        self, connection: sqlite3.Connection, name: str, row: Row, rows: tuple[Row, ...]
    ) -> Saved:
        """Read one record of a stream.

        Raises:
            StateCorruptError: it was altered; the message names a good one of `rows`.
            StateMismatchError: `state-version`: a version this runtime does not read.
        """
        try:
            return self._read(connection, name, row)
        except StateError as error:
            raise type(error)(
                f"{self.label}: record {row.record} of stream {name!r}, at item {row.item}: "
                f"{error}{self._hint(connection, name, rows)}",
                code=error.code,
            ) from None

    def _read(self, connection: sqlite3.Connection, name: str, row: Row) -> Saved:
        try:
            found = connection.execute(
                "SELECT blob FROM states WHERE id = ?", (row.record,)
            ).fetchone()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "").startswith("SQLITE_CORRUPT"):
                raise StateCorruptError("its pages are damaged") from None
            raise
        blob = found[0] if found else None
        if not isinstance(blob, bytes):
            raise StateCorruptError("it was altered")
        saved = unpack(unseal(self.key, self._place(name, row), blob))
        if saved.items_consumed != row.item:
            raise StateCorruptError(f"it holds a state at item {saved.items_consumed}")
        return saved

    def _hint(self, connection: sqlite3.Connection, name: str, rows: tuple[Row, ...]) -> str:
        """Name the newest of these records that can be read, for a message."""
        for row in rows:
            try:
                self._read(connection, name, row)
            except StateError:
                continue
            return (
                f"; the newest good state kept is record {row.record}, at item {row.item}: "
                f"get({name!r}, record={row.record})"
            )
        return "; no good state of it is kept"

    def _place(self, name: str, row: Row) -> bytes:
        """What a record is bound to: this store, its row and its stream's name."""
        numbers = struct.pack("<qqq", row.record, row.item, row.saved_at_ms)
        return b"dst-store 1 state\0" + self.uuid + numbers + name.encode()


def are_counts(values: tuple[object, ...]) -> bool:
    """Say whether these are all numbers of 0 or more: SQLite gives what the bytes say."""
    return all(isinstance(value, int) and value >= 0 for value in values)
