"""Time the operators that could run the recurrences of Hugging Face models, side by side.

    python examples/bench/hf_kernels.py

Prints microseconds (least and median of interleaved rounds, one thread) of ``LinearAttention`` and
``GatedDeltaNet`` for the gated delta rule, and of ``LinearAttention`` and plain products for Mamba.

Shape letters: T items, H heads, K key width, V value width, C channels, N state size.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper

ROUNDS = 40
Floats = npt.NDArray[np.float32]


class Case:
    """A few nodes and their inputs, ready to run."""

    def __init__(
        self, nodes: Sequence[NodeProto], inputs: Mapping[str, Floats], outputs: Sequence[str]
    ) -> None:
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            nodes,
            "case",
            [info(name, TensorProto.FLOAT, x.shape) for name, x in inputs.items()],
            [info(name, TensorProto.FLOAT, None) for name in outputs],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = dict(inputs)

    def run(self) -> list[Floats]:
        found: list[Floats] = self.session.run(None, self.inputs)
        return found


def contrib(name: str, inputs: Sequence[str], **attributes: int | float | str) -> NodeProto:
    found = ["o", "after"]
    return helper.make_node(name, inputs, found, domain="com.microsoft", **attributes)  # type: ignore[arg-type]


def delta_rule(t: int, heads: int, key: int, value: int) -> dict[str, Case]:
    draw = np.random.default_rng(0)
    q, k = draw.normal(size=(2, t, heads, key)).astype(np.float32)
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    v = draw.normal(size=(t, heads, value)).astype(np.float32)
    g, b = (np.full((t, heads), x, np.float32) for x in (-0.05, 0.5))
    state = draw.normal(size=(1, heads, key, value)).astype(np.float32)
    rule: dict[str, float | str] = {"update_rule": "gated_delta", "scale": 1.0}
    linear = contrib(
        "LinearAttention", list("qkvSgb"), q_num_heads=heads, kv_num_heads=heads, **rule
    )
    flat = {n: x.reshape(1, t, -1) for n, x in zip("qkvgb", (q, k, v, g, b), strict=True)}
    gated = contrib("GatedDeltaNet", ["q", "k", "v", "", "g", "b", "S"], **rule)
    packed = {"q": q, "k": k, "v": v, "g": g, "b": b}
    turned = np.ascontiguousarray(state.swapaxes(2, 3))
    return {
        "LinearAttention": Case([linear], {**flat, "S": state}, ["o", "after"]),
        "GatedDeltaNet": Case([gated], {**packed, "S": turned}, ["o", "after"]),
    }


def mamba(t: int, channels: int, size: int) -> dict[str, Case]:
    draw = np.random.default_rng(0)
    wide = {n: draw.normal(size=(1, t, channels * size)).astype(np.float32) for n in "qkg"}
    wide["g"] = -np.abs(wide["g"])
    linear = contrib(
        "LinearAttention",
        list("qkvSg"),
        q_num_heads=channels,
        kv_num_heads=channels,
        update_rule="gated",
        scale=1.0,
    )
    narrow = {
        "v": draw.normal(size=(1, t, channels)).astype(np.float32),
        "S": np.zeros((1, channels, size, 1), np.float32),
    }
    steps = range(t)
    nodes = [
        helper.make_node("Split", [x], [f"{x}{i}" for i in steps], axis=1, num_outputs=t)
        for x in "aw"
    ]
    last = "h"
    for i in steps:
        nodes += [
            helper.make_node("Mul", [f"a{i}", last], [f"m{i}"]),
            helper.make_node("Add", [f"m{i}", f"w{i}"], [f"h{i}"]),
        ]
        last = f"h{i}"
    nodes += [
        helper.make_node("Concat", [f"h{i}" for i in steps], ["all"], axis=1),
        helper.make_node("MatMul", ["c", "all"], ["y"]),
    ]
    plain = {
        "a": np.full((1, t, size, channels), 0.9, np.float32),
        "w": draw.normal(size=(1, t, size, channels)).astype(np.float32),
        "h": np.zeros((1, 1, size, channels), np.float32),
        "c": draw.normal(size=(1, t, 1, size)).astype(np.float32),
    }
    return {
        "LinearAttention, a head per channel": Case([linear], {**wide, **narrow}, ["o", "after"]),
        "products item by item": Case(nodes, plain, ["y", last]),
    }


def main() -> None:
    """Time each group of cases in turns and print a line for each case."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    groups = {f"delta rule T={t} H=8 K=V=64": delta_rule(t, 8, 64, 64) for t in (1, 16)}
    groups |= {f"Mamba T={t} C=512 N=16": mamba(t, 512, 16) for t in (1, 16)}
    for title, cases in groups.items():
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, case in cases.items():
                since = time.perf_counter()
                case.run()
                times[name].append(time.perf_counter() - since)
        for name, values in times.items():
            print(f"{title}  {name}: {1e6 * min(values):.0f} / {1e6 * median(values):.0f} us")


if __name__ == "__main__":
    main()
