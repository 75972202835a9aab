"""Adopt small files in tests, and drive them by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import helper
from tests.steps import Array, drawn, info, model_bytes

from dst.export import Adopted, Answers, adopt_bundle


def adopt(folder: Path, model: bytes, answers: Answers, out: str = "b", **more: Any) -> Adopted:
    (folder / f"{out}.onnx").write_bytes(model)
    return adopt_bundle(folder / f"{out}.onnx", folder / out, answers, name=out, **more)


def loop(
    path: Path, feeds: list[dict[str, Array]], state: dict[str, Array], carried: dict[str, str]
) -> list[dict[str, Array]]:
    """Drive a file by hand."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    found = []
    for feed in feeds:
        found.append(dict(zip(names, session.run(names, {**feed, **state}), strict=True)))
        state = {before: found[-1][after] for before, after in carried.items()}
    return found


def speaker(batch: int | str = "batch") -> bytes:
    return model_bytes(
        [
            helper.make_node("Concat", ["x", "d"], ["xd"], axis=1),
            helper.make_node("MatMul", ["xd", "a"], ["xa"]),
            helper.make_node("MatMul", ["h", "c"], ["hc"]),
            helper.make_node("Add", ["xa", "hc"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["h_out"]),
            helper.make_node("Identity", ["h_out"], ["mask"]),
        ],
        [info("x", [batch, 8]), info("d", [batch, 4]), info("h", [batch, 8])],
        [info("mask", [batch, 8]), info("h_out", [batch, 8])],
        {"a": drawn(12, 8, seed=0, scale=0.3), "c": drawn(8, 8, seed=1, scale=0.3)},
    )


ITEM = {"x": ("B", 8)}


def folded(fold: bool, *, strength: float = 1.0, seed: int = 0) -> bytes:
    """Mix x [B, 3] into h by one matrix, or by the two halves of its transpose."""
    matrix = drawn(7, 4, seed=seed, scale=0.4) * np.float32(strength)
    nodes = [
        helper.make_node("Concat", ["x", "h"], ["xh"], axis=1),
        helper.make_node("MatMul", ["xh", "m"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["hn"]),
        helper.make_node("Mul", ["hn", "two"], ["y"]),
    ]
    weights = {"m": matrix, "two": np.array(2, np.float32)}
    if not fold:
        nodes = [
            helper.make_node("Concat", ["upper", "lower"], ["mt"], axis=0),
            helper.make_node("Transpose", ["mt"], ["m"], perm=[1, 0]),
            *nodes,
        ]
        del weights["m"]
        weights |= {"upper": matrix.T[:2].copy(), "lower": matrix.T[2:].copy()}
    return model_bytes(
        nodes,
        [info("x", ["B", 3]), info("h", ["B", 4])],
        [info("y", ["B", 4]), info("hn", ["B", 4])],
        weights,
    )


ONE = Answers(t=(1,), shapes={"x": ("B", 3)})
