"""The examples in the docstrings of the source run as printed, every one of them."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {name: f"dst.{name}" for name in ("export", "runtime", "quantize")} | {"src/dst": "dst"}
EXAMPLE = re.compile(r"^ *>>> ", re.MULTILINE)


def modules_with_examples() -> dict[str, int]:
    """Return the number of examples in each module that has some, by its dotted name."""
    found: dict[str, int] = {}
    for folder, package in FOLDERS.items():
        for file in sorted((ROOT / folder).rglob("*.py")):
            inside = file.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *(part for part in inside if part != "__init__")))
            if count := len(EXAMPLE.findall(file.read_text("utf-8"))):
                found[name] = count
    return found


MODULES = modules_with_examples()


@pytest.mark.parametrize("name", MODULES)
def test_examples_run_as_printed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.DocTestFinder().find(importlib.import_module(name))
    report: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in found:
        runner.run(test, out=report.append)
    assert "".join(report) == ""
    assert sum(len(test.examples) for test in found) == MODULES[name]  # none stands where none runs


def test_there_are_examples() -> None:
    assert MODULES
