"""Refuse a command whose output file is also one of its inputs."""

import os
from collections.abc import Mapping
from pathlib import Path

from dst.cli.errors import WrongUseError
from dst.cli.output import Output
from dst.runtime.state.file import previous_of

Places = Mapping[str, str | Path | None]
"""What the command line calls a place -> the place; None and `-` for no file."""


def state_files(option: str, path: Path | None) -> Places:
    """Name the two files that saving a state writes."""
    previous = None if path is None else previous_of(path)
    return {option: path, f"the copy that {option} keeps": previous}


def check_paths(output: Output, reads: Places, writes: Places | None = None) -> None:
    """Find out before any work whether a file to be written is another file of the call.

    Args:
        output: knows the file for JSON, which is one to be written.
        reads: files, stores and bundles, which must stay as they are.
        writes: files to be written besides; among themselves they may be the same, as a state and
            the copy before it are for a moment.

    Raises:
        WrongUseError: it is, or it lies in a bundle, which holds no files but its own.
    """
    kept, written = _paths(reads), _paths(writes or {})
    for name, path in written.items():
        _check(name, path, kept)
    for name, path in _paths({"--json": output.json}).items():
        _check(name, path, {**kept, **written})


def _check(name: str, path: Path, others: Mapping[str, Path]) -> None:
    for other, place in others.items():
        if _same(path, place):
            raise WrongUseError(f"{name} {path}: is {other} too; give a file of its own")
        if place.is_dir() and _real(path).is_relative_to(_real(place)):
            raise WrongUseError(f"{name} {path}: lies in {other}; give a place outside of it")


def _paths(places: Places) -> dict[str, Path]:
    named = {name: place for name, place in places.items() if place is not None}
    return {name: Path(place) for name, place in named.items() if str(place) != "-"}


def _same(one: Path, other: Path) -> bool:
    """Whether two paths name one file; devices and pipes may well serve twice."""
    if one.exists() and other.exists():
        return one.is_file() and one.samefile(other)
    return _real(one) == _real(other)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
