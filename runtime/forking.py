"""Copy a stream by `fork`, and refuse to pickle it."""

from abc import abstractmethod
from typing import NoReturn, Self, SupportsIndex

from dst.runtime.errors import StateError


class Forking:
    """What `copy` and `pickle` do with an object that owns buffers: fork it, or refuse."""

    __slots__ = ()

    @abstractmethod
    def fork(self) -> Self:
        """Return another one that stands where this one does."""

    def __copy__(self) -> Self:
        """Return `fork()`: a copy that shared the buffers would be neither stream."""
        return self.fork()

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Return `fork()`."""
        return self.fork()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be pickled, and say what travels instead."""
        raise StateError(
            "a stream cannot be pickled; send stream.saved().to_bytes(), and there go on with "
            "session.stream(Saved.from_bytes(data))",
            code="not-picklable",
        )
