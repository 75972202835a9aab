"""ONNX files go in through `dst adopt`; what comes out does what a plain loop over them does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from tests.steps import FLOAT, INT64, Array, info, model_bytes

from dst.cli.app import call
from dst.runtime import Session, Stream, open_bundle, replay_golden
from dst.runtime.bundle.manifest import Fill, Stored, Zeros

Adopt = Callable[..., Path]
WIDTH, HIDDEN, WINDOW = 3, 5, 8


def build(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, Array],
    opset: int = 18,
) -> Path:
    path.write_bytes(model_bytes(nodes, inputs, outputs, weights, opset))
    return path


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape, scale=0.5).astype(np.float32)


def gru(path: Path) -> Path:
    """Take x [B, T, F], h [1, B, H] -> y [B, T, H], h_out; time comes first inside."""
    return build(
        path,
        [
            helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
            helper.make_node("GRU", ["xt", "w", "r", "", "", "h"], ["yt", "h_out"], hidden_size=5),
            helper.make_node("Squeeze", ["yt", "one"], ["ys"]),
            helper.make_node("Transpose", ["ys"], ["y"], perm=[1, 0, 2]),
        ],
        [info("x", ["batch", "time", WIDTH]), info("h", [1, "batch", HIDDEN])],
        [info("y", ["batch", "time", HIDDEN]), info("h_out", [1, "batch", HIDDEN])],
        {
            "w": drawn(1, 3 * HIDDEN, WIDTH),
            "r": drawn(1, 3 * HIDDEN, HIDDEN, seed=1),
            "one": np.array([1], np.int64),
        },
    )


def lstm(path: Path) -> Path:
    """Take x [B, T, F], h0, c0 -> out, hn, cn; the file names no axis."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["xt", "w", "r", "", "", "h0", "c0"], ["yt", "hn", "cn"]),
        helper.make_node("Squeeze", ["yt", "one"], ["ys"]),
        helper.make_node("Transpose", ["ys"], ["out"], perm=[1, 0, 2]),
    ]
    nodes[1].attribute.append(helper.make_attribute("hidden_size", HIDDEN))
    state = [1, None, HIDDEN]
    return build(
        path,
        nodes,
        [info("x", [None, None, WIDTH]), info("h0", state), info("c0", state)],
        [
            info("out", [None, None, HIDDEN]),
            info("hn", [None, None, None]),
            info("cn", [None, None, None]),
        ],
        {
            "w": drawn(1, 4 * HIDDEN, WIDTH),
            "r": drawn(1, 4 * HIDDEN, HIDDEN, seed=1),
            "one": np.array([1], np.int64),
        },
    )


def convolution(path: Path) -> Path:
    """Take feats [B, F, T], cached_x [B, F, 4] -> y, its mean per chunk, new_cached_x."""
    return build(
        path,
        [
            helper.make_node("Concat", ["cached_x", "feats"], ["whole"], axis=2),
            helper.make_node("Conv", ["whole", "kernel"], ["y"]),
            helper.make_node("ReduceMean", ["y", "last"], ["level"], keepdims=0),
            helper.make_node("Slice", ["whole", "from", "to", "last"], ["new_cached_x"]),
        ],
        [info("feats", ["N", WIDTH, "T"]), info("cached_x", ["N", WIDTH, 4])],
        [info("y", ["N", 2, "T"]), info("level", ["N", 2]), info("new_cached_x", ["N", WIDTH, 4])],
        {
            "kernel": drawn(2, WIDTH, 5),
            "from": np.array([-4], np.int64),
            "to": np.array([2**31], np.int64),
            "last": np.array([2], np.int64),
        },
    )


def ring(path: Path) -> Path:
    """Attention over a ring of the last 8 items, written at n mod 8; n is a number without axes."""
    t, d = 4, WIDTH
    return build(
        path,
        [
            helper.make_node("Add", ["n", "steps"], ["places"]),
            helper.make_node("Mod", ["places", "window"], ["slots"]),
            helper.make_node("Unsqueeze", ["slots", "last"], ["rows"]),
            helper.make_node("Squeeze", ["x", "zero"], ["items"]),
            helper.make_node("MatMul", ["items", "wk"], ["k"]),
            helper.make_node("MatMul", ["items", "wv"], ["v"]),
            helper.make_node("Squeeze", ["past_k", "zero"], ["ring_k"]),
            helper.make_node("Squeeze", ["past_v", "zero"], ["ring_v"]),
            helper.make_node("ScatterND", ["ring_k", "rows", "k"], ["keys"]),
            helper.make_node("ScatterND", ["ring_v", "rows", "v"], ["values"]),
            helper.make_node("Unsqueeze", ["keys", "zero"], ["present_k"]),
            helper.make_node("Unsqueeze", ["values", "zero"], ["present_v"]),
            helper.make_node("Add", ["n", "chunk"], ["n_next"]),
            helper.make_node("Less", ["all", "n_next"], ["written"]),
            helper.make_node("Where", ["written", "none", "far"], ["mask"]),
            helper.make_node("Transpose", ["keys"], ["keys_t"]),
            helper.make_node("MatMul", ["items", "keys_t"], ["raw"]),
            helper.make_node("Add", ["raw", "mask"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["weights"]),
            helper.make_node("MatMul", ["weights", "values"], ["read"]),
            helper.make_node("Unsqueeze", ["read", "zero"], ["y"]),
        ],
        [
            info("x", [1, t, d]),
            info("past_k", [1, WINDOW, d]),
            info("past_v", [1, WINDOW, d]),
            info("n", [], INT64),
        ],
        [
            info("y", [1, t, d]),
            info("present_k", [1, WINDOW, d]),
            info("present_v", [1, WINDOW, d]),
            info("n_next", [], INT64),
        ],
        {
            "wk": drawn(d, d),
            "wv": drawn(d, d, seed=1),
            "steps": np.arange(t, dtype=np.int64),
            "all": np.arange(WINDOW, dtype=np.int64),
            "chunk": np.array(t, np.int64),
            "window": np.array(WINDOW, np.int64),
            "zero": np.array([0], np.int64),
            "last": np.array([1], np.int64),
            "none": np.array(0, np.float32),
            "far": np.array(-1e9, np.float32),
        },
    )


def smoothed(path: Path) -> Path:
    """A filter over 3 past samples and the chunk, a rate, and a level that fades: [1, 19] -> ..."""
    return build(
        path,
        [
            helper.make_node("Unsqueeze", ["signal", "one"], ["s"]),
            helper.make_node("Conv", ["s", "kernel"], ["c"]),
            helper.make_node("Squeeze", ["c", "one"], ["flat"]),
            helper.make_node("Cast", ["rate"], ["hz"], to=FLOAT),
            helper.make_node("Div", ["flat", "hz"], ["scaled"]),
            helper.make_node("ReduceMean", ["scaled", "one"], ["mean"], keepdims=1),
            helper.make_node("Mul", ["level_in", "fade"], ["faded"]),
            helper.make_node("Add", ["faded", "mean"], ["level_out"]),
            helper.make_node("Sub", ["scaled", "level_out"], ["clean"]),
            helper.make_node("Relu", ["level_out"], ["loud"]),
        ],
        [info("signal", [1, 19]), info("level_in", [1, 1]), info("rate", [], INT64)],
        [info("clean", [1, 16]), info("level_out", [1, 1]), info("loud", [1, 1])],
        {
            "kernel": drawn(1, 1, 4),
            "fade": np.array([[0.9]], np.float32),
            "one": np.array([1], np.int64),
        },
    )


def cell(path: Path) -> Path:
    """One item a call, no time axis: x [F], state [H] -> y [H], state_new."""
    return build(
        path,
        [
            helper.make_node("MatMul", ["x", "w"], ["a"]),
            helper.make_node("MatMul", ["state", "r"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["state_new"]),
            helper.make_node("Neg", ["state_new"], ["y"]),
        ],
        [info("x", [WIDTH]), info("state", [HIDDEN])],
        [info("y", [HIDDEN]), info("state_new", [HIDDEN])],
        {"w": drawn(WIDTH, HIDDEN), "r": drawn(HIDDEN, HIDDEN, seed=1)},
        opset=11,
    )


@dataclass(frozen=True, slots=True)
class Case:
    """A file, how it is adopted, and how a plain loop drives it."""

    make: Callable[[Path], Path]
    options: tuple[str, ...]
    chunk: str
    carried: Mapping[str, str]
    start: Mapping[str, Array]
    t: int
    to_chunk: Callable[[Array], Array]  # items [n, ...] -> what the file takes
    time_axis: int | None  # of the first output in the bundle
    first: str
    item: tuple[int, ...]
    lookback: int = 0
    constants: Mapping[str, Array] | None = None


STORED = drawn(1, 1, HIDDEN, seed=7)
CASES = {
    "gru": Case(
        gru,
        ("--t", "1,4"),
        "x",
        {"h": "h_out"},
        {"h": np.zeros((1, 1, HIDDEN), np.float32)},
        4,
        lambda x: x[None],
        1,
        "y",
        (WIDTH,),
    ),
    "lstm": Case(
        lstm,
        ("--t", "1,4", "--init", "c0=0.25", "--init", "h0=STORED"),
        "x",
        {"h0": "hn", "c0": "cn"},
        {"h0": STORED, "c0": np.full((1, 1, HIDDEN), 0.25, np.float32)},
        4,
        lambda x: x[None],
        1,
        "out",
        (WIDTH,),
    ),
    "convolution": Case(
        convolution,
        ("--t", "6", "--tail", "refuse"),
        "feats",
        {"cached_x": "new_cached_x"},
        {"cached_x": np.zeros((1, WIDTH, 4), np.float32)},
        6,
        lambda x: x.T[None],
        2,
        "y",
        (WIDTH,),
    ),
    "ring": Case(
        ring,
        ("--shape", f"x=B,T,{WIDTH}", "--tail", "pad"),
        "x",
        {"past_k": "present_k", "past_v": "present_v", "n": "n_next"},
        {
            "past_k": np.zeros((1, WINDOW, WIDTH), np.float32),
            "past_v": np.zeros((1, WINDOW, WIDTH), np.float32),
            "n": np.array(0, np.int64),
        },
        4,
        lambda x: x[None],
        1,
        "y",
        (WIDTH,),
    ),
    "smoothed": Case(
        smoothed,
        (
            *("--lookback", "3", "--lookback-fill", "0.5", "--constant", "rate=8"),
            *("--tail", "pad", "--init", "level_in=0.125"),
        ),
        "signal",
        {"level_in": "level_out"},
        {"level_in": np.full((1, 1), 0.125, np.float32)},
        16,
        lambda x: x[None],
        1,
        "clean",
        (),
        lookback=3,
        constants={"rate": np.array(8, np.int64)},
    ),
    "cell": Case(
        cell,
        ("--shape", f"x={WIDTH}", "--shape", f"state={HIDDEN}"),
        "x",
        {"state": "state_new"},
        {"state": np.zeros(HIDDEN, np.float32)},
        1,
        lambda x: x[0],
        1,
        "y",
        (WIDTH,),
    ),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every file and the bundle made of it by the public command."""
    root = tmp_path_factory.mktemp("adopted")
    np.save(root / "stored.npy", STORED)
    for name, case in CASES.items():
        case.make(root / f"{name}.onnx")
        options = [o.replace("STORED", str(root / "stored.npy")) for o in case.options]
        code = call(["adopt", str(root / f"{name}.onnx"), "--out", str(root / name), *options])
        assert code == 0, name
    return root


def plain(path: Path, case: Case, items: Array) -> tuple[list[dict[str, Array]], dict[str, Array]]:
    """Drive the file by hand, chunk after chunk: its outputs, and the state at the end."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    state = dict(case.start)
    fill = np.full((case.lookback, *case.item), 0.5, np.float32)
    padded = np.concatenate([fill, items])
    found = []
    for at in range(0, len(items) - case.t + 1, case.t):
        window = np.ascontiguousarray(case.to_chunk(padded[at : at + case.lookback + case.t]))
        feed = {case.chunk: window, **state, **(case.constants or {})}
        got = dict(zip(names, session.run(names, feed), strict=True))
        found.append(got)
        state = {before: got[after] for before, after in case.carried.items()}
    return found, state


def same(stream: Stream, expected: Mapping[str, Array]) -> None:
    for name, value in expected.items():
        assert np.array_equal(stream.state[name].reshape(value.shape), value), name
        assert stream.state[name].dtype == value.dtype


@pytest.mark.parametrize("name", CASES)
def test_the_runtime_does_what_a_plain_loop_does(shelf: Path, name: str) -> None:
    case = CASES[name]
    items = drawn(case.t * 9, *case.item, seed=3)
    found, state = plain(shelf / f"{name}.onnx", case, items)
    stream = Session.open(shelf / name).stream()
    outputs = stream.advance(items)
    assert len(found) == 9
    for number, step in enumerate(found):
        for output in stream.engine.contract.outputs:
            value, axis = outputs[output.name], output.time_axis
            if axis is None:
                own = value[number]
            else:
                own = np.take(value, range(number * case.t, (number + 1) * case.t), axis)
            expected = step[output.name]
            assert np.array_equal(own.reshape(expected.shape), expected), (number, output.name)
    same(stream, state)
    assert outputs[case.first].shape[case.time_axis or 0] == len(items)


@pytest.mark.parametrize("name", CASES)
def test_splitting_the_input_and_saving_change_nothing(
    shelf: Path, name: str, tmp_path: Path
) -> None:
    case = CASES[name]
    session = Session.open(shelf / name)
    items = drawn(case.t * 6 + 3, *case.item, seed=4)
    whole = session.stream()
    expected = whole.advance(items)
    stream = session.stream()
    parts = []
    for cut in np.array_split(items, [1, 2, case.t + 2, 3 * case.t, 3 * case.t + 1]):
        parts.append(stream.advance(cut))
        stream.save(tmp_path / "state")
        stream = Stream.load(Session.open(shelf / name), tmp_path / "state")
    for output in session.contract.outputs:
        joined = np.concatenate([p[output.name] for p in parts], output.time_axis or 0)
        assert np.array_equal(joined, expected[output.name])
    same(stream, whole.state)


def test_what_the_contract_says(shelf: Path) -> None:
    manifests = {name: open_bundle(shelf / name).manifest for name in CASES}
    state = {n: {s.input: s for s in m.contract.state} for n, m in manifests.items()}
    assert isinstance(state["gru"]["h"].init, Zeros)
    assert state["gru"]["h"].batch_axis == 1
    assert state["lstm"]["c0"].init == Fill(value=0.25)
    assert isinstance(state["lstm"]["h0"].init, Stored)
    assert (state["ring"]["n"].role, state["ring"]["n"].shape) == ("counter", ("B",))
    assert state["ring"]["past_k"].role == "window"
    assert state["convolution"]["cached_x"].role == "window"
    tails = {name: m.contract.chunk.tail for name, m in manifests.items()}
    assert tails == {
        "gru": "exact",
        "lstm": "exact",
        "convolution": "refuse",
        "ring": "pad",
        "smoothed": "pad",
        "cell": "exact",
    }
    per = {o.name: o.per for m in manifests.values() for o in m.contract.outputs}
    assert per == {
        **{"y": "item", "out": "item", "level": "chunk"},
        **{"clean": "item", "loud": "chunk"},
    }
    for name, manifest in manifests.items():
        (graph,) = manifest.graphs
        assert (graph.lowering, graph.domains) == ("other", ("ai.onnx",))
        assert graph.opsets == {"ai.onnx": 11 if name == "cell" else 18}
        assert graph.min_ort == "1.15"  # of the file format, version 9
    batches = {name: m.graphs[0].batch for name, m in manifests.items()}
    assert {name for name, batch in batches.items() if batch == ()} == {
        "gru",
        "lstm",
        "convolution",
    }
    costs = {name: sum(m.graphs[0].multiply_adds.values()) for name, m in manifests.items()}
    assert costs["gru"] == 4 * 3 * HIDDEN * (WIDTH + HIDDEN)


@pytest.mark.parametrize("name", CASES)
def test_golden_runs_hold_and_every_chunk_size_gives_the_same(shelf: Path, name: str) -> None:
    checks = replay_golden(open_bundle(shelf / name))
    assert checks
    assert all(error == 0 for check in checks for error in check.errors.values())
