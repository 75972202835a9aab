"""Hold the rows that every reader of numbers yields, and refuse, fill or leave out missing values.

Shape letters: `n` rows (items), `W` numbers per item.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from dst.cli.errors import WrongUseError
from dst.cli.inputs.source import Stop
from dst.cli.options import Format, Gap

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Form:
    """What the caller says of an input."""

    format: Format | None = None  # None to tell it by name and content
    gap: Gap = "refuse"  # a missing value: refuse the input, hold the value before, skip the item
    time: str | None = None  # the column whose text goes beside the answers; it is no feature
    columns: tuple[str, ...] = ()  # to read, in the model's order; empty to match them by name
    options: bool = True  # whether the caller has options for all this, which messages may name


@dataclass(slots=True)
class Found:
    """What turned up in an input; filled while it is read."""

    format: str = ""  # what it was read as
    gaps: int = 0  # items with a missing value, which were held or left out
    left_out: tuple[str, ...] = ()  # columns that were not read
    notes: list[str] = field(default_factory=list)  # sentences for the reader


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an item of the model is, and where it comes from."""

    path: str  # what messages call the input
    width: int  # numbers per item, W
    names: tuple[str, ...]  # the model's names for them, empty where it has none
    input: str  # the name of the graph's input
    rate_hz: float | None  # items per second that the model wants, if it says so
    scaled: bool  # whether integer samples become -1 .. 1, as audio does; False for ids
    ids: bool  # whether an item is a token id, and no tokenizer makes ids of text
    form: Form  # what the caller said
    found: Found  # where to put what turns up
    stop: Stop  # says whether to read no further
    clock: bool = False  # whether a column of times is read besides, if there is one

    @property
    def may_be_text(self) -> bool:
        """Whether words in it may well be text: ids are wanted, and nobody spoke of a table."""
        form, suffix = self.form, PurePath(self.path).suffix.lower()
        told = form.format or form.columns or form.time is not None or suffix in (".csv", ".tsv")
        return self.ids and not told

    def refuse(self, why: str, option: str = "") -> WrongUseError:
        """Make the error that says why this input cannot be read, and which option helps."""
        if option:
            plain = (
                "this command reads a file as it stands: give a mended copy, or the numbers as a "
                f".npy array [n, {self.width}]"
            )
            why = f"{why}; {option if self.form.options else plain}"
        return WrongUseError(f"{self.path}: {why}")


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of an input."""

    values: Numbers  # `[n, W]`; NaN where a value is missing
    place: Callable[[int], str]  # says where row i of this block stands, such as `line 12`
    gaps: dict[int, str]  # row with a missing value -> what is missing: `line 12 is blank`
    times: list[str] | None = None  # the text of the time column for each row; None without one


def block_of(values: npt.NDArray[np.generic], seen: int) -> Block:
    """Make a block of rows that are told by their number; `seen` of them came before."""
    numbers = values.astype(np.float64)
    missing = np.flatnonzero(np.isnan(numbers).any(axis=1)).tolist()

    def place(row: int) -> str:
        return f"item {seen + row + 1}"

    return Block(numbers, place, {row: f"{place(row)} holds a NaN" for row in missing})


CURE = "--gap hold repeats the value before it, --gap skip leaves the item out"


def without_gaps(wanted: Wanted, blocks: Iterator[Block]) -> Iterator[Block]:
    """Yield the blocks without missing values, and count these in `wanted.found`.

    The rule `refuse` raises at the first one, `hold` where there is nothing to repeat, and any rule
    at an infinity. `skip` makes blocks shorter.
    """
    last: Numbers | None = None  # [W], the newest row
    for block in blocks:
        infinite = np.isinf(block.values).any(axis=1)
        if infinite.any():
            raise wanted.refuse(
                f"{block.place(int(np.argmax(infinite)))} holds an infinity, or a number too large"
            )
        missing = np.isnan(block.values)
        rows = np.flatnonzero(missing.any(axis=1)).tolist()
        if rows:
            block = _mended(wanted, block, missing, rows, last)
        if len(block.values):
            last = block.values[-1]
        yield block


def _mended(
    wanted: Wanted,
    block: Block,
    missing: npt.NDArray[np.bool_],
    rows: list[int],
    last: Numbers | None,
) -> Block:
    """Fill or leave out the rows with missing values; `last` is the row before the block."""
    rule, values = wanted.form.gap, block.values.copy()
    if rule == "refuse":
        raise wanted.refuse(block.gaps[rows[0]], CURE)
    wanted.found.gaps += len(rows)
    if rule == "skip":
        kept = np.flatnonzero(~missing.any(axis=1)).tolist()
        times = None if block.times is None else [block.times[row] for row in kept]
        return Block(values[kept], lambda row: block.place(kept[row]), {}, times)
    for row in rows:
        before = values[row - 1] if row else last
        if before is None:
            raise wanted.refuse(
                f"{block.gaps[row]}, and no item before it has a value to hold",
                "--gap skip leaves the item out",
            )
        values[row, missing[row]] = before[missing[row]]
    return Block(values, block.place, {}, block.times)
