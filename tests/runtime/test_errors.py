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


def codes_of(part: str) -> set[str]:
    """Return the codes that the modules of a folder give to errors by themselves."""
    return {
        keyword.value.value
        for file in sorted((ROOT / part).rglob("*.py"))
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
