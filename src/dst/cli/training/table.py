"""Read a whole table of values and times, to train on.

Shape letters: `n` rows, `F` value columns.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dst.cli.errors import WrongUseError
from dst.cli.inputs.block import Form, Found, Wanted, without_gaps
from dst.cli.inputs.clock import seconds_in
from dst.cli.inputs.lines import TIME_NAMES
from dst.cli.inputs.source import Source, never
from dst.cli.inputs.table import csv_blocks

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Table:
    """A table that was read."""

    columns: tuple[str, ...]
    values: Floats  # [n, F]
    seconds: Floats | None  # [n], since 1970, local; None without a column of times
    found: Found


def read_table(path: str, form: Form) -> Table:
    """Read a CSV whose first line names its columns; all of them but the times, or those named.

    Raises:
        WrongUseError: the first line names nothing, or a line cannot be read.
    """
    head = Source.open(path)
    first = b""
    for block in head.blocks(never):
        first += block
        if b"\n" in first:
            break
    line = first.split(b"\n")[0].decode("utf-8-sig", "replace").strip()
    separator = next((s for s in "\t;," if s in line), ",")
    names = [name.strip().strip('"') for name in line.split(separator)]
    columns = form.columns or tuple(
        name for name in names if name.lower() not in TIME_NAMES and name != form.time
    )
    if not columns or any(_is_number(name) for name in names):
        raise WrongUseError(
            f"{path}: line 1 is {line[:60]!r}; expected the names of the columns, such as "
            "timestamp,value"
        )
    found = Found(format="csv")
    wanted = Wanted(
        path=path,
        width=len(columns),
        names=columns,
        input="chunk",
        rate_hz=None,
        scaled=False,
        ids=False,
        form=form,
        found=found,
        stop=never,
        clock=True,
    )
    values, seconds = [], []
    for whole in without_gaps(wanted, csv_blocks(wanted, Source.open(path).blocks(never))):
        values.append(whole.values)
        seconds += seconds_in(wanted, whole)
    times = np.asarray(seconds)
    known = bool(len(times)) and bool(np.isfinite(times).any())
    return Table(columns, np.concatenate(values), times if known else None, found)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
