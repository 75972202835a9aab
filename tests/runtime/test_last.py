"""Answers for the last item only: the same answer and state, with less work where a graph can."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from onnx import helper
from tests.raising import refused
from tests.runtime.conftest import text_contract, text_files, text_manifest, text_model
from tests.steps import INT64, graph_of, info

from dst.runtime import Session, SessionError, generate, replay_golden, write_bundle
from dst.runtime.bundle.manifest import Graph
from dst.runtime.errors import BundleError, NonFiniteError


def asked_model() -> bytes:
    """The text model, whose head reads only the items that are asked for."""
    model = onnx.load_from_string(text_model())
    (head,) = (node for node in model.graph.node if node.op_type == "MatMul")
    place = list(model.graph.node).index(head)
    model.graph.node.insert(place, helper.make_node("Gather", ["y", "asked"], ["some"], axis=1))
    head.input[0] = "some"
    model.graph.input.append(info("asked", ["A"], INT64))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "A"
    return bytes(model.SerializeToString())


def asked_bundle(path: Path, answers: str | None = "asked") -> Path:
    graph: Graph = replace(graph_of((1, 4, 8), lowering="fused"), answers=answers)
    manifest = replace(text_manifest(), graphs=(graph,))
    files = text_files() | {"step.onnx": asked_model()}
    del files["step_t1.onnx"]
    write_bundle(path, manifest, files)
    return path


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return Session.open(asked_bundle(tmp_path_factory.mktemp("asked") / "bundle"))


@pytest.fixture(params=["asked", "text", "sensor"])
def session(request: pytest.FixtureRequest) -> Session:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Session)
    return found


def items(session: Session, count: int) -> np.ndarray:
    random = np.random.default_rng(count)
    if session.contract.chunk.dtype == "int64":
        return random.integers(0, 256, count)
    return random.normal(size=(count, 2)).astype(np.float32)


@settings(deadline=None, max_examples=25)
@given(count=st.integers(0, 40), first=st.integers(0, 9))
@pytest.mark.parametrize("name", ["asked", "text", "sensor"])
def test_the_last_answer_is_the_last_of_all(
    request: pytest.FixtureRequest, name: str, count: int, first: int
) -> None:
    session: Session = request.getfixturevalue(name)
    data = items(session, first + count)
    whole, short = session.stream(), session.stream()
    whole.advance(data[:first])
    short.advance(data[:first])
    all_of, last = whole.advance(data[first:]), short.advance(data[first:], last=True)
    for output in session.contract.outputs:
        if output.time_axis is None:
            assert np.array_equal(last[output.name], all_of[output.name])
        else:
            assert np.array_equal(last[output.name], all_of[output.name][:, -1:])
    for tensor, value in whole.state.items():
        assert np.array_equal(short.state[tensor], value)
    assert short.pending == whole.pending


def test_a_step_answers_for_its_last_item(session: Session) -> None:
    for t in (1, 4):
        chunk = items(session, t)[None]
        whole, short = session.stream(), session.stream()
        all_of, last = whole.step(chunk), short.step(chunk, last=True)
        views = session.stream().step(chunk, last=True, copy=False)
        name = session.contract.outputs[0].name
        assert last[name].shape[1] == 1
        assert np.array_equal(last[name], all_of[name][:, -1:])
        assert np.array_equal(last[name], views[name])
        # and both kinds of step go on from one state
        assert np.array_equal(short.step(chunk)[name], whole.step(chunk)[name])


def test_a_bad_answer_for_another_item_is_refused_where_it_is_calculated(sensor: Session) -> None:
    huge = np.array([[[3e38, 0], [3e38, 0], [-3e38, 0], [-3e38, 0]]], np.float32)
    stream = sensor.stream()
    with refused(NonFiniteError, "output-not-finite"):
        stream.step(huge, last=True)
    assert stream.items_consumed == 0


def test_generating_reads_a_prompt_to_the_same_text(asked: Session, text: Session) -> None:
    for length in (1, 8, 13):
        prompt = bytes(range(65, 65 + length))
        left, right = (
            list(generate(s.stream(), prompt, 6, temperature=0.0)) for s in (asked, text)
        )
        assert left == right


def test_a_graph_that_is_asked_passes_its_golden_runs(asked: Session) -> None:
    checks = replay_golden(asked.bundle)
    assert len(checks) == 3
    assert all(check.passed for check in checks)


@pytest.mark.parametrize("name", ["ids", "h"])
def test_the_input_has_a_name_of_its_own(name: str, tmp_path: Path) -> None:
    with refused(BundleError, "contract", match=f"{name}.*twice|twice.*{name}|{name}"):
        asked_bundle(tmp_path / "b", name)


def test_a_graph_is_held_to_what_the_manifest_says(tmp_path: Path) -> None:
    with refused(SessionError, "graph", match="has an input 'asked', which the manifest does not"):
        Session.open(asked_bundle(tmp_path / "silent", None)).stream().step(np.zeros((1, 4), int))
    with refused(SessionError, "graph", match="has no input 'questions'"):
        Session.open(asked_bundle(tmp_path / "other", "questions")).stream().step(
            np.zeros((1, 4), int)
        )
    assert text_contract().outputs[0].per == "item"
