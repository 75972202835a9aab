"""Models of the conformance suite that read features."""

import numpy as np
from tests.conformance.building import (
    BOOL,
    DOUBLE,
    FLOAT,
    HALF,
    INT8,
    INT64,
    Model,
    graph,
    leaky,
    node,
)
from tests.steps import info, model_bytes

from dst.runtime.bundle.manifest import (
    Chunk,
    Constant,
    Contract,
    DType,
    Features,
    Fill,
    Normalisation,
    Output,
    State,
    StreamInput,
)

# --- level: features with normalisation, names with slashes, outputs per item and per chunk ----


def level() -> Model:
    step = model_bytes(
        [
            node("Identity", "in/x", "x"),
            node("Identity", "cell/0.c", "h"),
            leaky(["B", 2], 1),
            node("Identity", "h_next", "cell/0.c.next"),
            node("Identity", "y", "head/y"),
            node("ReduceMax", "y axis", "peak", keepdims=0),
        ],
        [info("in/x", ["B", "T", 2]), info("cell/0.c", ["B", 2])],
        [info("head/y", ["B", "T", 2]), info("peak", ["B", 2]), info("cell/0.c.next", ["B", 2])],
        {"half": np.array([0.5], np.float32), "axis": np.array([1], np.int64)},
    )
    allowed = (1, 3, 4)
    content = Features(
        names=("left", "right"),
        sample_rate_hz=100.0,
        normalisation=Normalisation(mean=(1.0, 2.5), std=(0.5, 4.0)),
    )
    return Model(
        Contract(
            chunk=Chunk(
                input="in/x",
                dtype="float32",
                shape=("B", "T", 2),
                nominal_t=4,
                allowed_t=allowed,
                content=content,
            ),
            outputs=(
                Output(name="head/y", dtype="float32", shape=("B", "T", 2)),
                Output(name="peak", dtype="float32", shape=("B", 2)),
            ),
            state=(
                State(
                    input="cell/0.c",
                    output="cell/0.c.next",
                    dtype="float32",
                    shape=("B", 2),
                    init=Fill(value=-1.0),
                ),
            ),
        ),
        {"step.onnx": step},
        (graph(allowed),),
        "level",
    )


# --- lookback and look-ahead: axes in other orders, tail `pad` ---------------------------------


def lookback() -> Model:
    """y[t] = x[t-2] + 2 x[t-1] + 4 x[t], time last, normalised; the state sums what came."""
    step = model_bytes(
        [
            node("Slice", "x zero minus_two axis", "older"),
            node("Slice", "x one minus_one axis", "old"),
            node("Slice", "x two far axis", "new"),
            node("Mul", "old two_f", "old_2"),
            node("Mul", "new four_f", "new_4"),
            node("Add", "older old_2", "both"),
            node("Add", "both new_4", "y"),
            node("ReduceSum", "new axis", "sum", keepdims=0),
            node("Add", "s sum", "s_next"),
        ],
        [info("x", ["B", 3, "W"]), info("s", ["B", 3])],
        [info("y", ["B", 3, "T"]), info("s_next", ["B", 3])],
        {
            **{n: np.array([v], np.int64) for n, v in _PLACES.items()},
            "axis": np.array([2], np.int64),
            "two_f": np.array([2], np.float32),
            "four_f": np.array([4], np.float32),
        },
    )
    content = Features(normalisation=Normalisation(mean=(0.5, 0.0, -1.0), std=(1.0, 2.0, 0.25)))
    return Model(
        Contract(
            chunk=Chunk(
                input="x",
                dtype="float32",
                shape=("B", 3, "T"),
                nominal_t=4,
                allowed_t=(2, 4),
                content=content,
                lookback=2,
                lookback_fill=0.5,
                tail="pad",
                pad_value=0.25,
            ),
            outputs=(Output(name="y", dtype="float32", shape=("B", 3, "T")),),
            state=(State(input="s", output="s_next", dtype="float32", shape=("B", 3)),),
        ),
        {"step.onnx": step},
        (graph((2, 4)),),
        "lookback",
    )


_PLACES = {"zero": 0, "one": 1, "two": 2, "minus_one": -1, "minus_two": -2, "far": 1 << 30}


def lookahead() -> Model:
    """y[t] = x[t-1] + 2 x[t] + 4 x[t+2], time first; the state sums the chunk alone."""
    step = model_bytes(
        [
            node("Slice", "x zero minus_three axis", "before"),
            node("Slice", "x one minus_two axis", "here"),
            node("Slice", "x three far axis", "ahead"),
            node("Mul", "here two_f", "here_2"),
            node("Mul", "ahead four_f", "ahead_4"),
            node("Add", "before here_2", "both"),
            node("Add", "both ahead_4", "y"),
            node("ReduceSum", "here axis", "sum", keepdims=0),
            node("Transpose", "sum", "turned", perm=[1, 0]),
            node("Add", "c turned", "c_next"),
        ],
        [info("x", ["W", "B", 2]), info("c", [2, "B"])],
        [info("y", ["T", "B", 2]), info("c_next", [2, "B"])],
        {
            **{n: np.array([v], np.int64) for n, v in _PLACES.items()},
            "three": np.array([3], np.int64),
            "minus_three": np.array([-3], np.int64),
            "axis": np.array([0], np.int64),
            "two_f": np.array([2], np.float32),
            "four_f": np.array([4], np.float32),
        },
    )
    return Model(
        Contract(
            chunk=Chunk(
                input="x",
                dtype="float32",
                shape=("T", "B", 2),
                nominal_t=3,
                allowed_t=(1, 3),
                content=Features(),
                lookback=1,
                lookback_fill=0.0,
                lookahead=2,
                tail="pad",
                pad_value=-1.0,
            ),
            outputs=(Output(name="y", dtype="float32", shape=("T", "B", 2)),),
            state=(State(input="c", output="c_next", dtype="float32", shape=(2, "B")),),
        ),
        {"step.onnx": step},
        (graph((1, 3)),),
        "lookahead",
    )


# --- given: constants, inputs of a stream, float64, items without an axis -----------------------


def given() -> Model:
    table = tuple(float(n) / 8 for n in range(9))
    step = model_bytes(
        [
            leaky(["B"], 1, DOUBLE),
            node("Cast", "speaker", "who", to=DOUBLE),
            node("Slice", "who zero one axis", "first"),
            node("Cast", "mode", "mode_f", to=DOUBLE),
            node("Cast", "rate", "rate_f", to=DOUBLE),
            node("Cast", "table", "table_f", to=DOUBLE),
            node("ReduceMax", "table_f", "top", keepdims=0),
            node("Cast", "gains", "gains_f", to=DOUBLE),
            node("ReduceMax", "gains_f", "gain", keepdims=0),
            node("Add", "y first", "a"),
            node("Add", "a mode_f", "b"),
            node("Add", "b rate_f", "c"),
            node("Add", "c top", "d"),
            node("Mul", "d gain", "level"),
        ],
        [
            info("x", ["B", "T"], DOUBLE),
            info("rate", [], INT64),
            info("gains", [2]),
            info("table", [3, 3]),
            info("speaker", ["B", 2]),
            info("mode", [1], INT64),
            info("h", ["B"], DOUBLE),
        ],
        [info("level", ["B", "T"], DOUBLE), info("h_next", ["B"], DOUBLE)],
        {
            "half": np.array([0.5], np.float64),
            "zero": np.array([0], np.int64),
            "one": np.array([1], np.int64),
            "axis": np.array([1], np.int64),
        },
    )
    return Model(
        Contract(
            chunk=Chunk(
                input="x",
                dtype="float64",
                shape=("B", "T"),
                nominal_t=2,
                allowed_t=(1, 2),
                content=Features(),
            ),
            constants=(
                Constant(input="rate", dtype="int64", shape=(), values=(16000,)),
                Constant(input="gains", dtype="float32", shape=(2,), values=(0.5, 0.1)),
                Constant(input="table", dtype="float32", shape=(3, 3), values=table),
            ),
            stream_inputs=(
                StreamInput(input="speaker", dtype="float32", shape=("B", 2)),
                StreamInput(input="mode", dtype="int64", shape=(1,)),
            ),
            outputs=(Output(name="level", dtype="float64", shape=("B", "T")),),
            state=(State(input="h", output="h_next", dtype="float64", shape=("B",)),),
        ),
        {"step.onnx": step},
        (graph((1, 2)),),
        "given",
    )


# --- half: float16 -------------------------------------------------------------------------------


def half() -> Model:
    step = model_bytes(
        [
            node("Cast", "x16", "x", to=FLOAT),
            node("Cast", "h16", "h", to=FLOAT),
            leaky(["B", 2], 1),
            node("Cast", "y", "y16", to=HALF),
            node("Cast", "h_next", "h16_next", to=HALF),
        ],
        [info("x16", ["B", "T", 2], HALF), info("h16", ["B", 2], HALF)],
        [info("y16", ["B", "T", 2], HALF), info("h16_next", ["B", 2], HALF)],
        {"half": np.array([0.5], np.float32)},
    )
    content = Features(normalisation=Normalisation(mean=(0.1, -3000.0), std=(0.3, 700.0)))
    return Model(
        Contract(
            chunk=Chunk(
                input="x16",
                dtype="float16",
                shape=("B", "T", 2),
                nominal_t=2,
                allowed_t=(1, 2),
                content=content,
            ),
            outputs=(Output(name="y16", dtype="float16", shape=("B", "T", 2)),),
            state=(
                State(
                    input="h16",
                    output="h16_next",
                    dtype="float16",
                    shape=("B", 2),
                    init=Fill(value=0.1),
                ),
            ),
        ),
        {"step.onnx": step},
        (graph((1, 2)),),
        "half",
    )


# --- marks: constants of which every language must spell the same marks -------------------------

_KINDS = {"float16": HALF, "float32": FLOAT, "float64": DOUBLE, "int8": INT8, "bool": BOOL}
_MARKS: dict[DType, tuple[float, ...]] = {
    "float16": (1024, 0.15625, 2.0**-6, 65504, 2.0**-24, 0.1, -(2.0**-14), -0.0),
    "float32": (1e6, 2.0**-12, 2.0**-96, 3.4028234663852886e38, 2.0**-149, 1e16, 1e-4, -1e15),
    "float64": (2.0**-44, 1e15, 2.0**53, 5e-324, 1e22, 1.7976931348623157e308, 0.1, -1e-5),
    "int8": (-128,),
    "bool": (1, 0),
}


def marks() -> Model:
    """The constants are fed and nothing is made of them."""
    step = model_bytes(
        [
            node("ReduceSum", "x axis", "sum", keepdims=0),
            node("Add", "s sum", "s_next"),
            node("Identity", "x", "y"),
        ],
        [
            info("x", ["B", "T"]),
            info("s", ["B"]),
            *(info(f"in {name}", [len(held)], _KINDS[name]) for name, held in _MARKS.items()),
        ],
        [info("y", ["B", "T"]), info("s_next", ["B"])],
        {"axis": np.array([1], np.int64)},
    )
    constants = tuple(
        Constant(
            input=f"in {name}",
            dtype=name,
            shape=(len(held),),
            values=tuple(map(float if name.startswith("float") else int, held)),
        )
        for name, held in _MARKS.items()
    )
    return Model(
        Contract(
            chunk=Chunk(
                input="x",
                dtype="float32",
                shape=("B", "T"),
                nominal_t=1,
                allowed_t=(1,),
                content=Features(),
            ),
            constants=constants,
            outputs=(Output(name="y", dtype="float32", shape=("B", "T")),),
            state=(State(input="s", output="s_next", dtype="float32", shape=("B",)),),
        ),
        {"step.onnx": step},
        (graph((1,)),),
        "marks",
    )


# --- growth: a state and an output that become infinite -----------------------------------------


def growth() -> Model:
    step = model_bytes(
        [
            node("Mul", "c huge", "c_next"),
            node("Mul", "x x", "y"),
        ],
        [info("x", ["B", "T", 1]), info("c", ["B", 1])],
        [info("y", ["B", "T", 1]), info("c_next", ["B", 1])],
        {"huge": np.array([2.0**32], np.float32)},
    )
    return Model(
        Contract(
            chunk=Chunk(
                input="x",
                dtype="float32",
                shape=("B", "T", 1),
                nominal_t=1,
                allowed_t=(1,),
                content=Features(),
            ),
            outputs=(Output(name="y", dtype="float32", shape=("B", "T", 1)),),
            state=(
                State(
                    input="c",
                    output="c_next",
                    dtype="float32",
                    shape=("B", 1),
                    init=Fill(value=1.0),
                ),
            ),
        ),
        {"step.onnx": step},
        (graph((1,)),),
        "growth",
    )
