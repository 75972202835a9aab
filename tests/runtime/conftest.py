"""Small real bundles, built with onnx alone, that the runtime's laws are tried on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from onnx import TensorProto, helper
from tests.steps import (
    INT64,
    PLAIN,
    Array,
    Floats,
    Tail,
    chunk_of,
    contract_of,
    graph_of,
    info,
    manifest_of,
    model_bytes,
    output_of,
    state_of,
)

from dst.runtime import Session, golden_tensors, write_bundle
from dst.runtime.bundle.manifest import (
    Contract,
    Features,
    Fill,
    Golden,
    Graph,
    Manifest,
    Normalisation,
    Stored,
    Tokens,
)

VOCABULARY, WIDTH = 256, 8


def text_weights() -> dict[str, Array]:
    random = np.random.default_rng(0)
    return {
        "table": random.normal(size=(VOCABULARY, WIDTH)).astype(np.float32),
        "head": random.normal(size=(WIDTH, VOCABULARY)).astype(np.float32),
        "leak": np.full((1,), 0.9, np.float32),
        "one": np.array([1], np.int64),
    }


def text_model(t: int | str = "T", batch: int | str = "B") -> bytes:
    """A leaky sum of embeddings, scanned over time, with a counter and a logits head."""
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["h_in", "leak"], ["faded"]),
            helper.make_node("Add", ["faded", "x_in"], ["h_out"]),
            helper.make_node("Identity", ["h_out"], ["y_out"]),
        ],
        "leaky",
        [info(n, [batch, WIDTH]) for n in ("h_in", "x_in")],
        [info(n, [batch, WIDTH]) for n in ("h_out", "y_out")],
    )
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node(
            "Scan",
            ["h", "x"],
            ["h_next", "y"],
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
        ),
        helper.make_node("MatMul", ["y", "head"], ["logits"]),
        helper.make_node("Shape", ["ids"], ["length"], start=1, end=2),
        helper.make_node("Add", ["n", "length"], ["n_next"]),
    ]
    return model_bytes(
        nodes,
        [info("ids", [batch, t], INT64), info("h", [batch, WIDTH]), info("n", [batch], INT64)],
        [
            info("logits", [batch, t, VOCABULARY]),
            info("h_next", [batch, WIDTH]),
            info("n_next", [batch], INT64),
        ],
        text_weights(),
    )


def text_contract() -> Contract:
    return contract_of(
        chunk_of(Tokens(vocabulary=VOCABULARY, tokenizer="bytes"), (1, 4, 8)),
        [output_of("logits", ("B", "T", VOCABULARY), "logits")],
        [
            state_of("h", ("B", WIDTH), init=Stored(tensor="h0")),
            state_of("n", ("B",), counter=True),
        ],
    )


def manifest(
    contract: Contract,
    graphs: Sequence[Graph],
    *,
    golden: Sequence[Golden] = (),
    model_id: str = "a" * 64,
    precision: str = "float32",
) -> Manifest:
    return manifest_of(
        contract,
        graphs,
        golden=golden,
        model_id=model_id,
        precision=precision,
        half_life_items=6.6,
        weights_bytes=4 * VOCABULARY * WIDTH * 2,
    )


def text_golden() -> tuple[tuple[Golden, ...], bytes]:
    """Golden runs of the text model, from a loop in float64 that knows nothing of onnx."""
    weights = text_weights()
    tensors: dict[str, Array] = {}
    runs = []
    for t in (1, 4, 8):
        ids = np.random.default_rng(t).integers(0, VOCABULARY, (3, 1, t))
        h = initial_h()[0].astype(np.float64)
        logits = []
        for chunk in ids:
            rows = []
            for token in chunk[0]:
                h = np.float32(0.9) * h + weights["table"][token]
                rows.append(h @ weights["head"])
            logits.append(np.asarray(rows, np.float32)[None])
        state: dict[str, Array] = {
            "h": h[None].astype(np.float32),
            "n": np.array([3 * t], np.int64),
        }
        tensors |= golden_tensors(t, list(ids), {"logits": logits}, state)
        runs.append(Golden(file="golden.safetensors", t=t, steps=3))
    return tuple(runs), safetensors.numpy.save(tensors)


def initial_h() -> Floats:
    return np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]


def text_files() -> dict[str, bytes | Path]:
    return {
        "step.onnx": text_model(),
        "step_t1.onnx": text_model(1, 1),
        "init.safetensors": safetensors.numpy.save({"h0": initial_h()}),
        "golden.safetensors": text_golden()[1],
    }


def text_manifest(model_id: str = "a" * 64, precision: str = "float32") -> Manifest:
    return manifest(
        text_contract(),
        [graph_of((1, 4, 8), lowering="fused"), graph_of((1,), file="step_t1.onnx", batch=(1,))],
        golden=text_golden()[0],
        model_id=model_id,
        precision=precision,
    )


def sensor_model() -> bytes:
    """A mean over four values (three of them lookback) plus a carried sum, two features."""
    starts = {f"from{i}": np.array([i], np.int64) for i in range(4)}
    ends = {f"to{i}": np.array([i - 3 if i < 3 else 2**31], np.int64) for i in range(4)}
    nodes = [
        helper.make_node("Slice", ["x", f"from{i}", f"to{i}", "axis"], [f"x{i}"]) for i in range(4)
    ]
    nodes += [
        helper.make_node("Mean", [f"x{i}" for i in range(4)], ["mean"]),
        helper.make_node("CumSum", ["x3", "axis"], ["sums"]),
        helper.make_node("Unsqueeze", ["c", "axis"], ["c1"]),
        helper.make_node("Add", ["sums", "c1"], ["total"]),
        helper.make_node("Add", ["mean", "total"], ["y"]),
        helper.make_node("ReduceSum", ["x3", "axis"], ["gain"], keepdims=0),
        helper.make_node("Add", ["c", "gain"], ["c_next"]),
        helper.make_node("ReduceMax", ["x3", "axis"], ["peak"], keepdims=0),
    ]
    return model_bytes(
        nodes,
        [info("x", ["B", "L", 2]), info("c", ["B", 2])],
        [info("y", ["B", "T", 2]), info("peak", ["B", 2]), info("c_next", ["B", 2])],
        {**starts, **ends, "axis": np.array([1], np.int64)},
    )


def sensor_contract() -> Contract:
    content = Features(
        names=("left", "right"),
        sample_rate_hz=100.0,
        normalisation=Normalisation(mean=(1.0, -1.0), std=(2.0, 0.5)),
    )
    return contract_of(
        chunk_of(content, (1, 2, 4), 2, lookback=3, lookback_fill=0.25),
        [output_of("y", ("B", "T", 2)), output_of("peak", ("B", 2))],
        [state_of("c", ("B", 2))],
    )


def gain_model(t: int | str) -> bytes:
    """sqrt(x) plus a carried sum; a second state multiplies by exp(sum x) and shows nowhere."""
    return model_bytes(
        [
            helper.make_node("Sqrt", ["x"], ["root"]),
            helper.make_node("Unsqueeze", ["c", "axis"], ["c1"]),
            helper.make_node("Add", ["root", "c1"], ["y"]),
            helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0),
            helper.make_node("Add", ["c", "sum"], ["c_next"]),
            helper.make_node("Exp", ["sum"], ["grown"]),
            helper.make_node("Mul", ["g", "grown"], ["g_next"]),
        ],
        [info("x", [1, t]), info("c", [1]), info("g", [1])],
        [info("y", [1, t]), info("c_next", [1]), info("g_next", [1])],
        {"axis": np.array([1], np.int64)},
    )


def gain_contract(tail: Tail, allowed_t: Sequence[int] = (8,)) -> Contract:
    return contract_of(
        chunk_of(PLAIN, allowed_t, tail=tail, pad_value=4.0 if tail == "pad" else None),
        [output_of("y", ("B", "T"))],
        [state_of("c", ("B",)), state_of("g", ("B",), init=Fill(value=1.0))],
    )


def slow_model() -> bytes:
    """Counts to a huge number one by one, so that only a deadline ends it soon."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["s_in", "tiny"], ["s_out"]),
        ],
        "count",
        [info("i", [], INT64), info("go", [], TensorProto.BOOL), info("s_in", [1])],
        [info("go_on", [], TensorProto.BOOL), info("s_out", [1])],
    )
    return model_bytes(
        [
            helper.make_node("ReduceMax", ["x", "axis"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["turns_1"], to=TensorProto.INT64),
            helper.make_node("Squeeze", ["turns_1"], ["turns"]),
            helper.make_node("Loop", ["turns", "", "c"], ["c_next"], body=body),
            helper.make_node("Identity", ["g"], ["g_next"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        [info("x", [1, 8]), info("c", [1]), info("g", [1])],
        [info("y", [1, 8]), info("c_next", [1]), info("g_next", [1])],
        {"axis": np.array([1], np.int64), "tiny": np.array([1e-3], np.float32)},
    )


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every sample bundle: text, twin, half, sensor, gain, pad, refuse, slow."""
    root = tmp_path_factory.mktemp("bundles")
    write_bundle(root / "text", text_manifest(), text_files())
    write_bundle(root / "twin", text_manifest(model_id="b" * 64), text_files())
    write_bundle(root / "half", text_manifest(precision="int8"), text_files())
    sensor = manifest(sensor_contract(), [graph_of((1, 2, 4))])
    write_bundle(root / "sensor", sensor, {"step.onnx": sensor_model()})
    gain = manifest(gain_contract("exact", (1, 8)), [graph_of((1, 8), batch=(1,))])
    write_bundle(root / "gain", gain, {"step.onnx": gain_model("T")})
    tails: tuple[Tail, ...] = ("pad", "refuse")
    for tail in tails:
        fixed = manifest(gain_contract(tail), [graph_of((8,), batch=(1,))])
        write_bundle(root / tail, fixed, {"step.onnx": gain_model(8)})
    slow = manifest(gain_contract("refuse"), [graph_of((8,), batch=(1,))])
    write_bundle(root / "slow", slow, {"step.onnx": slow_model()})
    return root


@pytest.fixture(scope="session")
def text(shelf: Path) -> Session:
    return Session.open(shelf / "text")


@pytest.fixture(scope="session")
def sensor(shelf: Path) -> Session:
    return Session.open(shelf / "sensor")


@pytest.fixture
def text_parts() -> tuple[Manifest, dict[str, bytes | Path]]:
    """The manifest and the files of the text bundle, to be broken and written anew."""
    return text_manifest(), text_files()
