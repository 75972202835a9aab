"""Session options in, peak memory while loading, memory afterwards and speed out.

    python examples/bench/session_memory.py [--mib 128] [--precision float32 int8 int4] [--rounds 3]

Writes a bundle of matrix products with random weights of so many MiB in a file of their own, and
opens it under one set of options after another, each time in a new process. Linux only. Columns:

- `peak`: the most resident memory while the graph was opened, less what the process held before;
- `anonymous`, `file`: what opening and steps of T = 1, 32 and 256 added in the end. Pages of a
  file are clean: the system takes them back when it needs them, and processes share them;
- `T=1`, `T=32`: time per step over that of `default`; both are open in one process and take
  turns. The row of `default` itself shows what chance does.

`dst` is `Session.open` as it is, hashes, stream and all; its peak decides the exit code: 1 where
it is more than 1.3 times the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from dst.runtime import Session, write_bundle
from dst.runtime.bundle.manifest import (
    Chunk,
    Contract,
    Features,
    Graph,
    Horizon,
    Manifest,
    Output,
    Producer,
    State,
    Zeros,
)

Precision = Literal["float32", "int8", "int4"]
Run = Callable[[int], object]

WIDTH, HIDDEN = 1024, 4096
SIZES = (1, 32, 256)
BITS: dict[Precision, int] = {"float32": 32, "int8": 8, "int4": 5}  # 4 and the scale of 32
LIMIT = 1.3
TURNS = 20
VARIANTS = {
    "default": "as the runtime sets them",
    "arena_off": "enable_cpu_mem_arena = False",
    "arena_tight": "a shared arena that grows by what is asked, session.use_env_allocators = 1",
    "arena_shrunk": "memory.enable_memory_arena_shrinkage = cpu:0 on every run",
    "device_allocator": "session.use_device_allocator_for_initializers = 1",
    "basic": "graph_optimization_level = ORT_ENABLE_BASIC",
    "no_prepacking": "session.disable_prepacking = 1: weights stay in the mapped file",
    "saved_prepacking": "weights packed once into a file of this machine's own, which is mapped",
}


# --- the bundle


def build(folder: Path, precision: Precision, mib: int) -> Path:
    """Write a bundle of pairs of products, 1024 -> 4096 -> 1024, with `mib` MiB of weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    layers = max(1, round(mib * 2**20 * 8 / (2 * WIDTH * HIDDEN * BITS[precision])))
    weights = folder / f"{precision}.bin"
    tensors: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    source = np.random.default_rng(0)

    def store(name: str, data: npt.NDArray[np.generic]) -> str:
        """Put a tensor into the file of weights, and say in the graph where it lies."""
        file.seek(-(-file.tell() // 4096) * 4096)
        tensor = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(data.dtype),
            dims=data.shape,
            data_location=TensorProto.EXTERNAL,
        )
        places = {"location": "weights.bin", "offset": file.tell(), "length": data.nbytes}
        for key, value in places.items():
            tensor.external_data.add(key=key, value=str(value))
        tensors.append(tensor)
        file.write(data.tobytes())
        return name

    def product(name: str, x: str, y: str, rows: int, columns: int) -> None:
        scale = np.float32(0.5 / rows**0.5)
        data: npt.NDArray[np.generic]
        if precision == "float32":
            data = source.standard_normal((rows, columns), np.float32) * scale
            nodes.append(helper.make_node("MatMul", [x, store(f"{name}_weights", data)], [y]))
            return
        kind = "DynamicQuantizeMatMul"
        if precision == "int8":
            data = source.integers(-127, 128, (rows, columns), np.int8)
            scales = np.full(columns, scale / 73, np.float32)
        else:
            kind = "MatMulNBits"
            data = source.integers(0, 256, (columns, rows // 32, 16), np.uint8)
            scales = np.full(columns * rows // 32, scale / 4.6, np.float32)
        inputs = [x, store(f"{name}_weights", data), store(f"{name}_scale", scales)]
        node = helper.make_node(kind, inputs, [y], domain="com.microsoft")
        if precision == "int4":
            sizes = {"K": rows, "N": columns, "bits": 4, "block_size": 32, "accuracy_level": 4}
            node.attribute.extend(helper.make_attribute(k, v) for k, v in sizes.items())
        nodes.append(node)

    with weights.open("wb") as file:
        for i in range(layers):
            product(f"up{i}", f"x{i}", f"h{i}", WIDTH, HIDDEN)
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"g{i}"]))
            product(f"down{i}", f"g{i}", f"d{i}", HIDDEN, WIDTH)
            nodes.append(helper.make_node("Add", [f"x{i}", f"d{i}"], [f"x{i + 1}"]))
    end = f"x{layers}"
    nodes.append(helper.make_node("ReduceMean", [end], ["mean"], axes=[1], keepdims=0))
    nodes.append(helper.make_node("Mul", ["s", "fade"], ["faded"]))
    nodes.append(helper.make_node("Add", ["faded", "mean"], ["s_next"]))
    tensors.append(numpy_helper.from_array(np.array([0.9], np.float32), "fade"))

    def info(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    chunk, state = info("x0", "B", "T", WIDTH), info("s", "B", WIDTH)
    outputs = [info(end, "B", "T", WIDTH), info("s_next", "B", WIDTH)]
    graph = helper.make_graph(nodes, "step", [chunk, state], outputs, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    written = folder / precision
    graph_file = model.SerializeToString()
    write_bundle(
        written,
        describe(precision, end, weights.stat().st_size),
        {"step.onnx": graph_file, "weights.bin": weights},
    )
    weights.unlink()
    return written


def describe(precision: Precision, end: str, weights_bytes: int) -> Manifest:
    """The manifest of such a bundle."""
    return Manifest(
        name="products",
        description="random weights, to measure memory with",
        license="Apache-2.0",
        model_id="0" * 64,
        precision=precision,
        recipe=None,
        producer=Producer(name="session_memory.py", version="0"),
        contract=Contract(
            chunk=Chunk(
                input="x0",
                dtype="float32",
                shape=("B", "T", WIDTH),
                nominal_t=32,
                allowed_t=SIZES,
                content=Features(names=(), sample_rate_hz=None, normalisation=None),
                lookback=0,
                lookback_fill=None,
                tail="exact",
                pad_value=None,
            ),
            constants=(),
            outputs=(
                Output(
                    name=end,
                    dtype="float32",
                    shape=("B", "T", WIDTH),
                    meaning="custom",
                ),
            ),
            state=(
                State(
                    input="s",
                    output="s_next",
                    dtype="float32",
                    shape=("B", WIDTH),
                    init=Zeros(),
                    role="memory",
                ),
            ),
        ),
        graphs=(
            Graph(
                file="step.onnx",
                lowering="other",
                allowed_t=SIZES,
                batch=(),
                opsets={"ai.onnx": 17, "com.microsoft": 1},
                domains=("ai.onnx", "com.microsoft"),
                min_ort="1.17",
                golden_tolerance=1e-4,
            ),
        ),
        golden=(),
        certificates=(),
        horizon=Horizon(half_life_items=6.6),
        weights_bytes=weights_bytes,
    )


# --- one process


def opened(bundle: Path, variant: str) -> Run:
    """Open a bundle's graph under a variant; the result takes a step of one T."""
    options = ort.SessionOptions()
    options.enable_mem_pattern = False
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    graph = bundle / "step.onnx"
    run_options = ort.RunOptions()
    if variant == "arena_off":
        options.enable_cpu_mem_arena = False
    elif variant == "arena_tight":
        where = ort.OrtMemoryInfo(
            "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
        )
        ort.create_and_register_allocator(where, ort.OrtArenaCfg({"arena_extend_strategy": 1}))
        options.add_session_config_entry("session.use_env_allocators", "1")
    elif variant == "arena_shrunk":
        run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    elif variant == "device_allocator":
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    elif variant == "basic":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    elif variant == "no_prepacking":
        options.add_session_config_entry("session.disable_prepacking", "1")
    elif variant == "saved_prepacking":
        graph = packed_file(bundle)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    state = np.zeros((1, WIDTH), np.float32)
    chunks = {t: np.full((1, t, WIDTH), 0.1, np.float32) for t in SIZES}
    return lambda t: session.run(None, {"x0": chunks[t], "s": state}, run_options)


def packed_file(bundle: Path) -> Path:
    """Where `pack` puts the graph whose weights are packed for this machine."""
    return bundle.with_name(bundle.name + "-packed") / "step.onnx"


def pack(bundle: Path) -> None:
    """Have ONNX Runtime write the graph with its weights packed for this machine."""
    target = packed_file(bundle)
    target.parent.mkdir()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(target)
    for key, value in (
        ("session.optimized_model_external_initializers_file_name", "weights.bin"),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("session.save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(key, value)
    ort.InferenceSession(str(bundle / "step.onnx"), options, providers=["CPUExecutionProvider"])


def resident() -> dict[str, int]:
    """Resident memory of this process, in bytes: the most, now, and now by kind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    names = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
    return {name: int(fields[name].split()[0]) * 1024 for name in names}


def weigh(bundle: Path, variant: str) -> dict[str, int]:
    """Open and run in this process; returns what that added, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is forgotten
    before = resident()
    run: Run
    if variant == "dst":
        stream = Session.open(bundle, chunk_sizes=SIZES).stream()
        chunks = {t: np.full((1, t, WIDTH), 0.1, np.float32) for t in SIZES}
        run = lambda t: stream.step(chunks[t])  # noqa: E731
        run(1)
    else:
        run = opened(bundle, variant)
    loaded = resident()
    for t in (*SIZES, *SIZES):
        run(t)
    after = resident()
    return {
        "peak": loaded["VmHWM"] - before["VmRSS"],
        "anonymous": after["RssAnon"] - before["RssAnon"],
        "file": after["RssFile"] - before["RssFile"],
    }


def race(bundle: Path, variant: str, turns: int) -> dict[str, float]:
    """Let a variant and `default` step in turns; returns the ratio of their medians per T."""
    runs: dict[bool, Run] = {}
    for ours in random.sample([False, True], 2):  # where the weights come to lie counts too
        runs[ours] = opened(bundle, variant if ours else "default")
    ratios = {}
    for t in (1, 32):
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(turns):
            for ours in random.sample([False, True], 2):
                since = time.perf_counter()
                runs[ours](t)
                times[ours].append(time.perf_counter() - since)
        ratios[f"T={t}"] = median(times[True][2:]) / median(times[False][2:])
    return ratios


# --- all processes


def child(*arguments: str) -> dict[str, float]:
    """Run this script for one measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(bundle: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Measure every variant in turns; a figure is the median of `rounds` processes."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for variant in ("dst", *VARIANTS):
            figures = child("--weigh", str(bundle), variant)
            if variant != "dst":
                figures |= child("--race", str(bundle), variant)
            found.setdefault(variant, []).append(figures)
    return {v: {k: median(f[k] for f in found[v]) for k in found[v][0]} for v in found}


def main() -> int:
    """Measure, print a table per precision, and judge the peak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=128)
    parser.add_argument("--precision", nargs="+", choices=list(BITS), default=list(BITS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--weigh", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--race", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.weigh:
        print(json.dumps(weigh(Path(args.weigh[0]), args.weigh[1])))
        return 0
    if args.race:
        print(json.dumps(race(Path(args.race[0]), args.race[1], TURNS)))
        return 0
    results, passed = {}, True
    with tempfile.TemporaryDirectory() as folder:
        for precision in args.precision:
            bundle = build(Path(folder), precision, args.mib)
            pack(bundle)
            rows = measure(bundle, args.rounds)
            weights = (bundle / "weights.bin").stat().st_size
            results[precision] = {"weights_bytes": weights, "rows": rows}
            passed &= rows["dst"]["peak"] <= LIMIT * weights
            show(precision, weights, rows)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if passed else 1


def show(precision: str, weights: int, rows: dict[str, dict[str, float]]) -> None:
    """Print one table; memory in multiples of the weights."""
    print(f"\n{precision}: {weights / 2**20:.0f} MiB of weights; memory in multiples of them")
    print(f"{'':18}{'peak':>8}{'anonymous':>11}{'file':>8}{'T=1':>8}{'T=32':>8}")
    for name, row in rows.items():
        parts = f"{row['peak'] / weights:8.2f}{row['anonymous'] / weights:11.2f}"
        parts += f"{row['file'] / weights:8.2f}"
        parts += "".join(f"{row[t]:8.2f}" if t in row else f"{'':>8}" for t in ("T=1", "T=32"))
        print(f"{name:18}{parts}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
