"""`--help` of every verb: it fits one screen, and names what a user can have."""

import re
from collections.abc import Iterator

import pytest
import typer.main
from tests.cli.conftest import Dst

from dst.cli.app import VERBS, Verb, app

COLUMNS, LINES = 80, 48


def verbs() -> Iterator[tuple[str, ...]]:
    """Every command line that has a help of its own."""
    yield ()
    groups: list[tuple[tuple[str, ...], object]] = [((), typer.main.get_command(app))]
    for words, group in groups:
        for name, verb in getattr(group, "commands", {}).items():
            yield (*words, name)
            groups.append(((*words, name), verb.load() if isinstance(verb, Verb) else verb))


def test_the_verbs_are_found() -> None:
    assert {("run",), ("adopt",), ("store",), ("store", "rewind")} < set(verbs())


@pytest.mark.parametrize("verb", list(verbs()), ids=lambda verb: " ".join(verb) or "dst")
def test_help_fits_one_screen(
    dst: Dst, verb: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    done = dst(*verb, "--help")
    lines = done.out.split("\n")
    assert done.code == 0
    assert max(len(line) for line in lines) == COLUMNS  # else it was not laid out for this width
    assert len(lines) - 1 <= LINES
    assert "pip install" not in done.out  # which extra is told; the line that works here depends


@pytest.mark.parametrize("verb", list(verbs()), ids=lambda verb: " ".join(verb) or "dst")
def test_help_has_examples_on_lines_of_their_own(dst: Dst, verb: tuple[str, ...]) -> None:
    lines = dst(*verb, "--help").out.split("\n")
    example = " ".join((" dst", *verb)) + " "
    assert any(line.startswith(example) for line in lines)


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("export", ["extra export", "hf too", "--lookahead", "--non-causal", "docs/export.md"]),
        ("adopt", ["extra onnx", "docs/adopt.md"]),
        ("quantize", ["extra onnx", "int8-stored", "docs/quantization.md"]),
        ("report", ["extra onnx"]),
    ],
)
def test_help_says_which_extra_and_where_more_is(dst: Dst, verb: str, words: list[str]) -> None:
    told = " ".join(re.sub("[│─]", " ", dst(verb, "--help").out).split())
    assert [word for word in words if word not in told] == []


@pytest.mark.parametrize("verb", VERBS)
def test_the_list_of_verbs_says_what_each_verb_says_first(verb: str) -> None:
    assert Verb(verb, callback=None).load().help.split("\n\n")[0] == VERBS[verb]
