"""Choosing threads by measurement: the fastest wins and is remembered; damage is not believed."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.raising import refused

from dst.runtime import Session, SessionError
from dst.runtime.execution import threads
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.threads import Threads, cache_folder, fastest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dst-edge"


def clock(monkeypatch: pytest.MonkeyPatch, seconds: dict[Threads, float]) -> list[Threads]:
    """Let a step take a known time with each choice; return the choices that were measured."""
    asked: list[Threads] = []

    def spent(engine: Engine) -> float:
        asked.append(Threads(engine.threads, engine.spin))
        return seconds[asked[-1]]

    monkeypatch.setattr(threads, "_seconds", spent)
    return asked


def opened(shelf: Path, choice: Threads) -> Session:
    session = Session.open(shelf / "text", threads=choice.number)
    session.spin = choice.spin
    return session


ONE, TWO, SPINNING = Threads(1), Threads(2), Threads(2, spin=True)


@pytest.mark.parametrize(
    ("two", "spinning", "best"),
    [
        (0.5, 0.4, SPINNING),
        (0.5, 0.48, TWO),  # spinning is not worth its core
        (0.95, 0.8, SPINNING),
        (0.95, 0.99, ONE),  # more threads are not worth theirs
        (2.0, 3.0, ONE),
    ],
)
def test_more_threads_are_taken_where_they_pay(
    two: float, spinning: float, best: Threads, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = clock(monkeypatch, {ONE: 1.0, TWO: two, SPINNING: spinning})
    assert fastest(lambda choice: opened(shelf, choice), 2, None) == best
    assert asked == [ONE, TWO, SPINNING]


def test_a_choice_is_remembered_for_these_sizes_alone(
    shelf: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    asked = clock(monkeypatch, {ONE: 1.0, TWO: 0.5, SPINNING: 0.6})
    first = Session.open(shelf / "text", threads="measured")
    assert (first.threads, first.spin, len(asked)) == (2, False, 3)
    report = first.report()
    assert (report.threads, report.spin) == (2, False)
    Session.open(shelf / "text", threads="measured")
    assert len(asked) == 3
    Session.open(shelf / "text", threads="measured", chunk_sizes=[1])
    assert len(asked) == 6
    assert len(list(own_cache.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"number": 99, "spin": false}', '{"spin": 1}'])
def test_a_bad_memory_is_measured_again(
    content: str, shelf: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    asked = clock(monkeypatch, {ONE: 1.0, TWO: 0.5, SPINNING: 0.4})
    Session.open(shelf / "text", threads="measured")
    (file,) = own_cache.iterdir()
    file.write_text(content)
    assert Session.open(shelf / "text", threads="measured").spin
    assert len(asked) == 6
    assert json.loads(file.read_text()) == {"number": 2, "spin": True}


def test_no_folder_is_no_error(
    shelf: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_cache.parent.write_text("a file stands where the folder should be")
    clock(monkeypatch, dict.fromkeys((ONE, TWO, SPINNING), 1.0) | {Threads(4): 1.0})
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert Session.open(shelf / "text", threads="measured").threads == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert cache_folder() is None


def test_a_measured_session_answers_as_another_does(shelf: Path) -> None:
    measured, plain = Session.open(shelf / "text", threads="measured"), Session.open(shelf / "text")
    left, right = measured.stream().advance(bytes(64)), plain.stream().advance(bytes(64))
    assert np.allclose(left["logits"], right["logits"], rtol=1e-6)


def test_what_is_no_number_is_refused(shelf: Path) -> None:
    for wrong in ("2", "auto", None):
        with refused(SessionError, "argument", match="expected a number or 'measured'"):
            Session.open(shelf / "text", threads=wrong)  # type: ignore[arg-type]
