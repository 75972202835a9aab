"""Make the inputs that tell a model the time of each item, from a column of times.

Shape letters: `n` items, `F` values per item.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dst.cli.inputs.block import Block, Wanted
from dst.runtime.bundle.manifest import Features, Tokens
from dst.runtime.monitor.calendar import TIME_INPUTS, seconds_of, time_inputs


def reads_times(content: Tokens | Features) -> bool:
    """Tell whether the last inputs of a model are the time of the item."""
    return isinstance(content, Features) and content.names[-len(TIME_INPUTS) :] == TIME_INPUTS


def of_table(wanted: Wanted) -> Wanted:
    """What is wanted of a table with a column of times: the values alone, and that column."""
    count = len(TIME_INPUTS)
    return replace(wanted, width=wanted.width - count, names=wanted.names[:-count], clock=True)


def with_times(wanted: Wanted, blocks: Iterator[Block]) -> Iterator[Block]:
    """Put the inputs of `TIME_INPUTS` behind the values of each row `[n, F]`.

    Without a column of times, and where a cell of it is empty, the time is unknown.
    """
    for block in blocks:
        times = time_inputs(seconds_in(wanted, block)).astype(np.float64)
        yield replace(block, values=np.concatenate([block.values, times], 1))


def seconds_in(wanted: Wanted, block: Block) -> list[float]:
    """Return the time of each row in seconds since 1970; NaN where it is unknown."""
    texts = block.times or [""] * len(block.values)
    return [_seconds(wanted, block, row, text) for row, text in enumerate(texts)]


def _seconds(wanted: Wanted, block: Block, row: int, text: str) -> float:
    if not text.strip():
        return float("nan")
    try:
        return seconds_of(text)
    except ValueError:
        raise wanted.refuse(
            f"{block.place(row)}: {text[:60]!r} is no time; expected ISO 8601, such as "
            "2026-01-31 13:45:00, or seconds since 1970",
            "--time NAME says which column holds the times",
        ) from None
