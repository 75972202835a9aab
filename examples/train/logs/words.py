"""Give the words that generated programs draw their vocabulary from.

    python examples/train/logs/words.py     # writes words.txt anew

`words.txt` holds the lower-case words that stand in at least three modules of CPython 3.11's
standard library, the most frequent first. They are single words out of Python's source and
documentation, which are under the PSF licence 2.0. `lists.txt` is our own: verbs and nouns that
programs use when they speak about their work. `invented` makes words that no language has, from
the letter triples of the listed ones.
"""

import random
import re
from collections import Counter
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("words.txt")
SKIPPED = ("site-packages", "test", "idlelib", "encodings", "lib2to3", "pydoc_data")


@cache
def lists() -> dict[str, tuple[str, ...]]:
    """Return our own lists by name: verbs, nouns, adjectives, reasons, roots, endings and so on."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in FILE.with_name("lists.txt").read_text("ascii").splitlines():
        if line.startswith("["):
            name = line[1:-1]
            found[name] = []
        elif not line.startswith("#"):
            found[name] += [line] if name == "reasons" else line.split()
    return {name: tuple(words) for name, words in found.items()}


@cache
def listed() -> tuple[str, ...]:
    """Return the words of `words.txt`, the most frequent first."""
    lines = FILE.read_text("ascii").splitlines()
    return tuple(" ".join(line for line in lines if not line.startswith("#")).split())


@cache
def _triples() -> dict[str, str]:
    """Return what letters follow each two letters in the listed words; `.` stands at both ends."""
    following: dict[str, list[str]] = {}
    for word in listed():
        marked = f"..{word}."
        for place in range(len(marked) - 2):
            following.setdefault(marked[place : place + 2], []).append(marked[place + 2])
    return {pair: "".join(letters) for pair, letters in following.items()}


def invented(source: random.Random) -> str:
    """Make up a word of 3 to 11 letters that can be spoken."""
    triples = _triples()
    while True:
        word = ".."
        while len(word) < 14 and (letter := source.choice(triples[word[-2:]])) != ".":
            word += letter
        if 5 <= len(word) <= 13:
            return word[2:]


def past(verb: str) -> str:
    """Return the past form of a verb, as English builds regular ones."""
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + "ed"


def going(verb: str) -> str:
    """Return the form in -ing, as English builds it."""
    return (verb[:-1] if verb.endswith("e") and not verb.endswith("ee") else verb) + "ing"


def main() -> None:
    """Write `words.txt` from the standard library that runs this."""
    import sysconfig

    root = Path(sysconfig.get_paths()["stdlib"])
    seen: Counter[str] = Counter()
    for path in sorted(root.rglob("*.py")):
        inside = str(path.relative_to(root))
        if not any(part in inside for part in SKIPPED):
            text = path.read_text("utf-8", "replace")
            seen.update(set(re.findall(r"(?<![A-Za-z])[a-z]{3,14}(?![A-Za-z])", text)))
    words = sorted((w for w, n in seen.items() if n >= 3), key=lambda w: (-seen[w], w))
    head = "# Words of CPython 3.11's standard library (PSF licence 2.0), most frequent first.\n"
    rows, row = [], ""
    for word in words:
        if len(row) + len(word) > 98:
            rows.append(row)
            row = ""
        row += f" {word}" if row else word
    FILE.write_text(head + "\n".join([*rows, row]) + "\n", "ascii")
    print(f"{len(words)} words")


if __name__ == "__main__":
    main()
