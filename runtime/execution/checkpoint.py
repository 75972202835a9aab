"""At rest: a recurrence in, the record of all that it is out; and a record back into one."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import NonFiniteError, SessionError, StateCorruptError, StepError
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.items import check_items
from dst.runtime.execution.recurrence import BadStateError, Recurrence
from dst.runtime.execution.stream_inputs import Given
from dst.runtime.state.record import Saved, check_identity, check_record, check_tensors
from dst.runtime.state.sampler import Sampler

Array = npt.NDArray[np.generic]


def to_saved(engine: Engine, core: Recurrence, copy: bool) -> Saved:
    """Return everything a recurrence is, once its state was found finite.

    Args:
        engine: the session of the recurrence.
        core: what to look at.
        copy: copy the state; False may give views, to be used before the next step.

    Raises:
        NonFiniteError: `state-not-finite`: the state holds a NaN or an infinity.
    """
    before = core.begin()
    try:
        core.check()
    except BadStateError as bad:
        raise core.recover(before, bad) from None
    tensors = core.tensors()
    mark = core.mark
    return Saved(
        identity=engine.identity,
        items_consumed=mark.items,
        seed=None if mark.sampler is None else mark.sampler.seed,
        draws=0 if mark.sampler is None else mark.sampler.draws,
        state={name: value.copy() for name, value in tensors.items()} if copy else tensors,
        pending=core.pending().copy(),
        lookback=core.lookback().copy(),
        inputs=mark.given.arrays,
    )


def put_saved(
    engine: Engine, core: Recurrence, saved: Saved, allow_precision: bool, where: str
) -> None:
    """Make a recurrence what a record says; if it cannot be, it is as it was.

    Args:
        engine: the session of the recurrence.
        core: what to change.
        saved: what `to_saved` returned, or a file or a store gave back.
        allow_precision: take a state that another precision of the model has made.
        where: what error messages call the record.

    Raises:
        StateError: it is no record.
        StateCorruptError: the record does not fit the contract, or holds a NaN or an infinity.
        StateMismatchError: `other-model`, `other-state-layout`, `other-precision`: it belongs to
            another bundle.
    """
    check_record(saved, where)
    check_identity(saved.identity, engine.identity, where, allow_precision)
    check_tensors(where, engine.layout.views(engine.initial), saved.state)
    check_rows(engine, core, saved.lookback, saved.pending, where)
    given = given_again(engine, core, saved.inputs, where)
    sampler = None if saved.seed is None else Sampler(saved.seed, saved.draws)
    try:
        core.put(
            lambda arena: arena.fill(saved.state),
            saved.lookback,
            saved.pending,
            saved.items_consumed,
            sampler,
            given,
        )
    except NonFiniteError as bad:
        raise StateCorruptError(f"{where}: {bad}", code="state-tensors") from None


def given_again(engine: Engine, core: Recurrence, inputs: Mapping[str, Array], where: str) -> Given:
    """Return the inputs that a record holds for a stream.

    Raises:
        StateCorruptError: they are not those of the contract.
    """
    if inputs is core.mark.given.arrays:
        return core.mark.given
    try:
        return Given.of(engine.contract, inputs)
    except SessionError as error:
        raise StateCorruptError(f"{where}: {error}", code="state-tensors") from None


def check_rows(
    engine: Engine, core: Recurrence, lookback: Array, pending: Array, where: str
) -> None:
    """Raise unless a recurrence can take these items as its lookback and as items that wait.

    Args:
        engine: the session of the recurrence.
        core: what is to take them.
        lookback: `[L, ...]`.
        pending: `[n, ...]`.
        where: what error messages call the record that holds them.

    Raises:
        StateCorruptError: they do not fit the contract.
    """
    check_tensors(where, {"lookback": core.lookback()}, {"lookback": lookback})
    for what, items in (("lookback", lookback), ("pending", pending)):
        try:
            check_items(engine.contract.chunk, items)
        except StepError as error:
            raise StateCorruptError(f"{where}: {what!r}: {error}", code="state-tensors") from None
