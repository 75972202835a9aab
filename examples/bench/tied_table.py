"""Measure three ways to write the product of a head that is tied to a table of embeddings.

    python examples/bench/tied_table.py [--vocabulary 24576] [--width 512] [--rounds 9]

- `transposed`: Transpose and MatMul, as torch's exporter writes it;
- `gemm`: Gemm, which takes the table by rows, under the name that Gather reads too;
- `own name`: the same under a second name for the same bytes, as `dst export` writes it.

Each opens in a process of its own, in turns. `open` and the times of a step are ratios to
`transposed` of the same round, `resident` and `anonymous` the memory that opening took, in
multiples of the table (Linux).
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from dst.export.lowering.tied import read_by_rows
from dst.runtime.execution.memory import give_back_freed
from dst.runtime.execution.providers import session_options

WAYS = ("transposed", "gemm", "own name")
SIZES = (1, 16, 64)


def build(folder: Path, vocabulary: int, width: int) -> None:
    """Write the three graphs."""
    table = np.random.default_rng(0).normal(size=(vocabulary, width)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["logits"], "head"),
    ]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["B", "T"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "T", vocabulary])
    weights = [numpy_helper.from_array(table, "table")]
    graph = helper.make_graph(nodes, "g", [ids], [logits], weights)
    opset = [helper.make_opsetid("", 23)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    onnx.save(model, folder / "transposed.onnx", save_as_external_data=True, location="table.bin")
    model = onnx.load(folder / "transposed.onnx", load_external_data=False)
    read_by_rows(model)
    (folder / "own name.onnx").write_bytes(model.SerializeToString())
    kept = [t for t in model.graph.initializer if t.name != "table.rows"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for node in model.graph.node:
        node.input[:] = ["table" if name == "table.rows" else name for name in node.input]
    (folder / "gemm.onnx").write_bytes(model.SerializeToString())


def memory() -> tuple[int, int]:
    """Return the resident and the anonymous memory of this process, in bytes."""
    text = Path("/proc/self/smaps_rollup").read_text()
    rss, anonymous = (re.findall(rf"^{k}:\s+(\d+)", text, re.M)[0] for k in ("Rss", "Anonymous"))
    return 1024 * int(rss), 1024 * int(anonymous)


def opened(path: str) -> None:
    """Open a graph, take steps, and print what that took as JSON."""
    before = memory()
    start = time.perf_counter()
    session = ort.InferenceSession(path, session_options(1, True))
    found = {"open": time.perf_counter() - start}
    give_back_freed()
    after = memory()
    found |= {"resident": after[0] - before[0], "anonymous": after[1] - before[1]}
    for t in SIZES:
        ids = np.random.default_rng(t).integers(0, 1000, (1, t))
        times = []
        for _ in range(8):
            start = time.perf_counter()
            session.run(None, {"ids": ids})
            times.append(time.perf_counter() - start)
        found[f"T = {t}"] = min(times[1:])
    print(json.dumps(found))


def main() -> None:
    """Open the three graphs in turns and print a table."""
    if sys.argv[1:2] == ["--one"]:
        return opened(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vocabulary", type=int, default=24576)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    unit = 4 * options.vocabulary * options.width
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), options.vocabulary, options.width)
        for _ in range(options.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, "--one", str(Path(folder) / f"{way}.onnx")]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[way].append(json.loads(done.stdout))
    timed = ("open", *(f"T = {t}" for t in SIZES))
    print(f"{'':12}" + "".join(f"{name:>11}" for name in (*timed, "resident", "anonymous")))
    for way, rows in found.items():
        pairs = list(zip(rows, found["transposed"], strict=True))
        cells = [statistics.median(own[name] / base[name] for own, base in pairs) for name in timed]
        held = ("resident", "anonymous")
        cells += [statistics.median(row[name] for row in rows) / unit for name in held]
        print(f"{way:12}" + "".join(f"{cell:11.2f}" for cell in cells))


if __name__ == "__main__":
    main()
