"""Hold everything a stream is in one record, and check whether a session may go on with it.

`dst.runtime.state.codec` lays out its bytes; `dst.runtime.state.file` and `dst.runtime.store` keep
them.
"""

import io
import json
import re
from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.schema import Name
from dst.runtime.errors import NonFiniteError, StateCorruptError, StateError, StateMismatchError
from dst.runtime.state.codec import bad_header, file_parts, read_parts
from dst.runtime.state.sampler import Sampler

Array = npt.NDArray[np.generic]

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")


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
    """Everything a stream is, in memory: for a file, a store, a message, or to go back to.

    Attributes:
        identity: the bundle that made it.
        items_consumed: items in the state.
        seed: the sampler's seed, or None where nothing was sampled.
        draws: numbers drawn from it.
        state: the state tensors by input name, B = 1.
        pending: the items that wait for their chunk, `[n, ...]`.
        lookback: the items before the next chunk, `[L, ...]`.
        inputs: what the stream was given when it started, by input name.

    Example:
        >>> from dst.runtime import Session
        >>> session = Session.open("text")
        >>> stream = session.stream()
        >>> outputs = stream.advance(b"The quick brown fox")
        >>> data = stream.saved().to_bytes()
        >>> session.stream(Saved.from_bytes(data)).items_consumed == stream.items_consumed
        True
    """

    identity: Identity
    items_consumed: int
    seed: int | None
    draws: int
    state: Mapping[str, Array]
    pending: Array
    lookback: Array
    inputs: Mapping[str, Array] = {}

    @property
    def sampler(self) -> Sampler | None:
        """The random source: seed and draws; None where nothing was sampled."""
        return None if self.seed is None else Sampler(self.seed, self.draws)

    def to_bytes(self) -> bytes:
        """Return the bytes that `Stream.save` writes to a file, for a database or a message.

        Raises:
            NonFiniteError: `state-not-finite`: a tensor holds a NaN or an infinity.
        """
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
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise StateError(
                f"{where}: is a {type(data).__name__}, expected bytes as to_bytes() returned them",
                code="not-bytes",
            )
        try:
            return unpack(bytes(data))
        except StateError as error:
            raise type(error)(f"{where}: {error}", code=error.code) from None


Snapshot = Saved
"""What `Stream.snapshot` returns for `Stream.restore`: another name of `Saved`.

`Stream.saved` alone has found the state finite.
"""


def pack(saved: Saved) -> bytes:
    """Return the bytes of a saved-state file; equal records give equal bytes."""
    return b"".join(parts_of(saved))


def parts_of(saved: Saved) -> list[bytes | memoryview]:
    """Return those bytes in parts, the tensors uncopied."""
    identity = saved.identity
    texts = {
        "model_id": identity.model_id,
        "state_hash": identity.state_hash,
        "bundle_id": identity.bundle_id,
        "precision": identity.precision,
        "items_consumed": str(saved.items_consumed),
        "seed": "" if saved.seed is None else str(saved.seed),
        "draws": str(saved.draws),
    }
    if identity.constants:
        texts["constants"] = _spelled(identity.constants)
    tensors = {"pending": saved.pending, "lookback": saved.lookback}
    tensors |= {f"state/{name}": value for name, value in saved.state.items()}
    tensors |= {f"stream/{name}": value for name, value in saved.inputs.items()}
    return file_parts(texts, tensors)


def unpack(data: bytes) -> Saved:
    """Read the bytes of a saved-state file.

    Raises:
        StateCorruptError, StateMismatchError: as `unpack_from`.
    """
    return unpack_from(io.BytesIO(data), len(data), {})


def unpack_from(
    file: io.BufferedReader | io.BytesIO, size: int, room: Mapping[str, Array]
) -> Saved:
    """Read a saved-state file that stands at its beginning.

    Args:
        file: where to read.
        size: its bytes.
        room: arrays that the state may be read into, as for `dst.runtime.state.codec.read_parts`.

    Raises:
        StateCorruptError: not a saved state, or any bit of it has changed.
        StateMismatchError: `state-version`: a version this runtime does not read.
        OSError: the file cannot be read.
    """
    told, tensors = read_parts(file, size, room)
    try:
        return Saved(
            identity=Identity(
                told.model_id,
                told.state_hash,
                told.bundle_id,
                told.precision,
                _constants(told.constants) if told.constants else {},
            ),
            items_consumed=_count("items_consumed", told.items_consumed),
            seed=_count("seed", told.seed) if told.seed else None,
            draws=_count("draws", told.draws),
            pending=tensors.pop("pending"),
            lookback=tensors.pop("lookback"),
            state=_below("state/", tensors),
            inputs=_below("stream/", tensors),
        )
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise bad_header(error) from None


def _below(prefix: str, named: Mapping[str, Array]) -> dict[str, Array]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {n.removeprefix(prefix): value for n, value in named.items() if n.startswith(prefix)}


def _spelled(constants: Mapping[str, str]) -> str:
    """Spell the constants for the header, whose values are texts."""
    return json.dumps(constants, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _constants(text: str) -> dict[str, str]:
    """Read the constants of the header; `ValueError` if they are not spelled as they must be."""
    constants = msgspec.json.decode(text, type=dict[Name, str])
    if not constants or _spelled(constants) != text:
        raise ValueError(f"constants are not in canonical form: {text:.40}")
    return constants


def _count(name: str, text: str) -> int:
    """Read a number of the header; `ValueError` if it is none that a stream can have."""
    if not _DECIMAL.fullmatch(text) or int(text) >= 1 << 64:
        raise ValueError(f"{name} is {text[:40]!r}, expected a decimal number in 0 .. 2^64 - 1")
    return int(text)


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
