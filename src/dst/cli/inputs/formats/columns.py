"""Choose the columns of a table that a model reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from dst.cli.inputs.formats.block import Wanted

TIME_NAMES = frozenset(
    {"time", "timestamp", "datetime", "date", "date_time", "ts", "t", "time_s", "time_ms"}
)

_CHOOSE = "--columns A,B says which to read, in the model's order"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table are read.

    Attributes:
        names: all columns of the table, in its order; empty where nothing names them.
        places: for each number of an item, its column.
        time: the column whose text goes beside the answers, None for none.
        count: how many columns a row has.
    """

    names: tuple[str, ...]
    places: tuple[int, ...]
    time: int | None
    count: int

    def called(self, place: int) -> str:
        """Say which column it is: `column 2 (right)`."""
        name = self.names[place] if self.names else ""
        return f"column {place + 1}" + (f" ({name})" if name else "")


def unnamed(wanted: Wanted) -> Columns:
    """Read every column of a table whose columns have no names, in order.

    Raises:
        WrongUseError: the caller named columns.
    """
    if wanted.form.columns or wanted.form.time is not None:
        option = "--columns" if wanted.form.columns else "--time"
        raise wanted.refuse(f"line 1 names no columns, so {option} has none to choose from")
    return Columns((), tuple(range(wanted.width)), None, wanted.width)


def choose(wanted: Wanted, header: Sequence[str], line: int) -> Columns:
    """Match the columns of a table with what the model reads.

    `--columns` says which, in the model's order. Otherwise they are matched by the model's names,
    in any order, or taken as they stand where the model has no names. A column that looks like a
    time by its name is left out, any other column too many is refused.

    Args:
        wanted: the input.
        header: the names of its columns.
        line: where they stand.

    Raises:
        WrongUseError: a column is missing, too many, or there twice.
    """
    form, names = wanted.form, [name.strip() for name in header]
    time = None
    if form.time is not None:
        time = _place(wanted, names, form.time, line, "--time")
    named = form.columns or (wanted.names if len(wanted.names) == wanted.width else ())
    if form.columns and len(form.columns) != wanted.width:
        raise wanted.refuse(
            f"--columns names {len(form.columns)}, this model reads {_reads(wanted)}"
        )
    others = [place for place in range(len(names)) if place != time]
    if named:
        option = "--columns" if form.columns else ""
        places = [_place(wanted, names, name, line, option) for name in named]
    else:
        places = others
        if len(others) > wanted.width:
            places = [place for place in others if names[place].lower() not in TIME_NAMES]
        if len(places) != wanted.width:
            raise wanted.refuse(
                f"line {line} names {len(names)} columns ({_list(names)}), this model reads "
                f"{_reads(wanted)}",
                _CHOOSE,
            )
        for name in (names[place] for place in places if names[place].lower() in TIME_NAMES):
            wanted.found.notes.append(
                f"line {line} names the column `{name}`; it is read as a feature, as without it "
                f"there are too few: this model reads {_reads(wanted)}"
            )
    left = [place for place in others if place not in places]
    extra = [names[place] for place in left if names[place].lower() not in TIME_NAMES]
    if extra and not form.columns:
        raise wanted.refuse(
            f"line {line} names columns that this model does not read: {_list(extra)}",
            f"--columns {','.join(names[place] for place in places)} leaves them out",
        )
    wanted.found.left_out = tuple(names[place] for place in left)
    return Columns(tuple(names), tuple(places), time, len(names))


def _place(wanted: Wanted, names: list[str], name: str, line: int, option: str) -> int:
    if names.count(name) == 1:
        return names.index(name)
    if name in names:
        raise wanted.refuse(f"line {line} names the column `{name}` twice")
    said = f"which {option} names" if option else f"which this model reads ({_reads(wanted)})"
    why = f"line {line} names {_list(names)}, but not `{name}`, {said}"
    raise wanted.refuse(why, "" if option else _CHOOSE)


def _reads(wanted: Wanted) -> str:
    if len(wanted.names) == wanted.width:
        return f"{wanted.width} per item: {_list(wanted.names)}"
    return f"{wanted.width} per item"


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(name or "(no name)" for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")
