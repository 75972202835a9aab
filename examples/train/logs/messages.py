"""Make the messages of one program out of patterns, words and slots."""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from logs.headers import Message
from logs.names import Names
from logs.patterns import AROUND, BETWEEN, NAMED, PARTS, PLACE, STARTS, groups
from logs.repeats import Slot
from logs.values import KINDS, Values
from logs.words import going, past

LEVEL_WEIGHTS = (25, 50, 5, 12, 7, 1)


@dataclass(slots=True)
class Template(Message):
    """One kind of message.

    Attributes:
        form: a `%` format.
        slots: its values.
        block: gives the lines that follow it, without a header.
        quiet: seconds before it, in mean.
        times: how often it stands there, at most, one after the other.
    """

    form: str = ""
    slots: list[Slot] = field(default_factory=list)
    block: Callable[[], list[str]] | None = None
    quiet: float = 0.0
    times: int = 1

    def text(self) -> str:
        """Fill the slots anew."""
        return self.form % tuple([slot() for slot in self.slots])


class Messages:
    """Makes the templates of one program, in its style: capitals, full stops, quotes, pairs.

    Attributes:
        shared: slots that several templates use; see `own` in `patterns.py`.
        session: the values of the session that is writing now.
    """

    def __init__(self, source: random.Random, names: Names, values: Values, style: str) -> None:
        self.random, self.names, self.values, self.style = source, names, values, style
        self.session: list[str] = []
        self.session_share = 0.0
        self.capital = source.random() < 0.65
        self.stop = source.choice(("", "", "", "", ".", "..."))
        self.pairs = source.choice((0.0, 0.0, 0.1, 0.5))
        self.equals = source.choice(("=", "=", "=", ": ", ":", " "))
        self.quote = source.choice(("", "", '"', "'"))
        known = groups()
        weights = [source.random() ** 3 for _ in known]
        picked = source.choices(list(known), weights, k=source.choice((2, 4, 8, 16, 40)))
        self.patterns = [source.choice(known[group]) for group in picked]  # its habits
        self.free = source.choice((0.0, 0.1, 0.4, 0.8, 1.0))  # share of messages that follow none
        things = source.choices(KINDS, k=source.randint(2, 9))
        self.shared = [values.drawn(kind) for kind in things]
        self.loggers = [self._logger() for _ in range(source.randint(1, 14))]
        self.processes = [names.product] + [
            names.snake() for _ in range(source.choice((0, 0, 1, 4, 12)))
        ]
        self.keys = [names.snake() for _ in range(source.randint(4, 30))]

    def _logger(self) -> str:
        draw = self.random.random()
        if draw < 0.3:
            return self.names.package()
        if draw < 0.6:
            return self.names.camel()
        return self.names.snake() if draw < 0.8 else f"{self.names.product}.{self.names.word()}"

    def own(self) -> Slot:
        """Return a slot that other templates use too, or one of the session's."""
        if self.session_share and self.random.random() < self.session_share:
            place = self.random.randrange(3)
            return lambda: self.session[place]
        return self.random.choice(self.shared)

    def value(self, kind: str) -> Slot:
        """Return the slot for a place of a pattern."""
        if kind == "own":
            return self.own()
        if kind == "any":
            return self.own() if self.random.random() < 0.3 else self.values.any()
        return self.values.drawn(kind)

    def word(self, letter: str) -> str:
        """Return the words for a place of a pattern."""
        names, kind = self.names, letter.lower()
        if letter == "C":
            return names.camel()
        if kind in "vdg":
            verb = names.verb()
            word = verb if kind == "v" else past(verb) if kind == "d" else going(verb)
        else:
            makers: dict[str, Callable[[], str]] = {
                "n": names.phrase,
                "w": names.word,
                "k": names.clause,
                "s": names.snake,
                "p": names.path,
                "f": lambda: names.camel(False),
                "b": names.package,
                "u": lambda: names.product,
                "r": lambda: self.random.choice(names.reasons),
                "a": lambda: self.random.choice(names.adjectives),
            }
            word = makers[kind]()
        upper = letter.isupper() and self.capital
        return word[:1].upper() + word[1:] if upper else word

    def filled(self, pattern: str) -> tuple[str, list[Slot]]:
        """Turn a pattern into a `%` format and its slots."""
        slots: list[Slot] = []

        def fill(match: re.Match[str]) -> str:
            place = match.group()
            if place in ("{{", "}}"):
                return place[0]
            if place[0] == "<":
                slots.append(self.value(place[1:-1].rstrip(":")))
                return "%-20s" if place.endswith(":>") else "%s"
            text = self.word(place[1]).replace("%", "%%")
            if place.endswith(":<}"):
                return f"{text:<16}"
            return text.upper()[:5] if place.endswith(":u}") else text

        return PLACE.sub(fill, pattern.replace("%", "%%")), slots

    def pattern(self) -> str:
        """Make up a pattern: words, values and signs in any order."""
        source = self.random
        made = source.choice(STARTS) if source.random() < 0.4 else ""
        for place in range(source.choice((1, 2, 2, 3, 3, 4, 5, 7, 10))):
            if place:
                made += source.choice(BETWEEN) if source.random() < 0.5 else " "
            draw = source.random()
            if draw < 0.45:
                part = source.choice(PARTS)
            elif draw < 0.8:
                part = source.choice(("<any>", "<any>", "<own>"))
            else:
                part = source.choice(NAMED)
            if source.random() < 0.25:
                around = source.choice(AROUND)
                part = f"{around[0]}{part}{around[1]}".replace("{{", "{{{").replace("}}", "}}}")
            made += part
        return made + (source.choice(("}}", ")", ";", " |")) if source.random() < 0.1 else "")

    def pairs_of(self, count: int, joint: str, form: str) -> tuple[str, list[Slot]]:
        """Return `count` pairs of a key and a value."""
        keys = self.random.sample(self.keys, min(count, len(self.keys)))
        return joint.join(form.replace("KEY", key) for key in keys), [
            self.value("any") for _ in keys
        ]

    def template(self, level: int | None = None) -> Template:
        """Make a template."""
        source = self.random
        made = Template(
            source.choices(range(6), LEVEL_WEIGHTS)[0] if level is None else level,
            source.choice(self.loggers),
            self.processes[
                min(int(len(self.processes) * source.random() ** 2), len(self.processes) - 1)
            ],
        )
        if self.style.startswith("table"):
            joint, count = self.style[5:], source.randint(2, 9)
            made.slots = [self.value("any") for _ in range(count)]
            made.form = joint.join(["%s"] * count)
            return made
        free = source.random() < self.free
        form, slots = self.filled(self.pattern() if free else source.choice(self.patterns))
        if self.style == "json":
            form = form.replace("\\", "/").replace('"', "'")
            more, values = self.pairs_of(source.randint(0, 5), ",", '"KEY":%s')
            for place, value in enumerate(values):
                values[place] = _quoted(value)
            key = "msg" if self.capital else "message"
            made.form = f'"{key}":"{form}"' + (f",{more}" if more else "") + "}"
            made.slots = [*(_plain(slot) for slot in slots), *values]
            return made
        if self.style == "pairs":
            more, values = self.pairs_of(source.randint(0, 6), " ", "KEY=%s")
            made.form, made.slots = (
                f'msg="{form}"' + (f" {more}" if more else ""),
                [*slots, *values],
            )
            return made
        if source.random() < self.pairs:
            form += source.choice((" ", ", ", " | ", ": ", " ["))
            pair = f"KEY{self.equals}{self.quote}%s{self.quote}"
            more, values = self.pairs_of(
                source.randint(1, 7), source.choice((" ", ", ", "; ")), pair
            )
            form, slots = form + more, [*slots, *values]
        if form[-1:].isalpha():
            form += self.stop
        made.form, made.slots = form, slots
        if source.random() < 0.05:
            made.times = source.choice((2, 3, 10))
        return made


def _plain(slot: Slot) -> Slot:
    """Make a slot safe inside quotes."""
    return lambda: slot().replace("\\", "/").replace('"', "'")


def _quoted(slot: Slot) -> Slot:
    """Write a value as JSON does: numbers bare, all else in quotes."""

    def next_value() -> str:
        value = slot()
        if value.isdigit() or value in ("true", "false"):
            return value
        text = value.replace("\\", "/").replace('"', "'")
        return f'"{text}"'

    return next_value
