"""Models of the conformance suite that read tokens."""

import numpy as np
import safetensors.numpy
from tests.conformance.building import (
    BOOL,
    FLOAT,
    INT8,
    INT32,
    INT64,
    UINT8,
    Model,
    graph,
    leaky,
    node,
)
from tests.steps import Array, info, model_bytes

from dst.runtime.bundle.manifest import Chunk, Contract, Fill, Output, State, Stored, Tokens

VOCABULARY, WIDTH = 16, 4

# --- tokens: exact tail, stored and filled initial state, `answers`, generation ---------------


def text(kind: str) -> Model:
    """A leaky sum of embeddings and logits over 16 ids; in int8, or without `answers`."""
    random = np.random.default_rng(1)
    table = random.integers(-8, 9, (VOCABULARY, WIDTH)).astype(np.float32) / 4
    head = random.integers(-8, 9, (WIDTH, VOCABULARY)).astype(np.float32) / 4
    start = random.integers(-8, 9, (1, WIDTH)).astype(np.float32) / 8
    weights: dict[str, Array] = {
        "table": table,
        "half": np.array([0.5], np.float32),
    }
    asked = kind == "tokens"
    nodes = [
        node("Gather", "table ids", "x"),
        leaky(["B", WIDTH], 1),
        node("Gather", "y places", "seen", axis=1) if asked else node("Identity", "y", "seen"),
        node("Shape", "ids", "length", start=1, end=2),
        node("Add", "n length", "n_next"),
    ]
    if kind == "int8":
        # 7 bits: CPUs without VNNI add pairs of products in 16 bits, and 2 x 255 x 63 fits.
        scale = np.float32(2 / 63)
        weights |= {
            "head_q": np.clip(np.round(head / scale), -63, 63).astype(np.int8),
            "head_scale": np.array(scale),
        }
        nodes += [
            node("DynamicQuantizeLinear", "seen", "seen_q seen_scale seen_zero"),
            node("MatMulInteger", "seen_q head_q seen_zero", "sums"),
            node("Cast", "sums", "sums_f", to=FLOAT),
            node("Mul", "seen_scale head_scale", "scale"),
            node("Mul", "sums_f scale", "logits"),
        ]
    else:
        weights["head"] = head
        nodes.append(node("MatMul", "seen head", "logits"))
    inputs = [info("ids", ["B", "T"], INT64), info("h", ["B", WIDTH]), info("n", ["B"], INT64)]
    inputs += [info("places", ["A"], INT64)] if asked else []
    step = model_bytes(
        nodes,
        inputs,
        [
            info("logits", ["B", "A" if asked else "T", VOCABULARY]),
            info("h_next", ["B", WIDTH]),
            info("n_next", ["B"], INT64),
        ],
        weights,
    )
    allowed = (1, 2, 4)
    return Model(
        Contract(
            chunk=Chunk(
                input="ids",
                dtype="int64",
                shape=("B", "T"),
                nominal_t=4,
                allowed_t=allowed,
                content=Tokens(vocabulary=VOCABULARY),
            ),
            outputs=(
                Output(
                    name="logits", dtype="float32", shape=("B", "T", VOCABULARY), meaning="logits"
                ),
            ),
            state=(
                State(
                    input="h",
                    output="h_next",
                    dtype="float32",
                    shape=("B", WIDTH),
                    init=Stored(tensor="h0"),
                ),
                State(
                    input="n",
                    output="n_next",
                    dtype="int64",
                    shape=("B",),
                    init=Fill(value=3.0),
                    role="counter",
                ),
            ),
        ),
        {"step.onnx": step, "init.safetensors": safetensors.numpy.save({"h0": start})},
        (
            graph(
                allowed,
                answers="places" if asked else None,
                tolerance=0.02 if kind == "int8" else 1e-5,
            ),
        ),
        "other text" if kind == "plain" else "text",
        *(("int8", "int8") if kind == "int8" else ("float32", None)),
    )


# --- refuse: bytes, tail `refuse`, one T, small dtypes in the state -----------------------------


def refuse() -> Model:
    step = model_bytes(
        [
            node("Cast", "ids", "wide", to=INT32),
            node("ReduceSum", "wide axis", "sum", keepdims=0),
            node("Add", "count sum", "count_next"),
            node("Cast", "sum", "total", to=INT64),
            node("Gather", "ids end", "last_next", axis=1),
            node("Not", "flag", "flag_next"),
            node("Cast", "small", "small_wide", to=INT32),
            node("Add", "small_wide one", "small_more"),
            node("Cast", "small_more", "small_next", to=INT8),
        ],
        [
            info("ids", ["B", 4], UINT8),
            info("count", ["B"], INT32),
            info("last", ["B"], UINT8),
            info("flag", ["B"], BOOL),
            info("small", ["B"], INT8),
        ],
        [
            info("total", ["B"], INT64),
            info("count_next", ["B"], INT32),
            info("last_next", ["B"], UINT8),
            info("flag_next", ["B"], BOOL),
            info("small_next", ["B"], INT8),
        ],
        {
            "axis": np.array([1], np.int64),
            "end": np.array(3, np.int64),
            "one": np.array([1], np.int32),
        },
    )
    return Model(
        Contract(
            chunk=Chunk(
                input="ids",
                dtype="uint8",
                shape=("B", "T"),
                nominal_t=4,
                allowed_t=(4,),
                content=Tokens(vocabulary=256, tokenizer="bytes"),
                tail="refuse",
            ),
            outputs=(Output(name="total", dtype="int64", shape=("B",)),),
            state=(
                State(input="count", output="count_next", dtype="int32", shape=("B",)),
                State(input="last", output="last_next", dtype="uint8", shape=("B",)),
                State(input="flag", output="flag_next", dtype="bool", shape=("B",)),
                State(
                    input="small",
                    output="small_next",
                    dtype="int8",
                    shape=("B",),
                    init=Fill(value=-3.0),
                ),
            ),
        ),
        {"step.onnx": step},
        (graph((4,)),),
        "refuse",
    )
