"""Keep room in the store for the states of new users."""

from collections.abc import Callable
from math import prod

from dst.runtime.bundle.manifest import Chunk
from dst.runtime.errors import StoreFullError
from dst.runtime.state.record import Saved, pack
from dst.runtime.store import StateStore


class Room:
    """Who was admitted as a new user and is not in the store yet.

    Attributes:
        names: those users, for whom room is kept.
    """

    __slots__ = ("_chunk", "_state_bytes", "_store", "names")

    def __init__(self, store: StateStore, chunk: Chunk) -> None:
        self._store, self._chunk = store, chunk
        self._state_bytes = 0
        self.names: set[str] = set()

    def admit(self, name: str, state: Callable[[], Saved], write: Callable[[], None]) -> None:
        """Keep room for one more user.

        Args:
            name: the user's name.
            state: gives a state of this model: all take as much, but for the items that wait.
            write: stores the states of those who were admitted before and have been answered.

        Raises:
            StoreFullError: `store-budget`: the store's `max_bytes` leaves none.
        """
        if name in self.names:
            return
        if not self._state_bytes:
            saved = state()
            items = max(self._chunk.allowed_t) + self._chunk.lookahead
            item_bytes = saved.pending.itemsize * prod(saved.pending.shape[1:])
            self._state_bytes = len(pack(saved)) + items * item_bytes
        try:
            self._store.make_room(len(self.names) + 1, self._state_bytes)
        except StoreFullError:
            if not self.names:
                raise
            write()  # they may take less than was kept for them
            self._store.make_room(len(self.names) + 1, self._state_bytes)
        self.names.add(name)
