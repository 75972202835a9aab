"""Run the conformance suite in every language that can be built here, and print a table.

    python -m tests.conformance                    each language whose tools are installed
    python -m tests.conformance c node             these; fails where one cannot be built
    python -m tests.conformance --build FOLDER     keep the builds there, not in build/conformance

Each language runs the whole suite and saves its states, and those of models that dst ships. Then
each reads the states of each, and goes on: with equal bits where both run one build of ONNX
Runtime, else within the tolerance of the bundle.
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
from tests.conformance import runner, shipped
from tests.conformance.calls import Script
from tests.conformance.languages import LANGUAGES, ROOT, Missing, same_onnxruntime
from tests.conformance.refused import possible

SUITE = runner.ROOT


@dataclass(slots=True)
class Result:
    """What one language gave.

    Attributes:
        missing: why it could not be built; empty where it was.
        cases: how many cases of the suite there are for it.
        passed, ran: how many of them it passed, and ran.
        reads: for each language that saved states, whether this one goes on from them.
    """

    missing: str = ""
    cases: int = 0
    passed: int = 0
    ran: int = 0
    reads: dict[str, bool] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether it passed everything, and goes on from everything."""
        return self.passed == self.ran == self.cases > 0 and all(self.reads.values())


def count_cases(suite: Path, language: str) -> int:
    """Return how many cases a runner must report on this system."""
    malformed = [case for kind in ("bundles", "states") for case in runner.cases(kind, suite)]
    made = [case for case in malformed if possible(case, browser=language == "chromium")]
    return len(runner.names(suite)) + len(made)


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


def suite_to_load(states: Path, to: Path, made: dict[str, Script], exact: bool) -> Path:
    """Make a suite of nothing but loading the states of one folder."""
    shutil.copytree(SUITE / "bundles", to / "bundles")
    shutil.copytree(SUITE / "scripts/load", to / "scripts/load")
    shutil.copyfile(SUITE / "scripts/load.safetensors", to / "scripts/load.safetensors")
    shutil.copytree(states, to / "states" / states.name)
    shutil.copytree(SUITE / "malformed", to / "malformed")
    for kind in ("bundles", "states"):
        (to / f"malformed/{kind}.json").write_text(json.dumps([]), "utf-8")
    shipped.add(to, {name: one for name, one in made.items() if name.startswith("load/")}, exact)
    return to


def run_all(names: list[str], build: Path, work: Path) -> dict[str, Result]:
    """Build, run and save in each language, then let each read what each has saved."""
    results = {name: Result() for name in names}
    commands: dict[str, list[str]] = {}
    written: dict[str, Path] = {}
    made = shipped.recorded(work / "shipped")
    saving = {name: one for name, one in made.items() if name.startswith("save/")}
    alike = same_onnxruntime()
    for name, result in results.items():
        try:
            commands[name] = LANGUAGES[name](build)
        except Missing as missing:
            result.missing = str(missing)
            continue
        suite = work / f"saved by {name}"
        shutil.copytree(SUITE, suite, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        shutil.rmtree(suite / "states" / name, ignore_errors=True)
        shipped.add(suite, saving, exact=name in alike)
        result.cases = count_cases(suite, name)
        result.passed, result.ran = play(commands[name], suite, work / name, "--save")
        if (states := suite / "states" / name).is_dir():
            written[name] = states
    for reader in commands:
        results[reader].reads = dict.fromkeys(commands, False)
    for writer, states in written.items():
        for exact in (True, False):
            suite = suite_to_load(states, work / f"load {writer} {exact}", made, exact)
            scripts = len(runner.names(suite))
            for reader in (r for r in commands if exact == ({r, writer} <= alike)):
                ends = play(commands[reader], suite, work / reader)
                results[reader].reads[writer] = ends == (scripts, scripts)
    return results


def show(results: dict[str, Result]) -> None:
    """Print the table, and why languages were left out."""
    built = [name for name, result in results.items() if not result.missing]
    caption = "below a name: goes on from the states that it has saved"
    table = Table("runtime", "suite", *built, caption=caption)
    for name in built:
        result = results[name]
        reads = ("yes" if result.reads[writer] else "NO" for writer in built)
        table.add_row(name, f"{result.passed} of {result.cases}", *reads)
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
    good = all(result.good or result.missing for result in results.values())
    return 0 if good and not (asked.language and any(r.missing for r in results.values())) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
