"""noxfile.py, .ci/run, the hosted workflows and CONTRIBUTING.md speak of the same checks."""

import ast
import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def sessions() -> set[str]:
    """Return the names of the sessions of noxfile.py."""
    functions = ast.parse((ROOT / "noxfile.py").read_text("utf-8")).body
    return {f.name for f in functions if isinstance(f, ast.FunctionDef) and f.decorator_list}


def first_cells(heading: str) -> set[str]:
    """Return the code words that begin the rows of the table below a heading."""
    section = CONTRIBUTING.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_contributing_lists_every_session() -> None:
    assert sessions() >= {"lint", "types", "tests", "models", "docs", "hf", "package"}
    assert first_cells("Check") == sessions()


def test_contributing_lists_every_marker() -> None:
    markers = {m.partition(":")[0] for m in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    assert first_cells("Tests") == markers


def test_the_scripts_run_sessions_that_exist() -> None:
    for script in ("run", "hf"):
        lines = re.findall(r"nox .*-s ([\w ]+)", (ROOT / ".ci" / script).read_text("utf-8"))
        assert lines
        assert {name for line in lines for name in line.split()} <= sessions()


def test_the_workflow_runs_every_session() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text("utf-8"))
    jobs = workflow["jobs"].values()
    steps = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    named = {name for run in steps for name in re.findall(r"nox -s (\w+)$", run)}
    for job in jobs:
        named |= set(job["strategy"]["matrix"].get("session", ()))
    assert named == sessions()


def test_the_hosted_pythons_are_those_of_the_project() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text("utf-8"))
    hosted = workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    said = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    assert hosted == said


def test_torch_is_pinned_alike() -> None:
    pins = {
        name: set(re.findall(r"torch==[\d.]+\d", (ROOT / name).read_text("utf-8")))
        for name in ("noxfile.py", ".ci/run", "CONTRIBUTING.md", "README.md")
    }
    assert {frozenset(p) for p in pins.values()} == {frozenset(pins["noxfile.py"])}
    assert len(pins["noxfile.py"]) == 1
