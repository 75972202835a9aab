"""Check whether a session may go on with a saved state.

A saved state belongs to one model, one layout of state tensors and the constants that it was made
with; another precision of the same model must be asked for.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.constants import respelled
from dst.runtime.errors import StateCorruptError, StateError, StateMismatchError
from dst.runtime.state.header import MOST
from dst.runtime.state.record import Identity, Saved

Array = npt.NDArray[np.generic]


def check_record(value: object, where: str) -> None:
    """Raise unless a value is a `Saved` whose numbers a stream can have.

    Raises:
        StateError: `no-record`: it is none, and the message says how to make one of what it is;
            `state-numbers`: a number is out of range.
    """
    if isinstance(value, Saved):
        for name, number in (
            ("items_consumed", value.items_consumed),
            ("seed", 0 if value.seed is None else value.seed),
            ("draws", value.draws),
        ):
            if not isinstance(number, int) or not 0 <= number <= MOST[name]:
                raise StateError(
                    f"{where}: {name} is {number!r}, expected a whole number in 0 .. {MOST[name]}",
                    code="state-numbers",
                )
        return
    cure = {
        "str": "Stream.load(session, path) reads a file",
        "bytes": "make it one by Saved.from_bytes(data)",
        "Stream": "take stream.saved()",
    }.get(type(value).__name__, "stream.saved() returns one")
    raise StateError(
        f"{where}: is a {type(value).__name__}, expected a Saved record; {cure}", code="no-record"
    )


def check_identity(
    theirs: Identity, ours: Identity, where: str, allow_precision: bool = False
) -> None:
    """Raise unless a state made under one identity may go on under another.

    Raises:
        StateMismatchError: `other-model`, `other-state-layout`, `other-precision`: it may not;
            `where` says which.
    """
    if (fault := _constant_fault(theirs, ours)) is not None:
        raise StateMismatchError(
            f"{where}: constant {fault}; a state belongs to one model and its constants",
            code="other-constant",
        )
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


def _constant_fault(theirs: Identity, ours: Identity) -> str | None:
    """Say how the constants of one and the same model differ, or those of one name."""
    here = ours.constants
    there = {
        name: mark if mark == here.get(name) else respelled(mark)
        for name, mark in theirs.constants.items()
    }
    if there == here or (not there and theirs.bundle_id == ours.bundle_id):
        return None
    for name in sorted(there.keys() & here.keys()):
        if (made := there[name]) != (own := here[name]):
            if made.partition("] ")[0] == own.partition("] ")[0]:  # dtype and shape
                made, own = (mark.partition("] ")[2] for mark in (made, own))
            return f"`{name}` is {own} here, the state was made with {made}"
    # That the models differ says more than a constant that one of them does not have.
    for name in sorted(there.keys() ^ here.keys()) if theirs.model_id == ours.model_id else ():
        if name in here:
            ours_alone = "here, and the state does not say that it was made with it"
            return f"`{name}` is {here[name]} {ours_alone}"
        return f"`{name}` is {there[name]} in the model that made the state, and this one has none"
    return None


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
