"""Laws of CUDA: the state stays on the device, and capturing a graph does not advance it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

import dst
from dst.runtime import Session, open_bundle, relative_error, replay_golden
from dst.runtime.execution.providers import Lowering

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in ort.get_available_providers(),
        reason=f"onnxruntime {ort.__version__} has no CUDA provider: see docs/providers.md",
    ),
]

CAPTURE = {"enable_cuda_graph": "1"}
FLOAT32 = {"use_tf32": "0"}
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def text() -> npt.NDArray[np.int64]:
    held_out = Path(dst.__file__).parent / "heldout" / "stdlib.txt"
    return np.frombuffer(held_out.read_bytes()[:4096], np.uint8).astype(np.int64)


@pytest.mark.parametrize("lowering", ["fused", "portable"])
def test_the_golden_runs_are_reproduced(lowering: Lowering) -> None:
    checks = replay_golden(open_bundle("text"), "cuda", lowering=lowering, provider_options=FLOAT32)
    assert all(c.passed for c in checks)


def test_the_state_lies_on_the_device() -> None:
    session = Session.open("text", provider="cuda")
    state = session.state_buffers(session.layout.block())
    assert {value.device_name() for value in state.values.values()} == {"cuda"}


@pytest.mark.parametrize("lowering", ["fused", "portable"])
def test_a_carried_stream_stays_with_the_cpus(
    lowering: Lowering, text: npt.NDArray[np.int64]
) -> None:
    there = Session.open("text", "cuda", lowering=lowering, provider_options=FLOAT32).stream()
    here = Session.open("text").stream()
    for start in range(0, len(text), 32):
        chunk = text[None, start : start + 32]
        found, expected = there.step(chunk), here.step(chunk)
        assert relative_error(found["logits"], expected["logits"]) <= TOLERANCE


def test_capturing_a_graph_does_not_advance_the_state(text: npt.NDArray[np.int64]) -> None:
    """The first step captures: it runs several times, and must count as one."""
    plain = Session.open("text", "cuda", lowering="portable", provider_options=FLOAT32)
    captured = Session.open(
        "text", "cuda", lowering="portable", provider_options={**FLOAT32, **CAPTURE}
    )
    left, right = plain.stream(), captured.stream()
    for start in range(0, 1024, 32):
        chunk = text[None, start : start + 32]
        expected, found = left.step(chunk), right.step(chunk)
        assert relative_error(found["logits"], expected["logits"]) <= TOLERANCE
        assert left.items_consumed == right.items_consumed
    for name, value in left.state.items():
        assert relative_error(right.state[name], value) <= 10 * TOLERANCE


def test_captured_streams_do_not_meet(text: npt.NDArray[np.int64]) -> None:
    """Each stream has bindings of its own, so each must replay a graph of its own."""
    session = Session.open(
        "text", "cuda", lowering="portable", provider_options={**FLOAT32, **CAPTURE}
    )
    first, second, alone = session.stream(), session.stream(), session.stream()
    for start in range(0, 512, 32):
        chunk = text[None, start : start + 32]
        found = first.step(chunk)["logits"]
        second.step(text[None, 2048 + start : 2080 + start])
        expected = alone.step(chunk)["logits"]
        assert relative_error(found, expected) <= TOLERANCE


def test_a_deadline_steps_without_replay(text: npt.NDArray[np.int64]) -> None:
    session = Session.open(
        "text", "cuda", lowering="portable", provider_options={**FLOAT32, **CAPTURE}
    )
    left, right = session.stream(), session.stream()
    for start in range(0, 256, 32):
        chunk = text[None, start : start + 32]
        found = left.step(chunk, deadline_ms=60_000)["logits"]
        assert relative_error(found, right.step(chunk)["logits"]) <= TOLERANCE
