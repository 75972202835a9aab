"""The saved state: everything a stream is, at rest, and whether a session may go on with it.

`dst.runtime.state.codec` gives it its bytes, `dst.runtime.state.file` and `dst.runtime.store` its
place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from dst.runtime.errors import NonFiniteError, StateCorruptError, StateError, StateMismatchError
from dst.runtime.execution.buffers import Block
from dst.runtime.state.sampler import Sampler

Array = npt.NDArray[np.generic]


class Identity(msgspec.Struct, frozen=True):
    """Whose state it is: the ids, the precision and the constants of the bundle that made it.

    `constants` are told by `dst.runtime.bundle.constants.constant_mark`, by name. They are empty
    where there are none, and in a state that was saved before constants were.
    """

    model_id: str
    state_hash: str
    bundle_id: str
    precision: str
    constants: Mapping[str, str] = {}


class Saved(msgspec.Struct, frozen=True):
    """Everything a stream is, at rest.

    Attributes:
        identity: the bundle that made it.
        items_consumed: items in the state.
        seed: the sampler's seed, or None where nothing was sampled.
        draws: numbers drawn from it.
        state: the state tensors by input name.
        pending: items waiting for their chunk, time first.
        lookback: the items before the next chunk, time first.
        inputs: what the stream was given when it started, by input name.
    """

    identity: Identity
    items_consumed: int
    seed: int | None
    draws: int
    state: Mapping[str, Array]
    pending: Array
    lookback: Array
    inputs: Mapping[str, Array] = {}

    def to_bytes(self) -> bytes:
        """Return the bytes that `Stream.save` writes to a file, for a database or a message.

        Raises:
            NonFiniteError: `state-not-finite`: a tensor holds a NaN or an infinity.

        Example:
            `redis.set("ann", stream.saved().to_bytes())`
        """
        from dst.runtime.state.codec import pack  # which needs this module to be there first

        check_finite(self, "saved state", "", "nothing was written")
        return pack(self)

    @staticmethod
    def from_bytes(data: bytes | bytearray | memoryview, where: str = "saved state") -> "Saved":
        """Read what `to_bytes` returned, or the bytes of a file that `Stream.save` has written.

        Whether the state belongs to a model is checked when a stream is made of it.

        Args:
            data: all of the bytes.
            where: what error messages call them.

        Raises:
            StateCorruptError: not a saved state, or any bit of it has changed.
            StateMismatchError: `state-version`: a version this runtime does not read.
            StateError: not bytes.

        Example:
            `session.stream(Saved.from_bytes(redis.get("ann")))`
        """
        from dst.runtime.state.codec import unpack

        if not isinstance(data, bytes | bytearray | memoryview):
            raise StateError(
                f"{where}: is a {type(data).__name__}, expected bytes as to_bytes() returned them",
                code="not-bytes",
            )
        try:
            return unpack(bytes(data))
        except StateError as error:
            raise type(error)(f"{where}: {error}", code=error.code) from None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of everything a stream is, for `Stream.restore`.

    Attributes:
        identity: the ids of the bundle it belongs to.
        block: the state.
        lookback: the items before the next chunk, `[L, ...]`.
        pending: the items that wait, `[n, ...]`.
        items_consumed: items in the state.
        sampler: the random source, if anything was sampled.
        inputs: what the stream was given when it started, by input name.
    """

    identity: Identity
    block: Block
    lookback: Array
    pending: Array
    items_consumed: int
    sampler: Sampler | None
    inputs: Mapping[str, Array] = field(default_factory=dict)


def check_record(value: object, where: str) -> None:
    """Raise unless a value is a `Saved`, and say how to make one of what it is.

    Raises:
        StateError: it is not.
    """
    if isinstance(value, Saved):
        return
    cure = {
        "str": "Stream.load(session, path) reads a file",
        "bytes": "make it one by Saved.from_bytes(data)",
        "Stream": "take stream.saved()",
        "Snapshot": "stream.restore(snapshot) takes a snapshot",
    }.get(type(value).__name__, "stream.saved() returns one")
    raise StateError(
        f"{where}: is a {type(value).__name__}, expected a Saved record; {cure}", code="no-record"
    )


def check_finite(saved: Saved, where: str, of: str, outcome: str) -> None:
    """Raise unless every float of a record is finite.

    Args:
        saved: the record.
        where: how the message begins.
        of: whose the tensor is, for the message.
        outcome: how the message ends.

    Raises:
        NonFiniteError: `state-not-finite`: one is not.
    """
    tensors = {**saved.state, **saved.inputs}
    tensors |= {"pending": saved.pending, "lookback": saved.lookback}
    for name, value in tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise NonFiniteError(
                f"{where}: `{name}`{of} holds a NaN or an infinity; {outcome}",
                code="state-not-finite",
            )


def check_identity(
    theirs: Identity, ours: Identity, where: str, allow_precision: bool = False
) -> None:
    """Raise unless a state made under one identity may go on under another.

    Raises:
        StateMismatchError: `other-model`, `other-state-layout`, `other-precision`: it may not;
            `where` says which.
    """
    _check_constants(theirs, ours, where)
    if theirs.model_id != ours.model_id:
        raise StateMismatchError(
            f"{where}: made by model {theirs.model_id[:16]}…, this session runs "
            f"{ours.model_id[:16]}…; a state belongs to one model",
            code="other-model",
        )
    if theirs.state_hash != ours.state_hash:
        raise StateMismatchError(
            f"{where}: made with state layout {theirs.state_hash[:16]}…, this session has "
            f"{ours.state_hash[:16]}…; the same model was exported in another way",
            code="other-state-layout",
        )
    if theirs.precision != ours.precision and not allow_precision:
        raise StateMismatchError(
            f"{where}: made at precision {theirs.precision!r}, this session runs "
            f"{ours.precision!r}; only a program may go on with it, by allow_precision=True",
            code="other-precision",
        )


def _check_constants(theirs: Identity, ours: Identity, where: str) -> None:
    """Raise where the constants of one and the same model differ, or those of one name."""
    untold = not theirs.constants and theirs.bundle_id == ours.bundle_id
    if theirs.constants == ours.constants or untold:
        return
    for name in sorted(theirs.constants.keys() & ours.constants.keys()):
        there, here = theirs.constants[name], ours.constants[name]
        if there != here:
            if there.partition("] ")[0] == here.partition("] ")[0]:  # dtype and shape
                there, here = (mark.partition("] ")[2] for mark in (there, here))
            raise StateMismatchError(
                f"{where}: constant `{name}` is {here} here, the state was made with {there}; a "
                "state belongs to one model and its constants",
                code="other-constant",
            )
    if theirs.model_id != ours.model_id:
        return  # which says more than a constant that one of them does not have
    for name in sorted(theirs.constants.keys() ^ ours.constants.keys()):
        mark = ours.constants.get(name)
        differs = (
            f"is {theirs.constants[name]} in the model that made the state, and this one has none"
            if mark is None
            else f"is {mark} here, and the state does not say that it was made with it"
        )
        raise StateMismatchError(
            f"{where}: constant `{name}` {differs}; a state belongs to one model and its constants",
            code="other-constant",
        )


def check_tensors(where: str, wanted: Mapping[str, Array], held: Mapping[str, Array]) -> None:
    """Raise unless saved tensors have the names, dtypes and shapes that are wanted.

    Raises:
        StateCorruptError: they have not; `where` says which file.
    """
    for name in wanted.keys() | held.keys():
        want, have = wanted.get(name), held.get(name)
        if want is None or have is None:
            raise StateCorruptError(
                f"{where}: {'holds an unknown' if want is None else 'has no'} tensor {name!r}",
                code="state-tensors",
            )
        if want.shape != have.shape or want.dtype != have.dtype:
            raise StateCorruptError(
                f"{where}: {name!r} is {have.dtype} {list(have.shape)}, "
                f"expected {want.dtype} {list(want.shape)}",
                code="state-tensors",
            )
