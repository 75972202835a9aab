"""Measure what a file of optimised graph and packed weights beside a bundle would gain.

    python examples/bench/prepacked.py [BUNDLE ...] [--t 32] [--rounds 9]

Each way to open the graph for T runs in a process of its own, in turns:

- `plain`: as `Session.open` opens it;
- `packed`: the graph as ONNX Runtime optimised it, with external weights in the packed form
  (`session.save_external_prepacked_constant_initializers`), which it maps;
- `packed, hashed`: the same after a SHA-256 over those files, without which nobody may trust them.

`open` is the time in the process, as a ratio to `plain` of the same round; `peak` and `anonymous`
are the memory it took, in multiples of the bundle's weights; `file` the size on disk, in the same
unit; `equal` whether the outputs equal those of `plain` bit for bit.
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
import onnxruntime as ort

from dst.runtime import Session, open_bundle
from dst.runtime.bundle.layout import sized
from dst.runtime.execution.providers import session_options
from dst.runtime.files import sha256_of

WAYS = ("plain", "packed", "packed, hashed")


def memory() -> dict[str, float]:
    """Return the resident, anonymous and most memory of this process, in bytes (Linux)."""
    text = Path("/proc/self/smaps_rollup").read_text() + Path("/proc/self/status").read_text()
    wanted = {"rss": "Rss", "anonymous": "Anonymous", "peak": "VmHWM"}
    return {n: 1024.0 * int(re.search(rf"{k}:\s+(\d+)", text)[1]) for n, k in wanted.items()}  # type: ignore[index]


def graph_file(bundle: str, t: int) -> Path:
    """Return the graph that a session runs for T."""
    opened = open_bundle(bundle, "size")
    session = Session.open(bundle, verify="size", chunk_sizes=[t])
    return opened.root / session.graph_for(t).file


def pack(source: Path, folder: Path) -> Path:
    """Write the optimised graph and its packed weights."""
    options = session_options(1, True)
    options.optimized_model_filepath = str(folder / "packed.onnx")
    for key, value in (
        ("session.optimized_model_external_initializers_file_name", "packed.bin"),
        ("session.optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("session.save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(key, value)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return folder / "packed.onnx"


def opened(bundle: str, t: int, graph: str, way: str) -> None:
    """Open a graph, take a step, and print what that took as JSON."""
    before = memory()
    start = time.perf_counter()
    if way == "packed, hashed":
        for file in Path(graph).parent.iterdir():
            sha256_of(file)
    options = session_options(1, True)
    if way != "plain":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - start
    after = memory()
    contract = open_bundle(bundle, "size").manifest.contract
    feeds = {contract.chunk.input: np.zeros(sized(contract.chunk.shape, t), contract.chunk.dtype)}
    feeds |= {s.input: np.zeros(sized(s.shape, t), s.dtype) for s in contract.state}
    asked = {v.name for v in session.get_inputs()} - feeds.keys()
    feeds |= {name: np.arange(t) for name in asked}
    name = contract.outputs[0].name
    (output,) = session.run([name], feeds)
    found = {
        "seconds": seconds,
        "peak": after["peak"] - before["rss"],
        "anonymous": after["anonymous"] - before["anonymous"],
        "output": output.tobytes().hex()[:4096],
    }
    print(json.dumps(found))


def compare(bundle: str, t: int, rounds: int) -> None:
    """Open a bundle's graph all ways in turns and print a table."""
    weights = open_bundle(bundle, "size").root / "weights.bin"
    unit = weights.stat().st_size
    source = graph_file(bundle, t)
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(source, Path(folder))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        graphs = {way: str(source if way == "plain" else packed) for way in WAYS}
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for number in range(rounds + 1):
            for way, graph in graphs.items():
                command = [sys.executable, __file__, "--one", bundle, str(t), graph, way]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                if number:  # the first reads files from the disk
                    found[way].append(json.loads(done.stdout))
    print(
        f"{bundle}, T = {t}: {'open':>25} {'ms':>7} {'peak':>6} {'anonymous':>10} {'file':>6} equal"
    )
    for way, rows in found.items():
        pairs = zip(rows, found["plain"], strict=True)
        ratio = statistics.median(own["seconds"] / base["seconds"] for own, base in pairs)
        mid = {k: statistics.median(r[k] for r in rows) for k in ("seconds", "peak", "anonymous")}
        equal = all(r["output"] == found["plain"][0]["output"] for r in rows)
        print(
            f"  {way:34} {ratio:5.2f} {1000 * mid['seconds']:7.0f} {mid['peak'] / unit:6.2f} "
            f"{mid['anonymous'] / unit:10.2f} {1 if way == 'plain' else size / unit:6.2f} {equal}"
        )


def main() -> None:
    """Measure each bundle."""
    if sys.argv[1:2] == ["--one"]:
        bundle, t, graph, way = sys.argv[2:]
        return opened(bundle, int(t), graph, way)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", nargs="*", default=["text"], metavar="BUNDLE")
    parser.add_argument("--t", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    for bundle in options.bundles:
        compare(bundle, options.t, options.rounds)


if __name__ == "__main__":
    main()
