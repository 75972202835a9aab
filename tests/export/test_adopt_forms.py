"""Forms of step that files come in: axes, windows, inputs per stream, stale sizes, re-exports."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.adopting import ITEM, adopt, loop, speaker
from tests.raising import refused
from tests.steps import Array, drawn, info, model_bytes

from dst.export import AdoptCheckError, AdoptError, Answers
from dst.export.adopt.layout import Placed, place_chunk
from dst.export.adopt.ports import Port
from dst.runtime import Session, Stream, open_bundle, replay_golden
from dst.runtime.errors import StateMismatchError

Dims = tuple[int | str | None, ...]


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
    with refused(StateMismatchError, "other-constant"):
        Stream.load(Session.open(tmp_path / "b"), tmp_path / "state")
    again = adopt(tmp_path, speaker(), Answers(shapes=ITEM, constants={"d": values[0]}), "c")
    assert again.manifest.model_id == made[0].manifest.model_id
    Stream.load(Session.open(tmp_path / "c"), tmp_path / "state")


def test_a_batch_that_the_file_fixes_is_told_by_its_input(tmp_path: Path) -> None:
    done = adopt(tmp_path, speaker(1), Answers(shapes=ITEM, stream_inputs={"d": None}))
    assert "one stream at a time: the file fixes B = 1 in `x`" in [f.text for f in done.findings]
