"""Bundles are opened in new processes; what opening them leaves behind is held."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import helper
from tests.quantize.conftest import (
    NOMINAL,
    SMALL,
    VOCABULARY,
    WIDTH,
    running_sum,
    text_contract,
    text_items,
    written,
)
from tests.steps import INT64, drawn, info, model_bytes

from dst.quantize import quantize_bundle

HIDDEN, LAYERS = 8192, 8
PROBE = """
import ctypes, json, sys
from dst.runtime import Session, rss_bytes
session = Session.open(sys.argv[1], chunk_sizes=[8])
session.report()
held = rss_bytes()
ctypes.CDLL(None).malloc_trim(0)
print(json.dumps(held - rss_bytes()))
"""


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of products with 32 MiB of weights in float32."""
    nodes = [helper.make_node("Gather", ["table", "ids"], ["u"], "look"), *running_sum("u")]
    weights = {"table": drawn(VOCABULARY, WIDTH, seed=0), **SMALL}
    x = "s"
    for i in range(LAYERS):
        weights[f"up{i}"] = drawn(WIDTH, HIDDEN, seed=2 * i)
        weights[f"down{i}"] = drawn(HIDDEN, WIDTH, seed=2 * i + 1)
        nodes.append(helper.make_node("MatMul", [x, f"up{i}"], [f"wide{i}"], f"up{i}.product"))
        nodes.append(helper.make_node("Tanh", [f"wide{i}"], [f"bounded{i}"]))
        x = "logits" if i == LAYERS - 1 else f"x{i}"
        nodes.append(
            helper.make_node("MatMul", [f"bounded{i}", f"down{i}"], [x], f"down{i}.product")
        )
    step = model_bytes(
        nodes,
        [info("ids", ["B", "T"], INT64), info("h", ["B", WIDTH])],
        [info("logits", ["B", "T", WIDTH]), info("h_next", ["B", WIDTH])],
        weights,
    )
    path = tmp_path_factory.mktemp("wide") / "wide"
    return written(path, step, text_contract(WIDTH), text_items(2 * NOMINAL))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is what keeps freed memory")
@pytest.mark.parametrize("recipe", ["int8-weights", "int4-weights"])
def test_opening_leaves_no_freed_memory_behind(
    recipe: str, wide_bundle: Path, tmp_path: Path
) -> None:
    done = quantize_bundle(wide_bundle, tmp_path / "q", recipe)
    told = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "q")], check=True, capture_output=True
    )
    kept = json.loads(told.stdout)
    assert kept < 0.1 * done.weights_bytes[1]
