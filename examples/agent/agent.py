"""A chat that remembers what each user told it, through restarts and months.

    python examples/agent/agent.py --bundle recall --user anna
    > my sister lives in lisbon
    ok
    > where does my sister live?
    lisbon

A user's memory is the state of one stream, in a store beside all others. It is stored after every
line, before `ok` is shown: kill the program at any time, and start it again. `/forget` wipes the
user's memory, `/users` lists who is known, `/quit` ends. Ask with a question mark.

The bundle is made by examples/train/recall.py (docs/recall.md).
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dst.runtime import DstError, Session, StateStore, Stream, TextTokenizer, generate
from dst.runtime.errors import StreamNotFoundError

LONGEST_ANSWER = 16


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

    def say(self, user: str, line: str) -> str:
        """Read a line; return the answer to a question, and nothing for anything else.

        What was told is kept; a question and its answer are not.
        """
        stream = self.memory(user)
        line = line.strip()
        if line.endswith("?"):
            ids = generate(stream, line, LONGEST_ANSWER, temperature=0, stop=(self.stop,))
            return self.tokenizer.decode(number for number in ids if number != self.stop)
        stream.advance(self.tokenizer.encode(line if line.endswith((".", "!")) else line + " ."))
        self.store.put(user, stream.saved())
        return ""

    def forget(self, user: str) -> None:
        """Wipe a user's memory, all its older states too."""
        with suppress(StreamNotFoundError):
            self.store.delete(user)
            self.store.vacuum()  # else the file may hold copies


def lines() -> Iterator[str]:
    """Yield what is typed or piped, with a prompt for people."""
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
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
                elif line.strip():
                    answer = agent.say(given.user, line)
                    print(answer or "ok", flush=True)
    except DstError as error:
        print(f"agent: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
