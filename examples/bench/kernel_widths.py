"""Nothing in; microseconds per item of com.microsoft.LinearAttention for several widths out.

    python examples/bench/kernel_widths.py

Shape letters: T items, H heads, K key width, V value width. The fused lowering pads K and V to
what is fast here.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper

T, H = 64, 4
SHAPES = [(32, 32), (32, 48), (32, 64), (32, 80), (32, 96), (24, 64), (64, 64), (16, 16)]
ROUNDS = 60


def session(key: int, value: int) -> ort.InferenceSession:
    """A graph that is the one operator, on one thread."""
    shapes = {
        "q": [1, T, H * key],
        "k": [1, T, H * key],
        "v": [1, T, H * value],
        "state": [1, H, key, value],
        "decay": [1, T, H],
        "beta": [1, T, H],
    }
    node = helper.make_node(
        "LinearAttention",
        list(shapes),
        ["out", "after"],
        domain="com.microsoft",
        q_num_heads=H,
        kv_num_heads=H,
        update_rule="gated_delta",
        scale=1.0,
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("out", "after")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def feed(opened: ort.InferenceSession) -> dict[str, npt.NDArray[np.float32]]:
    """Random inputs with keys of unit length on average and a slow decay."""
    random = np.random.default_rng(0)
    found = {i.name: random.normal(size=i.shape).astype(np.float32) for i in opened.get_inputs()}
    found["k"] /= np.sqrt(found["k"].shape[-1] / H)
    found["decay"] = np.full_like(found["decay"], -0.01)
    found["beta"] = np.full_like(found["beta"], 0.5)
    return found


def main() -> None:
    """Time the shapes in turns and print medians."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    opened = {shape: session(*shape) for shape in SHAPES}
    inputs = {shape: feed(s) for shape, s in opened.items()}
    times: dict[tuple[int, int], list[float]] = {shape: [] for shape in SHAPES}
    for _ in range(ROUNDS):
        for shape, one in opened.items():
            since = time.perf_counter()
            one.run(None, inputs[shape])
            times[shape].append(time.perf_counter() - since)
    print(f"onnxruntime {ort.__version__}, T = {T}, H = {H}, one thread")
    for (key, value), taken in times.items():
        print(f"K = {key:3}  V = {value:3}  {median(taken) / T * 1e6:6.2f} us per item")


if __name__ == "__main__":
    main()
