"""Refuse, fill or leave out items with missing values."""

import numpy as np

from dst.cli.inputs.formats.block import Block, Numbers, Wanted

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
