"""Every runtime passes the suite, and each goes on from the states that each has saved."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import safetensors.numpy
from tests.conformance import runner
from tests.conformance.__main__ import SUITE, play, run_all, suite_to_load
from tests.conformance.languages import LANGUAGES, ROOT, Missing, compile_kotlin, kotlin_home

BUILD = ROOT / "build/conformance"


def build(language: str) -> list[str]:
    """Return the command of a runner; skip the test where it cannot be built here."""
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        return LANGUAGES[language](BUILD)
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.mark.languages
def test_every_language_that_is_here_passes_and_reads_the_others(tmp_path: Path) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    results = run_all(list(LANGUAGES), BUILD, tmp_path)
    built = {name: result for name, result in results.items() if not result.missing}
    if built.keys() == {"python"}:
        pytest.skip("; ".join(result.missing for result in results.values() if result.missing))
    assert [(name, result) for name, result in built.items() if not result.good] == []
    assert all(result.reads.keys() == built.keys() for result in built.values())


@pytest.mark.languages
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_runner_notices_a_wrong_expectation(language: str, tmp_path: Path) -> None:
    """The sign of one expected number is turned."""
    command = build(language)
    suite = suite_to_load(SUITE / "states/python", tmp_path / "suite", {}, exact=True)
    file = suite / "scripts/load.safetensors"
    held = safetensors.numpy.load_file(file)
    held["level/03/outputs/head/y"].reshape(-1)[0] *= -1
    safetensors.numpy.save_file(held, file)
    scripts = len(runner.names(suite))
    assert play(command, suite, tmp_path / "work") == (scripts - 1, scripts)


@pytest.mark.languages
def test_kotlin_ends_calls_and_frees_memory() -> None:
    *java, _ = build("kotlin")
    command = [*java, "dst.conformance.StopsKt", str(ROOT / "src/dst/shipped/text")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.endswith("ok\n"), done.stdout + done.stderr
    assert "WARNING" not in done.stdout  # of -Xcheck:jni


@pytest.mark.languages
def test_the_kotlin_of_the_page_runs_as_printed(tmp_path: Path) -> None:
    *java, path, _ = build("kotlin")
    page = (ROOT / "docs/kotlin.md").read_text("utf-8")
    blocks = re.findall(r"^```kotlin\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).splitlines()
    imports = sorted({line for line in lines if line.startswith("import ")})
    body = [f'val text = "{"0123456789" * 10}"', *(line for line in lines if line not in imports)]
    program = "\n".join([*imports, "fun main() {", *body, "}"])
    for name, bundle in (("bundle", "text"), ("feed", "feed")):
        program = program.replace(f'open("{name}")', f'open("{ROOT}/src/dst/shipped/{bundle}")')
    source, jar = tmp_path / "Page.kt", tmp_path / "page.jar"
    source.write_text(program, "utf-8")
    needs = [Path(part) for part in path.split(os.pathsep)]
    compile_kotlin(kotlin_home(BUILD), jar, [source], needs)
    command = [*java, os.pathsep.join([path, str(jar)]), "PageKt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    told = done.stdout.splitlines()
    assert told[:2] == ["96 and 4 answers", "100"], done.stdout + done.stderr
    assert told[2].count(",") == 39
