"""The Python runtime passes the suite that all languages share, and the suite can fail."""

import copy
from pathlib import Path

import pytest
import safetensors.numpy
from tests.conformance import runner
from tests.conformance.refused import code_of_bundle, code_of_state, possible
from tests.conformance.runner import ROOT, Call, Wrong
from tests.steps import Array

FILES = safetensors.numpy.load_file(ROOT / "malformed/files.safetensors")
LIMIT_BYTES = 2 * 2**20


@pytest.mark.parametrize("name", runner.names())
def test_a_script_gives_what_it_expects(name: str, tmp_path: Path) -> None:
    script, arrays = runner.read(name)
    for number, version in enumerate(runner.versions(script)):
        (work := tmp_path / str(number)).mkdir()
        runner.run(version, arrays, work)


@pytest.mark.parametrize("case", runner.cases("bundles"), ids=lambda case: str(case["name"]))
def test_a_malformed_bundle_is_refused_by_its_code(case: Call, tmp_path: Path) -> None:
    if not possible(case):
        pytest.skip("this system has no links or pipes")
    assert code_of_bundle(case, FILES, tmp_path, ROOT) == case["code"]


@pytest.mark.parametrize("case", runner.cases("states"), ids=lambda case: str(case["name"]))
def test_a_malformed_state_is_refused_by_its_code(case: Call, tmp_path: Path) -> None:
    assert code_of_state(case, FILES, tmp_path, ROOT) == case["code"]


def test_every_language_saves_the_same_bytes() -> None:
    names = {path.name for path in (ROOT / "states/python").iterdir()}
    assert len(names) >= 7
    for language in runner.languages():
        folder = ROOT / "states" / language
        assert {path.name for path in folder.iterdir()} == names
        different = [
            n
            for n in names
            if (folder / n).read_bytes() != (ROOT / "states/python" / n).read_bytes()
        ]
        assert different == []


def spoiled(script: Call, arrays: dict[str, Array]) -> list[tuple[str, Call, dict[str, Array]]]:
    """Return the script once for each thing it expects, with that one thing wrong."""
    found = []
    for number, call in enumerate(script["calls"]):
        if "error" in call:
            wrong = copy.deepcopy(script)
            wrong["calls"][number]["error"] = "some-other-code"
            found.append((f"{number} error", wrong, arrays))
        for key, expected in call.get("expect", {}).items():
            if isinstance(expected, dict) and key in ("outputs", "state"):
                for name, ref in expected.items():
                    if arrays[ref].size:
                        flipped = arrays[ref].copy()
                        flipped.reshape(-1).view("uint8")[-1] ^= 1  # sign or exponent: far off
                        flipped.reshape(-1).view("uint8")[-1] ^= 0 if flipped.dtype == bool else 64
                        found.append((f"{number} {name}", script, {**arrays, ref: flipped}))
                continue
            wrong = copy.deepcopy(script)
            wrong["calls"][number]["expect"][key] = "something else"
            found.append((f"{number} {key}", wrong, arrays))
    return found


@pytest.mark.parametrize(
    "name", ["state/growth-late", "steps/level", "steps/refuse", "save/tokens"]
)
def test_a_wrong_expectation_is_noticed(name: str, tmp_path: Path) -> None:
    script, arrays = runner.read(name)
    wrong = spoiled(script, arrays)
    assert wrong
    for number, (what, version, held) in enumerate(wrong):
        (work := tmp_path / str(number)).mkdir()
        noticed = False
        try:
            runner.run(version, held, work)
        except Wrong:
            noticed = True
        assert noticed, what


def test_the_suite_stays_small() -> None:
    files = [path for path in ROOT.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < LIMIT_BYTES
