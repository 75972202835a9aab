"""Tell a model facts in a process that is killed, talk of other things, and ask in this one.

The process is this module, run as `python -m dst.cli.demo.memory STATE`: it reads the facts, saves
its state, prints a line, and waits to be killed.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np

from dst.cli.signals import sigterm_raised
from dst.runtime import Session, SessionError, Stream, generate

BUNDLE = "recall-int8"
FACTS = (
    "the phone number of anna is 4821 .",
    "my sister lives in lisbon .",
    "the keys are in the drawer .",
    "boris works as a baker .",
    "carmen plays the cello .",
    "my sister moved to oslo .",
)
QUESTIONS = (
    ("what is the phone number of anna ?", "4821"),
    ("where does my sister live ?", "oslo"),
    ("where are the keys ?", "drawer"),
)
TALK = (
    "good morning , how are you today ? the trains to paris are full in june . "
    "we watched a film about a snake and a doctor . that was a long day in the garden . "
)
TALK_ITEMS = 10_000
_LONGEST = 12


class Answer(msgspec.Struct, frozen=True):
    """A question, what came, and what was told last."""

    question: str
    answer: str
    right: str


class Remembered(msgspec.Struct, frozen=True):
    """What was asked after the kill.

    Attributes:
        told: the sentences, as the killed process read them.
        items_between: items of talk between the last fact and the questions.
        state_bytes: size of the memory, which is fixed.
        answers: what came.
    """

    told: tuple[str, ...]
    items_between: int
    state_bytes: int
    answers: tuple[Answer, ...]

    @property
    def right(self) -> bool:
        """Whether all answers are right."""
        return all(answer.answer == answer.right for answer in self.answers)


class Words:
    """Words to ids and back by a bundle's tokenizer.json, for words that it knows whole."""

    def __init__(self, session: Session) -> None:
        file = session.bundle.root / "tokenizer.json"
        self._ids: dict[str, int] = json.loads(file.read_text("utf-8"))["model"]["vocab"]
        self._words = {number: word for word, number in self._ids.items()}

    def ids(self, text: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The ids `[n]` of words and marks with blanks between."""
        pieces = []
        for word in text.split():
            pieces.append(word[:3] if word.isdigit() else word)
            if word.isdigit():
                pieces += ["##" + word[at : at + 2] for at in range(3, len(word), 2)]
        return np.array([self._ids[piece] for piece in pieces], np.int64)

    def text(self, ids: Iterable[int]) -> str:
        """The words of ids, without the full stop."""
        return " ".join(self._words[i] for i in ids).replace(" ##", "").removesuffix(".").strip()


def remembered(told: Callable[[str], None]) -> Remembered:
    """Kill the process that was told the facts, talk in this one, and ask."""
    session = Session.open(BUNDLE)
    words = Words(session)
    with sigterm_raised(), tempfile.TemporaryDirectory(prefix="dst-demo-") as folder:
        state = Path(folder) / "memory.state"
        told("a process is told six things; it will be killed")
        _kill(state)
        stream = Stream.load(session, state)
    told(f"killed; {TALK_ITEMS:,} words of talk about other things")
    talk = words.ids(TALK)
    stream.advance(np.tile(talk, TALK_ITEMS // len(talk) + 1)[:TALK_ITEMS])
    answers = []
    for question, right in QUESTIONS:
        ids = generate(
            stream.fork(),
            words.ids(question),
            _LONGEST,
            temperature=0,
            stop=(int(words.ids(".")[0]),),
        )
        answers.append(Answer(question, words.text(ids), right))
    return Remembered(FACTS, TALK_ITEMS, session.layout.state_bytes, tuple(answers))


def _kill(state: Path) -> None:
    """Start the process, wait until it has saved, and kill it."""
    with subprocess.Popen(
        [sys.executable, "-m", "dst.cli.demo.memory", str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            line = child.stdout.readline() if child.stdout else b""
        finally:
            child.kill()  # SIGKILL; on Windows TerminateProcess
        if not line:
            said = (child.stderr.read() if child.stderr else b"").decode(errors="replace")
            raise SessionError(
                f"the child process ended by itself: {said.strip()[-300:]}", code="child-failed"
            )


def main() -> None:
    """Read the facts, save, and wait to be killed."""
    session = Session.open(BUNDLE)
    stream, words = session.stream(), Words(session)
    for fact in FACTS:
        stream.advance(words.ids(fact))
    stream.save(sys.argv[1])
    print("saved", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
