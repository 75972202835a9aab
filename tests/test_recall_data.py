"""The made-up conversations that a memory of facts is trained and judged on."""

import re
import sys
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "train"))
from facts.chatter import talk_of
from facts.talk import SPEAKER, Conversation, Habits, Item, World, key_of, made_up, slots
from facts.words import UNKNOWN, Spelling, tokenizer_json, vocabulary

PROSE = ["A stream has no end. What was read is in the state, and the state has a fixed size."] * 3
TOKENS = vocabulary(PROSE)
SPELLING = Spelling({token: number for number, token in enumerate(TOKENS)})


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=0x17F, categories=("L", "Nd", "P", "Zs")), max_size=60))
def test_words_are_spelled_as_the_tokenizer_does(text: str) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    ids = tokenizers.Tokenizer.from_str(tokenizer_json(TOKENS)).encode(text).ids
    assert SPELLING.encode(text) == ids


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_an_answer_is_what_was_told_last(seed: int) -> None:
    world = World(Random(seed), Habits(5, missing=0.5))
    told = [str(world.tell()) for _ in range(5)] + [str(world.change()) for _ in range(7)]
    assert len(world.known) == 5
    for (slot, who), value in world.known.items():
        ways = slots()[slot].told + slots()[slot].changed
        forms = [
            re.escape(way.replace("{s}", who).format(v="VALUE", a="ARTICLE"))
            .replace("VALUE", r"(\w+)")
            .replace("ARTICLE", "an?")
            for way in ways
            if ("{s}" in way) == (who != SPEAKER)
        ]
        found = [match[1] for said in told for form in forms if (match := re.fullmatch(form, said))]
        assert found[-1] == value
    for fact, question, answer in world.questions():
        assert answer == world.known.get(fact, UNKNOWN)
        assert question.endswith("?")


def test_only_answers_are_asked_for_and_each_has_the_key_under_which_it_was_told() -> None:
    world = World(Random(1), Habits(4, tell=3, talk=3, aside=0.5))
    conversation = Conversation(world, SPELLING, talk_of(PROSE, SPELLING))
    items = conversation.take(2000)
    question, stop = SPELLING.ids["?"], SPELLING.ids["."]
    kept: dict[int, int] = {}  # key -> the item told last under it
    right = 0
    for (before, answer_before, _), (number, answer, key) in pairwise(items):
        if key and not answer:
            kept[key] = number
        if answer and not answer_before:
            assert before == question
        if answer_before and not answer:
            assert before == stop
        if answer and key and number != stop:
            assert kept[key] == number
            right += 1
    assert right > 100


def test_every_kind_of_fact_can_be_about_others_and_about_who_is_speaking() -> None:
    for slot in slots().values():
        for ways in (slot.told, slot.changed, slot.asked):
            about_others = ["{s}" in way for way in ways]
            assert any(about_others)
            assert all(about_others) == slot.things
            assert ways is slot.asked or all(way.count("{v}") == 1 for way in ways)


def test_made_up_words_differ_and_are_never_who_is_speaking() -> None:
    words = [made_up(Random(seed)) for seed in range(5000)]
    assert min(map(len, words)) == 3
    assert len({*words}) > 4000
    assert SPEAKER not in words


def test_no_two_items_of_a_conversation_share_a_key() -> None:
    facts = [(slot, who) for slot in slots() for who in ("ann", "bob", "my aunt")]
    keys = [key_of(fact, place) for fact in facts for place in range(8)]
    assert len({0, *keys}) == len(keys) + 1


def test_a_conversation_is_the_same_however_it_is_cut() -> None:
    def cut(count: int, times: int) -> list[Item]:
        world = World(Random(2), Habits(6))
        conversation = Conversation(world, SPELLING, talk_of(PROSE, SPELLING))
        return [item for _ in range(times) for item in conversation.take(count)[:-1]]

    assert cut(64, 8) == cut(512, 1)


def test_search_finds_what_was_said_and_the_newer_of_two() -> None:
    """The baseline that keeps all sentences and reads the best again."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples/evaluate/recall"))
    from searching import Searcher

    def ids(text: str) -> list[int]:
        return SPELLING.encode(text)

    searcher = Searcher.__new__(Searcher)
    searcher.best, searcher.said, searcher._index = 3, [], None
    told = ["anna lives in rome .", "boris lives in oslo .", "anna moved to paris ."]
    talk = [f"a stream of {number} states ." for number in range(30)]
    for sentence in (told[0], *talk[:10], told[1], *talk[10:20], told[2], *talk[20:]):
        searcher.read(None, ids(sentence))  # type: ignore[arg-type]
    found = searcher.found(ids("where does anna live ?"))
    assert [sentence for sentence in found if sentence in (ids(told[0]), ids(told[2]))] == [
        ids(told[0]), ids(told[2])
    ]  # fmt: skip
    assert searcher.kept_bytes == 2 * sum(len(ids(sentence)) for sentence in [*told, *talk])
