"""Laws of constants: they tell one model from another, and a state from the state of another."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from onnx import TensorProto, helper
from tests.raising import refused
from tests.safety.laws import with_checksum
from tests.spelling import RESPELLED, TABLE, shortest
from tests.steps import (
    FLOAT,
    INT64,
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

from dst.runtime import Session, StateStore, Stream, model_id_with_constants, write_bundle
from dst.runtime.bundle.constants import constant_array, constant_mark, respelled
from dst.runtime.bundle.manifest import Constant
from dst.runtime.errors import StateCorruptError, StateMismatchError
from dst.runtime.state.record import pack, unpack

WEIGHTS_ID = "d" * 64
RATE = Constant(input="sr", dtype="int64", shape=(), values=(16000,))
SCALE = Constant(input="scale", dtype="float32", shape=(2,), values=(0.5, 0.1))
LONG = Constant(input="long", dtype="float32", shape=(3, 3), values=tuple(range(9)))


def model(constants: Sequence[Constant]) -> bytes:
    """A carried sum that reads the constants and makes nothing of them."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axis"], ["gain"], keepdims=0),
        helper.make_node("Add", ["c", "gain"], ["c_next"]),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    kinds = {"float32": FLOAT, "int64": INT64, "int32": TensorProto.INT32}
    ports = [info(c.input, c.shape, kinds[c.dtype]) for c in constants]
    return model_bytes(
        nodes,
        [info("x", ["B", "T"]), info("c", ["B"]), *ports],
        [info("y", ["B", "T"]), info("c_next", ["B"])],
        {"axis": np.array([1], np.int64)},
    )


def session(
    path: Path, *constants: Constant, model_id: str | None = None, precision: str = "float32"
) -> Session:
    contract = contract_of(
        chunk_of(PLAIN, (1, 4)), [output_of("y", ("B", "T"))], [state_of("c", ("B",))]
    )
    contract = replace(contract, constants=constants)
    manifest = manifest_of(
        contract,
        [graph_of((1, 4))],
        weights_bytes=0,
        model_id=model_id or model_id_with_constants(WEIGHTS_ID, constants),
        precision=precision,
    )
    write_bundle(path, manifest, {"step.onnx": model(constants)})
    return Session.open(path)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(RATE, values=(8000,)), "constant `sr` is 8000 here, .* was made with 16000"),
        (
            replace(RATE, dtype="int32"),
            r"`sr` is int32 \[\] 16000 here, .* made with int64 \[\] 16000",
        ),
        (replace(RATE, shape=(1,)), r"`sr` is int64 \[1\] 16000 here"),
        (replace(RATE, input="rate"), "made by model"),
    ],
)
@pytest.mark.parametrize("same_id", [True, False])
def test_another_constant_is_refused_by_name(
    tmp_path: Path, other: Constant, words: str, same_id: bool
) -> None:
    """Also in bundles of one `model_id`, as they were adopted before it covered the constants."""
    model_id = WEIGHTS_ID if same_id else None
    one = session(tmp_path / "one", RATE, SCALE, model_id=model_id)
    two = session(tmp_path / "two", other, SCALE, model_id=model_id)
    stream = one.stream()
    if same_id and "made by" in words:
        words = r"constant `rate` is int64 \[\] 16000 here, and the state does not say"
    code = "other-model" if "made by" in words else "other-constant"
    with refused(StateMismatchError, code, match=f"saved state: .*{words}"):
        two.stream(stream.saved())
    with refused(StateMismatchError, code, match=f"snapshot: .*{words}"):
        two.stream().restore(stream.snapshot())
    one.stream(stream.saved())


def test_a_long_constant_is_told_by_a_digest(tmp_path: Path) -> None:
    one = session(tmp_path / "a", LONG)
    two = session(tmp_path / "b", replace(LONG, values=(*range(8), 9)))
    with refused(StateMismatchError, "other-constant", match=r"`long` is sha256 [0-9a-f]{32} here"):
        two.stream(one.stream().saved())


def test_they_are_in_the_file_and_come_back(tmp_path: Path) -> None:
    one = session(tmp_path / "b", RATE, SCALE)
    stream = one.stream()
    stream.advance(np.ones(6, np.float32))
    stream.save(tmp_path / "a.state")
    data = (tmp_path / "a.state").read_bytes()
    spelled = rb'"constants":"{\"scale\":\"float32 [2] [0.5, 0.1]\",\"sr\":\"int64 [] 16000\"}"'
    assert spelled in data
    with StateStore(tmp_path / "memory.db") as store:
        store.put("ann", stream.saved())
        again = [one.stream(store.get("ann")), Stream.load(one, tmp_path / "a.state")]
    for stream_again in again:
        assert pack(stream_again.saved()) == data
    assert unpack(data).identity == one.identity
    for bad in (
        data.replace(b"16000", b"16001"),
        with_checksum(data.replace(rb",\"sr\"", rb", \"s\"")),
        with_checksum(data.replace(rb"{\"scale", rb"[\"scale")),
    ):
        with pytest.raises(StateCorruptError):
            unpack(bad)


def test_a_state_without_constants_keeps_its_bytes(text: Session) -> None:
    assert b"constants" not in pack(text.stream().saved())


def test_a_state_from_before_loads_in_its_own_bundle_alone(tmp_path: Path) -> None:
    one = session(tmp_path / "a", RATE, model_id=WEIGHTS_ID)
    other = session(tmp_path / "b", RATE, model_id=WEIGHTS_ID, precision="float16")
    saved = one.stream().saved()
    old = replace(saved, identity=replace(saved.identity, constants={}))
    one.stream(unpack(pack(old)))
    with refused(
        StateMismatchError,
        "other-constant",
        match="the state does not say that it was made with it",
    ):
        other.stream(old, allow_precision=True)
    with refused(StateMismatchError, "other-precision"):
        other.stream(saved)
    other.stream(saved, allow_precision=True)


def test_the_id_covers_them_and_not_their_order() -> None:
    assert model_id_with_constants(WEIGHTS_ID, ()) == WEIGHTS_ID
    both = model_id_with_constants(WEIGHTS_ID, (RATE, SCALE))
    assert both == model_id_with_constants(WEIGHTS_ID, (SCALE, RATE))
    found = {both, WEIGHTS_ID, model_id_with_constants("e" * 64, (RATE, SCALE))}
    for other in (
        replace(RATE, values=(8000,)),
        replace(RATE, dtype="int32"),
        replace(RATE, shape=(1,)),
        replace(RATE, input="rate"),
    ):
        found.add(model_id_with_constants(WEIGHTS_ID, (other, SCALE)))
    assert len(found) == 7
    assert all(len(each) == 64 for each in found)


FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(FLOATS, min_size=1, max_size=12), st.integers(0, 11), FLOATS)
def test_equal_marks_are_equal_bytes(values: list[float], at: int, value: float) -> None:
    one = Constant(input="c", dtype="float32", shape=(len(values),), values=tuple(values))
    changed = list(values)
    changed[at % len(values)] = value
    two = replace(one, values=tuple(changed))
    equal = constant_array(one).tobytes() == constant_array(two).tobytes()
    assert (constant_mark(one) == constant_mark(two)) == equal


def test_the_spelling_of_floats_is_that_of_exact_fractions() -> None:
    """Whatever numpy's own `str` does, which has changed with its versions."""
    held = json.loads(TABLE.read_text("utf-8"))
    for dtype in ("float32", "float64"):
        for digits, text in held[dtype]:
            bits = np.array(int(digits, 16), f"u{np.dtype(dtype).itemsize}")
            one = Constant(input="c", dtype=dtype, shape=(), values=(float(bits.view(dtype)),))
            assert constant_mark(one) == f"{dtype} [] {text}"
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    marks = [
        constant_mark(Constant(input="c", dtype="float16", shape=(), values=(float(value),)))
        for value in halves[np.isfinite(halves)]
    ]
    lines = "".join(f"{mark}\n" for mark in marks).encode()
    assert hashlib.sha256(lines).hexdigest() == held["float16_sha256"]


def test_exact_fractions_give_the_table_and_the_spellings_of_the_format() -> None:
    for dtype, value, text in (
        ("float32", 2.0**-12, "0.00024414062"),
        ("float32", 2.0**-96, "1.2621775e-29"),
        ("float16", 2.0**-6, "0.01563"),
        ("float64", 5e-324, "5e-324"),
        ("float64", 1e16, "1e+16"),
    ):
        assert shortest(value, dtype) == text
    held = json.loads(TABLE.read_text("utf-8"))
    for digits, text in held["float32"][::9]:
        bits = np.array(int(digits, 16), np.uint32)
        assert shortest(float(bits.view(np.float32)), "float32") == text


def test_a_state_whose_marks_are_spelled_otherwise_loads(tmp_path: Path) -> None:
    """Older versions took the spelling of their numpy, 1e6 being `1e+06` or `1000000.0`."""
    for mark, now in RESPELLED.items():
        assert respelled(mark) == now
        assert respelled(now) == now
    one = session(tmp_path / "a", replace(SCALE, values=(1e6, 2.0**-12)), model_id=WEIGHTS_ID)
    saved = one.stream().saved()
    for text, good in (
        ("[1e+06, 0.00024414063]", True),
        ("[1e+06, 0.0002441407]", False),
        ("[1e+06]", False),
        ("[1e+06, true]", False),
    ):
        told = {"scale": f"float32 [2] {text}"}
        old = replace(saved, identity=replace(saved.identity, constants=told))
        if good:
            assert pack(one.stream(unpack(pack(old))).saved()) == pack(saved)
            continue
        with refused(StateMismatchError, "other-constant"):
            one.stream(unpack(pack(old)))
