"""Read the patterns of messages: what programs write, with places for words and values.

In `patterns.txt`, `{..}` is filled once, when a program is made: v d g verbs as in `open opened
opening`, n w nouns, a an adjective, C `CamelName`, s `snake_name`, k a clause, r a reason, p a
path, f a function, b a package, u the product's name; V D G N K take a capital letter.
`<..>` is a slot that is filled in every line: a kind of `values.py`, or `any`, or `own` for a value
that several messages of the program share: a request, a file, a user.
"""

import re
from functools import cache
from pathlib import Path

PLACE = re.compile(r"\{\w+(?::[<u])?\}|<[a-z_0-9]+:?>|\{\{|\}\}")
"""A place in a pattern; doubled braces stand for themselves."""
STARTS = ("{K} ", "{C}: ", "{s}: ", "[{w}] ", "* ", "# ", "-> ", "{C}.{s}() ", "  ", "[<own>] ")
BETWEEN = (
    ", ",
    ", ",
    ": ",
    " - ",
    "; ",
    " => ",
    "/",
    " for ",
    " of ",
    " in ",
    " to ",
    " from ",
    "|",
)
AROUND = ("()", "[]", "''", '""', "<>", "``", "()", "\u2018\u2019", "{}")
PARTS = ("{k}", "{n}", "{w}", "{w}", "{d}", "{v}", "{s}", "{a} {w}", "{g}")
NAMED = ("{s}=<any>", "{w}: <any>", "{s}: <own>", "{C}", "{p}", "{r}")


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """Return the patterns of `patterns.txt` by group."""
    found: dict[str, list[str]] = {}
    text = Path(__file__).with_name("patterns.txt").read_text("utf-8")
    for line in text.splitlines()[1:]:
        if line.startswith("[["):
            found[line[2:-2]] = []
        else:
            [*found.values()][-1].append(line.replace("\\t", "\t"))
    return {name: tuple(lines) for name, lines in found.items()}
