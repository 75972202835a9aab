"""Make values repeat as they do in logs: by Zipf's law, for a while, in rounds, in trees."""

import random
from bisect import bisect
from collections.abc import Callable
from itertools import accumulate

from logs.names import Names

Slot = Callable[[], str]
"""Gives the next value of a place in a message."""


def iter_of(some: list[str]) -> Slot:
    """Return the given values in order, again and again."""
    place = -1

    def next_value() -> str:
        nonlocal place
        place = (place + 1) % len(some)
        return some[place]

    return next_value


def pool(source: random.Random, slot: Slot, size: int, fresh: float, steep: bool = False) -> Slot:
    """Draw from a set of values by Zipf's law; with probability `fresh` one is replaced first."""
    power = source.choice((2.0, 3.0) if steep else (0.0, 0.7, 1.0, 1.3, 2.0))
    edges = list(accumulate((rank + 1.0) ** -power for rank in range(size)))
    held: dict[int, str] = {}
    draw, total = source.random, edges[-1]

    def next_value() -> str:
        rank = bisect(edges, draw() * total, 0, size - 1)
        if rank not in held or (fresh and draw() < fresh):
            held[rank] = slot()
        return held[rank]

    return next_value


def sticky(source: random.Random, slot: Slot, stay: float) -> Slot:
    """Return the same value again with probability `stay`."""
    draw, value = source.random, slot()

    def next_value() -> str:
        nonlocal value
        if draw() >= stay:
            value = slot()
        return value

    return next_value


def ring(source: random.Random, slot: Slot, size: int) -> Slot:
    """Return a fixed round of values in order, as a program does that visits the same things."""
    return iter_of([slot() for _ in range(size)])


def walk(source: random.Random, names: Names) -> Slot:
    """Return the paths of a tree of folders in the order in which a program walks it.

    The same tree is walked again when it ends, in one program of two with new files.
    """
    draw, again, fixed = source.random, source.choice((0.0, 0.5)), source.random() < 0.5
    most = source.choice((3, 8, 30))
    trunk = names.directory()
    kept: list[str] = []
    place, folder, left = -1, trunk, 0

    def next_value() -> str:
        nonlocal place, folder, left
        if fixed and len(kept) >= 150:
            place = (place + 1) % len(kept)
            return kept[place]
        if not left:
            left = 1 + int(most * draw())
            base = trunk if draw() >= again or len(folder) > 90 else folder
            folder = f"{base}{names.slash}{names.snake()}"
        left -= 1
        path = f"{folder}{names.slash}{names.file()}"
        if fixed:
            kept.append(path)
        return path

    return next_value
