"""The exceptions of this package: a class for each way to react, a code for each fault.

Catch a class where the reaction differs: retry a busy store, start afresh where there is no saved
state. Match `code` where the fault itself matters; it is the same in every language (FORMAT.md
lists the codes of bundles and saved states), and it does not change when a message does.

Examples:
    >>> from dst.runtime import Session, StateError, Stream
    >>> session = Session.open("text")
    >>> try:
    ...     stream = Stream.load(session, "no such file")
    ... except StateError as error:
    ...     print(error.code)
    ...     stream = session.stream()
    state-not-found
"""

from collections.abc import Iterable
from typing import Self

import numpy as np
import numpy.typing as npt


class DstError(Exception):
    """Anything this package refuses or cannot do; the message is one line a person can act on.

    Args:
        message: what was expected, what came, where, and what to do.
        code: the fault, in kebab case, such as `file-hash`; by default that of the class.

    Attributes:
        code: a stable name of the fault, for programs and tests.
    """

    code: str = "dst"

    def __init__(self, message: str = "", *, code: str = "") -> None:
        super().__init__(message)
        if code:
            self.code = code

    def within(self, place: str) -> Self:
        """Return the same error with the place where it happened before its message."""
        return type(self)(f"{place}: {self}", code=self.code)


def shown(text: object) -> str:
    """Spell foreign text for a message: no line break, nothing a terminal would obey."""
    spelled = str(text)
    if spelled.isprintable():
        return spelled
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in spelled)


# --- bundles: what is on disk ---------------------------------------------------------------


class BundleError(DstError):
    """A bundle is broken, or cannot be read or written."""

    code = "bundle"


class BundleNotFoundError(BundleError):
    """No directory at the path, and no shipped bundle of that name."""

    code = "bundle-not-found"


class BundleExistsError(BundleError):
    """The target of a write exists and `overwrite` was not asked for."""

    code = "bundle-exists"


# --- sessions: what runs --------------------------------------------------------------------


class SessionError(DstError):
    """A bundle cannot be run here as asked."""

    code = "session"


class ProviderError(SessionError):
    """The execution provider asked for is unknown, not installed, or did not take the graph."""

    code = "provider"


# --- steps: what goes in and comes out ------------------------------------------------------


class StepError(DstError):
    """A step was refused or failed; the stream is as it was before the call."""

    code = "step"


class NonFiniteError(StepError):
    """A value is NaN or infinite.

    The codes: `input-not-finite`, `output-not-finite`, and `state-not-finite`, after which the
    stream stands at its last good state.
    """

    code = "not-finite"


class PartialChunkError(StepError):
    """`flush` with items pending, under the tail rule `refuse`."""

    code = "partial-chunk"


class DeadlineError(StepError):
    """The step did not finish within its deadline."""

    code = "deadline"


class SlotError(StepError):
    """Some slots of a pool failed and are as they were before the call; the others went on.

    Attributes:
        failed: slot -> what went wrong there.
        outputs: slot -> what the call answered for the others.
    """

    code = "slots-failed"

    def __init__(
        self, failed: dict[int, DstError], outputs: dict[int, dict[str, npt.NDArray[np.generic]]]
    ) -> None:
        self.failed = failed
        self.outputs = outputs
        first, why = next(iter(failed.items()))
        super().__init__(
            f"{len(failed)} of {len(failed) + len(outputs)} slots failed ({_listed(failed)}); the "
            f"others went on, their answers are in `outputs`. Slot {first}: {why}"
        )

    def within(self, place: str) -> Self:
        """Return the same error: its slots say where it happened."""
        return self

    def __reduce__(self) -> tuple[type["SlotError"], tuple[object, object]]:
        """Copy and pickle by what it was made of, not by its message."""
        return type(self), (self.failed, self.outputs)


def _listed(slots: Iterable[int]) -> str:
    """Spell slot numbers, the first few of many."""
    numbers = [str(slot) for slot in slots]
    return ", ".join(numbers[:8]) + (", …" if len(numbers) > 8 else "")


# --- saved states ---------------------------------------------------------------------------


class StateError(DstError):
    """A saved state or snapshot cannot be written, read or used here."""

    code = "state"


class StateNotFoundError(StateError):
    """No file at the path of the saved state."""

    code = "state-not-found"


class StateCorruptError(StateError):
    """A saved state's bytes are not the ones that were written."""

    code = "state-corrupt"


class StateMismatchError(StateError):
    """A sound saved state that this session cannot go on with.

    The codes: `state-version`, `other-model`, `other-state-layout`, `other-precision`,
    `other-constant`, and `other-ends` where two files are compared.
    """

    code = "state-mismatch"


# --- stores ---------------------------------------------------------------------------------


class StoreError(DstError):
    """A store cannot be opened, read or written."""

    code = "store"


class StoreFullError(StoreError):
    """The disk is full; nothing of the call was stored."""

    code = "store-full"


class StoreBusyError(StoreError):
    """Others held the store's lock for too long."""

    code = "store-busy"


class StreamNotFoundError(StoreError):
    """The store holds no stream of that name."""

    code = "stream-not-found"


class StoreKeyError(StoreError):
    """The key does not fit the store.

    The codes: `key-length`, `key-missing`, `key-wrong`, `key-unwanted`,
    `encryption-not-installed`.
    """

    code = "store-key"
