"""Read JSON lines: an array or an object per line is an item."""

import json
import math
from collections.abc import Iterator

from dst.cli.inputs.block import Block, Wanted
from dst.cli.inputs.lines import SHOWN, TIME_NAMES, Rows, choose
from dst.words import counted


def jsonl_blocks(wanted: Wanted, blocks: Iterator[bytes]) -> Iterator[Block]:
    """Read the items of JSON lines.

    A line is a number, an array of numbers in the model's order, or an object; the keys of the
    first object are matched with the model's names as the columns of a CSV are. `null` and `NaN`
    are missing values, and so is a key that is not there.
    """
    return _Reader(wanted).blocks(blocks)


class _Reader(Rows):
    def read(self, number: int, line: bytes) -> None:
        try:
            value = json.loads(line, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            why = getattr(error, "msg", None) or str(error)
            raise self._wanted.refuse(
                f"line {number} is not JSON ({why}): {line[:SHOWN]!r}"
            ) from None
        if isinstance(value, dict):
            self._object(number, value)
            return
        if self._columns is not None or self._wanted.form.columns or self._wanted.form.time:
            raise self._wanted.refuse(f"line {number} is no object, so its values have no names")
        flat = _flat(value) if isinstance(value, list) else [value]
        if len(flat) > self._wanted.width or not flat:
            raise self._wanted.refuse(
                f"line {number} has {counted(len(flat), 'value')}, this model reads "
                f"{self._wanted.width} per item"
            )
        names = [f"value {place + 1}" for place in range(len(flat))]
        values, gap = self._numbers(number, names, flat)
        if len(values) < self._wanted.width:
            gap = f"has {counted(len(values), 'value')}, {self._wanted.width} are expected"
            values += [math.nan] * (self._wanted.width - len(values))
        self.add(number, values, "", gap)

    def _object(self, number: int, found: dict[str, object]) -> None:
        if self._columns is None:
            self._columns = choose(self._wanted, [*found, *self._missing(found)], number)
        columns = self._columns
        names = [columns.names[place] for place in columns.places]
        new = [key for key in found if key.strip() not in columns.names]
        if new and not self._wanted.form.columns:
            raise self._wanted.refuse(
                f"line {number} has a key that the first object has not: {new[0]!r}",
                f"--columns {','.join(names)} leaves other keys out",
            )
        cells = {key.strip(): value for key, value in found.items()}
        quoted = [f"`{name}`" for name in names]
        values, gap = self._numbers(number, quoted, [cells.get(name) for name in names])
        time = "" if columns.time is None else cells.get(columns.names[columns.time], "")
        told = time if isinstance(time, str) else "" if time is None else json.dumps(time)
        self.add(number, values, told, gap)

    def _missing(self, first: dict[str, object]) -> list[str]:
        """Name the keys that the first object lacks, where it may lack some as later ones may.

        Where it has keys besides that nobody knows, the names are taken for wrong instead.
        """
        keys, form = {key.strip() for key in first}, self._wanted.form
        expected = form.columns or self._wanted.names
        if len(expected) != self._wanted.width or keys.isdisjoint(expected):
            return []
        known = TIME_NAMES.union(expected, (form.time or "",))
        if (form.columns and form.gap == "refuse") or (not form.columns and not keys <= known):
            return []
        return [name for name in expected if name not in keys]

    def _numbers(
        self, number: int, names: list[str], held: list[object]
    ) -> tuple[list[float], str]:
        """Return the numbers of a line, and say what of it is missing, "" for nothing."""
        values = [self._number(number, name, v) for name, v in zip(names, held, strict=True)]
        missing = next((n for n, v in zip(names, values, strict=True) if math.isnan(v)), None)
        return values, "" if missing is None else f"has no number for {missing}"

    def _number(self, number: int, name: str, value: object) -> float:
        if value is None:
            return math.nan
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wanted.refuse(
                f"line {number}: {name} is not a number: {json.dumps(value)[:SHOWN]}"
            )
        try:
            return float(value)
        except OverflowError:
            return math.inf


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key comes twice")
    return made


def _flat(values: list[object]) -> list[object]:
    """Flatten nested arrays, in C order."""
    flat: list[object] = []
    for value in values:
        flat += _flat(value) if isinstance(value, list) else [value]
    return flat
