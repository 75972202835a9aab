"""A second real provider: OpenVINO runs the portable graphs as the CPU does, or is refused.

Its wheel holds the same module as onnxruntime, so it has a virtual environment of its own;
docs/providers.md has the commands.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from onnx import helper
from tests.steps import (
    PLAIN,
    chunk_of,
    contract_of,
    graph_of,
    info,
    manifest_of,
    model_bytes,
    output_of,
    state_of,
)

import dst
from dst.runtime import (
    Session,
    Stream,
    open_bundle,
    relative_error,
    replay_golden,
    write_bundle,
)
from dst.runtime.errors import ProviderError

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        "OpenVINOExecutionProvider" not in ort.get_available_providers(),
        reason=f"onnxruntime {ort.__version__} has no OpenVINO provider: see docs/providers.md",
    ),
]

BYTES = 4096
TOLERANCE = 1e-4  # what the bundle allows another machine


@pytest.fixture(scope="module")
def text() -> npt.NDArray[np.int64]:
    held_out = Path(dst.__file__).parent / "heldout" / "stdlib.txt"
    return np.frombuffer(held_out.read_bytes()[:BYTES], np.uint8).astype(np.int64)


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.open("text", provider="openvino")


def test_the_portable_graphs_are_chosen_and_run_on_it_whole(session: Session) -> None:
    assert session.chunk_sizes == (1, 32)
    report = session.report()
    assert {load.lowering for load in report.graphs} == {"portable"}
    for load in report.graphs:
        assert [share.provider for share in load.shares] == ["openvino"]
        assert load.fraction == 1.0
        assert load.multiply_adds == sum(
            next(
                g for g in session.bundle.manifest.graphs if g.file == load.graph
            ).multiply_adds.values()
        )


def test_the_golden_runs_are_reproduced() -> None:
    checks = replay_golden(open_bundle("text"), "openvino")
    assert {c.graph for c in checks} == {"step_t32.onnx", "step_t1.onnx"}
    assert all(c.passed for c in checks)


def test_a_carried_stream_stays_with_the_cpus(
    session: Session, text: npt.NDArray[np.int64]
) -> None:
    there = session.stream()
    here = Session.open("text", lowering="portable").stream()
    for start in range(0, BYTES, 32):
        chunk = text[None, start : start + 32]
        found, expected = there.step(chunk), here.step(chunk)
        assert relative_error(found["logits"], expected["logits"]) <= TOLERANCE


def test_a_state_goes_from_one_provider_to_the_other(
    session: Session, text: npt.NDArray[np.int64], tmp_path: Path
) -> None:
    stream = session.stream()
    stream.advance(text[:1000])
    stream.save(tmp_path / "s")
    later = Stream.load(Session.open("text", lowering="portable"), tmp_path / "s")
    assert later.items_consumed == stream.items_consumed
    found, expected = stream.advance(text[1000:2000]), later.advance(text[1000:2000])
    assert relative_error(found["logits"], expected["logits"]) <= TOLERANCE


def test_a_device_that_does_not_exist_is_no_silent_fallback() -> None:
    """ONNX Runtime lists the provider all the same, and runs everything on the CPU."""
    with pytest.raises(ProviderError, match=r"'openvino' took only 0\.0% of the multiply-adds"):
        Session.open(
            "text", provider="openvino", provider_options={"device_type": "TOASTER"}
        ).report()


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A graph of two products with a determinant between them, which OpenVINO does not have."""
    node = helper.make_node
    step = model_bytes(
        [
            node("MatMul", ["x", "w"], ["a"], name="first"),
            node("Det", ["a"], ["d"], name="between"),
            node("Add", ["d", "c"], ["e"], name="sum"),
            node("MatMul", ["e", "u"], ["f"], name="second"),
            node("Add", ["f", "bias"], ["y"], name="bias_sum"),
            node("Identity", ["f"], ["c_next"], name="copy"),
        ],
        [info("x", [1, 8, 8]), info("c", [1, 8])],
        [info("y", [1, 8]), info("c_next", [1, 8])],
        {
            "w": np.eye(8, dtype=np.float32),
            "u": np.eye(8, dtype=np.float32),
            "bias": np.ones((1, 8), np.float32),
        },
    )
    contract = contract_of(
        chunk_of(PLAIN, (8,), 8, tail="refuse"),
        [output_of("y", ("B", 8))],
        [state_of("c", ("B", 8))],
    )
    costs = {"first": 512, "between": 0, "sum": 0, "second": 64, "bias_sum": 0, "copy": 0}
    graph = graph_of((8,), batch=(1,), multiply_adds=costs)
    manifest = manifest_of(contract, [graph], name="half", weights_bytes=512)
    write_bundle(tmp_path / "half", manifest, {"step.onnx": step})
    return tmp_path / "half"


def test_a_graph_it_takes_in_part_is_refused_unless_that_is_wanted(half: Path) -> None:
    with pytest.raises(ProviderError, match=r"'openvino' took only .* of the multiply-adds"):
        Session.open(half, provider="openvino").report()
    session = Session.open(half, provider="openvino", strict=False)
    (load,) = session.report().graphs
    costs = {share.provider: share.multiply_adds for share in load.shares}
    assert set(costs) == {"openvino", "cpu"}
    assert sum(costs.values()) == 512 + 64
    chunk = np.random.default_rng(0).normal(size=(1, 8, 8)).astype(np.float32)
    found = session.stream().step(chunk)["y"]
    expected = Session.open(half).stream().step(chunk)["y"]
    assert relative_error(found, expected) <= 1e-5
