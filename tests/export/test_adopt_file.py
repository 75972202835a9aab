"""What a file holds goes in: weights, branches, functions, notes, defaults; a bundle of it out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.steps import FLOAT, INT64, Array, info

from dst.cli.app import call
from dst.export import Answers, adopt_bundle
from dst.export.adopt.layout import Placed, given, place_chunk, place_output, place_state
from dst.export.adopt.ports import Port, state_pairs
from dst.export.errors import AdoptError
from dst.runtime import Session, Stream, open_bundle
from dst.runtime.bundle.manifest import Manifest, Stored, Tokens

PLACE = "/ho" + "me/ann/model.py"
SIZE = 32


def leaky(
    weights: Mapping[str, Array],
    extra: Sequence[onnx.NodeProto] = (),
    inputs: Sequence[onnx.ValueInfoProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """Make x [B, 4, 32], h [B, 32] -> y, h_out: h fades and takes up what a matrix gives."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0),
            helper.make_node("MatMul", ["sum", "w"], ["new"]),
            helper.make_node("Mul", ["h", "fade"], ["faded"]),
            helper.make_node("Add", ["faded", "new"], ["h_out"]),
            helper.make_node("Unsqueeze", ["h_out", "axis"], ["h1"]),
            helper.make_node("Add", ["x", "h1"], ["y"]),
            *extra,
        ],
        "g",
        [info("x", ["B", 4, SIZE]), info("h", ["B", SIZE]), *inputs],
        [info("y", ["B", 4, SIZE]), info("h_out", ["B", SIZE]), *outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)],
        ir_version=9,
        functions=functions,
    )
    onnx.checker.check_model(made)
    return made


def weights(seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        "w": random.normal(size=(SIZE, SIZE), scale=0.2).astype(np.float32),
        "fade": np.array([0.5], np.float32),
        "axis": np.array([1], np.int64),
    }


ANSWERS = Answers(shapes={"x": ("B", "T", SIZE)}, tail="refuse")


def adopted(model: onnx.ModelProto, folder: Path, answers: Answers = ANSWERS) -> Manifest:
    onnx.save(model, str(folder / "model.onnx"))
    done = adopt_bundle(folder / "model.onnx", folder / "bundle", answers, name="x", overwrite=True)
    assert done.worst == 0
    return done.manifest


def branching() -> onnx.ModelProto:
    """Double or halve y by a constant, in branches whose values have the same names."""
    branches = {}
    for name, factor in (("then_branch", 2.0), ("else_branch", 0.5)):
        constant = helper.make_tensor("value", FLOAT, [1], [factor])
        constant.doc_string = PLACE
        inside = helper.make_graph(
            [
                helper.make_node("Constant", [], ["factor"], value=constant, doc_string=PLACE),
                helper.make_node("Mul", ["y", "factor"], ["result"], doc_string=PLACE),
            ],
            PLACE,
            [],
            [info("result", ["B", 4, SIZE])],
            doc_string=PLACE,
        )
        branches[name] = inside
    nodes = [helper.make_node("If", ["loud"], ["z"], **branches)]
    return leaky(
        weights(),
        nodes,
        [info("loud", [], TensorProto.BOOL)],
        [info("z", ["B", 4, SIZE])],
    )


@pytest.mark.parametrize("loud", [True, False])
def test_branches_and_notes(tmp_path: Path, loud: bool) -> None:
    model = branching()
    model.doc_string = model.producer_name = model.graph.doc_string = PLACE
    model.metadata_props.add(key="source", value=PLACE)
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input):
        part.doc_string = PLACE
    model.graph.node[0].name = PLACE
    answers = Answers(shapes=ANSWERS.shapes, tail="refuse", constants={"loud": np.array(loud)})
    manifest = adopted(model, tmp_path, answers)
    assert [c.values for c in manifest.contract.constants] == [(int(loud),)]
    held = [(tmp_path / "bundle" / name).read_bytes() for name in manifest.files]
    assert not any(PLACE.encode() in data for data in held)
    items = np.random.default_rng(1).normal(size=(4, SIZE)).astype(np.float32)
    found = Session.open(tmp_path / "bundle").stream().advance(items)
    factor = np.float32(2.0 if loud else 0.5)
    assert np.array_equal(found["z"], found["y"].astype(np.float32) * factor)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    twice = helper.make_function(
        "mine",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"], doc_string=PLACE)],
        [helper.make_opsetid("", 18)],
    )
    node = helper.make_node("Twice", ["y"], ["z"], domain="mine")
    model = leaky(weights(), [node], (), [info("z", ["B", 4, SIZE])], [twice])
    manifest = adopted(model, tmp_path)
    assert manifest.graphs[0].domains == ("ai.onnx",)
    assert PLACE.encode() not in (tmp_path / "bundle" / "step.onnx").read_bytes()


def test_weights_lie_in_one_file_and_come_from_one(tmp_path: Path) -> None:
    inside = adopted(leaky(weights()), tmp_path)
    data = (tmp_path / "bundle" / "weights.bin").read_bytes()
    assert data == weights()["w"].tobytes()
    assert inside.weights_bytes == len(data) + 4 + 8
    assert inside.precision == "float32"
    model = leaky(weights())
    onnx.save(
        model,
        str(tmp_path / "big.onnx"),
        save_as_external_data=True,
        location="big.data",
        size_threshold=1024,
    )
    done = adopt_bundle(tmp_path / "big.onnx", tmp_path / "big", ANSWERS, name="x")
    assert done.manifest.model_id == inside.model_id
    assert done.manifest.files.keys() == inside.files.keys()


def test_the_model_id_follows_the_weights_and_not_their_names(tmp_path: Path) -> None:
    first = adopted(leaky(weights()), tmp_path)
    stream = Session.open(tmp_path / "bundle").stream()
    stream.advance(np.ones((4, SIZE), np.float32))
    stream.save(tmp_path / "state")
    renamed = leaky(weights())
    renamed.graph.initializer[0].name = "other"
    renamed.graph.node[1].input[1] = "other"
    assert adopted(renamed, tmp_path).model_id == first.model_id
    again = Stream.load(Session.open(tmp_path / "bundle"), tmp_path / "state")
    assert np.array_equal(again.state["h"], stream.state["h"])
    assert adopted(leaky(weights(1)), tmp_path).model_id != first.model_id


def test_a_default_of_a_state_is_its_start(tmp_path: Path) -> None:
    start = np.linspace(-1, 1, SIZE, dtype=np.float32)[None]
    manifest = adopted(leaky({**weights(), "h": start}), tmp_path)
    (state,) = manifest.contract.state
    assert isinstance(state.init, Stored)
    stream = Session.open(tmp_path / "bundle").stream()
    assert np.array_equal(stream.state["h"], start)
    items = np.ones((4, SIZE), np.float32)
    own = ort.InferenceSession(str(tmp_path / "model.onnx")).run(["y"], {"x": items[None]})[0]
    assert np.array_equal(stream.advance(items)["y"], own)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lookback": -1}, "--lookback -1: expected a whole number of 0 or more"),
        ({"vocabulary": 0}, "--vocabulary 0: expected a whole number of 1 or more"),
        ({"t": (2.5,)}, "--t 2.5: expected a whole number"),
        ({"init": {"h": np.zeros(3)}}, "--init h: has shape"),
        ({"init": {"h": float("nan")}}, "--init h: holds a NaN"),
    ],
)
def test_answers_that_no_graph_could_take(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(AdoptError, match=words):
        adopted(leaky(weights()), tmp_path, replace(ANSWERS, **change))
    assert not (tmp_path / "bundle").exists()


def test_a_number_is_a_start_too(tmp_path: Path) -> None:
    answers = replace(ANSWERS, init={"h": 0.5})  # type: ignore[dict-item]
    adopted(leaky(weights()), tmp_path, answers)
    stream = Session.open(tmp_path / "bundle").stream()
    assert np.array_equal(stream.state["h"], np.full((1, SIZE), 0.5, np.float32))


@pytest.mark.parametrize("data", [np.array(1.0), np.array([["a"] * SIZE]), np.zeros((0, SIZE))])
def test_data_that_no_model_reads(tmp_path: Path, data: Array) -> None:
    onnx.save(leaky(weights()), str(tmp_path / "model.onnx"))
    with pytest.raises(AdoptError, match="the data has"):
        adopt_bundle(tmp_path / "model.onnx", tmp_path / "b", ANSWERS, name="x", data=data)


def test_an_output_can_be_dropped(tmp_path: Path) -> None:
    node = helper.make_node("Shape", ["x"], ["size"])
    model = leaky(weights(), [node], (), [info("size", [3], INT64)])
    answers = Answers(shapes=ANSWERS.shapes, tail="refuse", drop=["size"])
    assert [o.name for o in adopted(model, tmp_path, answers).contract.outputs] == ["y"]


def test_tokens_are_counted_and_their_bits_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["x"]),
            helper.make_node("CumSum", ["x", "axis"], ["sums"]),
            helper.make_node("Unsqueeze", ["past_sum", "axis"], ["before"]),
            helper.make_node("Add", ["sums", "before"], ["all"]),
            helper.make_node("MatMul", ["all", "head"], ["logits"]),
            helper.make_node("ReduceSum", ["x", "axis"], ["gain"], keepdims=0),
            helper.make_node("Add", ["past_sum", "gain"], ["present_sum"]),
        ],
        "g",
        [info("ids", ["B", "T"], INT64), info("past_sum", ["B", 8])],
        [info("logits", ["B", "T", 256]), info("present_sum", ["B", 8])],
        [
            numpy_helper.from_array(random.integers(-2, 3, (256, 8)).astype(np.float32), "table"),
            numpy_helper.from_array(random.integers(-1, 2, (8, 256)).astype(np.float32), "head"),
            numpy_helper.from_array(np.array(1, np.int64), "axis"),
        ],
    )
    for node in (graph.node[2], graph.node[5]):  # before opset 13 the axes are an attribute
        del node.input[1:]
        node.attribute.append(helper.make_attribute("axes", [1]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=9)
    onnx.save(model, str(tmp_path / "sums.onnx"))
    adopt = ["adopt", str(tmp_path / "sums.onnx"), "--out", str(tmp_path / "sums"), "--t", "1,8"]
    assert call([*adopt, "--tokenizer", "bytes", "--meaning", "logits=logits"]) == 0
    content = open_bundle(tmp_path / "sums").manifest.contract.chunk.content
    assert content == Tokens(vocabulary=256, tokenizer="bytes")
    (tmp_path / "text").write_bytes(b"one line\nand another\n")
    capfd.readouterr()
    assert call(["run", str(tmp_path / "sums"), str(tmp_path / "text"), "--per", "line"]) == 0
    assert "and another" in capfd.readouterr().out
    assert call([*adopt, "--overwrite"]) == 0
    content = open_bundle(tmp_path / "sums").manifest.contract.chunk.content
    assert content == Tokens(vocabulary=256, tokenizer="none")


# What names and shapes tell


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("h", "h_out"),
        ("h", "hn"),
        ("h0", "hn"),
        ("h_0", "h_n"),
        ("state", "stateN"),
        ("state", "next_state"),
        ("cached_x", "new_cached_x"),
        ("cache_in", "cache_out"),
        ("in_cache", "out_cache"),
        ("past.0", "present.0"),
        ("past_key_values.3.value", "present.3.value"),
        ("past_key_values.3.value", "present_key_values.3.value"),
        ("past_k", "present_k"),
        ("prevState", "newState"),
        ("mem:in", "mem:out"),
        ("encoder/conv1/cache", "encoder/conv1/cache_updated"),
        ("last_hidden", "hidden"),
    ],
)
def test_names_pair(before: str, after: str) -> None:
    others = ["x", "y", "z.1", "key_0", "out"]
    inputs = [Port(name, "float32", (1, 4)) for name in (before, "x", "past_key_0")]
    outputs = [Port(name, "float32", (1, 4)) for name in (*others, after)]
    assert state_pairs(inputs, outputs)[before] == after
    wide = [Port(name, "float32", (1, 5)) for name in (*others, after)]
    assert before not in state_pairs(inputs, wide)


def test_doubtful_names_do_not_pair() -> None:
    def pairs(inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, str]:
        before, after = ([Port(n, "float32", (1, 4)) for n in s] for s in (inputs, outputs))
        return state_pairs(before, after)

    assert pairs(["h"], ["h_out", "hn"]) == {}
    assert pairs(["h", "h_in"], ["h_out"]) == {}
    assert pairs(["input"], ["output"]) == {}
    assert pairs(["a"], ["b"]) == {}


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        (("batch", "time", 80), ("B", "T", 80)),
        (("batch", 80, "time"), ("B", 80, "T")),
        (("seq_len", "batch_size", 80), ("T", "B", 80)),
        ((None, None), ("B", "T")),
        ((None, None, 80), ("B", "T", 80)),
        ((1, 512), ("B", "T")),
        ((1, "n_samples"), ("B", "T")),
        ((None, 1, "t"), ("B", 1, "T")),
        ((16, 1, "frames"), (16, "B", "T")),
        ((1, 16, 80), None),
        ((None, None, None), None),
        (("time", 80), ("B", "T", 80)),
        ((512,), ("B", "T")),
    ],
)
def test_axes_of_a_chunk(
    dims: tuple[int | str | None, ...], shape: tuple[int | str, ...] | None
) -> None:
    found = place_chunk(Port("x", "float32", dims))
    assert (found.shape if isinstance(found, Placed) else None) == shape


def test_a_batch_axis_that_the_file_fixes_at_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="its batch axis is 3, and one stream has 1"):
        given(Port("h", "float32", (2, 3)), (2, "B"))


@pytest.mark.parametrize(
    ("before", "after", "shape"),
    [
        ((2, "n", 128), (None, None, None), (2, "B", 128)),
        ((2, None, 128), (2, None, 128), (2, "B", 128)),
        ((None, None, None), (2, "batch", 128), (2, "B", 128)),
        ((1, 64), (1, 64), ("B", 64)),
        ((), (), ("B",)),
        ((2, 64), (2, 64), ("B", 2, 64)),
        ((None, "past", 64), (None, "all", 64), None),
    ],
)
def test_axes_of_a_state(
    before: tuple[int | str | None, ...],
    after: tuple[int | str | None, ...],
    shape: tuple[int | str, ...] | None,
) -> None:
    found = place_state(Port("s", "float32", before), Port("t", "float32", after), "n")
    assert (found.shape if isinstance(found, Placed) else None) == shape


@pytest.mark.parametrize(
    ("dims", "runs", "shape"),
    [
        ((None, None, 5), {1: (1, 1, 5), 4: (1, 4, 5)}, ("B", "T", 5)),
        ((None, None), {4: (1, 4)}, ("B", "T")),
        ((None, None), {4: (1, 1)}, ("B", 1)),
        ((None,), {4: (4,)}, ("B", "T")),
        ((None, None, None), {4: (1, 4, 4)}, ("B", "T", 4)),
        ((None, None, None, None), {4: (1, 2, 4, 4)}, None),
        ((None, None), {1: (1, 1), 4: (1, 2)}, None),
        ((None, None, None), {1: (1, 1, 7)}, ("B", "T", 7)),
        ((None, None), {1: (1, 7)}, ("B", 7)),
    ],
)
def test_axes_of_an_output(
    dims: tuple[int | str | None, ...],
    runs: dict[int, tuple[int, ...]],
    shape: tuple[int | str, ...] | None,
) -> None:
    chunk = place_chunk(Port("x", "float32", ("B", "T", 3)))
    assert isinstance(chunk, Placed)
    found = place_output(Port("y", "float32", dims), chunk, runs, "T")
    assert (found.shape if isinstance(found, Placed) else None) == shape
