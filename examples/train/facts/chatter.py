"""Talk that holds no fact: prose, and made-up small talk that names people and places."""

from collections.abc import Callable, Sequence
from random import Random

from facts.words import Spelling, words_by_kind

SMALL_TALK = (
    "{name} laughed about the weather in {place} .",
    "nobody in {place} knew why {name} was late .",
    "{name} and {name} talked about {food} for {number} minutes .",
    "the {colour} {thing} looked nice , said {name} .",
    "in {month} the trains to {place} are full .",
    "a {job} from {place} called about the {thing} .",
    "{name} asked {name} whether {sport} is on today .",
    "we watched a film about a {animal} and a {job} .",
    "there were {number} people at the concert with the {instrument} .",
    "{name} thinks that {language} is hard to spell .",
    "good morning , how are you today ?",
    "did {name} see the news about {place} ?",
    "i would like some {food} and {drink} , please .",
    "that was a long day in the {spot} .",
)
LONGEST = 30


def small_talk(random: Random) -> str:
    """One made-up sentence."""
    words = random.choice(SMALL_TALK).split()
    kinds = words_by_kind()
    return " ".join(random.choice(kinds[w[1:-1]]) if w[0] == "{" else w for w in words)


Talk = Callable[[Random], list[int]]
"""Gives the next sentence, as ids."""


def talk_of(prose: Sequence[str], spelling: Spelling, share: float = 0.6) -> Talk:
    """Give a source of talk: pieces of this prose for a share of the sentences, else small talk.

    Args:
        prose: texts; a piece begins anywhere and ends with its sentence, or after `LONGEST` ids.
        spelling: words to ids.
        share: of the sentences that are prose.
    """
    ids = [number for text in prose for number in spelling.encode(text)]
    stop = spelling.ids["."]

    def next_sentence(random: Random) -> list[int]:
        if random.random() >= share:
            return spelling.encode(small_talk(random))
        start = random.randrange(len(ids) - LONGEST)
        piece = ids[start : start + random.randint(4, LONGEST)]
        return [*(piece[: piece.index(stop)] if stop in piece else piece), stop]

    return next_sentence
