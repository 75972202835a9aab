"""Pairs of small bundles go in, one of them spoilt in a known way; the report says how."""

import gc
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace
from onnx import helper
from tests.raising import refused
from tests.steps import (
    INT64,
    PLAIN,
    Array,
    Floats,
    chunk_of,
    contract_of,
    graph_of,
    info,
    manifest_of,
    model_bytes,
    output_of,
    state_of,
)

from dst.evaluate.quality import Report, Settings, horizon_report, quality_of
from dst.evaluate.quality.attach import REPORT_FILE, attach
from dst.evaluate.quality.causality import causality_of
from dst.evaluate.quality.drift import Reference, reference_for
from dst.evaluate.quality.gates import Budget, gates_of, growth_of
from dst.evaluate.quality.plot import picture
from dst.evaluate.quality.rollout import Walk, rollout
from dst.evaluate.quality.sizes import parts_of
from dst.runtime import BundleError, Session, StepError, open_bundle, surprise_bits, write_bundle
from dst.runtime.bundle.manifest import Contract, Gate, Quality, Tokens, seal
from dst.runtime.errors import SessionError, StateMismatchError

VOCABULARY, WIDTH, T = 16, 8, 16
ITEMS = np.random.default_rng(5).integers(0, VOCABULARY, 5_000)
QUICK = Settings(heads=2, head_items=500, drift_items=0, data="random tokens")


def weights() -> dict[str, Floats]:
    random = np.random.default_rng(0)
    places = np.arange(T)
    fade = 0.9 ** (places[:, None] - places[None, :]) * (places[:, None] >= places[None, :])
    return {
        "table": random.normal(size=(VOCABULARY, WIDTH)).astype(np.float32),
        "head": random.normal(size=(WIDTH, VOCABULARY), scale=0.3).astype(np.float32),
        "mix": fade.astype(np.float32),  # y_i = sum_j 0.9^(i-j) x_j + 0.9^(i+1) h
        "fade": (0.9 ** (places + 1)).astype(np.float32)[:, None],
    }


PLACES = {"last": np.array([T - 1], np.int64), "axis": np.array([1], np.int64)}


def model(held: Mapping[str, Floats], dynamic: bool = False) -> bytes:
    """Token ids -> a fading sum of embeddings, carried on -> logits; plain operators, T fixed."""
    head = [helper.make_node("MatMul", ["y", "head"], ["logits"])]
    if dynamic:  # one scale for all of the chunk
        head = [
            helper.make_node("DynamicQuantizeLinear", ["y"], ["q", "scale", "zero"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["rough"]),
            helper.make_node("MatMul", ["rough", "head"], ["logits"]),
        ]
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["mix", "x"], ["fresh"]),
        helper.make_node("Unsqueeze", ["h", "axis"], ["h1"]),
        helper.make_node("Mul", ["fade", "h1"], ["old"]),
        helper.make_node("Add", ["fresh", "old"], ["y"]),
        *head,
        helper.make_node("Gather", ["y", "last"], ["end"], axis=1),
        helper.make_node("Squeeze", ["end", "axis"], ["h_next"]),
    ]
    return model_bytes(
        nodes,
        [info("ids", ["B", T], INT64), info("h", ["B", WIDTH])],
        [info("logits", ["B", T, VOCABULARY]), info("h_next", ["B", WIDTH])],
        {**held, **PLACES},
    )


def contract(features: bool = False) -> Contract:
    if features:
        return contract_of(
            chunk_of(PLAIN, (T,), 2, tail="refuse"),
            [output_of("y", ("B", "T", 2))],
            [state_of("c", ("B", 2))],
        )
    return contract_of(
        chunk_of(Tokens(vocabulary=VOCABULARY, tokenizer="none"), (T,), tail="refuse"),
        [output_of("logits", ("B", "T", VOCABULARY), "logits")],
        [state_of("h", ("B", WIDTH))],
    )


def write(path: Path, graph: bytes, kept: Contract | None = None, model_id: str = "a" * 64) -> Path:
    manifest = manifest_of(
        kept or contract(),
        [graph_of((T,))],
        name=path.name,
        model_id=model_id,
        precision="float32" if path.name == "full" else path.name,
        half_life_items=6.6,
        weights_bytes=4 * 2 * VOCABULARY * WIDTH,
    )
    write_bundle(path, manifest, {"step.onnx": graph})
    return path


def sensor(gain: float, power: float = 1.0) -> bytes:
    """Two features -> a carried sum that fades by `gain` per chunk, times `power`."""
    nodes = [
        helper.make_node("Unsqueeze", ["c", "axis"], ["c1"]),
        helper.make_node("Add", ["x", "c1"], ["sum"]),
        helper.make_node("Mul", ["sum", "power"], ["y"]),
        helper.make_node("ReduceMean", ["x", "axis"], ["fresh"], keepdims=0),
        helper.make_node("Mul", ["c", "gain"], ["old"]),
        helper.make_node("Add", ["fresh", "old"], ["c_next"]),
    ]
    held: dict[str, Array] = {
        "axis": np.array([1], np.int64),
        "gain": np.array([gain], np.float32),
        "power": np.array([power], np.float32),
    }
    return model_bytes(
        nodes,
        [info("x", ["B", T, 2]), info("c", ["B", 2])],
        [info("y", ["B", T, 2]), info("c_next", ["B", 2])],
        held,
    )


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles: full; head (its head is off), keeps (it fades less), dynamic, other, and sensors."""
    root = tmp_path_factory.mktemp("pairs")
    held = weights()
    noise = np.random.default_rng(1).normal(size=held["head"].shape, scale=0.01)
    off = held | {"head": (held["head"] + noise).astype(np.float32)}
    write(root / "full", model(held))
    write(root / "head", model(off))
    write(root / "keeps", model(held | {"fade": (held["fade"] * 1.05).astype(np.float32)}))
    write(root / "dynamic", model(held, dynamic=True))
    write(root / "other", model(off), model_id="b" * 64)
    write(root / "sensor", sensor(0.5), contract(features=True))
    write(root / "louder", sensor(0.5, 1.01), contract(features=True))
    write(root / "grows", sensor(3.0), contract(features=True))
    return root


def test_a_model_is_no_way_off_itself(shelf: Path) -> None:
    made = horizon_report(shelf / "full", shelf / "full", ITEMS, 4_000, QUICK)
    for found in made.ranges:
        assert (found.divergence, found.loss_difference) == (0.0, 0.0)
        assert found.accumulation is None
        assert found.state in (None, 0.0)
    assert made.causality.causal
    assert {g.name: g.verdict for g in made.gates}["loss"] == "passed"


def test_the_curves_are_those_of_two_whole_streams(shelf: Path) -> None:
    length = 1_600
    made = horizon_report(
        shelf / "full", shelf / "keeps", ITEMS, length, Settings(heads=0, drift_items=0)
    )
    right, found = (
        Session.open(shelf / name).stream().advance(ITEMS[:length])["logits"][0]
        for name in ("full", "keeps")
    )
    p = np.exp(-surprise_bits_of_all(right))
    kl = (p * (np.log(p) + surprise_bits_of_all(found))).sum(axis=1)
    following = ITEMS[1 : length + 1]
    nats = np.log(2) * np.stack([surprise_bits(right, following), surprise_bits(found, following)])
    begin = 0
    for got in made.ranges:
        part = slice(begin, got.end)
        assert got.items == got.end - begin
        assert got.divergence == pytest.approx(kl[part].mean(), rel=1e-3)
        assert got.loss_full == pytest.approx(nats[0, part].mean(), rel=1e-3)
        assert got.loss_quantized == pytest.approx(nats[1, part].mean(), rel=1e-3)
        begin = got.end
    assert begin == length


def surprise_bits_of_all(logits: Array) -> npt.NDArray[np.float64]:
    """-log p of every class, `[n, V]`, in nats."""
    wide = logits.astype(np.float64)
    return np.asarray(np.log(np.exp(wide).sum(axis=1, keepdims=True)) - wide, np.float64)


def test_an_error_of_the_outputs_alone_does_not_accumulate(shelf: Path) -> None:
    made = horizon_report(shelf / "full", shelf / "head", ITEMS, 4_000, QUICK)
    assert all(found.divergence > 0 for found in made.ranges)
    assert {found.accumulation for found in made.ranges} == {1.0}
    assert {found.state for found in made.ranges} <= {None, 0.0}


def test_an_error_of_the_state_accumulates(shelf: Path) -> None:
    made = horizon_report(shelf / "full", shelf / "keeps", ITEMS, 4_000, QUICK)
    first, *_, last = made.ranges
    assert first.accumulation is None  # the first chunk starts from the same state: no error
    assert last.accumulation is not None
    assert last.accumulation > 1.05
    assert last.state is not None
    assert last.state > 0.01
    assert last.state_distance == {"memory": last.state}


def test_a_bad_model_fails_the_budget(shelf: Path) -> None:
    strict = Settings(heads=2, head_items=500, drift_items=0, budget=Budget(nats_per_item=1e-9))
    made = horizon_report(shelf / "full", shelf / "keeps", ITEMS, 4_000, strict)
    assert made.passed is False
    assert quality_of(made).passed is False


def test_features_are_judged_by_relative_error(shelf: Path) -> None:
    items = np.random.default_rng(2).normal(size=(3_000, 2)).astype(np.float32)
    settings = Settings(heads=2, head_items=500, drift_items=500)
    made = horizon_report(shelf / "sensor", shelf / "louder", items, 4_000, settings)
    assert made.unit == "relative"
    assert {found.divergence for found in made.ranges} == {0.01}
    assert {found.loss_difference for found in made.ranges} == {None}
    assert quality_of(made).loss_difference is None
    assert any("read 1.3 times" in note for note in made.notes)
    assert made.drift is not None
    assert 0 < made.drift.divergence[-1] < 1e-6


def test_a_model_that_breaks_fails_where_it_broke(shelf: Path) -> None:
    items = np.ones((3_000, 2), np.float32)
    settings = Settings(heads=0, drift_items=0, sample_every=1)
    made = horizon_report(shelf / "sensor", shelf / "grows", items, 4_000, settings)
    # 3^n overflows float32 after 81 chunks or so
    assert made.broke_at is not None
    assert 70 * T < made.broke_at < 90 * T
    assert {g.name: g.verdict for g in made.gates}["finite"] == "failed"
    assert made.passed is False


def test_only_two_precisions_of_one_model_are_compared(shelf: Path) -> None:
    with refused(StateMismatchError, "other-model", match="two precisions of one model"):
        horizon_report(shelf / "full", shelf / "other", ITEMS, 100, QUICK)
    with refused(StateMismatchError, "other-state-layout"):
        horizon_report(shelf / "full", shelf / "sensor", ITEMS, 100, QUICK)


def test_a_t_that_does_not_run_and_too_few_items_are_refused(shelf: Path) -> None:
    with refused(SessionError, "chunk-size"):
        horizon_report(shelf / "full", shelf / "head", ITEMS, 100, Settings(t=8))
    with pytest.raises(StepError, match="at least 2 items"):
        horizon_report(shelf / "full", shelf / "head", ITEMS[:1], 100, QUICK)
    with pytest.raises(StepError, match="length"):
        horizon_report(shelf / "full", shelf / "head", ITEMS, 0, QUICK)


def test_what_a_rollout_holds_does_not_grow_with_the_length(shelf: Path) -> None:
    pair = Session.open(shelf / "full"), Session.open(shelf / "keeps")
    ours = tracemalloc.Filter(True, "*quantize*")
    held: list[int] = []

    def look(what: str, share: float) -> None:
        if share >= 0.25 * (len(held) + 1):
            gc.collect()
            snapshot = tracemalloc.take_snapshot().filter_traces([ours])
            held.append(sum(line.size for line in snapshot.statistics("filename")))

    tracemalloc.start()
    rollout(*pair, ITEMS, Walk(length=12_000, t=T, heads=0), look)
    tracemalloc.stop()
    assert len(held) == 3
    assert held[0] > 0
    assert held[-1] - held[0] < 1_500, held  # 375 chunks: four bytes for each would be more


@pytest.mark.soak
def test_a_million_items_are_judged_on_every_gate(shelf: Path) -> None:
    settings = Settings(drift_items=0, budget=Budget(nats_per_item=0.04))
    made = horizon_report(shelf / "full", shelf / "head", ITEMS, 1_000_000, settings)
    assert made.items == 1_000_000
    assert {gate.verdict for gate in made.gates} == {"passed"}
    assert made.passed is True
    assert made.ranges[-1].items > 400_000
    loss = made.ranges[-1].loss_difference
    assert loss is not None
    right, other = Session.open(shelf / "full"), Session.open(shelf / "head")
    walk = Walk(length=1_000_000, t=T, heads=0, inject=False, sample_every=10**9)
    ran = rollout(right, other, ITEMS, walk)
    strict = gates_of(ran, growth_of(ran), Budget(nats_per_item=loss / 2))
    assert [gate.name for gate in strict if gate.verdict == "failed"] == ["loss"]


# --- own drift


def test_float64_is_the_same_step_with_more_digits(shelf: Path, tmp_path: Path) -> None:
    full = open_bundle(shelf / "full")
    found = reference_for(full, tmp_path, T)
    assert isinstance(found, Reference)
    assert found.what == "float32 against float64 (step.onnx)"
    held = {name: array.astype(np.float64) for name, array in weights().items()}
    h = np.zeros(WIDTH)
    stream = found.right.stream()
    for number in range(5):
        ids = ITEMS[number * T : (number + 1) * T]
        y = held["mix"] @ held["table"][ids] + held["fade"] * h
        h = y[-1]
        logits = stream.step(ids[None])["logits"]
        assert logits.dtype == np.float64
        np.testing.assert_allclose(logits[0], y @ held["head"], rtol=1e-13, atol=1e-13)


def test_own_drift_stands_beside_the_curve(shelf: Path) -> None:
    settings = Settings(heads=0, drift_items=1_000)
    made = horizon_report(shelf / "full", shelf / "keeps", ITEMS, 2_000, settings)
    assert made.drift is not None
    assert made.drift.items == 1_008  # whole chunks
    assert 0 < max(made.drift.divergence) < 1e-9
    assert made.ranges[-1].divergence > 1e4 * made.drift.divergence[-1]
    without = horizon_report(shelf / "full", shelf / "keeps", ITEMS, 2_000, QUICK)
    assert (without.drift, without.drift_missing) == (None, "not asked for")


def test_a_graph_that_cannot_be_widened_says_why(shelf: Path, tmp_path: Path) -> None:
    full = open_bundle(shelf / "dynamic")  # DynamicQuantizeLinear takes float32 alone
    found = reference_for(full, tmp_path, T)
    assert isinstance(found, str)
    assert "does not run in float64" in found


# --- causality and sizes


def test_a_scale_over_the_chunk_is_not_causal(shelf: Path) -> None:
    found = causality_of(Session.open(shelf / "dynamic"), T, ITEMS)
    assert not found.causal
    assert found.leak > 0
    assert found.operators == ("DynamicQuantizeLinear",)
    assert "not causal" in found.note


def test_weights_are_counted_by_what_reads_them(shelf: Path) -> None:
    bundle = open_bundle(shelf / "full")
    parts = parts_of(bundle, bundle.manifest.graphs[0])
    held = weights()
    every: dict[str, Array] = {**held, **PLACES}
    assert parts.weights_size == sum(array.nbytes for array in every.values())
    sizes = {(g.operator, g.dtype): (g.tensors, g.size) for g in parts.groups}
    assert sizes["MatMul", "float32"] == (2, held["mix"].nbytes + held["head"].nbytes)
    assert sizes["Gather", "float32"] == (1, held["table"].nbytes)
    assert parts.files == {n: f.size for n, f in bundle.manifest.files.items()}


# --- what is written


@pytest.fixture
def pair(shelf: Path, tmp_path: Path) -> tuple[Path, Report]:
    path = write(tmp_path / "head", model(weights() | {"head": weights()["head"] * 2}))
    return path, horizon_report(shelf / "full", path, ITEMS, 2_000, QUICK)


def test_a_report_goes_into_its_bundle(pair: tuple[Path, Report]) -> None:
    path, made = pair
    before = open_bundle(path).manifest
    sealed = attach(path, made)
    after = open_bundle(path).manifest
    assert after == sealed
    assert after.quality == quality_of(made)
    assert replace(after, quality=None, files=before.files, bundle_id=before.bundle_id) == before
    data = (path / REPORT_FILE).read_bytes()
    assert msgspec.json.decode(data, type=Report) == made
    assert Session.open(path).stream().step(ITEMS[None, :T])["logits"].shape == (1, T, VOCABULARY)


def test_a_report_of_another_bundle_is_refused(shelf: Path, pair: tuple[Path, Report]) -> None:
    path, made = pair
    with pytest.raises(BundleError, match="not the bundle of the report"):
        attach(shelf / "keeps", made)
    attach(path, made)
    with pytest.raises(BundleError, match="measure it anew"):
        attach(path, made)


def test_a_report_is_drawn(pair: tuple[Path, Report]) -> None:
    pytest.importorskip("matplotlib")
    drawn = picture(pair[1])
    assert drawn.startswith(b"\x89PNG")
    assert drawn == picture(pair[1])


def quality() -> Quality:
    return Quality(
        full="c" * 64,
        items=1_000,
        items_per_step=T,
        data="random tokens",
        unit="nats",
        positions=(10, 1_000),
        divergence=(0.1, 0.2),
        loss_difference=(0.0, 0.01),
        state_distance=(None, 0.1),
        causal=True,
        gates=(Gate(name="loss", value=0.01, bound=0.02, verdict="passed"),),
        passed=True,
    )


Change = Callable[[Quality], Quality]
CHANGES: list[tuple[Change, str]] = [
    (lambda q: replace(q, positions=(10, 10)), "rising"),
    (lambda q: replace(q, positions=(), divergence=(), state_distance=()), "rising"),
    (lambda q: replace(q, divergence=(0.1,)), "divergence has 1 values for 2"),
    (lambda q: replace(q, loss_difference=(0.1,)), "loss_difference has 1"),
    (lambda q: replace(q, state_distance=(0.1, None, None)), "state_distance has 3"),
    (lambda q: replace(q, gates=(replace(q.gates[0], value=0.03),)), "says `failed`"),
    (lambda q: replace(q, gates=(replace(q.gates[0], value=None),)), "says `not judged`"),
    (lambda q: replace(q, passed=None), "passed is None"),
    (lambda q: replace(q, passed=False), "passed is False"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_a_quality_that_contradicts_itself_is_refused(
    shelf: Path, change: Change, words: str
) -> None:
    manifest = replace(open_bundle(shelf / "keeps").manifest, quality=quality())
    seal(manifest)
    with refused(BundleError, "contract", match=words):
        seal(replace(manifest, quality=change(quality())))


def test_full_precision_has_no_quality(shelf: Path) -> None:
    full = open_bundle(shelf / "full").manifest
    with refused(BundleError, "contract", match="quality is given for full precision"):
        seal(replace(full, quality=quality()))
    seal(replace(full, quality=quality(), precision="int8"))
