"""Print results to standard output or as JSON, progress and remarks to standard error.

Before any work, refuse a file that cannot be written, or that is also an input of the command.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from dst.cli.errors import WrongUseError
from dst.words import mib

if TYPE_CHECKING:
    from dst.runtime.bundle.manifest import Manifest

NARROW_COLUMNS = 100  # what a pipe gets, which has no width
PLAIN_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Output:
    """Where one call of a verb writes."""

    out: Console  # results for a reader; silent where standard output is for JSON
    err: Console  # progress and remarks
    json: str | None  # the file for JSON, `-` for standard output, None for none

    @staticmethod
    def to(json: str | None) -> "Output":
        """Open the consoles, and find out before any work whether JSON can be written."""
        if json is not None and json != "-":
            check_file("--json", Path(json))
        width = None if sys.stdout.isatty() else NARROW_COLUMNS
        return Output(
            out=Console(highlight=False, emoji=False, quiet=json == "-", width=width),
            err=Console(stderr=True, highlight=False, emoji=False),
            json=json,
        )

    def write_json(self, value: object) -> None:
        """Write a struct, a dataclass or a mapping as indented JSON, if JSON was asked for."""
        if self.json is None:
            return
        plain = _encodable(msgspec.to_builtins(value, str_keys=True))
        data = msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n"
        if self.json == "-":
            write_out(data.decode())
            sys.stdout.flush()
        else:
            replace_file(Path(self.json), data)

    def write_picture(self, path: Path | None, draw: Callable[[], bytes]) -> None:
        """Draw a picture into a file, if one was asked for, or say that matplotlib is missing."""
        if path is None:
            return
        from dst.evaluate.drawing import NoMatplotlibError

        try:
            replace_file(path, draw())
        except NoMatplotlibError as error:
            self.err.print(foreign(str(error)))

    def wrote(self, out: Path, manifest: "Manifest", more: str = "") -> dict[str, object]:
        """Say which bundle was written, and return what JSON tells of every new one."""
        size = sum(file.size for file in manifest.files.values())
        self.out.print(f"[green]✓[/] wrote [bold]{foreign(str(out))}[/]: {more}{mib(size)}")
        ids = {"bundle_id": manifest.bundle_id, "model_id": manifest.model_id}
        return {"path": str(out), "name": manifest.name, **ids, "bytes": size}

    @contextmanager
    def progress(self, what: str, total: float | None, show: bool = True) -> Iterator["Bar"]:
        """Show a bar on stderr while the block runs; without a terminal, a line every 10 seconds.

        `what` is its first word, and `total` what counts as all: None gives a spinner.
        """
        columns = (
            SpinnerColumn() if total is None else BarColumn(bar_width=28),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            TimeElapsedColumn(),
        )
        terminal = self.err.is_terminal
        with Progress(
            *columns,
            console=self.err,
            transient=True,
            disable=not (show and terminal),
            refresh_per_second=8,
        ) as bars:
            task = bars.add_task(what, total=total, note="")
            yield Bar(bars, task, what, total, None if terminal or not show else self.err)


@dataclass(slots=True)
class Bar:
    """One bar of a progress display, or where there is no terminal a line on `log` now and then."""

    bars: Progress
    task: TaskID
    what: str
    total: float | None
    log: Console | None
    last: float = field(default_factory=time.monotonic)

    def share(self, what: str, done: float) -> None:
        """Move the bar to `done` of 1, with another first word."""
        self.at(done, what=what)

    def at(self, done: float, note: str = "", what: str | None = None) -> None:
        """Move the bar to `done`, with a remark beside it and, if given, another first word."""
        self.bars.update(self.task, completed=done, note=note, description=what)
        self.what = what or self.what
        now = time.monotonic()
        if self.log is None or now - self.last < PLAIN_EVERY_S:
            return
        self.last = now
        share = f"{done / self.total:.0%}" if self.total else ""
        words = [foreign(word) for word in (self.what, share, note) if word]
        self.log.print("  ".join(words), soft_wrap=True)


NONE = "[dim]–[/]"  # what stands in a table where there is no number


def shown(value: float | None, spec: str) -> str:
    """Write a number for a table, or that there is none."""
    return NONE if value is None else format(value, spec)


def table(*columns: str) -> Table:
    """Make an empty table; a column whose name begins with `>` stands to the right."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        made.add_column(name.removeprefix(">"), justify=justify, overflow="fold")
    return made


def pairs() -> Table:
    """Make an empty grid of names and what they are."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=10)
    grid.add_column(overflow="fold")
    return grid


def write_out(text: str) -> None:
    """Write to standard output; where it takes no more, the OSError names it."""
    try:
        sys.stdout.write(text)
    except OSError as error:
        error.filename = "standard output"
        raise


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one rename; a device or a pipe is written into.

    Where that fails, the OSError names the file, and what stood there still does.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        target = _real(path)  # a link stays, and what it names is replaced
        work = target.with_name(f".{target.name}.tmp")
        try:
            work.touch()
            if target.exists():
                shutil.copymode(target, work)
            work.write_bytes(data)
            work.replace(target)
        finally:
            work.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _encodable(value: object) -> object:
    r"""Write the bytes of a file's name that are no UTF-8 as `\xff`; JSON has no room for them."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(held) for key, held in value.items()}
    return [_encodable(held) for held in value] if isinstance(value, list | tuple) else value


def foreign(text: str) -> str:
    r"""Make text from a manifest or the command line plain: no markup, no control characters.

    Examples:
        >>> print(foreign("[red]a\a"))
        \[red]a\x07
    """
    return escape("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


def check_folder(option: str, path: Path | None) -> None:
    """Find out before any work whether a file or a directory can be made at `path`."""
    if path is None:
        return
    folder = path.parent
    if not folder.is_dir():
        raise WrongUseError(f"{option} {path}: there is no directory {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WrongUseError(f"{option} {path}: the directory {folder} cannot be written to")


def check_file(option: str, path: Path) -> None:
    """Find out before any work, and without making it, whether `path` can be written."""
    if path.is_dir():
        raise WrongUseError(f"{option} {path}: is a directory; give a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise WrongUseError(f"{option} {path}: cannot be written to")
    if path.is_file() or not path.exists():
        check_folder(option, path)


Places = Mapping[str, str | Path | None]
"""What the command line calls a place -> the place; None and `-` for no file."""


def state_files(option: str, path: Path | None) -> Places:
    """Name the two files that saving a state writes, which must be possible."""
    from dst.runtime.state.file import previous_of

    check_folder(option, path)
    if path is not None and not path.name:
        raise WrongUseError(f"{option} {path}: is a directory; give the path of a file")
    previous = None if path is None else previous_of(path)
    return {option: path, f"the copy that {option} keeps": previous}


def check_paths(output: Output, reads: Places, writes: Places | None = None) -> None:
    """Find out before any work whether a file to be written is another file of the call.

    It must not lie in a bundle either, which holds no files but its own. The file for JSON is one
    to be written. The others, `writes`, may be the same among themselves, as a state and the copy
    before it are for a moment.
    """
    kept, written, told = map(_paths, (reads, writes or {}, {"--json": output.json}))
    for files, others in ((written, kept), (told, {**kept, **written})):
        for (name, path), (other, place) in product(files.items(), others.items()):
            if _same(path, place):
                raise WrongUseError(f"{name} {path}: is {other} too; give a file of its own")
            if place.is_dir() and _real(path).is_relative_to(_real(place)):
                raise WrongUseError(f"{name} {path}: lies in {other}; give a place outside of it")


def _paths(places: Places) -> dict[str, Path]:
    return {n: Path(p) for n, p in places.items() if p is not None and str(p) != "-"}


def _same(one: Path, other: Path) -> bool:
    """Whether two paths name one file; devices and pipes may well serve twice."""
    if one.exists() and other.exists():
        return one.is_file() and one.samefile(other)
    return _real(one) == _real(other)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
