"""Keep the file of a store within its budget, and forget what is too old.

The file's size is that of the pages in use: SQLite counts them without reading anything. Its -wal
file comes on top of it, 16 MiB and what one call has written.
"""

import sqlite3
import time
from dataclasses import dataclass, field

from dst.runtime.errors import StoreFullError
from dst.runtime.store.database import PAGE_BYTES

_ROOM = 64  # when the budget is reached, a 64th of it is freed: not every put has to
_CHECK_S = 3600.0  # between two looks for what is too old
_ROW_BYTES = 100  # of a state's row, beside the state


@dataclass(slots=True)
class Limits:
    """What a store may hold: bytes in all, and seconds since a stream was last stored.

    Time is counted by the clock of the machine and by one that nobody can set, and the smaller
    count is believed: a clock that jumps ahead while the store is open makes nothing old.
    """

    label: str
    max_bytes: int | None
    max_age_s: float | None
    _opened: tuple[float, float] = field(default_factory=lambda: (time.time(), time.monotonic()))
    _looked: float = field(default=float("-inf"))

    def fits(self, connection: sqlite3.Connection, more: int = 0) -> bool:
        """Say whether the file is within its budget, with `more` bytes on top."""
        return self.max_bytes is None or used_bytes(connection) + more <= self.max_bytes

    def make_room(self, connection: sqlite3.Connection, adds: bool, more: int = 0) -> None:
        """In a writing transaction: drop older states, those put first at first.

        Who is in the store is never refused. His states are of one size, but where they share
        pages with others, or have a rest in a page, storing them again may take some pages more.

        Args:
            connection: that of the transaction.
            adds: the transaction adds streams.
            more: bytes to keep free, beyond what is stored.

        Raises:
            StoreFullError: `store-budget`: the newest states alone are beyond the budget.
        """
        if self.max_bytes is None or self.fits(connection, more):
            return
        used, target = used_bytes(connection), self.max_bytes - self.max_bytes // _ROOM - more
        while used > target:
            old = connection.execute(
                "SELECT id FROM states INDEXED BY states_of_stream "
                "WHERE id NOT IN (SELECT newest FROM streams) ORDER BY id LIMIT 64"
            ).fetchall()
            if not old:
                break
            connection.executemany("DELETE FROM states WHERE id = ?", old)
            used = used_bytes(connection)
        if adds and used + more > self.max_bytes:
            raise StoreFullError(
                f"{self.label}: the newest states of all streams would take {used + more} bytes, "
                f"more than max_bytes, {self.max_bytes}, so that no new one comes in; nothing of "
                "this call was stored; delete streams, or open the store with a larger max_bytes",
                code="store-budget",
            )

    def expire_now_and_then(self, connection: sqlite3.Connection) -> tuple[str, ...]:
        """Forget what is too old, once an hour and in the first call; return which streams."""
        if self.max_age_s is None or time.monotonic() - self._looked < _CHECK_S:
            return ()
        self._looked = time.monotonic()
        return self.expire(connection, self.max_age_s)

    def expire(self, connection: sqlite3.Connection, max_age_s: float) -> tuple[str, ...]:
        """Forget streams that were last stored so long ago, and states that are as old.

        Returns:
            The names of the streams that were forgotten.
        """
        opened, since = self._opened
        now = min(time.time(), opened + time.monotonic() - since)
        cutoff = int((now - max_age_s) * 1000)
        # Of a stream, the states before the first that is young enough go: in the order of puts,
        # by which those that were set aside are recognised.
        young = connection.execute(
            "SELECT stream, min(id) FROM states WHERE saved_at_ms >= ? GROUP BY stream", (cutoff,)
        ).fetchall()
        connection.executemany("DELETE FROM states WHERE stream = ? AND id < ?", young)
        kept = {stream for stream, _ in young}
        found = connection.execute("SELECT id, name FROM streams").fetchall()
        names = {stream: str(name) for stream, name in found if stream not in kept}
        gone = [(stream,) for stream in names]
        connection.executemany("DELETE FROM states WHERE stream = ?", gone)
        connection.executemany("DELETE FROM streams WHERE id = ?", gone)
        return (*names.values(),)


def room_for(streams: int, state_bytes: int) -> int:
    """Return what so many new streams take at most: each in whole pages, and one for its name."""
    return streams * (-(-(state_bytes + _ROW_BYTES) // PAGE_BYTES) + 1) * PAGE_BYTES


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the bytes of the database's pages that are in use."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size
