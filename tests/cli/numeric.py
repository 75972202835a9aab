"""Small bundles of models that read numbers, for the tests of `dst run`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace
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
)

from dst.runtime import write_bundle
from dst.runtime.bundle.manifest import Features, Tokens
from dst.runtime.bundle.validation import TOKENIZER_FILE


def running_sums(
    path: Path,
    *,
    names: Sequence[str] = ("left", "right"),
    rate_hz: float | None = None,
    sizes: Sequence[int] = (1, 4),
    tail: Tail = "exact",
    width: int = 2,
    last: bool = True,
) -> Path:
    """Write a bundle whose `y` is the running sum of its items, and `last` the sum per chunk."""
    per_chunk = ["last"] if last else []
    step = model_bytes(
        [
            helper.make_node("CumSum", ["x", "axis"], ["sums"]),
            helper.make_node("Unsqueeze", ["c", "axis"], ["c1"]),
            helper.make_node("Add", ["sums", "c1"], ["y"]),
            helper.make_node("ReduceSum", ["x", "axis"], ["gain"], keepdims=0),
            helper.make_node("Add", ["c", "gain"], ["c_next"]),
            *(helper.make_node("Identity", ["c_next"], [name]) for name in per_chunk),
        ],
        [info("x", ["B", "T", width]), info("c", ["B", width])],
        [
            info("y", ["B", "T", width]),
            *(info(name, ["B", width]) for name in ["c_next", *per_chunk]),
        ],
        {"axis": np.array([1], np.int64)},
    )
    content = Features(names=tuple(names), sample_rate_hz=rate_hz, normalisation=None)
    pad = 0.0 if tail == "pad" else None
    contract = contract_of(
        chunk_of(content, sizes, width, tail=tail, pad_value=pad),
        [
            output_of("y", ("B", "T", width)),
            *(output_of(name, ("B", width)) for name in per_chunk),
        ],
        [state_of("c", ("B", width))],
    )
    write_bundle(
        path, manifest_of(contract, [graph_of(sizes)], weights_bytes=0), {"step.onnx": step}
    )
    return path


def next_quantiles(path: Path) -> Path:
    """Write a bundle that foresees the item itself, at the levels 0.25 and 0.75."""
    step = model_bytes(
        [
            helper.make_node("Unsqueeze", ["x", "last"], ["column"]),
            helper.make_node("Concat", ["column", "column"], ["q"], axis=3),
            helper.make_node("Identity", ["c"], ["c_next"]),
        ],
        [info("x", ["B", "T", 2]), info("c", ["B", 2])],
        [info("q", ["B", "T", 2, 2]), info("c_next", ["B", 2])],
        {"last": np.array([3], np.int64)},
    )
    output = replace(output_of("q", ("B", "T", 2, 2)), meaning="quantiles", levels=(0.25, 0.75))
    plain = Features(names=("a", "b"), sample_rate_hz=None, normalisation=None)
    contract = contract_of(chunk_of(plain, (1, 4), 2), [output], [state_of("c", ("B", 2))])
    write_bundle(
        path, manifest_of(contract, [graph_of((1, 4))], weights_bytes=0), {"step.onnx": step}
    )
    return path


def even_ids(path: Path, vocabulary: int = 10, tokenizer: bytes | None = None) -> Path:
    """Write a bundle of ids, with this tokenizer.json; it holds the same id again for likely."""
    step = model_bytes(
        [
            helper.make_node("Gather", ["table", "ids"], ["logits"]),
            helper.make_node("Identity", ["c"], ["c_next"]),
        ],
        [info("ids", ["B", "T"], INT64), info("c", ["B", 1])],
        [info("logits", ["B", "T", vocabulary]), info("c_next", ["B", 1])],
        {"table": (np.eye(vocabulary) * 5).astype(np.float32)},
    )
    tokens = Tokens(vocabulary=vocabulary, tokenizer="tokenizers" if tokenizer else "none")
    files: dict[str, bytes | Path] = {"step.onnx": step}
    if tokenizer is not None:
        files[TOKENIZER_FILE] = tokenizer
    contract = contract_of(
        chunk_of(tokens, (1, 4)),
        [output_of("logits", ("B", "T", vocabulary), "logits")],
        [state_of("c", ("B", 1))],
    )
    write_bundle(path, manifest_of(contract, [graph_of((1, 4))], weights_bytes=0), files)
    return path
