"""Choosing threads by measurement: the fastest wins and is remembered; damage is not believed."""

import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from onnx import helper
from tests.raising import refused
from tests.steps import (
    INT64,
    PLAIN,
    chunk_of,
    contract_of,
    graph_of,
    info,
    manifest_of,
    output_of,
    state_of,
)

from dst.runtime import Session, SessionError, write_bundle
from dst.runtime.bundle.manifest import StreamInput
from dst.runtime.execution import threads
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.threads import Threads, available_cores, cache_folder, fastest


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
    monkeypatch.setattr("dst.runtime.session.available_cores", lambda: 2)
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


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", '{"number": 99, "spin": false}', '{"spin": 1}', "[" * 100_000,
        '{"number": 1e999, "spin": false}', '{"number": 2.5, "spin": true}', '{"number": Infinity}',
    ],
)  # fmt: skip
def test_a_bad_memory_is_measured_again(
    content: str, shelf: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dst.runtime.session.available_cores", lambda: 2)
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
    monkeypatch.setattr("dst.runtime.session.available_cores", lambda: 2)
    assert Session.open(shelf / "text", threads="measured").threads == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert cache_folder() is None


def test_a_measured_session_answers_as_another_does(shelf: Path) -> None:
    measured, plain = Session.open(shelf / "text", threads="measured"), Session.open(shelf / "text")
    left, right = measured.stream().advance(bytes(64)), plain.stream().advance(bytes(64))
    assert np.allclose(left["logits"], right["logits"], rtol=1e-6)


def test_a_model_with_stream_inputs_is_measured_too(shelf: Path, tmp_path: Path) -> None:
    """Such an input has no value before a stream is started; any will do for measuring."""
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Unsqueeze", ["gain", "one"], ["wide"]),
                helper.make_node("Mul", ["x", "wide"], ["y"]),
                helper.make_node("Identity", ["h"], ["h_next"]),
            ],
            "step",
            [info("x", ["B", "T"]), info("gain", ["B"]), info("h", ["B"])],
            [info("y", ["B", "T"]), info("h_next", ["B"])],
            [helper.make_tensor("one", INT64, [1], [1])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    contract = replace(
        contract_of(chunk_of(PLAIN, (1, 4)), [output_of("y", ("B", "T"))], [state_of("h", ("B",))]),
        stream_inputs=(StreamInput(input="gain", dtype="float32", shape=("B",)),),
    )
    manifest = manifest_of(contract, [graph_of((1, 4))], weights_bytes=0)
    write_bundle(tmp_path / "b", manifest, {"step.onnx": model.SerializeToString()})
    session = Session.open(tmp_path / "b", threads="measured")
    stream = session.stream(inputs={"gain": np.full(1, 2, np.float32)})
    assert stream.step(np.ones((1, 4), np.float32))["y"].tolist() == [[2, 2, 2, 2]]


def test_numbers_of_numpy_are_numbers(shelf: Path) -> None:
    assert Session.open(shelf / "text", threads=np.int64(2)).threads == 2  # type: ignore[arg-type]


def test_a_cache_that_is_no_absolute_path_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache" / "dst-edge"


def test_only_cores_that_may_be_used_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert available_cores() == 1


def test_what_is_no_number_is_refused(shelf: Path) -> None:
    for wrong in ("2", "auto", None):
        with refused(SessionError, "argument", match="expected a number or 'measured'"):
            Session.open(shelf / "text", threads=wrong)  # type: ignore[arg-type]
