"""Open the SQLite file of a store, lend connections inside short transactions, and name its errors.

A connection serves one call at a time and then waits for the next one, so that any number of
threads and processes may work at once. FORMAT.md tells the schema.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dst.runtime.errors import DstError, StoreBusyError, StoreError, StoreFullError
from dst.runtime.store.served import unserved

APPLICATION_ID = 0x44535453  # "DSTS"
STORE_VERSION = 1
SCHEMA = {
    "store": "CREATE TABLE store (id INTEGER PRIMARY KEY, uuid BLOB NOT NULL, key_check BLOB)",
    "streams": "CREATE TABLE streams (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, "
    "newest INTEGER NOT NULL)",
    "states": "CREATE TABLE states (id INTEGER PRIMARY KEY AUTOINCREMENT, stream INTEGER NOT NULL, "
    "item INTEGER NOT NULL, saved_at_ms INTEGER NOT NULL, blob BLOB NOT NULL)",
    "states_of_stream": "CREATE INDEX states_of_stream ON states (stream)",
}
PAGE_BYTES = 16384
LOG_BYTES = 16 << 20  # beyond this the -wal file is emptied into the database
_DAMAGED = (
    "the database is damaged; states in sound pages can still be read by name and record; "
    "put a backup in its place"
)
_IDLE = 4
_PAUSE_S = 0.01
_PATIENCE_MS = 500


class Database:
    """An SQLite database in WAL mode.

    Every method raises `StoreError` where the file cannot be read or written; a subclass says why.

    Args:
        path: the file; made if it does not exist.
        birth: what a new store gets: its uuid, and the proof of its key or None.
        durable: wait at every commit until the disk has it.
        timeout_s: how long to wait for a lock that another process holds.
    """

    def __init__(
        self, path: Path, birth: tuple[bytes, bytes | None], durable: bool, timeout_s: float
    ) -> None:
        try:  # by the name that SQLite gives the -wal file; and the process may go elsewhere
            self._path = Path(os.path.realpath(path))
        except ValueError:  # a NUL, which opening refuses
            self._path = path.absolute()
        self._birth = birth
        self.uuid: bytes | None = None  # once known, no other store is opened, and none made
        self._durable, self._timeout_s = durable, timeout_s
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._log_limit = LOG_BYTES
        self._pid = os.getpid()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that sees the database as it is at the first read."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that is the only writer; all it did holds, or nothing.

        Raises:
            StoreBusyError: `store-served`: a scheduler serves the store.
        """
        with unserved(self._path), self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection
        self._shorten_log()

    def compact(self) -> None:
        """Give unused pages back to the disk and empty the -wal file.

        Raises:
            StoreBusyError: somebody else reads or writes all the time.
        """
        with self._lent() as connection:
            connection.executescript("PRAGMA incremental_vacuum")  # execute would free one page
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreBusyError(
                f"store {self._path}: others used it for {self._timeout_s} s on end, so its -wal "
                "file still holds what was deleted; try again when they are done"
            )

    def close(self) -> None:
        """Close the connections; one that is in use closes when its call ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        if os.getpid() == self._pid:
            for connection in idle:
                connection.close()

    # --- lending

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lent() as connection:
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _lent(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._take()
            try:
                yield connection
            except DstError:
                connection.rollback()
                self._give(connection)
                raise
            except BaseException:
                connection.close()  # which rolls back
                raise
            self._give(connection)
        except sqlite3.Error as error:
            raise self._named(error) from error
        except UnicodeDecodeError:  # of SQLite's own message, which quotes an altered name
            raise StoreError(f"store {self._path}: {_DAMAGED}", code="store-corrupt") from None

    def _take(self) -> sqlite3.Connection:
        if os.getpid() != self._pid:
            raise StoreError(
                f"store {self._path}: was opened before this process was forked, and SQLite "
                "cannot cross a fork; open the store in each process",
                code="store-forked",
            )
        with self._lock:
            if self._closed:
                raise StoreError(
                    f"store {self._path}: is closed; open it again", code="store-closed"
                )
            if self._idle:
                return self._idle.pop()
        return self._connect()

    def _give(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _shorten_log(self) -> None:
        """Empty the -wal file where it has grown long; where a reader is in the way, later.

        SQLite would do it without the write lock, and versions before 3.51.3 have a race there.
        What was committed holds whether this works or not, so failing is no error.
        """
        with suppress(OSError, StoreError):
            size = os.stat(f"{self._path}-wal").st_size
            if size <= self._log_limit:
                return
            with self._lent() as connection:
                connection.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
                busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                connection.execute(f"PRAGMA busy_timeout = {round(self._timeout_s * 1000)}")
            self._log_limit = (size if busy else 0) + LOG_BYTES

    # --- opening

    def _connect(self) -> sqlite3.Connection:
        """Open a connection and set it up; SQLite does not wait for all locks by itself."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._prepared(str(self._path))
            except sqlite3.OperationalError as error:
                code = _primary(error)
                if code == sqlite3.SQLITE_BUSY and time.monotonic() < deadline:
                    time.sleep(_PAUSE_S)
                elif code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) and self._frozen():
                    return self._prepared(f"{self._path.as_uri()}?immutable=1")
                else:
                    raise

    def _frozen(self) -> bool:
        """Say whether the file lies complete in a place that nobody can write to."""
        log = Path(f"{self._path}-wal")
        try:
            whole = self._path.is_file() and not (log.exists() and log.stat().st_size)
        except OSError:  # a name that is too long
            return False
        return whole and not os.access(self._path.parent, os.W_OK)

    def _prepared(self, place: str) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                place,
                timeout=self._timeout_s,
                isolation_level=None,
                check_same_thread=False,
                uri=place.startswith("file:"),
            )
        except ValueError as error:  # a NUL in the path, or what no file name can hold
            raise StoreError(
                f"store {self._path}: cannot be opened: {error}", code="store-unopenable"
            ) from None
        try:
            # text may have been altered, and is read all the same
            connection.text_factory = lambda data: data.decode("utf-8", "backslashreplace")
            for pragma in (
                "trusted_schema = OFF",
                "cell_size_check = ON",
                "secure_delete = ON",
                "temp_store = MEMORY",
                f"synchronous = {'FULL' if self._durable else 'NORMAL'}",
                f"fullfsync = {'ON' if self._durable else 'OFF'}",
                f"checkpoint_fullfsync = {'ON' if self._durable else 'OFF'}",
                "wal_autocheckpoint = 0",
            ):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            made = self._is_store(connection)
            if self.uuid is not None:
                self._check_same(connection, made)
            elif not made:
                self._make(connection)
                self._is_store(connection)
            return connection
        except BaseException:
            connection.close()
            raise

    def _is_store(self, connection: sqlite3.Connection) -> bool:
        """Say whether this is a store of ours; False for an empty database.

        Raises:
            StoreError: `not-a-store`, `store-version`, `store-corrupt`: it is something else.
        """
        connection.execute("BEGIN")
        (identity,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        found = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
        connection.execute("COMMIT")
        if not identity and not version and not found:
            return False
        if identity != APPLICATION_ID:
            raise StoreError(
                f"store {self._path}: is a database of another program, or its beginning was "
                "altered; nothing was touched",
                code="not-a-store",
            )
        if version != STORE_VERSION:
            raise StoreError(
                f"store {self._path}: its format version is {version}, this runtime reads "
                f"{STORE_VERSION}; use the release of dst-edge that wrote it, or a newer one",
                code="store-version",
            )
        if {name: sql for name, sql in found if not str(name).startswith("sqlite_")} != SCHEMA:
            raise StoreError(
                f"store {self._path}: its schema is not that of a store; it was altered",
                code="store-corrupt",
            )
        return True

    def _check_same(self, connection: sqlite3.Connection, made: bool) -> None:
        """Raise unless this is the store that was opened at first."""
        found = connection.execute("SELECT uuid FROM store").fetchall() if made else []
        if found != [(self.uuid,)]:
            raise StoreError(
                f"store {self._path}: was taken away or replaced while it was open; nothing was "
                "touched; put it back, or open what stands there now",
                code="store-replaced",
            )

    def _make(self, connection: sqlite3.Connection) -> None:
        """Make an empty database a store, unless another process was faster."""
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchall():
            for statement in SCHEMA.values():
                connection.execute(statement)
            connection.execute("INSERT INTO store VALUES (1, ?, ?)", self._birth)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {STORE_VERSION}")
        connection.execute("COMMIT")

    # --- errors

    def _named(self, error: sqlite3.Error) -> StoreError:
        """Turn an error of SQLite into one of ours that says what to do."""
        where, code = f"store {self._path}:", _primary(error)
        if code == sqlite3.SQLITE_FULL:
            return StoreFullError(
                f"{where} the disk is full; nothing of this call was stored, and what was stored "
                "before still stands; free some space and try again"
            )
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return StoreError(
                f"{where} cannot be written to; what it holds can be read; "
                "change the permissions of the file and its folder",
                code="store-read-only",
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreBusyError(
                f"{where} others held its lock for {self._timeout_s} s; nothing of this call was "
                "stored; try again, or open it with a longer timeout_s"
            )
        if code == sqlite3.SQLITE_CORRUPT:
            return StoreError(f"{where} {_DAMAGED}", code="store-corrupt")
        if code == sqlite3.SQLITE_NOTADB:
            return StoreError(
                f"{where} is no SQLite database, or its beginning was altered; nothing was touched",
                code="not-a-store",
            )
        if code == sqlite3.SQLITE_CANTOPEN:
            return StoreError(
                f"{where} cannot be opened: {self._obstacle()}", code="store-unopenable"
            )
        name = getattr(error, "sqlite_errorname", "")
        return StoreError(
            f"{where} SQLite reports {name or type(error).__name__}: {error}; "
            "whether this call was stored is open, what was stored before still stands",
            code="sqlite",
        )

    def _obstacle(self) -> str:
        try:
            if not self._path.parent.is_dir():
                return f"there is no directory {self._path.parent}; make it first"
            if self._path.is_dir():
                return "it is a directory"
        except OSError as error:  # a name that is too long
            return error.strerror or str(error)
        return "this user may not read it, or may not write to its folder"


def _primary(error: sqlite3.Error) -> int:
    """Return the primary result code; -1 for an error that SQLite did not number."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else -1
