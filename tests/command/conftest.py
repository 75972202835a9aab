"""Small bundles built with onnx alone, and a way to call the command on them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from dst.command.app import call
from dst.runtime import Session, golden_tensors, write_bundle
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

WIDTH, NOMINAL_T = 8, 8
SIZES = (1, 2, 4, 8, 32)
Array = npt.NDArray[np.generic]
Tail = Literal["exact", "pad", "refuse"]


def info(name: str, dtype: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, Array],
) -> bytes:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "step", inputs, outputs, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made)
    return bytes(made.SerializeToString())


def text_model() -> bytes:
    """Byte ids -> a fading sum of embeddings, carried on -> logits."""
    random = np.random.default_rng(0)
    fade = helper.make_graph(
        [
            helper.make_node("Mul", ["h_in", "fade"], ["faded"]),
            helper.make_node("Add", ["faded", "x_in"], ["h_out"]),
            helper.make_node("Identity", ["h_out"], ["y_out"]),
        ],
        "fading",
        [info(n, TensorProto.FLOAT, ["B", WIDTH]) for n in ("h_in", "x_in")],
        [info(n, TensorProto.FLOAT, ["B", WIDTH]) for n in ("h_out", "y_out")],
    )
    scan = helper.make_node(
        "Scan",
        ["h", "x"],
        ["h_next", "y"],
        body=fade,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_output_axes=[1],
    )
    return model(
        [
            helper.make_node("Gather", ["table", "ids"], ["x"]),
            scan,
            helper.make_node("MatMul", ["y", "head"], ["logits"]),
        ],
        [
            info("ids", TensorProto.INT64, ["B", "T"]),
            info("h", TensorProto.FLOAT, ["B", WIDTH]),
        ],
        [
            info("logits", TensorProto.FLOAT, ["B", "T", 256]),
            info("h_next", TensorProto.FLOAT, ["B", WIDTH]),
        ],
        {
            "table": random.normal(size=(256, WIDTH)).astype(np.float32),
            "head": random.normal(size=(WIDTH, 256), scale=0.3).astype(np.float32),
            "fade": np.full((1,), 0.9, np.float32),
        },
    )


def sensor_model() -> bytes:
    """Two features -> the item plus a carried sum as `mean`, and zero as `log_std`."""
    return model(
        [
            helper.make_node("CumSum", ["x", "axis"], ["sums"]),
            helper.make_node("Unsqueeze", ["c", "axis"], ["c1"]),
            helper.make_node("Add", ["sums", "c1"], ["mean"]),
            helper.make_node("Sub", ["x", "x"], ["log_std"]),
            helper.make_node("ReduceSum", ["x", "axis"], ["gain"], keepdims=0),
            helper.make_node("Add", ["c", "gain"], ["c_next"]),
        ],
        [info("x", TensorProto.FLOAT, ["B", "T", 2]), info("c", TensorProto.FLOAT, ["B", 2])],
        [
            info("mean", TensorProto.FLOAT, ["B", "T", 2]),
            info("log_std", TensorProto.FLOAT, ["B", "T", 2]),
            info("c_next", TensorProto.FLOAT, ["B", 2]),
        ],
        {"axis": np.array([1], np.int64)},
    )


def output(name: str, meaning: Literal["logits", "gaussian"], last: int) -> Output:
    return Output(
        name=name,
        dtype="float32",
        shape=("B", "T", last),
        meaning=meaning,
        per="item",
        time_axis=1,
    )


def carried(name: str, size: int) -> State:
    return State(
        input=name,
        output=f"{name}_next",
        dtype="float32",
        shape=("B", size),
        batch_axis=0,
        init=Zeros(),
        role="memory",
    )


def contract(features: bool, nominal_t: int, sizes: Sequence[int], tail: Tail) -> Contract:
    """What the text model keeps, or with `features` the sensor model."""
    return Contract(
        chunk=Chunk(
            input="x" if features else "ids",
            dtype="float32" if features else "int64",
            shape=("B", "T", 2) if features else ("B", "T"),
            batch_axis=0,
            time_axis=1,
            nominal_t=nominal_t,
            allowed_t=tuple(sizes),
            content=Features(names=("left", "right"), sample_rate_hz=None, normalisation=None)
            if features
            else Tokens(vocabulary=256, tokenizer="bytes"),
            lookback=0,
            lookback_fill=None,
            tail=tail,
            pad_value=0.0 if tail == "pad" else None,
        ),
        constants=(),
        outputs=(output("mean", "gaussian", 2), output("log_std", "gaussian", 2))
        if features
        else (output("logits", "logits", 256),),
        state=(carried("c", 2) if features else carried("h", WIDTH),),
    )


def write(
    path: Path,
    *,
    features: bool = False,
    nominal_t: int = NOMINAL_T,
    sizes: Sequence[int] = SIZES,
    tail: Tail = "exact",
    model_id: str = "a" * 64,
    golden_error: float = 0.0,
    description: str = "a small model for tests",
) -> Path:
    """Write a bundle; its golden run is what the graph does, plus an error."""
    kept = contract(features, nominal_t, sizes, tail)
    graph = Graph(
        file="step.onnx",
        lowering="portable",
        allowed_t=tuple(sizes),
        batch=(),
        opsets={"ai.onnx": 18},
        domains=("ai.onnx",),
        min_ort="1.17",
        golden_tolerance=1e-5,
    )
    manifest = Manifest(
        name=path.name,
        description=description,
        license="Apache-2.0",
        model_id=model_id,
        precision="float32",
        recipe=None,
        producer=Producer(name="tests", version="0"),
        contract=kept,
        graphs=(graph,),
        golden=(),
        certificates=(),
        horizon=Horizon(half_life_items=6.6),
        weights_bytes=4 * 256 * WIDTH * 2,
    )
    files: dict[str, bytes | Path] = {"step.onnx": sensor_model() if features else text_model()}
    write_bundle(path, manifest, files)
    if features:
        return path
    stream = Session.open(path).stream()
    chunks = [np.arange(nominal_t, dtype=np.int64)[None]]
    logits = [stream.step(chunks[0])["logits"].astype(np.float32) + np.float32(golden_error)]
    tensors = golden_tensors(nominal_t, chunks, {"logits": logits}, stream.state)
    golden = Golden(file="golden.safetensors", t=nominal_t, steps=1)
    files["golden.safetensors"] = safetensors.numpy.save(tensors)
    proved = msgspec.structs.replace(manifest, golden=(golden,))
    write_bundle(path, proved, files, overwrite=True)
    return path


@dataclass(frozen=True, slots=True)
class Done:
    """How a call of the command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, float]:
        """Standard output, which must be JSON and nothing else."""
        value: dict[str, float] = json.loads(self.out)
        return value


Dst = Callable[..., Done]
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles: text, twin (another model), single (T = 1), sensor, pad, refuse, wrong."""
    root = tmp_path_factory.mktemp("bundles")
    write(root / "text")
    write(root / "twin", model_id="b" * 64)
    write(root / "single", nominal_t=1, sizes=(1,))
    write(root / "sensor", features=True)
    write(root / "pad", sizes=(8,), tail="pad")
    write(root / "refuse", sizes=(8,), tail="refuse")
    write(root / "wrong", golden_error=0.5)
    return root


@pytest.fixture
def make() -> Callable[..., Path]:
    """Write a bundle of one's own: see `write`."""
    return write


@pytest.fixture
def dst(capsys: pytest.CaptureFixture[str]) -> Dst:
    """Call the command in this process."""

    def run(*arguments: str | Path) -> Done:
        capsys.readouterr()
        code = call([str(a) for a in arguments])
        told = capsys.readouterr()
        return Done(code, told.out, told.err)

    return run


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the command in a process of its own, with pipes to it and from it."""
    children: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str | Path, stdin: int = subprocess.PIPE) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(
            [sys.executable, "-m", "dst", *map(str, arguments)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        children.append(child)
        return child

    yield begin
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def process(start: Start) -> Dst:
    """Run the command in a process of its own to its end; takes `stdin` as bytes."""

    def run(*arguments: str | Path, stdin: bytes = b"", timeout_s: float = 120) -> Done:
        child = start(*arguments)
        out, err = child.communicate(stdin, timeout=timeout_s)
        return Done(child.returncode, out.decode(), err.decode())

    return run
