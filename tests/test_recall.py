"""The shipped memory answers what it was told, through kills, for each user alone."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dst.cli.demo.memory import QUESTIONS, TALK, Words, remembered
from dst.runtime import Session, generate

ROOT = Path(__file__).resolve().parents[1]
AGENT = [sys.executable, str(ROOT / "examples" / "agent" / "agent.py")]


def asked(session: Session, told: list[str], question: str, talk: int = 0) -> str:
    """Tell sentences to a new stream, talk, and ask."""
    words, stream = Words(session), session.stream()
    for sentence in told:
        stream.advance(words.ids(sentence))
    chatter = words.ids(TALK)
    if talk:
        stream.advance(np.tile(chatter, talk // len(chatter) + 1)[:talk])
    stop = (int(words.ids(".")[0]),)
    return words.text(generate(stream, words.ids(question), 12, temperature=0, stop=stop))


@pytest.mark.parametrize("bundle", ["recall", "recall-int8"])
def test_a_fact_is_kept_through_talk_and_gives_way_to_a_newer_one(bundle: str) -> None:
    session = Session.open(bundle)
    told = ["the room of anna is 17 .", "the room of boris is 230 .", "my uncle lives in rome ."]
    assert asked(session, told, "what is the room of anna ?", 2_000) == "17"
    assert asked(session, told, "what is the room of boris ?", 2_000) == "230"
    assert asked(session, [*told, "anna moved to room 99 ."], "what is the room of anna ?") == "99"


def test_what_was_never_told_is_unknown() -> None:
    session = Session.open("recall")
    assert asked(session, ["anna lives in rome ."], "what is the pet of anna ?") == "unknown"
    assert asked(session, ["anna lives in rome ."], "where does boris live ?") == "unknown"


def test_the_demo_remembers() -> None:
    found = remembered(lambda _: None)
    assert [answer.question for answer in found.answers] == [question for question, _ in QUESTIONS]
    assert found.right, found.answers


def conversation(store: Path, user: str, *lines: str) -> list[str]:
    """Run the agent once, say some lines, and return what it said."""
    command = [*AGENT, "--store", str(store), "--user", user]
    said = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_agent_keeps_each_users_memory_through_a_kill(tmp_path: Path) -> None:
    store = tmp_path / "agent.db"
    command = [*AGENT, "--store", str(store), "--user", "ida"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as talk:
        assert talk.stdin is not None
        assert talk.stdout is not None
        for line in ("The phone number of Anna is 482.", "my sister lives in Oslo"):
            talk.stdin.write(line + "\n")
            talk.stdin.flush()
            assert talk.stdout.readline() == "ok\n"  # stored, before it says so
        talk.send_signal(signal.SIGKILL)
    assert conversation(store, "otto", "where does my sister live?") == ["unknown"]
    assert conversation(store, "otto", "my sister lives in Rome") == ["ok"]
    answers = conversation(
        store, "ida", "what is the phone number of Anna?", "where does my sister live?"
    )
    assert answers == ["482", "oslo"]
    assert conversation(store, "otto", "/users") == ["ida, otto"]
    assert conversation(store, "ida", "/forget", "where does my sister live?") == [
        "forgotten",
        "unknown",
    ]
    assert conversation(store, "otto", "where does my sister live?") == ["rome"]
