"""Endless conversations in which facts are told, changed and asked for, with the right answers.

A `World` knows what was told. `Conversation` turns its sentences into ids; the answer to a question
stands behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random
from zlib import crc32

from facts.chatter import Talk
from facts.words import RELATIONS, UNKNOWN, Spelling, sections, words_by_kind

Item = tuple[int, bool, int]
"""An id, whether it belongs to an answer, and the key of what it tells or answers, else 0."""
Fact = tuple[str, str]
"""Which slot, of whom."""
SPEAKER = "me"
VOWELS = "aeiou"


@dataclass(frozen=True, slots=True)
class Slot:
    """One kind of fact.

    Attributes:
        values: kind of the value.
        things: it is about a thing and not about a person.
        told: sentences that tell it; those without `{s}` are about who is speaking.
        changed: sentences that change it.
        asked: questions for it.
    """

    values: str
    things: bool
    told: list[str]
    changed: list[str]
    asked: list[str]


@cache
def slots() -> dict[str, Slot]:
    """Every kind of fact, by name."""
    found = {}
    for heading, lines in sections("templates.txt").items():
        name, values, *about = heading.split()
        by = {sign: [line[2:] for line in lines if line[0] == sign] for sign in "+~?"}
        found[name] = Slot(values, about == ["thing"], by["+"], by["~"], by["?"])
    return found


@dataclass(frozen=True, slots=True)
class Told:
    """A sentence that tells a fact: what stands before its value, the value, and the rest."""

    fact: Fact
    before: str
    value: str
    after: str

    def __str__(self) -> str:
        return self.before + self.value + self.after


@dataclass(frozen=True, slots=True)
class Habits:
    """How a conversation goes, round by round: something is told, then talk, then questions.

    Attributes:
        facts: so many are told in all, then only changed.
        tell: most facts told or changed in a round.
        talk: most sentences of talk between telling and asking.
        ask: most questions of a round.
        aside: share of the told sentences that talk follows at once.
        missing: share of the questions that ask for what was never told.
        spelled: share of subjects and values that are in no vocabulary.
        alike: share of the new facts that are of a kind told before.
        about: share of the new facts that are about who or what is known.
    """

    facts: int
    tell: int = 4
    talk: int = 8
    ask: int = 8
    aside: float = 0.2
    missing: float = 0.1
    spelled: float = 0.15
    alike: float = 0.4
    about: float = 0.5


def made_up(random: Random) -> str:
    """A word of three letters or more that can be spoken and mostly means nothing."""
    easy = random.random() < 0.5
    parts = [" ".join(p[:1] if easy else p).split() for p in sections("syllables.txt").values()]
    count = random.choice((1, 2, 2, 2, 3))
    word = "".join(random.choice(part) for _ in range(count) for part in parts).replace("-", "")
    return word if len(word) > 2 else made_up(random)


@dataclass(slots=True)
class World:
    """What was told so far.

    Attributes:
        random: where all choices come from.
        habits: how the conversation goes.
        known: the value of each fact, in the order of telling.
    """

    random: Random
    habits: Habits
    known: dict[Fact, str] = field(default_factory=dict)

    def subject(self, slot: Slot) -> str:
        """Somebody, or some thing."""
        pick = self.random.random()
        if pick < self.habits.spelled:
            return made_up(self.random)
        if slot.things:
            return self.random.choice(words_by_kind()["thing"])
        if pick > 0.9:
            return "my " + self.random.choice(RELATIONS)
        if pick > 0.8:
            return SPEAKER
        return self.random.choice(words_by_kind()["name"])

    def say(self, ways: Sequence[str], who: str) -> str:
        """Choose a sentence about somebody, with the value left open."""
        fitting = [way for way in ways if ("{s}" in way) == (who != SPEAKER)]
        return self.random.choice(fitting).replace("{s}", who)

    def value(self, slot: Slot) -> str:
        """A value for a slot; sometimes one that must be spelled."""
        if self.random.random() < self.habits.spelled:
            if slot.values == "number":
                return str(self.random.randrange(1000, 10_000_000))
            return made_up(self.random)
        return self.random.choice(words_by_kind()[slot.values])

    def new_fact(self) -> Fact:
        """A fact that was not told yet; some are about who is known, or of a kind that is known."""
        habits = self.habits
        while True:
            kinds = [kind for kind, _ in self.known] if self.random.random() < habits.alike else []
            name = self.random.choice(kinds or list(slots()))
            slot = slots()[name]
            about = [who for other, who in self.known if slots()[other].things == slot.things]
            again = about and self.random.random() < habits.about
            who = self.random.choice(about) if again else self.subject(slot)
            if (name, who) not in self.known:
                return name, who

    def tell(self) -> Told:
        """Tell a new fact."""
        fact = self.new_fact()
        return self.set(fact, slots()[fact[0]].told)

    def change(self) -> Told:
        """Change a fact."""
        fact = self.random.choice(list(self.known))
        return self.set(fact, slots()[fact[0]].changed)

    def set(self, fact: Fact, ways: Sequence[str]) -> Told:
        """Give a fact a value, told in one of some ways."""
        slot = slots()[fact[0]]
        value = self.value(slot)
        while value in (fact[1], self.known.get(fact)):
            value = self.value(slot)
        self.known[fact] = value
        way = self.say(ways, fact[1]).replace("{a}", "an" if value[0] in VOWELS else "a")
        before, after = way.split("{v}")
        return Told(fact, before, value, after)

    def asked(self, fact: Fact) -> str:
        """A question for a fact."""
        return self.say(slots()[fact[0]].asked, fact[1])

    def questions(self) -> list[tuple[Fact, str, str]]:
        """Ask some facts, no two alike: of what, the question, the answer."""
        known = list(self.known.items())
        chosen = self.random.sample(known, min(len(known), self.random.randint(1, self.habits.ask)))
        if self.random.random() < self.habits.missing * len(chosen):
            chosen.append((self.new_fact(), UNKNOWN))
        self.random.shuffle(chosen)
        return [(fact, self.asked(fact), answer) for fact, answer in chosen]


def key_of(fact: Fact, place: int) -> int:
    """A number that stands for one item of a fact's value, or for its end.

    An answer's item is to be found under the key under which the told item was kept.
    """
    return crc32(f"{fact} {place}".encode()) or 1


def ends_open(value: str, ids: list[int]) -> bool:
    """Say whether a value's last item does not show that it is the last; its end is kept then."""
    return len(ids) > 1 or value.isdigit()


class Conversation:
    """The ids of one world's sentences; of each whether it is an answer, and its key.

    Args:
        world: what is told.
        spelling: words to ids.
        talk: gives the next sentence about other things, as ids.
    """

    def __init__(self, world: World, spelling: Spelling, talk: Talk) -> None:
        self.world, self.spelling, self.talk = world, spelling, talk
        self.items: list[Item] = []

    def go_on(self) -> None:
        """Add one round."""
        world, random, habits = self.world, self.world.random, self.world.habits
        for _ in range(random.randint(1, habits.tell)):
            full = len(world.known) >= habits.facts
            told = world.change() if full else world.tell()
            before, value, after = map(self.spelling.encode, (told.before, told.value, told.after))
            self.add(before)
            self.add(value, told.fact)
            if ends_open(told.value, value):
                self.add(after[:1], told.fact, first=len(value))
                after = after[1:]
            self.add(after)
            if random.random() < habits.aside:
                self.add(self.talk(random))
        for _ in range(int((habits.talk + 1) ** random.random()) - 1):
            self.add(self.talk(random))
        for fact, question, answer in world.questions():
            self.add(self.spelling.encode(question))
            ids, stop = self.spelling.encode(answer), self.spelling.word(".")
            of = None if answer == UNKNOWN else fact
            self.add(ids, of, answered=True)
            self.add(stop, of if ends_open(answer, ids) else None, len(ids), answered=True)

    def add(
        self, ids: list[int], fact: Fact | None = None, first: int = 0, *, answered: bool = False
    ) -> None:
        """Add ids; those that tell a fact or answer for it with their keys, from a place on."""
        for place, number in enumerate(ids, first):
            self.items.append((number, answered, 0 if fact is None else key_of(fact, place)))

    def take(self, count: int) -> list[Item]:
        """The next `count + 1` items; the last of them comes again."""
        while len(self.items) <= count:
            self.go_on()
        taken = self.items[: count + 1]
        del self.items[:count]
        return taken
