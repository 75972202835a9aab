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

from typing import Self

import numpy as np
import numpy.typing as npt


class DstError(Exception):
    """Anything this package refuses or cannot do; the message is one line a person can act on.

    It says what was expected, what came, where, and what to do. `code` is a stable name of the
    fault in kebab case, such as `file-hash`, by default that of the class.
    """

    code: str = "dst"

    def __init_subclass__(cls, code: str = "") -> None:
        cls.code = code or cls.code

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


class BundleError(DstError, code="bundle"):
    """A bundle is broken, or cannot be read or written."""


class BundleNotFoundError(BundleError, code="bundle-not-found"):
    """No directory at the path, and no shipped bundle of that name."""


class BundleExistsError(BundleError, code="bundle-exists"):
    """The target of a write exists and `overwrite` was not asked for."""


# --- sessions: what runs --------------------------------------------------------------------


class SessionError(DstError, code="session"):
    """A bundle cannot be run here as asked."""


class ProviderError(SessionError, code="provider"):
    """The execution provider asked for is unknown, not installed, or did not take the graph."""


# --- steps: what goes in and comes out ------------------------------------------------------


class StepError(DstError, code="step"):
    """A step was refused or failed; the stream is as it was before the call."""


class NonFiniteError(StepError, code="not-finite"):
    """A value is NaN or infinite.

    The codes: `input-not-finite`, `output-not-finite`, and `state-not-finite`, after which the
    stream stands at its last good state.
    """


class PartialChunkError(StepError, code="partial-chunk"):
    """`flush` with items pending, under the tail rule `refuse`."""


class DeadlineError(StepError, code="deadline"):
    """The step did not finish within its deadline."""


class SlotError(StepError, code="slots-failed"):
    """Some slots of a pool failed and are as they were before the call; the others went on.

    Attributes:
        failed: slot -> what went wrong there.
        outputs: slot -> what the call answered for the others.
    """

    def __init__(
        self, failed: dict[int, DstError], outputs: dict[int, dict[str, npt.NDArray[np.generic]]]
    ) -> None:
        self.failed = failed
        self.outputs = outputs
        first, why = next(iter(failed.items()))
        listed = ", ".join([*map(str, [*failed][:8]), *(["…"] if len(failed) > 8 else [])])
        super().__init__(
            f"{len(failed)} of {len(failed) + len(outputs)} slots failed ({listed}); the "
            f"others went on, their answers are in `outputs`. Slot {first}: {why}"
        )

    def within(self, place: str) -> Self:
        """Return the same error: its slots say where it happened."""
        return self

    def __reduce__(self) -> tuple[type["SlotError"], tuple[object, object]]:
        """Copy and pickle by what it was made of, not by its message."""
        return type(self), (self.failed, self.outputs)


# --- saved states ---------------------------------------------------------------------------


class StateError(DstError, code="state"):
    """A saved state or snapshot cannot be written, read or used here."""


class StateNotFoundError(StateError, code="state-not-found"):
    """No file at the path of the saved state."""


class StateCorruptError(StateError, code="state-corrupt"):
    """A saved state's bytes are not the ones that were written."""


class StateMismatchError(StateError, code="state-mismatch"):
    """A sound saved state that this session cannot go on with.

    The codes: `state-version`, `other-model`, `other-state-layout`, `other-precision`,
    `other-constant`, and `other-ends` where two files are compared.
    """


# --- stores ---------------------------------------------------------------------------------


class StoreError(DstError, code="store"):
    """A store cannot be opened, read or written."""


class StoreFullError(StoreError, code="store-full"):
    """The disk is full; nothing of the call was stored."""


class StoreBusyError(StoreError, code="store-busy"):
    """Others held the store's lock for too long."""


class StreamNotFoundError(StoreError, code="stream-not-found"):
    """The store holds no stream of that name."""


class StoreKeyError(StoreError, code="store-key"):
    """The key does not fit the store.

    The codes: `key-length`, `key-missing`, `key-wrong`, `key-unwanted`,
    `encryption-not-installed`.
    """


# --- serving --------------------------------------------------------------------------------


class ServingError(DstError, code="serving"):
    """A scheduler or a fleet does not take a request.

    The codes: `draining`: it is ending; `other-loop`, `argument`: it is used in a wrong way.
    """


class BusyError(ServingError, code="busy"):
    """Too many requests wait already; nothing was read. Try again later.

    The codes: `busy`, and `user-busy` where the requests of this one user are too many.
    """
