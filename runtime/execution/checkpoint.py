"""Turn a live stream into a record of all that it is, and a record into a live stream."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import NonFiniteError, SessionError, StateCorruptError, StepError
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.inputs import GivenInputs, check_items
from dst.runtime.execution.recurrence import BadStateError, Recurrence
from dst.runtime.state.match import check_identity, check_record, check_tensors
from dst.runtime.state.record import Saved

Array = npt.NDArray[np.generic]


def to_record(engine: Engine, core: Recurrence, *, copy: bool = True) -> Saved:
    """Return everything a recurrence is.

    Without `copy`, its state may be views, to be used before the next step.
    """
    if copy:
        (block,) = engine.layout.blocks(1)
        core.read(block)
        state: Mapping[str, Array] = engine.layout.views(block)
    else:
        state = core.tensors()
    position = core.position
    return Saved(
        identity=engine.identity,
        items_consumed=position.items,
        seed=None if position.sampler is None else position.sampler.seed,
        draws=0 if position.sampler is None else position.sampler.draws,
        state=state,
        pending=core.pending().copy(),
        lookback=core.lookback().copy(),
        inputs=position.given.arrays,
    )


def to_finite_record(engine: Engine, core: Recurrence, *, copy: bool = True) -> Saved:
    """Return everything a recurrence is, once its state was found finite.

    Raises:
        NonFiniteError: `state-not-finite`: the state holds a NaN or an infinity.
    """
    before = core.begin()
    try:
        core.check()
    except BadStateError as bad:
        raise core.recover(before, bad) from None
    return to_record(engine, core, copy=copy)


def put_record(
    engine: Engine,
    core: Recurrence,
    record: Saved,
    where: str,
    *,
    allow_precision: bool = False,
    given: GivenInputs | None = None,
) -> None:
    """Make a recurrence what a record says; if it cannot be, it is as it was.

    Args:
        engine: the session of the recurrence.
        core: what to change.
        record: what `to_record` returned, or a file or a store gave back.
        where: what error messages call the record.
        allow_precision: take a state that another precision of the model has made.
        given: the inputs of the record, where they are already held for graphs.

    Raises:
        StateError: it is no record.
        StateCorruptError: the record does not fit the contract.
        StateMismatchError: `other-model`, `other-state-layout`, `other-precision`: it belongs to
            another bundle.
        NonFiniteError: `state-not-finite`: it holds a NaN or an infinity.
    """
    check_record(record, where)
    check_identity(record.identity, engine.identity, where, allow_precision)
    check_tensors(where, engine.initial, record.state)
    check_tensors(where, {"lookback": core.lookback()}, {"lookback": record.lookback})
    for what, items in (("lookback", record.lookback), ("pending", record.pending)):
        try:
            check_items(engine.contract.chunk, items)
        except StepError as error:
            raise StateCorruptError(f"{where}: {what!r}: {error}", code="state-tensors") from None
    if given is None and record.inputs is core.position.given.arrays:
        given = core.position.given
    try:
        given = given or GivenInputs.of(engine.contract, record.inputs)
    except SessionError as error:
        raise StateCorruptError(f"{where}: {error}", code="state-tensors") from None
    core.put(
        record.state,
        record.lookback,
        record.pending,
        record.items_consumed,
        record.sampler,
        given,
    )


def put_saved(
    engine: Engine, core: Recurrence, saved: Saved, allow_precision: bool, where: str
) -> None:
    """Make a recurrence what a saved record says; one that is not finite is a corrupt one.

    Raises:
        StateError, StateCorruptError, StateMismatchError: as `put_record`, or the record holds a
            NaN or an infinity.
    """
    try:
        put_record(engine, core, saved, where, allow_precision=allow_precision)
    except NonFiniteError as bad:
        raise StateCorruptError(f"{where}: {bad}", code="state-not-finite") from None
