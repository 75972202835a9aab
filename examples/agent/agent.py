"""A chat that remembers what each user told it, through restarts and months.

    python examples/agent/agent.py --bundle recall --user anna
    > my sister lives in lisbon
    ok
    > where does my sister live?
    lisbon

A user's memory is the state of one stream, in a store beside all others. Every line that tells
something is stored before `ok` is shown: kill the program at any time, and start it again. Ask with
a question mark. `/forget` wipes the user's memory, `/users` lists who is known, `/quit` ends.

docs/recall.md says how the bundle is made, and what it understands: `ok` only means that a line was
read.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from dst.runtime import DstError, Session, StateStore, Stream, TextTokenizer, generate
from dst.runtime.errors import StreamNotFoundError

LONGEST_ANSWER = 16
WIDE_MARK = "\uff1f"  # the question mark of East Asian keyboards
BETWEEN = re.compile(r"(?<=[.!?])(?<!\bmr\.)(?<!\bmrs\.)(?<!\bms\.)(?<!\bdr\.)(?<!\bst\.)\s+", re.I)
"""Where a sentence ends, and not a title."""
COMMANDS = ("/forget", "/users", "/quit")


class Agent:
    """Reads lines of users and answers their questions.

    Args:
        session: of a bundle that reads sentences and answers what ends with a question mark by
            words and a full stop.
        store: the memories of all users.
    """

    def __init__(self, session: Session, store: StateStore) -> None:
        self.session, self.store = session, store
        self.tokenizer = TextTokenizer.of(session.bundle)
        self.stop = int(self.tokenizer.encode(".")[0])

    def memory(self, user: str) -> Stream:
        """The stream of a user: as it was stored, or a new one."""
        try:
            return self.session.stream(self.store.get(user))
        except StreamNotFoundError:
            return self.session.stream()

    def say(self, user: str, line: str) -> list[str]:
        """Read a line, sentence by sentence; return the answers to the questions in it.

        What was told is kept; questions and their answers are not.
        """
        stream, answers, told = self.memory(user), [], False
        for sentence in BETWEEN.split(line.replace(WIDE_MARK, "? ").strip()):
            said = sentence.rstrip(" .!")
            if said.endswith("?"):
                ids = generate(
                    stream.fork(), said, LONGEST_ANSWER, temperature=0, stop=(self.stop,)
                )
                answers.append(self.tokenizer.decode(n for n in ids if n != self.stop))
            else:
                closed = sentence.endswith((".", "!"))
                stream.advance(self.tokenizer.encode(sentence if closed else sentence + " ."))
                told = True
        if told:
            self.store.put(user, stream.saved())
        return answers

    def forget(self, user: str) -> None:
        """Wipe a user's memory, all its older states too."""
        with suppress(StreamNotFoundError):
            self.store.delete(user)
        self.store.vacuum()  # else the file may hold copies, also of an earlier try


def lines() -> Iterator[str]:
    """Yield what is typed or piped, with a prompt for people, until it ends or Ctrl-C."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # what is no UTF-8 is read as unknown letters
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--user", default="me", help="whose memory")
    parser.add_argument("--store", type=Path, default=Path("agent.db"), help="all memories")
    parser.add_argument("--bundle", default="recall", help="folder of the model")
    given = parser.parse_args()
    try:
        with StateStore(given.store) as store:
            agent = Agent(Session.open(given.bundle), store)
            for line in lines():
                if line == "/quit":
                    break
                if line == "/forget":
                    agent.forget(given.user)
                    print("forgotten", flush=True)
                elif line == "/users":
                    print(", ".join(entry.name for entry in store.list()) or "nobody", flush=True)
                elif line.startswith("/"):
                    print(f"commands are {', '.join(COMMANDS)}; nothing was done", flush=True)
                elif line:
                    print(*agent.say(given.user, line) or ["ok"], sep="\n", flush=True)
    except DstError as error:
        print(f"agent: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
