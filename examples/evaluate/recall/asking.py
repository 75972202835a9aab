"""Tell a bundle facts, talk about other things, and ask: how many answers are right.

Every question is asked from the same state, so that no answer refreshes another.
"""

from dataclasses import dataclass, replace
from random import Random

import numpy as np
from facts.chatter import Talk
from facts.talk import Habits, World, slots
from facts.words import UNKNOWN, Spelling

from dst.runtime import Session, Stream, generate

LONGEST_ANSWER = 16


@dataclass(frozen=True, slots=True)
class Case:
    """What one conversation holds.

    Attributes:
        facts: so many are told.
        distance: items of talk between the last fact and the questions, at least.
        changes: so many times facts are changed, spread over all of them.
        spelled: share of subjects and values that are in no vocabulary.
        missing: so many questions for what was never told.
    """

    facts: int
    distance: int
    changes: int = 0
    spelled: float = 0.0
    missing: int = 0


@dataclass(slots=True)
class Score:
    """How many questions were asked, and how many answers were right."""

    asked: int = 0
    right: int = 0

    def add(self, right: bool) -> None:
        """Count an answer."""
        self.asked += 1
        self.right += right

    @property
    def share(self) -> float:
        """Share of right answers."""
        return self.right / max(1, self.asked)


class Asker:
    """Reads and asks through the runtime.

    Args:
        session: of the recall model.
        talk: gives sentences without facts, as ids.
        forgetful: begin each chunk from the empty state; then nothing can be remembered but what
            the question's own chunk holds.
    """

    def __init__(self, session: Session, talk: Talk, *, forgetful: bool = False) -> None:
        self.session, self.talk, self.forgetful = session, talk, forgetful
        self.spelling = Spelling.of(session.bundle.root / "tokenizer.json")
        self.stop = self.spelling.word(".")[0]

    def begin(self) -> Stream:
        """A new conversation."""
        return self.session.stream()

    def read(self, stream: Stream, ids: list[int]) -> None:
        """Step ids; their answers are not wanted."""
        stream.advance(np.array(ids, np.int64))
        if self.forgetful:
            stream.flush()
            stream.reset()

    def answer(self, stream: Stream, question: str) -> str:
        """The likeliest answer; the stream stays as it was."""
        asked = stream.fork()
        prompt = np.array(self.spelling.encode(question), np.int64)
        ids = list(generate(asked, prompt, LONGEST_ANSWER, temperature=0, stop=(self.stop,)))
        return self.spelling.decode(number for number in ids if number != self.stop)

    def told(self, case: Case, random: Random) -> tuple[World, Stream]:
        """Tell the facts of a case and change some."""
        world = World(random, Habits(case.facts, spelled=case.spelled))
        stream = self.begin()
        for _ in range(case.facts):
            self.read(stream, self.spelling.encode(str(world.tell())))
            self.read(stream, self.talk(random))
        for number in range(case.changes):
            fact = list(world.known)[number % case.facts]
            sentence = world.set(fact, slots()[fact[0]].changed)
            self.read(stream, self.spelling.encode(str(sentence)))
            self.read(stream, self.talk(random))
        return world, stream

    def chat(self, stream: Stream, items: int, random: Random) -> None:
        """Talk of at least so many items."""
        while items > 0:
            ids: list[int] = []
            while len(ids) < min(items, 4096):
                ids += self.talk(random)
            self.read(stream, ids)
            items -= len(ids)

    def ask_all(
        self, stream: Stream, world: World, missing: int, score: Score, none: Score
    ) -> None:
        """Ask for every fact once, and for some that were never told."""
        for fact, value in world.known.items():
            score.add(self.answer(stream, world.asked(fact)) == value)
        for _ in range(missing):
            none.add(self.answer(stream, world.asked(world.new_fact())) == UNKNOWN)


def run(asker: Asker, case: Case, worlds: int, seed: int) -> tuple[Score, Score]:
    """Judge a case on some conversations: answers to what was told, and to what was not."""
    score, none = Score(), Score()
    for number in range(worlds):
        random = Random(f"{seed} {number} {case}")
        world, stream = asker.told(case, random)
        asker.chat(stream, case.distance, random)
        asker.ask_all(stream, world, case.missing, score, none)
    return score, none


def by_distance(
    asker: Asker, case: Case, distances: list[int], worlds: int, seed: int
) -> list[tuple[int, Score]]:
    """Judge a case at growing distances, in one pass over the talk."""
    found = [Score() for _ in distances]
    for number in range(worlds):
        random = Random(f"{seed} {number} {case}")
        world, stream = asker.told(replace(case, distance=0), random)
        at = 0
        for distance, score in zip(distances, found, strict=True):
            asker.chat(stream, distance - at, random)
            at = distance
            asker.ask_all(stream, world, 0, score, Score())
    return list(zip(distances, found, strict=True))
