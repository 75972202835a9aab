"""Forms of step that files come in: axes, windows, inputs per stream, stale sizes, re-exports."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from tests.steps import Array, drawn, info, model_bytes

from dst.export import AdoptCheckError, Adopted, AdoptError, Answers, adopt_bundle
from dst.export.adopt.layout import Placed, place_chunk
from dst.export.adopt.ports import Port
from dst.runtime import Session, Stream, open_bundle, replay_golden, write_bundle
from dst.runtime.errors import OtherModelError

Dims = tuple[int | str | None, ...]


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


# Axes


def frames(shape: Dims, axis: int) -> bytes:
    """Fade a state of the shape of one item, with time as an axis of length 1, by each chunk."""
    one = [1 if i == axis or isinstance(d, str) else d for i, d in enumerate(shape)]
    return model_bytes(
        [
            helper.make_node("Mul", ["cache", "fade"], ["faded"]),
            helper.make_node("ReduceSum", ["mix", "time"], ["sum"], keepdims=1),
            helper.make_node("Add", ["faded", "sum"], ["cache_out"]),
            helper.make_node("Add", ["mix", "cache"], ["enh"]),
        ],
        [info("mix", shape), info("cache", one)],
        [info("enh", shape), info("cache_out", one)],
        {"fade": np.array(0.5, np.float32), "time": np.array([axis], np.int64)},
    )


@pytest.mark.parametrize(
    ("shape", "axis", "answers", "placed"),
    [
        ((1, 6, 1, 2), 2, Answers(shapes={"mix": ("B", 6, "T", 2)}), ("B", 6, "T", 2)),
        ((1, 6, 1, 2), 2, Answers(t=(1,)), ("B", 6, "T", 2)),
        ((1, 1, "T", 5, 2), 2, Answers(t=(1, 4), tail="pad"), ("B", 1, "T", 5, 2)),
        ((1, "frames", 3, 4, 4), 1, Answers(t=(2,), tail="refuse"), ("B", "T", 3, 4, 4)),
        ((1, 4, 3, 8), 1, Answers(t=(4,), tail="pad"), ("B", "T", 3, 8)),
    ],
)
def test_any_number_of_fixed_axes(
    tmp_path: Path, shape: Dims, axis: int, answers: Answers, placed: Dims
) -> None:
    try:
        done = adopt(tmp_path, frames(shape, axis), answers)
    except AdoptCheckError:  # 1 and 4 differ by design: the chunk is added before it is carried
        done = adopt(tmp_path, frames(shape, axis), replace(answers, t=(4,)))
    assert done.manifest.contract.chunk.shape == placed
    t = done.manifest.contract.chunk.nominal_t
    item = tuple(d for d in placed if isinstance(d, int))
    items = drawn(3 * t, *item, seed=1)
    outputs = Session.open(tmp_path / "b").stream().advance(items)["enh"]
    chunks = [np.moveaxis(items[k * t : k * t + t], 0, axis - 1)[None] for k in range(3)]
    one = [d if isinstance(d, int) and i != axis else 1 for i, d in enumerate(shape)]
    cache = np.zeros(one, np.float32)
    steps = loop(
        tmp_path / "b.onnx",
        [{"mix": np.ascontiguousarray(chunk)} for chunk in chunks],
        {"cache": cache},
        {"cache": "cache_out"},
    )
    assert np.array_equal(outputs, np.concatenate([step["enh"] for step in steps], axis))


def test_the_question_about_axes_proposes_an_answer_that_fits(tmp_path: Path) -> None:
    with pytest.raises(AdoptError) as caught:
        adopt(tmp_path, frames((1, 6, 1, 2), 2), Answers())
    assert "for example, add: --shape mix=B,6,T,2\n" in str(caught.value)


def test_the_first_message_holds_a_whole_answer(tmp_path: Path) -> None:
    names = ["input_2", "input_3", "stack_3", "layer_2"]
    model = onnx.load_from_string(frames((1, 1, 5), 1))
    for value, name in zip((*model.graph.input, *reversed(model.graph.output)), names, strict=True):
        for node in model.graph.node:
            node.input[:] = [name if n == value.name else n for n in node.input]
            node.output[:] = [name if n == value.name else n for n in node.output]
        value.name = name
    with pytest.raises(AdoptError) as caught:
        adopt(tmp_path, model.SerializeToString(), Answers())
    (line,) = [part for part in str(caught.value).splitlines() if part.startswith("for example")]
    assert line.endswith("--chunk input_2 --shape input_2=B,T,5 --state input_3=stack_3")
    answers = Answers(
        chunk="input_2", shapes={"input_2": ("B", "T", 5)}, states={"input_3": "stack_3"}
    )
    assert adopt(tmp_path, model.SerializeToString(), answers).worst == 0


def test_states_without_a_batch_belong_to_a_chunk_without_one(tmp_path: Path) -> None:
    model = model_bytes(
        [
            helper.make_node("MatMul", ["input", "w"], ["a"]),
            helper.make_node("CumSum", ["a", "zero"], ["sums"]),
            helper.make_node("Add", ["sums", "c_in"], ["y"]),
            helper.make_node("ReduceSum", ["a", "zeros"], ["gain"], keepdims=0),
            helper.make_node("Add", ["c_in", "gain"], ["c_out"]),
        ],
        [info("input", ["dim_0", 6]), info("c_in", [4])],
        [info("y", ["dim_0", 4]), info("c_out", [4])],
        {
            "w": drawn(6, 4, seed=0),
            "zero": np.array(0, np.int64),
            "zeros": np.array([0], np.int64),
        },
    )
    with pytest.raises(AdoptError, match="for example, add: --shape input=T,6"):
        adopt(tmp_path, model, Answers())
    done = adopt(tmp_path, model, Answers(t=(1, 8)))
    assert done.manifest.contract.chunk.shape == ("B", "T", 6)
    assert done.manifest.contract.outputs[0].shape == ("B", "T", 4)


@pytest.mark.parametrize(
    ("dims", "states", "shape"),
    [
        (("s77", "s27", 5), {"s27"}, ("T", "B", 5)),
        (("s27", "s77", 5), {"s27"}, ("B", "T", 5)),
        (("time", "n", 5), {"n"}, ("T", "B", 5)),
        (("num_frames", "x", 5), set(), ("T", "B", 5)),
        ((5, "a", "b"), {"b"}, (5, "T", "B")),
        (("seq_len", "batch_size", 5), {"batch_size"}, ("T", "B", 5)),
        (("batch", "sequence_length", 5), {"batch"}, ("B", "T", 5)),
        (("batch", "s1", 5), {"s1"}, None),  # the names contradict each other
    ],
)
def test_a_free_name_of_a_state_is_the_batch(dims: Dims, states: set[str], shape: Dims) -> None:
    found = place_chunk(Port("x", "float32", dims), frozenset(states))
    assert (found.shape if isinstance(found, Placed) else None) == shape


def time_first(names: Dims) -> bytes:
    batch = names[1]
    return model_bytes(
        [
            helper.make_node("GRU", ["x", "w", "r", "", "", "h0"], ["yt", "hn"], hidden_size=4),
            helper.make_node("Squeeze", ["yt", "one"], ["y"]),
        ],
        [info("x", [*names, 3]), info("h0", [1, batch, 4])],
        [info("y", [*names, 4]), info("hn", [1, batch, 4])],
        {
            "w": drawn(1, 12, 3, seed=0, scale=0.4),
            "r": drawn(1, 12, 4, seed=1, scale=0.4),
            "one": np.array([1], np.int64),
        },
    )


def test_time_may_stand_first(tmp_path: Path) -> None:
    done = adopt(tmp_path, time_first(("s77", "s27")), Answers(t=(1, 8)))
    assert done.manifest.contract.chunk.shape == ("T", "B", 3)
    assert done.manifest.contract.state[0].shape == (1, "B", 4)
    with pytest.raises(AdoptCheckError, match="x=T,B,3") as caught:
        adopt(tmp_path, time_first((None, None)), Answers(t=(1, 8)), "c")
    assert caught.value.code == "step-failed"


@pytest.mark.parametrize("cast", [False, True])
def test_the_weights_behind_a_free_axis_tell_its_size(tmp_path: Path, cast: bool) -> None:
    """A file that names no axis, without a batch: x [?, ?], h [4] -> y [?, 4], hn [4]."""
    model = model_bytes(
        [
            helper.make_node("Identity" if cast else "Neg", ["x"], ["same"]),
            helper.make_node("Unsqueeze", ["same" if cast else "x", "one"], ["xb"]),
            helper.make_node("Unsqueeze", ["h", "two"], ["hb"]),
            helper.make_node("GRU", ["xb", "w", "r", "", "", "hb"], ["yt", "ht"], hidden_size=4),
            helper.make_node("Squeeze", ["yt", "middle"], ["y"]),
            helper.make_node("Squeeze", ["ht", "two"], ["hn"]),
        ],
        [info("x", [None, None]), info("h", [4])],
        [info("y", [None, 4]), info("hn", [4])],
        {
            "w": drawn(1, 12, 7, seed=0, scale=0.4),
            "r": drawn(1, 12, 4, seed=1, scale=0.4),
            "one": np.array([1], np.int64),
            "two": np.array([0, 1], np.int64),
            "middle": np.array([1, 2], np.int64),
        },
    )
    done = adopt(tmp_path, model, Answers(t=(1, 8)))
    assert done.manifest.contract.chunk.shape == ("B", "T", 7)
    assert all(finding.fine for finding in done.findings), done.findings


# Sizes that the exporter left


def stale(y: Dims, h: Dims) -> onnx.ModelProto:
    model = onnx.load_from_string(time_first(("time", "batch")))
    for value, dims in zip(model.graph.output, (y, h), strict=True):
        value.CopyFrom(info(value.name, dims))
    return model


@pytest.mark.parametrize(
    ("y", "h"),
    [
        ((7, 2, 4), (1, "batch", 4)),
        (("time", "batch", 9), (1, "batch", 4)),
        ((7, "batch", 4), (1, 2, 4)),
        ((7, 4), (1, "batch", 4)),
        (("time", "batch", 4, 1), (1, "batch", 4)),
    ],
)
def test_a_run_is_right_where_it_contradicts_a_size(tmp_path: Path, y: Dims, h: Dims) -> None:
    done = adopt(tmp_path, stale(y, h).SerializeToString(), Answers(t=(1, 8)))
    assert done.manifest.contract.outputs[0].shape == ("T", "B", 4)
    assert done.manifest.contract.state[0].shape == (1, "B", 4)
    assert done.manifest.graphs[0].batch == ()
    told = [f.text for f in done.findings if "the run is right" in f.text]
    assert len(told) == (y != ("time", "batch", 4))
    graph = onnx.load(str(tmp_path / "b" / "step.onnx"), load_external_data=False).graph
    for value, true in zip(graph.output, ((None, None, 4), (1, None, 4)), strict=True):
        dims = value.type.tensor_type.shape.dim
        assert len(dims) == 3
        for dim, size in zip(dims, true, strict=True):
            assert not dim.HasField("dim_value") or dim.dim_value == size
    assert all(check.passed for check in replay_golden(open_bundle(tmp_path / "b")))


def test_a_t_that_the_exporter_fixed_is_found(tmp_path: Path) -> None:
    model = onnx.load_from_string(time_first(("time", "batch")))
    squeeze = model.graph.node[1]
    squeeze.CopyFrom(helper.make_node("Reshape", ["yt", "traced"], ["y"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([7, -1, 4]), "traced"))
    model.graph.output[0].CopyFrom(info("y", [7, "batch", 4]))
    with pytest.raises(AdoptCheckError, match=r"T = 7 runs.*say --t 7") as caught:
        adopt(tmp_path, model.SerializeToString(), Answers(t=(1, 16)))
    assert caught.value.code == "step-failed"
    done = adopt(tmp_path, model.SerializeToString(), Answers(t=(7,), tail="pad"))
    assert done.manifest.contract.chunk.allowed_t == (7,)


@pytest.mark.parametrize("time_axis", [0, 1])
def test_states_whose_names_tell_nothing_still_tell_the_batch(
    tmp_path: Path, time_axis: int
) -> None:
    """As a bare recurrence exported without names: input [s31, s81, 3], hx [1, s81, 4]."""
    model = onnx.load_from_string(time_first(("s31", "s81")))
    if time_axis == 1:  # the batch first
        model.graph.input[0].CopyFrom(info("x", ["s81", "s31", 3]))
        model.graph.output[0].CopyFrom(info("y", ["s81", "s31", 4]))
        first, second = model.graph.node
        first.input[0], second.output[0] = "xt", "yb"
        turned = helper.make_node("Transpose", ["x"], ["xt"], perm=[1, 0, 2])
        back = helper.make_node("Transpose", ["yb"], ["y"], perm=[1, 0, 2])
        nodes = [turned, first, second, back]
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
    for old, new in (("h0", "hx"), ("hn", "getitem_1")):
        for value in (*model.graph.input, *model.graph.output):
            value.name = new if value.name == old else value.name
        for node in model.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
    with pytest.raises(AdoptError, match="for example, add: --state hx=getitem_1") as caught:
        adopt(tmp_path, model.SerializeToString(), Answers(t=(1, 8)))
    assert "both take new items" not in str(caught.value)
    done = adopt(tmp_path, model.SerializeToString(), Answers(t=(1, 8), states={"hx": "getitem_1"}))
    assert done.manifest.contract.chunk.time_axis == time_axis


# Windows


def overlapping(lookback: int, lookahead: int, t: int | str) -> bytes:
    """Mean of each item and those around it, and a carried sum: x [N, L + T + A, 2] -> y, h_out."""
    width = lookback + lookahead + 1
    kernel = np.full((2, 1, width), 1 / width, np.float32)
    length = t if isinstance(t, str) else lookback + t + lookahead
    return model_bytes(
        [
            helper.make_node("Transpose", ["x"], ["xt"], perm=[0, 2, 1]),
            helper.make_node("Conv", ["xt", "kernel"], ["c"], group=2),
            helper.make_node("Transpose", ["c"], ["means"], perm=[0, 2, 1]),
            helper.make_node("CumSum", ["means", "one"], ["sums"]),
            helper.make_node("Unsqueeze", ["h", "ones"], ["before"]),
            helper.make_node("Add", ["sums", "before"], ["y"]),
            helper.make_node("ReduceSum", ["means", "ones"], ["gain"], keepdims=0),
            helper.make_node("Add", ["h", "gain"], ["h_out"]),
        ],
        [info("x", ["N", length, 2]), info("h", ["N", 2])],
        [info("y", ["N", None, 2]), info("h_out", ["N", 2])],
        {"kernel": kernel, "one": np.array(1, np.int64), "ones": np.array([1], np.int64)},
    )


@pytest.mark.parametrize("t", [8, "T"])
@pytest.mark.parametrize(("lookback", "lookahead"), [(0, 3), (2, 3)])
def test_windows_that_reach_ahead(
    tmp_path: Path, lookback: int, lookahead: int, t: int | str
) -> None:
    sizes = (4, 8) if isinstance(t, str) else (8,)
    answers = Answers(
        t=sizes,
        lookback=lookback,
        lookahead=lookahead,
        tail="pad",
        shapes={"x": ("B", "T", 2)},
    )
    done = adopt(tmp_path, overlapping(lookback, lookahead, t), answers)
    chunk = done.manifest.contract.chunk
    assert (chunk.lookahead, chunk.lookback, chunk.allowed_t) == (lookahead, lookback, sizes)
    assert chunk.causal
    assert all(finding.fine for finding in done.findings), done.findings
    items = drawn(8 * 4 + lookahead, 2, seed=1)
    padded = np.concatenate([np.zeros((lookback, 2), np.float32), items])
    windows = [padded[8 * k : 8 * k + lookback + 8 + lookahead] for k in range(4)]
    steps = loop(
        tmp_path / "b.onnx",
        [{"x": window[None]} for window in windows],
        {"h": np.zeros((1, 2), np.float32)},
        {"h": "h_out"},
    )
    expected = np.concatenate([step["y"] for step in steps], 1)
    stream = Session.open(tmp_path / "b").stream()
    parts = [stream.advance(part)["y"] for part in np.array_split(items, 7)]
    assert np.array_equal(np.concatenate(parts, 1), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lookahead": -1}, "--lookahead -1"),
        ({"lookahead": 12}, "leaves no room"),
        ({"lookahead": 3, "t": (4,)}, "look-ahead 3 runs T = 8 only"),
        ({"lookahead": 3, "tail": "exact", "t": ()}, "--tail exact"),
        ({"lookahead": 3, "tail": None}, "lack the 3 behind them"),
    ],
)
def test_look_ahead_that_does_not_fit(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    answers = Answers(tail="pad", shapes={"x": ("B", "T", 2)})
    with pytest.raises(AdoptError, match=words):
        adopt(tmp_path, overlapping(0, 3, 8), replace(answers, **change))
    assert not (tmp_path / "b").exists()


# What is given once per stream, and what is the same for ever


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


def test_an_input_that_is_left_is_asked_about_with_all_its_answers(tmp_path: Path) -> None:
    with pytest.raises(AdoptError) as caught:
        adopt(tmp_path, speaker(), Answers())
    told = str(caught.value)
    assert "--constant d=VALUE   or --stream-input d" in told
    assert "for example, add: --shape x=B,8 --stream-input d\n" in told


@pytest.mark.parametrize("example", [None, np.full((1, 4), 0.5, np.float32)])
def test_an_input_that_is_given_once_per_stream(tmp_path: Path, example: Array | None) -> None:
    done = adopt(tmp_path, speaker(), Answers(shapes=ITEM, stream_inputs={"d": example}))
    (given,) = done.manifest.contract.stream_inputs
    assert (given.input, given.dtype, given.shape) == ("d", "float32", ("B", 4))
    assert done.manifest.graphs[0].batch == ()
    assert all(finding.fine for finding in done.findings), done.findings
    golden = open_bundle(tmp_path / "b").tensors("golden.safetensors")
    assert example is None or np.array_equal(golden["stream/d"], example)
    items = drawn(9, 8, seed=3)
    session = Session.open(tmp_path / "b")
    for value in (drawn(1, 4, seed=4), drawn(1, 4, seed=5)):
        steps = loop(
            tmp_path / "b.onnx",
            [{"x": item[None], "d": value} for item in items],
            {"h": np.zeros((1, 8), np.float32)},
            {"h": "h_out"},
        )
        stream = session.stream(inputs={"d": value})
        first = stream.advance(items[:4])["mask"]
        stream.save(tmp_path / "state")
        rest = Stream.load(session, tmp_path / "state").advance(items[4:])["mask"]
        expected = np.stack([step["mask"][0] for step in steps])
        assert np.array_equal(np.concatenate([first, rest], 1)[0], expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nobody": None}, "--stream-input names `nobody`"),
        ({"h": None}, "no state to carry"),
        ({"d": np.zeros((1, 5))}, r"--stream-input d: has shape \[1, 5\]"),
        ({"d": np.zeros((2, 4))}, r"--stream-input d: has shape \[2, 4\]"),
        ({"d": np.full((1, 4), np.nan)}, "--stream-input d: holds a NaN"),
    ],
)
def test_inputs_per_stream_that_do_not_fit(
    tmp_path: Path, given: dict[str, Array | None], words: str
) -> None:
    with pytest.raises(AdoptError, match=words):
        adopt(tmp_path, speaker(), Answers(shapes=ITEM, stream_inputs=given))
    assert not (tmp_path / "b").exists()


def test_an_input_per_stream_that_changes_nothing_is_remarked(tmp_path: Path) -> None:
    model = onnx.load_from_string(speaker())
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.pad(drawn(8, 8, seed=0), [(0, 4), (0, 0)]), "a")
    )
    given = Answers(shapes=ITEM, stream_inputs={"d": None})
    done = adopt(tmp_path, model.SerializeToString(), given)
    assert [f.text for f in done.findings if not f.fine] == ["`d` changes nothing"]


def test_a_constant_belongs_to_the_model_and_is_why_one_stream_runs(tmp_path: Path) -> None:
    values = [drawn(1, 4, seed=4), drawn(1, 4, seed=5)]
    made = [
        adopt(tmp_path, speaker(), Answers(shapes=ITEM, constants={"d": value}), name)
        for name, value in zip("ab", values, strict=True)
    ]
    assert made[0].manifest.model_id != made[1].manifest.model_id
    for done in made:
        assert done.manifest.graphs[0].batch == (1,)
        (told,) = [f.text for f in done.findings if f.text.startswith("one stream at a time")]
        assert "the constant `d` [1, 4]" in told
        assert "--stream-input d" in told
    stream = Session.open(tmp_path / "a").stream()
    stream.advance(drawn(3, 8, seed=3))
    stream.save(tmp_path / "state")
    with pytest.raises(OtherModelError):
        Stream.load(Session.open(tmp_path / "b"), tmp_path / "state")
    again = adopt(tmp_path, speaker(), Answers(shapes=ITEM, constants={"d": values[0]}), "c")
    assert again.manifest.model_id == made[0].manifest.model_id
    Stream.load(Session.open(tmp_path / "c"), tmp_path / "state")


def test_a_batch_that_the_file_fixes_is_told_by_its_input(tmp_path: Path) -> None:
    done = adopt(tmp_path, speaker(1), Answers(shapes=ITEM, stream_inputs={"d": None}))
    assert "one stream at a time: the file fixes B = 1 in `x`" in [f.text for f in done.findings]


# Other exports of one model


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


def test_a_state_outlives_another_export(tmp_path: Path) -> None:
    old = adopt(tmp_path, folded(True), ONE, "old")
    other = adopt(tmp_path, folded(False), ONE, "other")
    assert other.manifest.model_id != old.manifest.model_id
    new = adopt(tmp_path, folded(False), ONE, "new", model_of=tmp_path / "old")
    assert new.manifest.model_id == old.manifest.model_id
    (certificate,) = new.manifest.certificates
    assert (certificate.passed, certificate.bound) == (True, 1e-5)
    assert certificate.worst <= 1e-5
    assert certificate.steps >= 1000
    items = drawn(20, 3, seed=9)
    session = Session.open(tmp_path / "old")
    stream = session.stream()
    stream.advance(items[:10])
    stream.save(tmp_path / "state")
    going = Stream.load(Session.open(tmp_path / "new"), tmp_path / "state")
    found = going.advance(items[10:])["y"]
    assert np.allclose(found, stream.advance(items[10:])["y"], rtol=0, atol=1e-6)


def test_the_older_bundle_may_order_and_call_its_state_otherwise(tmp_path: Path) -> None:
    """As an export from torch does: the role of a state is a guess, its order is free."""
    made = adopt(tmp_path, folded(True), ONE, "old").manifest
    state = tuple(msgspec.structs.replace(s, role="window") for s in made.contract.state)
    contract = msgspec.structs.replace(made.contract, state=state)
    files = {name: tmp_path / "old" / name for name in made.files}
    old = write_bundle(
        tmp_path / "other", msgspec.structs.replace(made, contract=contract, files={}), files
    )
    assert old.state_hash != made.state_hash
    new = adopt(tmp_path, folded(False), ONE, "new", model_of=tmp_path / "other").manifest
    assert (new.model_id, new.state_hash) == (old.model_id, old.state_hash)
    stream = Session.open(tmp_path / "other").stream()
    stream.advance(drawn(3, 3, seed=3))
    stream.save(tmp_path / "state")
    Stream.load(Session.open(tmp_path / "new"), tmp_path / "state")


def test_a_new_export_may_take_the_place_of_the_old(tmp_path: Path) -> None:
    old = adopt(tmp_path, folded(True), ONE, "b").manifest
    new = adopt(tmp_path, folded(False), ONE, "b", model_of=tmp_path / "b", overwrite=True)
    assert new.manifest.model_id == old.model_id
    assert open_bundle(tmp_path / "b").manifest.bundle_id == new.manifest.bundle_id


@pytest.mark.parametrize(
    ("model", "answers", "words"),
    [
        (lambda: folded(True, seed=1), ONE, "is not the model of bundle old/.*strays by"),
        (lambda: folded(True, strength=1.001), ONE, "is not the model of bundle old/.*strays by"),
        (lambda: folded(False), replace(ONE, init={"h": np.array(1.0)}), "a state of the other"),
    ],
)
def test_only_the_same_model_keeps_the_id(
    tmp_path: Path, model: Callable[[], bytes], answers: Answers, words: str
) -> None:
    adopt(tmp_path, folded(True), ONE, "old")
    with pytest.raises(AdoptError, match=words):
        adopt(tmp_path, model(), answers, "new", model_of=tmp_path / "old")
    assert not (tmp_path / "new").exists()


def test_models_of_other_items_are_not_compared(tmp_path: Path) -> None:
    adopt(tmp_path, folded(True), ONE, "old")
    with pytest.raises(AdoptError, match=r"--model-of: item shape"):
        adopt(
            tmp_path,
            speaker(),
            Answers(shapes=ITEM, stream_inputs={"d": None}),
            "new",
            model_of=tmp_path / "old",
        )


def quantized(bits_lost: bool = True) -> bytes:
    """The same model with its matrix as int8 with one scale."""
    matrix = drawn(7, 4, seed=0, scale=0.4)
    scale = np.float32(np.abs(matrix).max() / (127 if bits_lost else 3))
    return model_bytes(
        [
            helper.make_node("Concat", ["x", "h"], ["xh"], axis=1),
            helper.make_node("DequantizeLinear", ["q", "scale"], ["m"]),
            helper.make_node("MatMul", ["xh", "m"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["hn"]),
            helper.make_node("Add", ["hn", "hn"], ["y"]),
        ],
        [info("x", ["B", 3]), info("h", ["B", 4])],
        [info("y", ["B", 4]), info("hn", ["B", 4])],
        {"q": np.round(matrix / scale).astype(np.int8), "scale": np.array(scale)},
    )


def test_another_precision_is_recorded_with_its_distance(tmp_path: Path) -> None:
    old = adopt(tmp_path, folded(True), ONE, "old")
    with pytest.raises(AdoptCheckError, match=r"is int8, and bundle old/ is float32.*--within"):
        adopt(tmp_path, quantized(), ONE, "new", model_of=tmp_path / "old")
    with pytest.raises(AdoptCheckError, match=r"0\.05 is allowed"):
        adopt(tmp_path, quantized(False), ONE, "new", model_of=tmp_path / "old", within=0.05)
    assert not (tmp_path / "new").exists()
    new = adopt(tmp_path, quantized(), ONE, "new", model_of=tmp_path / "old", within=0.05)
    assert (new.manifest.model_id, new.manifest.precision) == (old.manifest.model_id, "int8")
    quality = new.manifest.quality
    assert quality is not None
    assert quality.full == old.manifest.bundle_id
    (gate,) = quality.gates
    assert gate.value is not None
    assert 1e-4 < gate.value < 0.05
    assert any("recorded as int8" in f.text for f in new.findings if not f.fine)


@pytest.mark.parametrize(
    ("model", "of", "within", "words"),
    [
        (folded(False), "old", 0.1, "both are float32"),
        (folded(True), None, 0.1, "--within 0.1 needs --model-of"),
        (quantized(), "old", 0.0, "--within 0: expected"),
        (quantized(), "old", float("nan"), "--within nan: expected"),
        (quantized(), "old", 2.0, "--within 2: expected"),
        (folded(True), "int8", 0.1, "adopt the float32 file first"),
    ],
)
def test_bounds_that_make_no_sense(
    tmp_path: Path, model: bytes, of: str | None, within: float, words: str
) -> None:
    adopt(tmp_path, folded(True), ONE, "old")
    adopt(tmp_path, quantized(), ONE, "int8")
    old = None if of is None else tmp_path / of
    with pytest.raises(AdoptError, match=words):
        adopt(tmp_path, model, ONE, "new", model_of=old, within=within)
    assert not (tmp_path / "new").exists()


# Files that are no ONNX models


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"\x18\0\0\0ORTM" + bytes(40), "ONNX Runtime's own format"),
        (b"\x20\0\0\0TFL3" + bytes(40), "TensorFlow Lite"),
        (b"\x0a\x1d\x0a\x01x\x12\x0bPlaceholder" + bytes(20), "TensorFlow graph"),
        (b"\x08\x01\x12\xdc\x01\x0a\x10\x0a\x05serve" + bytes(40), "TensorFlow graph"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x10\0\0\0\0\0\0\0" + b'{"a":{}}        ', "safetensors"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GGUF\x03", "GGUF"),
        (b"\x93NUMPY\x01", "NumPy array"),
        (b"\x1f\x8b\x08", "gzip"),
        (b'{"a": 1}', "a JSON file"),
        (b"no model at all", "a text file"),
        (b"PK\x05\x06" + bytes(18), "zip archive"),
    ],
)
def test_other_files_are_told_by_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(AdoptError, match="is no ONNX model but") as caught:
        adopt(tmp_path, content, Answers())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_archives_and_folders_are_told_by_what_they_hold(tmp_path: Path) -> None:
    for names, words in (
        (["m/data.pkl", "m/version"], "a PyTorch file"),
        (["a/model.onnx"], "a/model.onnx"),
        (["a.npy", "b.npy"], "NumPy arrays"),
        (["readme"], "without an .onnx file"),
    ):
        with zipfile.ZipFile(tmp_path / "b.onnx", "w") as archive:
            for name in names:
                archive.writestr(name, "content")
        with pytest.raises(AdoptError) as caught:
            adopt_bundle(tmp_path / "b.onnx", tmp_path / "b", Answers(), name="b")
        assert words in str(caught.value)
    (tmp_path / "model.onnx").write_bytes(folded(True))
    with pytest.raises(AdoptError, match=r"a folder; name one file in it: b\.onnx, model\.onnx"):
        adopt_bundle(tmp_path, tmp_path / "b", Answers(), name="b")
    adopt(tmp_path, folded(True), ONE)
    with pytest.raises(AdoptError, match="a bundle already"):
        adopt_bundle(tmp_path / "b", tmp_path / "c", Answers(), name="b")


def test_a_model_that_is_cut_short_says_so(tmp_path: Path) -> None:
    model = folded(True)
    with pytest.raises(AdoptError, match="damaged or cut short"):
        adopt(tmp_path, model[: len(model) - 7], ONE)


def test_weights_that_do_not_lie_beside_it_are_named(tmp_path: Path) -> None:
    onnx.save(
        onnx.load_from_string(folded(True)),
        str(tmp_path / "m.onnx"),
        save_as_external_data=True,
        location="m.data",
        size_threshold=64,
    )
    (tmp_path / "m.data").unlink()
    with pytest.raises(AdoptError, match=r"its weights lie in another file.*m\.data"):
        adopt_bundle(tmp_path / "m.onnx", tmp_path / "b", ONE, name="b")
