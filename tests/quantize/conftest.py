"""Small recurrent bundles, built with onnx alone, that the quantizer's laws are tried on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from tests.steps import (
    INT64,
    PLAIN,
    Array,
    chunk_of,
    contract_of,
    drawn,
    graph_of,
    info,
    manifest_of,
    model_bytes,
    output_of,
    state_of,
    write_with_golden,
)

from dst.cli.app import call
from dst.evaluate import Spread
from dst.quantize.autotune import Speed, Trial
from dst.runtime import Bundle, Session, open_bundle
from dst.runtime.bundle.manifest import Contract, Features, Golden, Tokens

Plant = Callable[[Mapping[str, float]], None]
VOCABULARY, WIDTH, NOMINAL = 256, 64, 8
SIZES = (1, 2, NOMINAL)
NAMED = Features(
    names=tuple(f"f{i}" for i in range(WIDTH)), sample_rate_hz=None, normalisation=None
)
ROWS = drawn(2 * NOMINAL, WIDTH, seed=9, scale=1.0)


def running_sum(x: str) -> list[onnx.NodeProto]:
    """Add to the state h item by item; the order of the sum is the same for every T."""
    return [
        helper.make_node("Unsqueeze", ["h", "one"], ["h1"]),
        helper.make_node("Concat", ["h1", x], ["all"], axis=1),
        helper.make_node("CumSum", ["all", "one"], ["sums"]),
        helper.make_node("Slice", ["sums", "one", "end", "one"], ["s"]),
        helper.make_node("Slice", ["sums", "minus_one", "end", "one"], ["last"]),
        helper.make_node("Squeeze", ["last", "one"], ["h_next"]),
    ]


LIMITS: dict[str, Array] = {
    "low": np.array(-0.25, np.float32),
    "high": np.array(0.5, np.float32),
}
SMALL: dict[str, Array] = {
    "one": np.array([1]),
    "minus_one": np.array([-1]),
    "end": np.array([2**31]),
}


def text_step(gated: bool, turned: bool = False, limit: Sequence[str] = ()) -> bytes:
    """Read ids: embedding, a product into a running sum, one out of it, and the tied head.

    ``limit`` is an operator, with names of its limits, between the last two products.
    """
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["u"], "look"),
        helper.make_node("MatMul", ["u", "w_in"], ["v"], "into"),
    ]
    if gated:
        nodes += [
            helper.make_node("MatMul", ["u", "w_gate"], ["g0"], "gate"),
            helper.make_node("Softplus", ["g0"], ["g1"]),
            helper.make_node("Neg", ["g1"], ["g2"]),
            helper.make_node("Exp", ["g2"], ["g"]),
            helper.make_node("Mul", ["v", "g"], ["x"]),
        ]
    nodes += running_sum("x" if gated else "v")
    if turned:
        nodes.append(helper.make_node("Transpose", ["table"], ["head"], perm=[1, 0]))
    nodes += [
        helper.make_node("Tanh", ["s"], ["bounded"]),
        helper.make_node("MatMul", ["bounded", "w_out"], ["y"], "out"),
        *([helper.make_node(limit[0], ["y", *limit[1:]], ["z"], "limit")] if limit else []),
        helper.make_node("MatMul", ["z" if limit else "y", "head"], ["logits"], "head"),
    ]
    table = drawn(VOCABULARY, WIDTH, seed=0, scale=1.0)
    weights = {
        "table": table,
        "w_in": drawn(WIDTH, WIDTH, seed=1),
        "w_out": drawn(WIDTH, WIDTH, seed=2),
        **({} if turned else {"head": np.ascontiguousarray(table.T)}),
        **({"w_gate": drawn(WIDTH, WIDTH, seed=3)} if gated else {}),
        **{name: LIMITS[name] for name in limit[1:] if name},
        **SMALL,
    }
    return model_bytes(
        nodes,
        [info("ids", ["B", "T"], INT64), info("h", ["B", WIDTH])],
        [info("logits", ["B", "T", VOCABULARY]), info("h_next", ["B", WIDTH])],
        weights,
    )


def sensor_step() -> bytes:
    """Read features [B, T, 64]: a GRU, a convolution over the chunk and a Gemm; all of size."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
        helper.make_node("Unsqueeze", ["h", "zero"], ["h0"]),
        helper.make_node("GRU", ["xt", "w", "r", "", "", "h0"], ["yt", "hn"], "gru"),
        helper.make_node("Squeeze", ["hn", "zero"], ["h_next"]),
        helper.make_node("Squeeze", ["yt", "one"], ["ys"]),
        helper.make_node("Transpose", ["ys"], ["yb"], perm=[1, 2, 0]),
        helper.make_node("Conv", ["yb", "kernel"], ["yc"], "conv"),
        helper.make_node("Transpose", ["yc"], ["y"], perm=[0, 2, 1]),
    ]
    nodes[2].attribute.append(helper.make_attribute("hidden_size", WIDTH))
    return model_bytes(
        nodes,
        [info("x", ["B", "T", WIDTH]), info("h", ["B", WIDTH])],
        [info("y", ["B", "T", WIDTH]), info("h_next", ["B", WIDTH])],
        {
            "w": drawn(1, 3 * WIDTH, WIDTH, seed=0),
            "r": drawn(1, 3 * WIDTH, WIDTH, seed=1),
            "kernel": drawn(WIDTH, WIDTH, 1, seed=2),
            "zero": np.array([0]),
            "one": np.array([1]),
        },
    )


def gemm_step() -> bytes:
    """Read features through Gemm and MatMul: biases, a column of zeros, and one narrow Gemm.

    `second` and `second_quant` share a weight but not their input, `second_quant` and `third` their
    input but not a weight. Some names are such as quantizers make from others.
    """
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["r"]),
        helper.make_node("Gemm", ["r", "w1", "b1"], ["g"], "first", transB=1),
        helper.make_node("Tanh", ["g"], ["r_scale"]),
        helper.make_node("MatMul", ["r_scale", "w2"], ["p2"], "second"),
        helper.make_node("MatMul", ["r", "w2"], ["p3"], "second_quant"),
        helper.make_node("MatMul", ["r", "w2_scale"], ["p4"], "third"),
        helper.make_node("Gemm", ["r", "w4", "b4"], ["p5"], "narrow"),
        helper.make_node("ReduceMean", ["p5", "one"], ["p6"]),
        helper.make_node("Sum", ["p2", "p3", "p4", "p6"], ["p"]),
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Reshape", ["p", "size"], ["v"]),
        *running_sum("v"),
        helper.make_node("Tanh", ["s"], ["y"]),
    ]
    third = drawn(WIDTH, WIDTH, seed=4)
    third[:, 5] = 0
    weights = {
        "w1": drawn(WIDTH, WIDTH, seed=1),
        "b1": drawn(WIDTH, seed=2),
        "w2": drawn(WIDTH, WIDTH, seed=3),
        "w2_scale": third,
        "w4": drawn(WIDTH, 16, seed=5),
        "b4": drawn(16, seed=6),
        "rows": np.array([-1, WIDTH]),
        **SMALL,
    }
    return model_bytes(
        nodes,
        [info("x", ["B", "T", WIDTH]), info("h", ["B", WIDTH])],
        [info("y", ["B", "T", WIDTH]), info("h_next", ["B", WIDTH])],
        weights,
    )


def cubed(array: Array) -> Array:
    return np.asarray(array, np.float32) ** 3


def feature_step() -> bytes:
    """Read features [B, T, 64]: three products and a fading sum.

    The weights of the first are whole numbers that 4 bits hold exactly; those of the second are
    very unequal, which hurts most.
    """
    whole = np.random.default_rng(1).integers(-8, 8, (WIDTH, WIDTH))
    whole[::32] = -8  # the lowest number, once in every block
    nodes = [
        helper.make_node("MatMul", ["x", "w_in"], ["v"], "into"),
        *running_sum("v")[:-1],
        helper.make_node("Squeeze", ["last", "one"], ["h_last"]),
        helper.make_node("Mul", ["h_last", "half"], ["h_next"]),
        helper.make_node("Tanh", ["s"], ["bounded"]),
        helper.make_node("MatMul", ["bounded", "w_mid"], ["m"], "mid"),
        helper.make_node("Tanh", ["m"], ["again"]),
        helper.make_node("MatMul", ["again", "w_out"], ["y"], "out"),
    ]
    weights = {
        "w_in": (whole / 32).astype(np.float32),
        "w_mid": cubed(drawn(WIDTH, WIDTH, seed=2, scale=0.4)),
        "w_out": drawn(WIDTH, WIDTH, seed=3),
        "half": np.array(0.5, np.float32),
        **SMALL,
    }
    return model_bytes(
        nodes,
        [info("x", ["B", "T", WIDTH]), info("h", ["B", WIDTH])],
        [info("y", ["B", "T", WIDTH]), info("h_next", ["B", WIDTH])],
        weights,
    )


def text_contract(width: int = VOCABULARY) -> Contract:
    content = Tokens(vocabulary=VOCABULARY, tokenizer="bytes")
    return contract_of(
        chunk_of(content, SIZES),
        [output_of("logits", ("B", "T", width), "logits")],
        [state_of("h", ("B", WIDTH))],
    )


def features_contract(content: Features) -> Contract:
    return contract_of(
        chunk_of(content, SIZES, WIDTH),
        [output_of("y", ("B", "T", WIDTH))],
        [state_of("h", ("B", WIDTH))],
    )


def written(path: Path, step: bytes, contract: Contract, items: Array) -> Path:
    """Write a bundle whose golden run is the step's own."""
    costs = {"into": 8 * WIDTH * WIDTH}
    graph = graph_of(SIZES, lowering="other", golden_tolerance=1e-4, multiply_adds=costs)
    manifest = manifest_of(contract, [graph], weights_bytes=len(step))
    chunks = [items[None, i : i + NOMINAL] for i in range(0, 2 * NOMINAL, NOMINAL)]
    write_with_golden(path, manifest, step, chunks)
    runs = (Golden(file="golden.safetensors", t=NOMINAL, steps=2),)
    assert open_bundle(path).manifest.golden == runs
    return path


def text_items(count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count)


def outputs(session: Session, t: int, items: Array) -> dict[str, Array]:
    """Step over items in chunks of t; the outputs joined, and the state after them."""
    stream = session.stream()
    steps = [stream.step(items[None, i : i + t]) for i in range(0, len(items), t)]
    joined = {k: np.concatenate([s[k] for s in steps], axis=1) for k in steps[0]}
    return joined | {k: v.copy() for k, v in stream.state.items()}


def optimized(graph: Path, folder: Path) -> list[onnx.NodeProto]:
    """The nodes that ONNX Runtime makes of a graph when it opens it."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    model = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return list(model.graph.node)


def refused(
    bundle: Path,
    words: Sequence[str],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`dst quantize` says why in one line, exits with 2 and leaves the folder empty."""
    code = call(["quantize", str(bundle), *words, "--out", str(folder / "q")])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.startswith("dst: ")
    assert error.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Plants how fast each recipe is, whatever this machine thinks."""

    def plant(ratios: Mapping[str, float]) -> None:
        def raced(full: Bundle, candidate: Bundle, trial: Trial, told: object) -> tuple[Speed, ...]:
            ratio = ratios[(candidate.manifest.recipe or "").split(",")[0]]
            spread = Spread(median=ratio, low=0.99 * ratio, high=1.01 * ratio)
            return (Speed(t=candidate.manifest.contract.chunk.nominal_t, ratio=spread),)

        monkeypatch.setattr("dst.quantize.autotune.verdict.measure_speed", raced)
        monkeypatch.setattr("dst.quantize.autotune.mixed.measure_speed", raced)

    return plant


@pytest.fixture(scope="session")
def text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token model with a gate, which stays float32, and a head tied to its embedding."""
    path = tmp_path_factory.mktemp("gated") / "gated"
    return written(path, text_step(gated=True), text_contract(), text_items(2 * NOMINAL))


@pytest.fixture(scope="session")
def plain_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without the gate: every product of it is quantized."""
    path = tmp_path_factory.mktemp("plain") / "plain"
    return written(path, text_step(gated=False), text_contract(), text_items(2 * NOMINAL))


@pytest.fixture(scope="session")
def turned_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gated model, whose head is its table, turned by a node."""
    path = tmp_path_factory.mktemp("turned") / "turned"
    step = text_step(gated=True, turned=True)
    return written(path, step, text_contract(), text_items(2 * NOMINAL))


@pytest.fixture(scope="session")
def sensor_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GRU and a convolution, neither of which can be quantized."""
    path = tmp_path_factory.mktemp("sensor") / "sensor"
    return written(path, sensor_step(), features_contract(NAMED), ROWS)


@pytest.fixture(scope="session")
def gemm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of every kind, with weights and inputs that several share."""
    path = tmp_path_factory.mktemp("gemm") / "gemm"
    return written(path, gemm_step(), features_contract(PLAIN), ROWS)


@pytest.fixture(scope="session")
def feature_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three products over features; every one can be quantized, the second hurts most."""
    path = tmp_path_factory.mktemp("features") / "features"
    return written(path, feature_step(), features_contract(NAMED), ROWS)
