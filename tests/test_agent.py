"""The agent of `examples/agent`: each user's memory is his own, and stored before `ok` is shown."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.test_tokenizer import written

from dst.runtime import Session, StateStore, TextTokenizer
from dst.runtime.state.record import pack

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


class Chat:
    """Runs the agent, each time as a new process."""

    def __init__(self, bundle: Path, store: Path) -> None:
        self.bundle, self.store = bundle, store

    def command(self, user: str) -> list[str]:
        script = str(EXAMPLES / "agent" / "agent.py")
        files = ["--bundle", str(self.bundle), "--store", str(self.store)]
        return [sys.executable, script, *files, "--user", user]

    def say(self, user: str, *lines: str) -> list[str]:
        """Say some lines, and return what the agent said."""
        said = "".join(f"{line}\n" for line in lines)
        done = subprocess.run(
            self.command(user), input=said, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    def say_and_die(self, user: str, *lines: str) -> None:
        """Say some lines, and kill the agent as soon as it has said `ok` to the last."""
        pipe = subprocess.PIPE
        with subprocess.Popen(self.command(user), stdin=pipe, stdout=pipe, text=True) as talk:
            assert talk.stdin is not None
            assert talk.stdout is not None
            for line in lines:
                talk.stdin.write(line + "\n")
                talk.stdin.flush()
                assert talk.stdout.readline() == "ok\n"
            talk.send_signal(signal.SIGKILL)


def test_a_memory_is_stored_before_ok_and_belongs_to_its_user(tmp_path: Path) -> None:
    chat = Chat(written(tmp_path / "model"), tmp_path / "agent.db")
    chat.say_and_die("ida", "the first", "the second!")
    answer = chat.say("otto", "and what?")  # untrained words, in some lines
    assert chat.say("ida", "and what?") != answer
    assert chat.say("otto", " /users ", "mine", "/users") == ["ida", "ok", "ida, otto"]
    (refused,) = chat.say("otto", "/Forget")
    assert "/forget" in refused
    session = Session.open(chat.bundle)
    alone = session.stream()
    for line in ("the first .", "the second!"):
        alone.advance(TextTokenizer.of(session.bundle).encode(line))
    with StateStore(chat.store) as store:
        assert pack(store.get("ida")) == pack(alone.saved())
    assert chat.say("otto", "/forget", "and what?", "/users") == ["forgotten", *answer, "ida"]
    assert b"otto" not in chat.store.read_bytes()


def test_a_line_may_tell_and_ask(tmp_path: Path) -> None:
    chat = Chat(written(tmp_path / "model"), tmp_path / "agent.db")
    told, *answers = chat.say("ida", "one.", "what?", "and who?")
    assert told == "ok"
    assert chat.say("otto", "one. what? and who?!") == answers
    assert chat.say("otto", "and what of Mr. Smith?") != ["ok"]  # one question, nothing told
    with StateStore(chat.store) as store:
        assert pack(store.get("otto")) == pack(store.get("ida"))


def test_what_is_no_text_is_read_and_ends_nothing(tmp_path: Path) -> None:
    chat = Chat(written(tmp_path / "model"), tmp_path / "agent.db")
    done = subprocess.run(chat.command("ida"), input=b"M\xfcnchen\n/users\n", capture_output=True)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [b"ok", b"ida"]


def test_a_missing_bundle_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        Chat(tmp_path / "none", tmp_path / "agent.db").command("ida"),
        capture_output=True,
        text=True,
        input="",
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("agent: ")


@pytest.mark.train
def test_the_trained_memory_answers_through_kills_and_gives_way_to_what_is_newer(
    tmp_path: Path,
) -> None:
    """It is made of the committed weights by the command of docs/recall.md."""
    train = EXAMPLES / "train"
    subprocess.run(
        [
            sys.executable, train / "recall.py", "--out", tmp_path / "out", "--work",
            ROOT / "runs" / "corpus", "--start", train / "recall.safetensors",
            "--export", tmp_path / "recall",
        ],
        check=True,
    )  # fmt: skip
    chat = Chat(tmp_path / "recall", tmp_path / "agent.db")
    chat.say_and_die("ida", "The phone number of Anna is 482.", "my sister lives in Oslo")
    assert chat.say("otto", "where does my sister live?") == ["unknown"]
    assert chat.say("otto", "my sister lives in Rome") == ["ok"]
    questions = "what is the phone number of Anna?", "where does my sister live?"
    assert chat.say("ida", *questions) == ["482", "oslo"]
    chat.say_and_die("ida", "my sister moved to Lisbon")
    assert chat.say("ida", *questions) == ["482", "lisbon"]
    assert chat.say("ida", "/forget", questions[1]) == ["forgotten", "unknown"]
    assert chat.say("otto", questions[1]) == ["rome"]
