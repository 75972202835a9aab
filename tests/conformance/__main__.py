"""Run the conformance suite in every language that can be built here, and print a table.

    python -m tests.conformance                    each language whose tools are installed
    python -m tests.conformance c kotlin           these; fails where one cannot be built
    python -m tests.conformance --build FOLDER     keep the builds there, not in build/conformance

Each language runs the whole suite and saves its states. Then each reads the states of each.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.conformance import runner
from tests.conformance.languages import LANGUAGES, ROOT, Missing
from tests.conformance.refused import possible

SUITE = runner.ROOT


@dataclass(slots=True)
class Result:
    """What one language gave.

    Attributes:
        missing: why it could not be built; empty where it was.
        passed, ran: how many cases of the suite.
        reads: for each language that saved states, whether this one goes on from them.
    """

    missing: str = ""
    passed: int = 0
    ran: int = 0
    reads: dict[str, bool] = field(default_factory=dict)


def expected_cases() -> int:
    """Return how many cases a runner must report on this system."""
    malformed = [case for kind in ("bundles", "states") for case in runner.cases(kind)]
    return len(runner.names()) + len(list(filter(possible, malformed)))


def play(command: list[str], suite: Path, work: Path, *words: str) -> tuple[int, int]:
    """Run a runner; print what failed; return how many cases passed, and how many ran."""
    work.mkdir(parents=True, exist_ok=True)
    words = (str(suite), str(work), *words)
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    told = re.fullmatch(r"(\d+) of (\d+) passed", lines[-1]) if lines else None
    if told is None or (done.returncode == 0) != (told[1] == told[2]):
        print(f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        return 0, 0
    print("".join(f"  {line}\n" for line in lines[:-1]), end="")
    return int(told[1]), int(told[2])


def suite_to_load(states: Path, to: Path) -> Path:
    """Make a suite of nothing but loading the states of one folder."""
    shutil.copytree(SUITE / "bundles", to / "bundles")
    shutil.copytree(SUITE / "scripts/load", to / "scripts/load")
    shutil.copyfile(SUITE / "scripts/load.safetensors", to / "scripts/load.safetensors")
    shutil.copytree(states, to / "states" / states.name)
    shutil.copytree(SUITE / "malformed", to / "malformed")
    for kind in ("bundles", "states"):
        (to / f"malformed/{kind}.json").write_text(json.dumps([]), "utf-8")
    return to


def run_all(names: list[str], build: Path, work: Path) -> dict[str, Result]:
    """Build, run and save in each language, then let each read what each has saved."""
    results = {name: Result() for name in names}
    commands: dict[str, list[str]] = {}
    written: dict[str, Path] = {}
    for name, result in results.items():
        try:
            commands[name] = LANGUAGES[name](build)
        except Missing as missing:
            result.missing = str(missing)
            continue
        suite = work / f"saved by {name}"
        shutil.copytree(SUITE, suite, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        shutil.rmtree(suite / "states" / name, ignore_errors=True)
        result.passed, result.ran = play(commands[name], suite, work / name, "--save")
        if (states := suite / "states" / name).is_dir():
            written[name] = suite_to_load(states, work / f"load {name}")
    scripts = len([name for name in runner.names() if name.startswith("load/")])
    for reader, command in commands.items():
        for writer in commands:
            ends = play(command, written[writer], work / reader) if writer in written else (0, 0)
            results[reader].reads[writer] = ends == (scripts, scripts)
    return results


def show(results: dict[str, Result]) -> None:
    """Print the table, and why languages were left out."""
    built = [name for name, result in results.items() if not result.missing]
    table = Table("runtime", "suite", *(f"reads {writer}" for writer in built))
    for name in built:
        result = results[name]
        reads = ("yes" if result.reads[writer] else "NO" for writer in built)
        table.add_row(name, f"{result.passed} of {result.ran}", *reads)
    Console().print(table)
    for name, result in results.items():
        if result.missing:
            print(f"{name} was not run: {result.missing}")


def main(words: list[str]) -> int:
    """Return 0 where all that ran is as expected, and all that was asked for by name ran."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("language", nargs="*", help=f"of {', '.join(LANGUAGES)}; none is all")
    parser.add_argument("--build", type=Path, default=ROOT / "build/conformance")
    asked = parser.parse_args(words)
    if unknown := set(asked.language) - set(LANGUAGES):
        parser.error(f"no such language: {', '.join(sorted(unknown))}")
    asked.build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        names = list(dict.fromkeys(asked.language)) or list(LANGUAGES)
        results = run_all(names, asked.build.resolve(), Path(work))
    show(results)
    cases = expected_cases()
    good = all(
        result.missing or (result.passed == result.ran == cases and all(result.reads.values()))
        for result in results.values()
    )
    return 0 if good and not (asked.language and any(r.missing for r in results.values())) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
