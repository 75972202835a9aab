"""Other exports and other precisions of a model that was adopted before."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import helper
from tests.adopting import ITEM, ONE, adopt, folded, speaker
from tests.steps import drawn, info, model_bytes

from dst.export import AdoptCheckError, AdoptError, Answers
from dst.runtime import Session, Stream, open_bundle, write_bundle


def test_a_state_outlives_another_export(tmp_path: Path) -> None:
    old = adopt(tmp_path, folded(True), ONE, "old")
    other = adopt(tmp_path, folded(False), ONE, "other")
    assert other.manifest.model_id != old.manifest.model_id
    new = adopt(tmp_path, folded(False), ONE, "new", model_of=tmp_path / "old")
    assert new.manifest.model_id == old.manifest.model_id
    (certificate,) = new.manifest.certificates
    assert (certificate.passed, certificate.bound) == (True, 1e-5)
    assert certificate.worst <= 1e-5
    assert certificate.steps >= 1000
    items = drawn(20, 3, seed=9)
    session = Session.open(tmp_path / "old")
    stream = session.stream()
    stream.advance(items[:10])
    stream.save(tmp_path / "state")
    going = Stream.load(Session.open(tmp_path / "new"), tmp_path / "state")
    found = going.advance(items[10:])["y"]
    assert np.allclose(found, stream.advance(items[10:])["y"], rtol=0, atol=1e-6)


def test_the_older_bundle_may_order_and_call_its_state_otherwise(tmp_path: Path) -> None:
    """As an export from torch does: the role of a state is a guess, its order is free."""
    made = adopt(tmp_path, folded(True), ONE, "old").manifest
    state = tuple(msgspec.structs.replace(s, role="window") for s in made.contract.state)
    contract = msgspec.structs.replace(made.contract, state=state)
    files = {name: tmp_path / "old" / name for name in made.files}
    old = write_bundle(
        tmp_path / "other", msgspec.structs.replace(made, contract=contract, files={}), files
    )
    assert old.state_hash != made.state_hash
    new = adopt(tmp_path, folded(False), ONE, "new", model_of=tmp_path / "other").manifest
    assert (new.model_id, new.state_hash) == (old.model_id, old.state_hash)
    stream = Session.open(tmp_path / "other").stream()
    stream.advance(drawn(3, 3, seed=3))
    stream.save(tmp_path / "state")
    Stream.load(Session.open(tmp_path / "new"), tmp_path / "state")


def test_a_new_export_may_take_the_place_of_the_old(tmp_path: Path) -> None:
    old = adopt(tmp_path, folded(True), ONE, "b").manifest
    new = adopt(tmp_path, folded(False), ONE, "b", model_of=tmp_path / "b", overwrite=True)
    assert new.manifest.model_id == old.model_id
    assert open_bundle(tmp_path / "b").manifest.bundle_id == new.manifest.bundle_id


@pytest.mark.parametrize(
    ("model", "answers", "words"),
    [
        (lambda: folded(True, seed=1), ONE, "is not the model of bundle old/.*strays by"),
        (lambda: folded(True, strength=1.001), ONE, "is not the model of bundle old/.*strays by"),
        (lambda: folded(False), replace(ONE, init={"h": np.array(1.0)}), "a state of the other"),
    ],
)
def test_only_the_same_model_keeps_the_id(
    tmp_path: Path, model: Callable[[], bytes], answers: Answers, words: str
) -> None:
    adopt(tmp_path, folded(True), ONE, "old")
    with pytest.raises(AdoptError, match=words):
        adopt(tmp_path, model(), answers, "new", model_of=tmp_path / "old")
    assert not (tmp_path / "new").exists()


def test_models_of_other_items_are_not_compared(tmp_path: Path) -> None:
    adopt(tmp_path, folded(True), ONE, "old")
    with pytest.raises(AdoptError, match=r"--model-of: item shape"):
        adopt(
            tmp_path,
            speaker(),
            Answers(shapes=ITEM, stream_inputs={"d": None}),
            "new",
            model_of=tmp_path / "old",
        )


def quantized(bits_lost: bool = True) -> bytes:
    """The same model with its matrix as int8 with one scale."""
    matrix = drawn(7, 4, seed=0, scale=0.4)
    scale = np.float32(np.abs(matrix).max() / (127 if bits_lost else 3))
    return model_bytes(
        [
            helper.make_node("Concat", ["x", "h"], ["xh"], axis=1),
            helper.make_node("DequantizeLinear", ["q", "scale"], ["m"]),
            helper.make_node("MatMul", ["xh", "m"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["hn"]),
            helper.make_node("Add", ["hn", "hn"], ["y"]),
        ],
        [info("x", ["B", 3]), info("h", ["B", 4])],
        [info("y", ["B", 4]), info("hn", ["B", 4])],
        {"q": np.round(matrix / scale).astype(np.int8), "scale": np.array(scale)},
    )


def test_another_precision_is_recorded_with_its_distance(tmp_path: Path) -> None:
    old = adopt(tmp_path, folded(True), ONE, "old")
    with pytest.raises(AdoptCheckError, match=r"is int8, and bundle old/ is float32.*--within"):
        adopt(tmp_path, quantized(), ONE, "new", model_of=tmp_path / "old")
    with pytest.raises(AdoptCheckError, match=r"0\.05 is allowed"):
        adopt(tmp_path, quantized(False), ONE, "new", model_of=tmp_path / "old", within=0.05)
    assert not (tmp_path / "new").exists()
    new = adopt(tmp_path, quantized(), ONE, "new", model_of=tmp_path / "old", within=0.05)
    assert (new.manifest.model_id, new.manifest.precision) == (old.manifest.model_id, "int8")
    quality = new.manifest.quality
    assert quality is not None
    assert quality.full == old.manifest.bundle_id
    (gate,) = quality.gates
    assert gate.value is not None
    assert 1e-4 < gate.value < 0.05
    assert any("recorded as int8" in f.text for f in new.findings if not f.fine)


@pytest.mark.parametrize(
    ("model", "of", "within", "words"),
    [
        (folded(False), "old", 0.1, "both are float32"),
        (folded(True), None, 0.1, "--within 0.1 needs --model-of"),
        (quantized(), "old", 0.0, "--within 0: expected"),
        (quantized(), "old", float("nan"), "--within nan: expected"),
        (quantized(), "old", 2.0, "--within 2: expected"),
        (folded(True), "int8", 0.1, "adopt the float32 file first"),
    ],
)
def test_bounds_that_make_no_sense(
    tmp_path: Path, model: bytes, of: str | None, within: float, words: str
) -> None:
    adopt(tmp_path, folded(True), ONE, "old")
    adopt(tmp_path, quantized(), ONE, "int8")
    old = None if of is None else tmp_path / of
    with pytest.raises(AdoptError, match=words):
        adopt(tmp_path, model, ONE, "new", model_of=old, within=within)
    assert not (tmp_path / "new").exists()
