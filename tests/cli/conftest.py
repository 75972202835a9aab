"""Small bundles built with onnx alone, and a way to call the command on them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tests.steps import (
    INT64,
    Tail,
    chunk_of,
    contract_of,
    graph_of,
    info,
    manifest_of,
    model_bytes,
    output_of,
    state_of,
    write_with_golden,
)

from dst.cli.app import call
from dst.runtime import write_bundle
from dst.runtime.bundle.manifest import Contract, Features, Tokens

WIDTH, NOMINAL_T = 8, 8
SIZES = (1, 2, 4, 8, 32)


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
        [info(n, ["B", WIDTH]) for n in ("h_in", "x_in")],
        [info(n, ["B", WIDTH]) for n in ("h_out", "y_out")],
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
    return model_bytes(
        [
            helper.make_node("Gather", ["table", "ids"], ["x"]),
            scan,
            helper.make_node("MatMul", ["y", "head"], ["logits"]),
        ],
        [info("ids", ["B", "T"], INT64), info("h", ["B", WIDTH])],
        [info("logits", ["B", "T", 256]), info("h_next", ["B", WIDTH])],
        {
            "table": random.normal(size=(256, WIDTH)).astype(np.float32),
            "head": random.normal(size=(WIDTH, 256), scale=0.3).astype(np.float32),
            "fade": np.full((1,), 0.9, np.float32),
        },
    )


def sensor_model() -> bytes:
    """Two features -> the item plus a carried sum as `mean`, and zero as `log_std`."""
    return model_bytes(
        [
            helper.make_node("CumSum", ["x", "axis"], ["sums"]),
            helper.make_node("Unsqueeze", ["c", "axis"], ["c1"]),
            helper.make_node("Add", ["sums", "c1"], ["mean"]),
            helper.make_node("Sub", ["x", "x"], ["log_std"]),
            helper.make_node("ReduceSum", ["x", "axis"], ["gain"], keepdims=0),
            helper.make_node("Add", ["c", "gain"], ["c_next"]),
        ],
        [info("x", ["B", "T", 2]), info("c", ["B", 2])],
        [info("mean", ["B", "T", 2]), info("log_std", ["B", "T", 2]), info("c_next", ["B", 2])],
        {"axis": np.array([1], np.int64)},
    )


def contract(features: bool, nominal_t: int, sizes: Sequence[int], tail: Tail) -> Contract:
    """What the text model keeps, or with `features` the sensor model."""
    pad = 0.0 if tail == "pad" else None
    if features:
        content = Features(names=("left", "right"), sample_rate_hz=None, normalisation=None)
        return contract_of(
            chunk_of(content, sizes, 2, nominal_t=nominal_t, tail=tail, pad_value=pad),
            [output_of(name, ("B", "T", 2), "gaussian") for name in ("mean", "log_std")],
            [state_of("c", ("B", 2))],
        )
    tokens = Tokens(vocabulary=256, tokenizer="bytes")
    return contract_of(
        chunk_of(tokens, sizes, nominal_t=nominal_t, tail=tail, pad_value=pad),
        [output_of("logits", ("B", "T", 256), "logits")],
        [state_of("h", ("B", WIDTH))],
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
    manifest = manifest_of(
        contract(features, nominal_t, sizes, tail),
        [graph_of(sizes)],
        name=path.name,
        description=description,
        model_id=model_id,
        half_life_items=6.6,
        weights_bytes=4 * 256 * WIDTH * 2,
    )
    if features:
        write_bundle(path, manifest, {"step.onnx": sensor_model()})
    else:
        chunk = np.arange(nominal_t, dtype=np.int64)[None]
        write_with_golden(path, manifest, text_model(), [chunk], golden_error)
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
def dst(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Dst:
    """Call the command in this process, without the lines of progress that slow machines see."""
    monkeypatch.setattr("dst.cli.output.PLAIN_EVERY_S", float("inf"))

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
