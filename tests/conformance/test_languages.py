"""Every runtime passes the suite, and each goes on from the states that each has saved."""

import subprocess
from pathlib import Path

import pytest
from tests.conformance.__main__ import expected_cases, run_all
from tests.conformance.languages import LANGUAGES, ROOT, Missing, kotlin


@pytest.mark.languages
def test_every_language_that_is_here_passes_and_reads_the_others(tmp_path: Path) -> None:
    (build := ROOT / "build/conformance").mkdir(parents=True, exist_ok=True)
    results = run_all(list(LANGUAGES), build, tmp_path)
    built = {name: result for name, result in results.items() if not result.missing}
    if built.keys() == {"python"}:
        pytest.skip("; ".join(result.missing for result in results.values() if result.missing))
    cases = expected_cases()
    assert {name: (r.passed, r.ran) for name, r in built.items()} == dict.fromkeys(
        built, (cases, cases)
    )
    assert {name: r.reads for name, r in built.items()} == {
        name: dict.fromkeys(built, True) for name in built
    }


@pytest.mark.languages
def test_kotlin_ends_calls_and_frees_memory() -> None:
    (build := ROOT / "build/conformance").mkdir(parents=True, exist_ok=True)
    try:
        *java, _ = kotlin(build)
    except Missing as missing:
        pytest.skip(str(missing))
    command = [*java, "dst.conformance.StopsKt", str(ROOT / "src/dst/shipped/text")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.endswith("ok\n"), done.stdout + done.stderr
    assert "WARNING" not in done.stdout  # of -Xcheck:jni
