"""What docs/architecture.md and CONTRIBUTING.md name is there, and every source folder is named."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/architecture.md"
SOURCES = ("export/", "runtime/", "quantize/", "src/")
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:py|md|toml|yml|yaml|cff)")


def paths_in(text: str) -> list[str]:
    """Return what looks like a path of the repository among the code words of a text."""
    return [word for word in CODE.findall(text) if PATH.fullmatch(word)]


def named_in(file: Path) -> set[str]:
    """Return what a file defines at its top: `name`, and `Class.method` or `Class.field`."""
    found: set[str] = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else []
        (*own,) = defined(node)
        found |= {*own, *(f"{o}.{name}" for o in own for part in inside for name in defined(part))}
    return found


def defined(node: ast.stmt) -> Iterator[str]:
    """Yield the names that one statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    yield from (target.id for target in targets if isinstance(target, ast.Name))


def rows_with_names(text: str) -> list[tuple[str, str]]:
    """Return the path cell and the name cell of every row of the tables that have both."""
    rows, at = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            at = None
        elif "names" in cells:
            at = cells.index("names")
        elif at is not None and "---" not in line:
            rows.append((cells[at - 1], cells[at]))
    return rows


def folders() -> set[str]:
    """Return the folders of the source that git tracks, without those that only hold folders."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SOURCES],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    files = [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]
    return {file.parent.as_posix() for file in files} - {"src/dst"}


@pytest.mark.parametrize("name", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_that_is_named_exists(name: str) -> None:
    named = paths_in((ROOT / name).read_text("utf-8"))
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("paths", "names"), rows_with_names(PAGE.read_text("utf-8")))
def test_every_name_stands_in_the_files_beside_it(paths: str, names: str) -> None:
    there = set().union(*(named_in(ROOT / path) for path in paths_in(paths)))
    assert CODE.findall(names)
    assert [name for name in CODE.findall(names) if name not in there] == []


def test_every_folder_of_the_source_is_named() -> None:
    named = {path.rstrip("/") for path in paths_in(PAGE.read_text("utf-8"))}
    named |= {word for word in CODE.findall(PAGE.read_text("utf-8")) if f"{word}/" in SOURCES}
    of_bundles = {f for f in folders() if f.startswith("src/dst/shipped/")}  # data, named by one
    assert folders() - of_bundles - named == set()
    assert "runtime/execution" in folders()


def test_what_is_no_path_is_left_alone() -> None:
    text = "`a/b.py` and `dst run`, `int8-dynamic`, `[n, ...]`, `x.md`, `Stream.step`, `tests/cli`"
    assert paths_in(text) == ["a/b.py", "x.md", "tests/cli"]
