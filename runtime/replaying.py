"""Go back to one exact item: start from an older saved state and read the kept input again.

Shape letters: `T` items per chunk, `n` items of any number.
"""

import msgspec

from dst.runtime.errors import StoreError
from dst.runtime.execution.inputs import Items, check_items
from dst.runtime.session import Session
from dst.runtime.state.record import Saved
from dst.runtime.stream import Stream

_CHUNKS = 64  # outputs of so many chunks are held, and thrown away


def replay(
    session: Session,
    saved: Saved,
    items: Items,
    *,
    first: int,
    item: int,
    allow_precision: bool = False,
) -> Stream:
    """Return the stream as it was when it had been given exactly `item` items.

    An item that waits for its chunk has been given and is not yet in the state: the result has
    `items_consumed + pending == item`. It is bit-equal to the stream that was never stopped, as
    long as that one was fed by `advance` alone: after a `flush` the next chunk begins elsewhere, so
    a `flush` since `saved` must be repeated by hand. The random source stands where `saved` has it.

    Args:
        session: a session of the same model.
        saved: the state to start from, such as `StateStore.rewind` returns.
        items: the kept input, `[n, ...]` in the contract's dtype, or bytes, where the
            tokenizer is `bytes`. It may begin before `saved` and end after `item`.
        first: which item of the stream `items[0]` is, counted from 0.
        item: how many items the stream shall have been given.
        allow_precision: take a state that another precision of the model has made.

    Raises:
        StoreError: `replay`: `saved` is younger than `item`, or an item between them is not kept.
        StepError: `chunk-type`, `chunk-shape`: the items do not fit the contract.
        StepError, NonFiniteError: `token-out-of-range`, `input-not-finite`: an item that cannot be
            read.
        StateCorruptError: `saved` does not fit the contract.
        StateMismatchError: `other-model`, `other-state-layout`, `other-precision`: it belongs to
            another bundle.
        NonFiniteError: `output-not-finite`, `state-not-finite`: a step gave a NaN or an infinity.

    Examples:
        >>> session = Session.open("text")
        >>> stream, text = session.stream(), bytes(range(100))
        >>> before = stream.saved()
        >>> outputs = stream.advance(text)
        >>> back = replay(session, before, text, first=0, item=40)
        >>> back.items_consumed + back.pending
        40
    """
    chunk = session.contract.chunk
    kept = check_items(chunk, items)
    waiting = item - saved.items_consumed
    if waiting < (chunk.lookahead if saved.items_consumed else 0):
        seen = f" and has looked {chunk.lookahead} items ahead" if chunk.lookahead else ""
        raise StoreError(
            f"the state stands at item {saved.items_consumed}{seen}, after item {item}; "
            f"take an older one: StateStore.rewind(name, {max(0, item - chunk.lookahead)})",
            code="replay",
        )
    stream = session.stream(
        msgspec.structs.replace(saved, pending=saved.pending[:waiting]),
        allow_precision=allow_precision,
    )
    given = stream.items_consumed + stream.pending
    if given < item and not first <= given <= item <= first + len(kept):
        raise StoreError(
            f"items {given} to {item - 1} have to be read again, and the kept input has "
            f"{first} to {first + len(kept) - 1}",
            code="replay",
        )
    most = _CHUNKS * chunk.nominal_t
    for start in range(given, item, most):
        stream.advance(kept[start - first : min(start + most, item) - first])
    return stream
