"""Small recurrent bundles, built with onnx alone, that the quantizer's laws are tried on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from dst.runtime import Session, golden_tensors, open_bundle, write_bundle
from dst.runtime.manifest import (
    Chunk,
    Contract,
    Features,
    Golden,
    Graph,
    Horizon,
    Manifest,
    Output,
    Producer,
    State,
    Tokens,
    Zeros,
)

Array = npt.NDArray[np.generic]
Make = Callable[..., Path]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
VOCABULARY, WIDTH, NOMINAL = 256, 64, 8


def drawn(*shape: int, seed: int, scale: float = 0.125) -> Array:
    return np.random.default_rng(seed).normal(size=shape, scale=scale).astype(np.float32)


def info(name: str, dtype: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, Array],
) -> bytes:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "step", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


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
    return model_of(
        nodes,
        [info("ids", INT64, ["B", "T"]), info("h", FLOAT, ["B", WIDTH])],
        [info("logits", FLOAT, ["B", "T", VOCABULARY]), info("h_next", FLOAT, ["B", WIDTH])],
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
    return model_of(
        nodes,
        [info("x", FLOAT, ["B", "T", WIDTH]), info("h", FLOAT, ["B", WIDTH])],
        [info("y", FLOAT, ["B", "T", WIDTH]), info("h_next", FLOAT, ["B", WIDTH])],
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
    return model_of(
        nodes,
        [info("x", FLOAT, ["B", "T", WIDTH]), info("h", FLOAT, ["B", WIDTH])],
        [info("y", FLOAT, ["B", "T", WIDTH]), info("h_next", FLOAT, ["B", WIDTH])],
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
    return model_of(
        nodes,
        [info("x", FLOAT, ["B", "T", WIDTH]), info("h", FLOAT, ["B", WIDTH])],
        [info("y", FLOAT, ["B", "T", WIDTH]), info("h_next", FLOAT, ["B", WIDTH])],
        weights,
    )


def contract_of(chunk: Chunk, output: str, width: int) -> Contract:
    return Contract(
        chunk=chunk,
        constants=(),
        outputs=(
            Output(
                name=output,
                dtype="float32",
                shape=("B", "T", width),
                meaning="logits" if output == "logits" else "custom",
                per="item",
                time_axis=1,
            ),
        ),
        state=(
            State(
                input="h",
                output="h_next",
                dtype="float32",
                shape=("B", WIDTH),
                batch_axis=0,
                init=Zeros(),
                role="memory",
            ),
        ),
    )


def chunk_of(name: str, content: Tokens | Features, shape: tuple[int | str, ...]) -> Chunk:
    return Chunk(
        input=name,
        dtype="int64" if isinstance(content, Tokens) else "float32",
        shape=shape,
        batch_axis=0,
        time_axis=1,
        nominal_t=NOMINAL,
        allowed_t=(1, 2, NOMINAL),
        content=content,
        lookback=0,
        lookback_fill=None,
        tail="exact",
        pad_value=None,
    )


def written(path: Path, step: bytes, contract: Contract, items: Array) -> Path:
    """Write a bundle whose golden run is the step's own."""
    graph = Graph(
        file="step.onnx",
        lowering="other",
        allowed_t=contract.chunk.allowed_t,
        batch=(),
        opsets={"ai.onnx": 18},
        domains=("ai.onnx",),
        min_ort="1.17",
        golden_tolerance=1e-4,
        multiply_adds={"into": 8 * WIDTH * WIDTH},
    )
    manifest = Manifest(
        name="sample",
        description="a small model for tests",
        license="Apache-2.0",
        model_id="a" * 64,
        precision="float32",
        recipe=None,
        producer=Producer(name="tests", version="0"),
        contract=contract,
        graphs=(graph,),
        golden=(),
        certificates=(),
        horizon=Horizon(half_life_items=None),
        weights_bytes=len(step),
    )
    write_bundle(path, manifest, {"step.onnx": step})
    session = Session.open(path)
    stream = session.stream()
    chunks = [items[None, i : i + NOMINAL] for i in range(0, 2 * NOMINAL, NOMINAL)]
    name = contract.outputs[0].name
    outputs = [stream.step(chunk)[name] for chunk in chunks]
    tensors = golden_tensors(NOMINAL, chunks, {name: outputs}, stream.state)
    runs = (Golden(file="golden.safetensors", t=NOMINAL, steps=2),)
    files: dict[str, bytes | Path] = {
        "step.onnx": step,
        "golden.safetensors": safetensors.numpy.save(tensors),
    }
    write_bundle(path, msgspec.structs.replace(manifest, golden=runs), files, overwrite=True)
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


@pytest.fixture(scope="session")
def text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token model with a gate, which stays float32, and a head tied to its embedding."""
    content = Tokens(vocabulary=VOCABULARY, tokenizer="bytes")
    contract = contract_of(chunk_of("ids", content, ("B", "T")), "logits", VOCABULARY)
    path = tmp_path_factory.mktemp("gated") / "gated"
    return written(path, text_step(gated=True), contract, text_items(2 * NOMINAL))


@pytest.fixture(scope="session")
def plain_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without the gate: every product of it is quantized."""
    content = Tokens(vocabulary=VOCABULARY, tokenizer="bytes")
    contract = contract_of(chunk_of("ids", content, ("B", "T")), "logits", VOCABULARY)
    path = tmp_path_factory.mktemp("plain") / "plain"
    return written(path, text_step(gated=False), contract, text_items(2 * NOMINAL))


@pytest.fixture(scope="session")
def turned_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gated model, whose head is its table, turned by a node."""
    content = Tokens(vocabulary=VOCABULARY, tokenizer="bytes")
    contract = contract_of(chunk_of("ids", content, ("B", "T")), "logits", VOCABULARY)
    path = tmp_path_factory.mktemp("turned") / "turned"
    step = text_step(gated=True, turned=True)
    return written(path, step, contract, text_items(2 * NOMINAL))


@pytest.fixture(scope="session")
def sensor_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GRU and a convolution, neither of which can be quantized."""
    names = tuple(f"f{i}" for i in range(WIDTH))
    content = Features(names=names, sample_rate_hz=None, normalisation=None)
    contract = contract_of(chunk_of("x", content, ("B", "T", WIDTH)), "y", WIDTH)
    path = tmp_path_factory.mktemp("sensor") / "sensor"
    return written(path, sensor_step(), contract, drawn(2 * NOMINAL, WIDTH, seed=9, scale=1.0))


@pytest.fixture(scope="session")
def gemm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Products of every kind, with weights and inputs that several share."""
    content = Features(names=(), sample_rate_hz=None, normalisation=None)
    contract = contract_of(chunk_of("x", content, ("B", "T", WIDTH)), "y", WIDTH)
    path = tmp_path_factory.mktemp("gemm") / "gemm"
    return written(path, gemm_step(), contract, drawn(2 * NOMINAL, WIDTH, seed=9, scale=1.0))


@pytest.fixture(scope="session")
def feature_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three products over features; every one can be quantized, the second hurts most."""
    names = tuple(f"f{i}" for i in range(WIDTH))
    content = Features(names=names, sample_rate_hz=None, normalisation=None)
    contract = contract_of(chunk_of("x", content, ("B", "T", WIDTH)), "y", WIDTH)
    path = tmp_path_factory.mktemp("features") / "features"
    items = drawn(2 * NOMINAL, WIDTH, seed=9, scale=1.0)
    return written(path, feature_step(), contract, items)
