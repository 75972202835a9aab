"""Laws of what a stream is given once: it is checked by name, and goes wherever the stream goes."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from msgspec.structs import replace
from tests.raising import refused
from tests.steps import Array, graph_of, write_with_golden
from tests.windows import (
    close,
    drawn_items,
    right_answers,
    window_contract,
    window_manifest,
    window_model,
    write_window,
)

from dst.evaluate.providers import time_golden
from dst.runtime import Session, SlotError, StateStore, Stream, StreamPool, write_bundle
from dst.runtime.bundle.manifest import Shape, StreamInput
from dst.runtime.bundle.reader import open_bundle
from dst.runtime.bundle.validation import check_contract
from dst.runtime.errors import BundleError, SessionError, StateCorruptError
from dst.runtime.execution.memory import predict
from dst.runtime.golden import replay_golden
from dst.runtime.state.record import pack, unpack

GAIN = np.array([[0.5, -2.0]], np.float32)
OFFSET = np.array([3], np.int64)
INPUTS: dict[str, Array] = {"gain": GAIN, "offset": OFFSET}
OTHER: dict[str, Array] = {"gain": GAIN * 7, "offset": OFFSET - 9}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    contract = window_contract(lookback=1, given=True, offset=True)
    return Session.open(write_window(tmp_path_factory.mktemp("given") / "b", contract))


def test_what_is_given_is_what_the_graph_reads(session: Session) -> None:
    items = drawn_items(session.contract, 16)
    for inputs in (INPUTS, OTHER):
        y = session.stream(inputs=inputs).advance(items)["y"][0]
        gain, offset = inputs["gain"][0], int(inputs["offset"][0])
        right = right_answers(session.contract, items, gain, offset)
        close(y, right)


def test_the_batch_axis_may_be_left_out_and_the_callers_array_is_copied(session: Session) -> None:
    items = drawn_items(session.contract, 9)
    gain = GAIN[0].copy()
    stream = session.stream(inputs={"gain": gain, "offset": OFFSET})
    gain[:] = 99
    expected = session.stream(inputs=INPUTS).advance(items)["y"]
    assert stream.advance(items)["y"].tobytes() == expected.tobytes()
    assert stream.inputs["gain"].shape == (1, 2)
    with pytest.raises(ValueError, match="read-only"):
        stream.inputs["gain"][:] = 0


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (None, "stream-input-missing", r"`gain` \(float32 \[1, 2\]\) is missing.*inputs="),
        ({"offset": None}, "stream-input-missing", r"`offset` \(int64 \[1\]\) is missing"),
        ({"gian": GAIN}, "stream-input-unknown", r"'gian' is not known; .* `gain` \(float32"),
        ({"gain": GAIN.astype(np.float64)}, "stream-input-type", r"float64.*astype\('float32'\)"),
        ({"gain": [[0.5, 1.0]]}, "stream-input-type", r"is a list.*np\.asarray"),
        ({"gain": np.ma.masked_array(GAIN)}, "stream-input-type", "MaskedArray"),
        ({"gain": GAIN.T}, "stream-input-shape", r"\[2, 1\], expected \[1, 2\], or \[2\]"),
        ({"gain": np.tile(GAIN, (2, 1))}, "stream-input-shape", r"\[2, 2\], expected \[1, 2\]"),
        ({"gain": GAIN * np.inf}, "stream-input-not-finite", "`gain` holds a NaN or an infinity"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    session: Session, change: dict[str, Array | None] | None, code: str, words: str
) -> None:
    inputs = None if change is None else {**INPUTS, **change}
    given = None if inputs is None else {n: v for n, v in inputs.items() if v is not None}
    for start in (session.stream, lambda **k: StreamPool(session, 2).reset(1, **k)):
        if given is None and start is not session.stream:
            continue
        with pytest.raises(SessionError, match=words) as caught:
            start(inputs=given)
        assert caught.value.code == code


def test_inputs_for_a_model_that_takes_none_are_refused(text: Session) -> None:
    with pytest.raises(SessionError, match="'gain' is not known; this model takes none"):
        text.stream(inputs=INPUTS)
    assert text.stream(inputs={}).inputs == {}
    with pytest.raises(SessionError, match="is a list, expected a dict"):
        text.stream(inputs=[GAIN])  # type: ignore[arg-type]


def test_a_saved_state_brings_its_inputs_and_takes_no_others(
    session: Session, tmp_path: Path
) -> None:
    items = drawn_items(session.contract, 30)
    stream = session.stream(inputs=INPUTS)
    stream.advance(items[:10])
    stream.save(tmp_path / "a.state")
    saved = stream.saved()
    with StateStore(tmp_path / "memory.db") as store:
        store.put("ann", saved)
        stored = store.get("ann")
    kept = stream.snapshot()
    restored = session.stream(inputs=OTHER)
    restored.restore(kept)
    again = (
        Stream.load(session, tmp_path / "a.state"),
        session.stream(saved),
        session.stream(stored),
        session.stream(unpack(pack(saved))),
        stream.fork(),
        restored,
    )
    expected = stream.advance(items[10:])["y"]
    for one in again:
        assert one.advance(items[10:])["y"].tobytes() == expected.tobytes()
        assert pack(one.saved()) == pack(stream.saved())
    with pytest.raises(SessionError, match="brings the inputs") as caught:
        session.stream(saved, inputs=OTHER)
    assert caught.value.code == "stream-input-saved"
    tensors = safetensors.numpy.load_file(tmp_path / "a.state")
    np.testing.assert_array_equal(tensors["stream/gain"], GAIN)
    np.testing.assert_array_equal(tensors["stream/offset"], OFFSET)


def test_reset_keeps_them(session: Session) -> None:
    items = drawn_items(session.contract, 8)
    stream = session.stream(inputs=INPUTS)
    first = stream.advance(items)["y"]
    stream.reset()
    assert stream.advance(items)["y"].tobytes() == first.tobytes()


def test_a_restored_snapshot_of_another_stream_changes_them_and_back(session: Session) -> None:
    items = drawn_items(session.contract, 8)
    one, two = session.stream(inputs=INPUTS), session.stream(inputs=OTHER)
    first, second = one.snapshot(), two.snapshot()
    right = [one.advance(items)["y"].tobytes(), two.advance(items)["y"].tobytes()]
    assert right[0] != right[1]
    for snapshot, expected in ((second, right[1]), (first, right[0]), (second, right[1])):
        one.restore(snapshot)
        assert one.advance(items)["y"].tobytes() == expected


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "`gain` .* is missing"),
        ({**INPUTS, "more": GAIN}, "'more' is not known"),
        ({**INPUTS, "gain": GAIN[:, :1]}, r"shape \[1, 1\]"),
        ({**INPUTS, "gain": GAIN * np.nan}, "NaN"),
    ],
)
def test_a_record_whose_inputs_do_not_fit_is_corrupt(
    session: Session, inputs: dict[str, Array], words: str
) -> None:
    stream = session.stream(inputs=INPUTS)
    before = pack(stream.saved())
    with pytest.raises(StateCorruptError, match=f"saved state: .*{words}"):
        session.stream(replace(stream.saved(), inputs=inputs))
    with pytest.raises(StateCorruptError, match=f"snapshot: .*{words}"):
        stream.restore(replace(stream.snapshot(), inputs=inputs))
    assert pack(stream.saved()) == before


def test_every_slot_of_a_pool_has_its_own(session: Session) -> None:
    contract = session.contract
    random = np.random.default_rng(3)
    pool = StreamPool(session, 5)
    with pytest.raises(SlotError, match=r"slot 2 was not given.*`gain`, `offset`.*pool\.reset\(2"):
        pool.advance({2: drawn_items(contract, 4)})
    with pytest.raises(SessionError):
        pool.swap_out(2)
    gains = random.normal(size=(5, 1, 2)).astype(np.float32)
    alone = []
    for slot, gain in enumerate(gains):
        inputs: dict[str, Array] = {"gain": gain, "offset": np.array([slot], np.int64)}
        alone.append(session.stream(inputs=inputs))
        pool.reset(slot, inputs=inputs)
    for turn in range(12):
        slots = sorted(random.choice(5, size=random.integers(1, 6), replace=False).tolist())
        items = {s: drawn_items(contract, int(random.integers(0, 9)), turn + s) for s in slots}
        found = pool.advance(items) if turn % 4 else pool.flush(slots)
        for slot in slots:
            right = alone[slot].advance(items[slot]) if turn % 4 else alone[slot].flush()
            close(found[slot]["y"], right["y"])
        if turn == 5:
            pool.reset(slots[0])  # keeps what it was given
            alone[slots[0]].reset()
        if turn == 8:
            first, second = pool.swap_out(0), pool.swap_out(4)
            pool.swap_in(4, first)
            pool.swap_in(0, second)
            alone[0], alone[4] = alone[4], alone[0]
    for slot, stream in enumerate(alone):
        assert pool.swap_out(slot).inputs["gain"].tobytes() == stream.inputs["gain"].tobytes()


def test_a_pool_may_give_all_slots_the_same(session: Session) -> None:
    items = drawn_items(session.contract, 8)
    pool = StreamPool(session, 2, inputs=INPUTS)
    expected = session.stream(inputs=INPUTS).advance(items)["y"]
    close(pool.advance({1: items})[1]["y"], expected)


def shared(shape: Shape) -> StreamInput:
    return StreamInput(input="gain", dtype="float32", shape=shape)


def test_an_input_without_a_batch_axis_runs_alone_and_not_in_a_pool(tmp_path: Path) -> None:
    contract = window_contract(given=True)
    model = window_model(replace(contract, stream_inputs=(shared((1, 2)),)))
    # the graph adds a time axis at 1: (1, 2) -> (1, 1, 2), the same for every row
    fixed = replace(contract, stream_inputs=(shared((1, 2)),))
    write_bundle(tmp_path / "b", window_manifest(fixed), {"step.onnx": model})
    session = Session.open(tmp_path / "b")
    items = drawn_items(contract, 8)
    y = session.stream(inputs={"gain": GAIN}).advance(items)["y"][0]
    close(y, right_answers(contract, items, GAIN[0]))
    with refused(
        SessionError, "no-batches", match=r"`gain` is float32 \[1, 2\] without a batch axis"
    ):
        StreamPool(session, 2)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (("B", "T"), "stream input 'gain': unexpected 'T'"),
        (("B", "B"), "stream input 'gain': unexpected 'B'"),
        (("B", 0), "is 0, expected at least 1"),
    ],
)
def test_its_shape_holds_sizes_and_one_batch(shape: Shape, words: str) -> None:
    contract = replace(window_contract(given=True), stream_inputs=(shared(shape),))
    with refused(BundleError, "contract", match=words):
        check_contract(contract)
    twice = replace(contract, stream_inputs=(replace(shared(("B", 2)), input="c"),))
    with refused(BundleError, "contract", match="graph input 'c' is named twice"):
        check_contract(twice)


def test_the_graph_must_take_them(tmp_path: Path) -> None:
    contract = window_contract(given=True)
    wrong = replace(contract, stream_inputs=(shared(("B", 3)),))
    write_bundle(tmp_path / "b", window_manifest(wrong), {"step.onnx": window_model(contract)})
    with refused(SessionError, "graph", match=r"stream input `gain` is float32 .*\['B', 3\]"):
        Session.open(tmp_path / "b").report()


def test_golden_runs_hold_them(tmp_path: Path) -> None:
    contract = window_contract(given=True, offset=True)
    chunks = [drawn_items(contract, 4, seed)[None] for seed in range(3)]
    manifest = window_manifest(contract)
    write_with_golden(tmp_path / "b", manifest, window_model(contract), chunks, inputs=INPUTS)
    bundle = open_bundle(tmp_path / "b")
    np.testing.assert_array_equal(bundle.tensors("golden.safetensors")["stream/gain"], GAIN)
    assert [check.passed for check in replay_golden(bundle)] == [True]
    assert time_golden(bundle, "cpu", rounds=1)[0].steps == 3
    held = bundle.tensors("golden.safetensors")
    files = {"step.onnx": window_model(contract)}
    for change, words in (({"stream/gain": GAIN * 2}, None), ({"stream/gain": None}, "is missing")):
        tensors = {n: v for n, v in {**held, **change}.items() if v is not None}
        golden = {**files, "golden.safetensors": safetensors.numpy.save(tensors)}
        fresh = replace(bundle.manifest, files={})
        write_bundle(tmp_path / "b", fresh, golden, overwrite=True)
        if words is None:
            assert not replay_golden(open_bundle(tmp_path / "b"))[0].passed
        else:
            with refused(
                BundleError, "golden-tensors", match=rf"golden\.safetensors.*`gain`.*{words}"
            ):
                replay_golden(open_bundle(tmp_path / "b"))


def test_memory_counts_them() -> None:
    plain, given = (window_manifest(window_contract(given=g)) for g in (False, True))
    more = predict(given, 1, 10, [4]).waiting_bytes - predict(plain, 1, 10, [4]).waiting_bytes
    assert more == 10 * 2 * 4


def test_graphs_of_one_row_take_them_too(tmp_path: Path) -> None:
    contract = window_contract(given=True)
    manifest = replace(window_manifest(contract), graphs=(graph_of((1, 2, 4), batch=(1,)),))
    write_bundle(tmp_path / "b", manifest, {"step.onnx": window_model(contract)})
    Session.open(tmp_path / "b").stream(inputs={"gain": GAIN}).advance(drawn_items(contract, 4))
