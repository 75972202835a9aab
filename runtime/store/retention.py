"""Retention: what is kept of a stream's past goes in, what may be dropped comes out.

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


class Mark(NamedTuple):
    """One kept state: its record number (rising with every save), its item and its size."""

    record: int
    item: int
    size_bytes: int


def line_of(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """Return the states, newest first, that lead up to the newest one.

    Where a stream was put back to an earlier item, what was saved beyond it does not.

    Args:
        marks: what is kept, the newest record first.
    """
    line: list[Mark] = []
    for mark in marks:
        if not line or mark.item < line[-1].item:
            line.append(mark)
    return tuple(line)


def to_drop(marks: Sequence[Mark], history_bytes: int) -> tuple[int, ...]:
    """Say which records go: those too close to others, then the oldest beyond the budget.

    The newest never goes. Of states set aside the 16 newest stay; they go before those of the
    line, and at the latest with the states that set them aside: nothing else tells them apart.

    Args:
        marks: what is kept, the newest record first.
        history_bytes: what all but the newest may take together.
    """
    line = line_of(marks)
    leading = set(line)
    # A state that is stored once more, at the same item, takes the place of the one before.
    fresh = [mark for newer, mark in pairwise(marks) if mark.item != newer.item]
    aside = [mark for mark in fresh if mark not in leading]
    spent, wanted = 0, set(line[:1])
    for mark in (*_spaced(line)[1:], *aside[:MAX_ASIDE]):
        spent += mark.size_bytes
        if spent > history_bytes:
            break
        wanted.add(mark)
    kept = [mark for mark in marks if mark in wanted]
    while astray := set(line_of(kept)) - leading:
        kept = [mark for mark in kept if mark not in astray]
    stay = {mark.record for mark in kept}
    return tuple(mark.record for mark in marks if mark.record not in stay)


def _spaced(line: Sequence[Mark]) -> list[Mark]:
    """Leave out each state whose neighbours are close enough for their age without it."""
    spaced = list(line[:1])
    for mark, older in pairwise(line[1:]):
        if line[0].item - older.item > 2 * (line[0].item - spaced[-1].item):
            spaced.append(mark)
    return [*spaced, *line[1:][-1:]]
