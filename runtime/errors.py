"""What can go wrong, by name: one exception class per broken clause, all under `DstError`."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


class DstError(Exception):
    """Anything this package refuses or cannot do; the message is one line a person can act on.

    Attributes:
        code: a stable name in kebab case that programs and tests can match, such as
            `state-never-read`. Where a class stands for one fault alone it is `""`, and the class
            tells.
    """

    code: str = ""

    def __init__(self, message: str = "", *, code: str = "") -> None:
        super().__init__(message)
        if code:
            self.code = code


def shown(text: object) -> str:
    """Spell foreign text for a message: no line break, nothing a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


# --- bundles: what is on disk ---------------------------------------------------------------


class BundleError(DstError):
    """A bundle is broken, or cannot be read or written."""


class BundleNotFoundError(BundleError):
    """No directory at the path, and no shipped bundle of that name."""


class BundleExistsError(BundleError):
    """The target of a write exists and `overwrite` was not asked for."""


class ManifestError(BundleError):
    """manifest.json is not JSON, or a field is missing, unknown, or of the wrong type."""


class FormatVersionError(ManifestError):
    """The bundle's format version is not one this runtime reads."""


class NonCanonicalError(ManifestError):
    """The manifest's bytes are not the canonical encoding of what they say."""


class BundleIdError(ManifestError):
    """`bundle_id` is not the hash of the rest of the manifest."""


class StateHashError(ManifestError):
    """`state_hash` is not the hash of the state tensors in the contract."""


class ContractError(ManifestError):
    """The fields of a manifest contradict each other."""


class MissingFileError(BundleError):
    """A file the manifest lists is not in the bundle."""


class UnlistedFileError(BundleError):
    """A file lies in the bundle that the manifest does not list."""


class LinkError(BundleError):
    """A symbolic link stands where a plain file must."""


class OutsideError(BundleError):
    """A listed name is not a plain file name inside the bundle's directory."""


class NotRegularFileError(BundleError):
    """Something in the bundle is not a regular file: a directory, a pipe, a device."""


class TooLargeError(BundleError):
    """A file is larger than the format or this runtime allows."""


class FileSizeError(BundleError):
    """A file's size is not the listed one: it was truncated or has grown."""


class FileHashError(BundleError):
    """A file's SHA-256 is not the listed one: it was altered."""


class InitTensorError(BundleError):
    """init.safetensors does not hold an initial state tensor as the contract describes it."""


class GoldenError(BundleError):
    """A golden file does not hold the tensors its layout promises."""


# --- sessions: what runs --------------------------------------------------------------------


class SessionError(DstError):
    """A bundle cannot be run here as asked."""


class ProviderError(SessionError):
    """The execution provider asked for is unknown, not installed, or did not take the graph."""


class RuntimeVersionError(SessionError):
    """The installed onnxruntime is older than the graph's `min_ort`."""


class GraphError(SessionError):
    """A graph cannot be loaded, or its inputs and outputs are not what the manifest says."""


class ChunkSizeError(SessionError):
    """No graph of the bundle runs the chunk sizes asked for."""


class StreamInputError(SessionError):
    """The inputs given to a stream at its start are not those that its model takes.

    The code is `stream-input-missing`, `-unknown`, `-type`, `-shape`, `-not-finite` or `-saved`.
    """


class BatchError(SessionError):
    """The graphs of the session do not run many streams at once, each as if it were alone."""


# --- steps: what goes in and comes out ------------------------------------------------------


class StepError(DstError):
    """A step was refused or failed; the stream is as it was before the call."""


class ChunkTypeError(StepError):
    """A chunk or a run of items has the wrong dtype or is not an array."""


class ChunkShapeError(StepError):
    """A chunk or a run of items has the wrong shape, or a T that is not allowed."""


class TokenizerError(StepError):
    """Text cannot be turned into token ids; `code` says why."""


class TokenRangeError(StepError):
    """A token id lies outside the vocabulary."""


class NonFiniteInputError(StepError):
    """A feature is NaN or infinite."""


class NonFiniteOutputError(StepError):
    """A step's output is NaN or infinite."""


class NonFiniteStateError(StepError):
    """The state is NaN or infinite; the stream was put back to its last good snapshot."""


class PendingItemsError(StepError):
    """`step` was called while items wait for their chunk to fill."""


class PartialChunkError(StepError):
    """`flush` with items pending, under the tail rule `refuse`."""


class DeadlineError(StepError):
    """The step did not finish within its deadline."""


class GenerateError(StepError):
    """Generation cannot start or continue as asked."""


class NoSlotError(StepError):
    """The pool has no slot of that number."""


class SlotError(StepError):
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
        super().__init__(
            f"{len(failed)} of {len(failed) + len(outputs)} slots failed ({_listed(failed)}); the "
            f"others went on, their answers are in `outputs`. Slot {first}: {why}"
        )

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


class StateNotFoundError(StateError):
    """No file at the path of the saved state."""


class StateCorruptError(StateError):
    """A saved state's bytes are not the ones that were written."""


class StateVersionError(StateError):
    """The saved state's format version is not one this runtime reads."""


class OtherModelError(StateError):
    """The state belongs to another model."""


class OtherStateError(StateError):
    """The state belongs to the same model with another layout of state tensors."""


class OtherPrecisionError(StateError):
    """The state was made at another precision and `allow_precision` was not given."""


class UnhealthyStateError(StateError):
    """The state broke a limit of its health check, and the policy forbids what was asked."""


# --- stores ---------------------------------------------------------------------------------


class StoreError(DstError):
    """A store cannot be opened, read or written."""


class ForeignStoreError(StoreError):
    """The file is no store: not a database, or one of another program."""


class StoreVersionError(StoreError):
    """The store's format version is not one this runtime reads."""


class StoreCorruptError(StoreError):
    """The store's database is damaged."""


class StoreFullError(StoreError):
    """The disk is full; nothing of the call was stored."""


class StoreReadOnlyError(StoreError):
    """The store's file or folder cannot be written to."""


class StoreBusyError(StoreError):
    """Others held the store's lock for too long."""


class StoreClosedError(StoreError):
    """The store was closed."""


class StreamNotFoundError(StoreError):
    """The store holds no stream of that name."""


class StreamNameError(StoreError):
    """No stream can have that name."""


class ReplayError(StoreError):
    """An older state and the kept input do not lead to the item asked for."""


class StoreKeyError(StoreError):
    """The key does not fit the store."""


class KeyLengthError(StoreKeyError):
    """The key is not 32 bytes."""


class MissingKeyError(StoreKeyError):
    """The store is encrypted and no key was given."""


class WrongKeyError(StoreKeyError):
    """The store is encrypted with another key."""


class UnwantedKeyError(StoreKeyError):
    """A key was given for a store that is not encrypted."""


class EncryptionMissingError(StoreKeyError):
    """A key was given, and the package that encrypts is not installed."""
