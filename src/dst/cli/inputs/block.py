"""Hold the rows that every reader of numbers yields, and refuse, fill or leave out missing values.

Shape letters: `n` rows (items), `W` numbers per item.
"""

from collections.abc import Callable
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
    """What the caller says of an input.

    Attributes:
        format: None to tell it by name and content.
        gap: what becomes of an item with a missing value: `refuse` the input, `hold` the value
            before it, or `skip` the item.
        time: the column whose text goes beside the answers; it is no feature.
        columns: the columns to read, in the model's order; empty to match them by name.
        options: whether the caller has options for all this, which messages may name.
    """

    format: Format | None = None
    gap: Gap = "refuse"
    time: str | None = None
    columns: tuple[str, ...] = ()
    options: bool = True


@dataclass(slots=True)
class Found:
    """What turned up in an input; filled while it is read.

    Attributes:
        format: what it was read as.
        gaps: items with a missing value, which were held or left out.
        left_out: columns that were not read.
        notes: sentences for the reader.
    """

    format: str = ""
    gaps: int = 0
    left_out: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an item of the model is, and where it comes from.

    Attributes:
        path: what messages call the input.
        width: numbers per item, W.
        names: the model's names for them, empty where it has none.
        input: the name of the graph's input.
        rate_hz: items per second that the model wants, if it says so.
        scaled: whether integer samples become -1 .. 1, as audio does; False for ids.
        ids: whether an item is a token id, and no tokenizer makes ids of text.
        form: what the caller said.
        found: where to put what turns up.
        stop: says whether to read no further.
    """

    path: str
    width: int
    names: tuple[str, ...]
    input: str
    rate_hz: float | None
    scaled: bool
    ids: bool
    form: Form
    found: Found
    stop: Stop

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
    """Some rows of an input.

    Attributes:
        values: `[n, W]`; NaN where a value is missing.
        place: says where row i of this block stands, such as `line 12`.
        gaps: for rows with a missing value, what is missing: row -> `line 12 is blank`.
        times: the text of the time column for each row; None without one.
    """

    values: Numbers
    place: Callable[[int], str]
    gaps: dict[int, str]
    times: list[str] | None = None


def block_of(values: npt.NDArray[np.generic], seen: int, times: list[str] | None = None) -> Block:
    """Make a block of rows that are told by their number; `seen` of them came before."""
    numbers = values.astype(np.float64)
    missing = np.flatnonzero(np.isnan(numbers).any(axis=1)).tolist()

    def place(row: int) -> str:
        return f"item {seen + row + 1}"

    return Block(numbers, place, {row: f"{place(row)} holds a NaN" for row in missing}, times)


CURE = "--gap hold repeats the value before it, --gap skip leaves the item out"


class Gaps:
    """The rule for gaps over one input; counts them in `wanted.found`."""

    __slots__ = ("_last", "_wanted")

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._last: Numbers | None = None  # [W], the newest row, for `hold`

    def fill(self, block: Block) -> Block:
        """Return the block without missing values; `skip` makes it shorter.

        Raises:
            WrongUseError: a value is missing and the rule is `refuse`, or `hold` has nothing to
                repeat; or a value is infinite.
        """
        values = block.values
        if not len(values):
            return block
        infinite = np.isinf(values).any(axis=1)
        if infinite.any():
            raise self._wanted.refuse(
                f"{block.place(int(np.argmax(infinite)))} holds an infinity, or a number too large"
            )
        missing = np.isnan(values)
        rows = np.flatnonzero(missing.any(axis=1)).tolist()
        if rows:
            block = self._mended(block, missing, rows)
        if len(block.values):
            self._last = block.values[-1]
        return block

    def _mended(
        self,
        block: Block,
        missing: np.ndarray[tuple[int, int], np.dtype[np.bool_]],
        rows: list[int],
    ) -> Block:
        rule, values = self._wanted.form.gap, block.values
        if rule == "refuse":
            raise self._wanted.refuse(block.gaps[rows[0]], CURE)
        self._wanted.found.gaps += len(rows)
        if rule == "skip":
            kept = np.flatnonzero(~missing.any(axis=1)).tolist()
            times = None if block.times is None else [block.times[row] for row in kept]
            return Block(values[kept], lambda row: block.place(kept[row]), {}, times)
        values = values.copy()
        for row in rows:
            before = values[row - 1] if row else self._last
            if before is None:
                raise self._wanted.refuse(
                    f"{block.gaps[row]}, and no item before it has a value to hold",
                    "--gap skip leaves the item out",
                )
            values[row, missing[row]] = before[missing[row]]
        return Block(values, block.place, {}, block.times)
