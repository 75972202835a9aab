"""The saved state: everything a stream is, at rest, and whether a session may go on with it.

`dst.runtime.packed` gives it its bytes, `dst.runtime.state_file` and `dst.runtime.store` its place.
"""

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from dst.runtime.errors import (
    OtherModelError,
    OtherPrecisionError,
    OtherStateError,
    StateCorruptError,
)

Array = npt.NDArray[np.generic]


class Identity(msgspec.Struct, frozen=True):
    """Whose state it is: the ids, the precision and the constants of the bundle that made it.

    `constants` are told by `dst.runtime.constants.constant_mark`, by name. They are empty where
    there are none, and in a state that was saved before constants were.
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


def check_identity(
    theirs: Identity, ours: Identity, where: str, allow_precision: bool = False
) -> None:
    """Raise unless a state made under one identity may go on under another.

    Raises:
        OtherModelError, OtherStateError, OtherPrecisionError: it may not; `where` says which.
    """
    _check_constants(theirs, ours, where)
    if theirs.model_id != ours.model_id:
        raise OtherModelError(
            f"{where}: made by model {theirs.model_id[:16]}…, this session runs "
            f"{ours.model_id[:16]}…; a state belongs to one model"
        )
    if theirs.state_hash != ours.state_hash:
        raise OtherStateError(
            f"{where}: made with state layout {theirs.state_hash[:16]}…, this session has "
            f"{ours.state_hash[:16]}…; the same model was exported in another way"
        )
    if theirs.precision != ours.precision and not allow_precision:
        raise OtherPrecisionError(
            f"{where}: made at precision {theirs.precision!r}, this session runs "
            f"{ours.precision!r}; only a program may go on with it, by allow_precision=True"
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
            raise OtherModelError(
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
        raise OtherModelError(
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
                f"{where}: {'holds an unknown' if want is None else 'has no'} tensor {name!r}"
            )
        if want.shape != have.shape or want.dtype != have.dtype:
            raise StateCorruptError(
                f"{where}: {name!r} is {have.dtype} {list(have.shape)}, "
                f"expected {want.dtype} {list(want.shape)}"
            )
