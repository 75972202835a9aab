"""Say which older states of a stream are kept, and which may go.

A state's age is counted in items: how far the newest state has gone past it. Of two neighbours
in the line of kept states with ages a < b, either b <= 2a, or nothing was ever stored between
them. So to go back n items, at most n items have to be replayed (or the caller's own distance
between two saves). Of any three neighbours the oldest is more than twice as old as the youngest,
so their number grows with the logarithm of the stream's length.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

MAX_ASIDE = 16


class Row(NamedTuple):
    """A row of `states` without its blob; `saved_at_ms` counts from 1970 UTC, records by put."""

    record: int
    item: int
    saved_at_ms: int
    size_bytes: int


def line_of(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Return the states that lead up to the newest one, of rows with the newest record first.

    Where a stream was put back to an earlier item, what was saved beyond it does not.
    """
    line: list[Row] = []
    for row in rows:
        if not line or row.item < line[-1].item:
            line.append(row)
    return tuple(line)


def to_drop(rows: Sequence[Row], history_bytes: int) -> tuple[int, ...]:
    """Say which records go: those too close to others, then the oldest beyond the budget.

    The rows have the newest record first. The newest never goes; all others together may take
    `history_bytes`. When a stream was put back, the states after that point are set aside: the 16
    newest of them stay, they go before the other states, and at the latest with the state that was
    stored after the stream was put back, by which alone they can be recognised.
    """
    line = line_of(rows)
    leading = set(line)
    # A state that is stored once more, at the same item, takes the place of the one before.
    fresh = [row for newer, row in pairwise(rows) if row.item != newer.item]
    aside = [row for row in fresh if row not in leading]
    spent, wanted = 0, set(line[:1])
    for row in (*_spaced(line)[1:], *aside[:MAX_ASIDE]):
        spent += row.size_bytes
        if spent > history_bytes:
            break
        wanted.add(row)
    kept = [row for row in rows if row in wanted]
    while astray := set(line_of(kept)) - leading:
        kept = [row for row in kept if row not in astray]
    stay = {row.record for row in kept}
    return tuple(row.record for row in rows if row.record not in stay)


def _spaced(line: Sequence[Row]) -> list[Row]:
    """Leave out each state whose neighbours are close enough for their age without it."""
    spaced = list(line[:1])
    for row, older in pairwise(line[1:]):
        if line[0].item - older.item > 2 * (line[0].item - spaced[-1].item):
            spaced.append(row)
    return [*spaced, *line[1:][-1:]]
