"""Every error has a code: one for each fault, the same in every language."""

import ast
import copy
import pickle
import re
from pathlib import Path

import pytest

import dst
from dst.export import errors as export_errors
from dst.quantize import NothingQuantizedError
from dst.quantize import errors as quantize_errors
from dst.runtime import DstError, errors

ROOT = Path(dst.__file__).parent
CLASSES = sorted(
    {
        value
        for module in (errors, export_errors, quantize_errors)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, DstError)
    },
    key=lambda kind: kind.__name__,
)
FORMAT = (ROOT / "runtime" / "FORMAT.md").read_text("utf-8")


CALLS = (Path(__file__).parents[1] / "conformance" / "README.md").read_text("utf-8")


def codes_of(part: str) -> set[str]:
    """Return the codes that a module, or the modules of a folder, give to errors by themselves."""
    place = ROOT / part
    return {
        keyword.value.value
        for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "code"
        and isinstance(keyword.value, ast.Constant)
        and isinstance(keyword.value.value, str)
    }


def test_classes_are_few_and_their_codes_differ() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(codes) == len(set(codes)) <= 30
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("part", ["runtime", "export", "quantize", "graphs", "evaluate", "cli"])
def test_codes_are_in_kebab_case(part: str) -> None:
    assert [c for c in codes_of(part) if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", c)] == []


@pytest.mark.parametrize("part", ["runtime/bundle", "runtime/state"])
def test_the_format_lists_the_codes_that_other_languages_raise(part: str) -> None:
    codes = codes_of(part)
    assert len(codes) > 5
    assert [code for code in sorted(codes) if f"`{code}`" not in FORMAT] == []


CALLED = ("execution", "session.py", "stream.py", "generation.py", "long_input.py", "forking.py")


def test_the_suite_lists_the_codes_of_calls() -> None:
    codes = set().union(*(codes_of(f"runtime/{part}") for part in CALLED))
    kinds = ("ProviderError", "PartialChunkError", "DeadlineError")
    codes |= {kind.code for kind in CLASSES if kind.__name__ in kinds}
    assert len(codes) > 20
    assert [c for c in sorted(codes) if f"`{c}`" not in CALLS and f"`{c}`" not in FORMAT] == []


def test_no_page_lists_a_code_that_nothing_raises() -> None:
    raised = codes_of("runtime") | {kind.code for kind in CLASSES}
    raised |= codes_of("upgrade.py")
    for page in (FORMAT.partition("## 9. ")[2], CALLS.partition("## Codes of calls")[2]):
        rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
        listed = {code for row in rows for code in re.findall(r"`([a-z0-9-]+)`", row)}
        assert len(listed) > 20
        assert sorted(listed - raised) == []


def test_a_code_survives_a_place_and_a_pickle() -> None:
    error = errors.StateMismatchError("of another model", code="other-model").within("state a")
    assert (str(error), error.code) == ("state a: of another model", "other-model")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code) == (type(error), str(error), error.code)


def test_errors_that_hold_more_are_copied_and_told_a_place() -> None:
    nothing = NothingQuantizedError("nothing to do", [])
    slots = errors.SlotError({1: DstError("no")}, {})
    for error in (nothing, slots):
        for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
            assert (type(again), str(again)) == (type(error), str(error))
        assert error.within("here").code == error.code
