"""Kinds of files that are no steps, or not the steps they are said to be: each is told by name."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.steps import FLOAT, INT64, Array, drawn, info, model_bytes

from dst.export import (
    AdoptCheckError,
    Adopted,
    AdoptError,
    Answers,
    OpenQuestionsError,
    adopt_bundle,
)
from dst.graphs.randomness import random_operators

WIDTH = 3
Node = onnx.NodeProto


def adopt(folder: Path, model: bytes, answers: Answers, **more: object) -> Adopted:
    (folder / "m.onnx").write_bytes(model)
    return adopt_bundle(folder / "m.onnx", folder / "b", answers, name="b", **more)  # type: ignore[arg-type]


def refused(
    folder: Path, model: bytes, answers: Answers, code: str = "adopt", data: Array | None = None
) -> str:
    """Adopt what must be refused, and return the message."""
    with pytest.raises(AdoptError) as caught:
        adopt(folder, model, answers, data=data)
    assert caught.value.code == code
    assert not (folder / "b").exists()
    return str(caught.value)


def sums(
    extra: Sequence[Node] = (),
    answer: str = "all",
    inputs: Sequence[onnx.ValueInfoProto] = (),
    weights: Mapping[str, Array] | None = None,
    time: int | str = "time",
) -> bytes:
    """Take x [1, T, 3], h [1, 3] -> y, the running sum (or another value), h_out."""
    return model_bytes(
        [
            helper.make_node("CumSum", ["x", "one"], ["sums"]),
            helper.make_node("Unsqueeze", ["h", "ones"], ["before"]),
            helper.make_node("Add", ["sums", "before"], ["all"]),
            helper.make_node("ReduceSum", ["x", "ones"], ["gain"], keepdims=0),
            helper.make_node("Add", ["h", "gain"], ["h_out"]),
            *extra,
            helper.make_node("Identity", [answer], ["y"]),
        ],
        [info("x", ["batch", time, WIDTH]), info("h", ["batch", WIDTH]), *inputs],
        [info("y", ["batch", time, WIDTH]), info("h_out", ["batch", WIDTH])],
        {"one": np.array(1, np.int64), "ones": np.array([1], np.int64), **(weights or {})},
    )


# Random numbers


def within(kind: str, nodes: Sequence[Node], result: str) -> list[Node]:
    """Put nodes that make `result` from `all` inside another node, which gives `noisy`."""
    if kind == "plain":
        return [*nodes, helper.make_node("Identity", [result], ["noisy"])]
    if kind == "If":
        body = helper.make_graph(nodes, "g", [], [info(result, None)])
        other = [helper.make_node("Identity", ["all"], ["same"])]
        still = helper.make_graph(other, "g", [], [info("same", None)])
        branch = helper.make_node("If", ["yes"], ["noisy"], then_branch=body, else_branch=still)
        return [branch]
    if kind == "Loop":
        ends = helper.make_node("Identity", ["go"], ["goes"])
        body = helper.make_graph(
            [ends, *nodes, helper.make_node("Add", ["carried", result], ["next"])],
            "g",
            [info("i", [], INT64), info("go", [], TensorProto.BOOL), info("carried", None)],
            [info("goes", [], TensorProto.BOOL), info("next", None)],
        )
        return [helper.make_node("Loop", ["two", "yes", "all"], ["noisy"], body=body)]
    assert kind == "Scan"
    body = helper.make_graph(
        [helper.make_node("Add", ["row", "zero"], ["all_"]), *nodes],
        "g",
        [info("row", ["b", WIDTH])],
        [info(result, ["b", WIDTH])],
    )
    for node in body.node:
        node.input[:] = ["all_" if name == "all" else name for name in node.input]
    scan = helper.make_node("Scan", ["all"], ["noisy"], body=body, num_scan_inputs=1)
    for name in ("scan_input_axes", "scan_output_axes"):
        scan.attribute.append(helper.make_attribute(name, [1]))
    return [scan]


def drawing(kind: str) -> list[Node]:
    """Make nodes that give `drawn`, of the shape of `all`, by random numbers."""
    add = helper.make_node("Add", ["all", "noise"], ["drawn"])
    like = {
        "RandomNormalLike": [helper.make_node("RandomNormalLike", ["all"], ["noise"])],
        "RandomUniformLike": [
            helper.make_node("RandomUniformLike", ["all"], ["noise"], seed=3.0)  # a fixed seed too
        ],
        "RandomNormal": [helper.make_node("RandomNormal", [], ["noise"], shape=[1, 1])],
        "RandomUniform": [helper.make_node("RandomUniform", [], ["noise"], shape=[1, 1])],
        "Bernoulli": [
            helper.make_node("Sigmoid", ["all"], ["p"]),
            helper.make_node("Bernoulli", ["p"], ["noise"]),
        ],
        "Multinomial": [
            helper.make_node("Multinomial", ["chances"], ["which"], sample_size=1),
            helper.make_node("Cast", ["which"], ["noise"], to=FLOAT),
        ],
    }
    if kind == "Dropout":
        return [helper.make_node("Dropout", ["all", "half", "yes"], ["drawn"])]
    return [*like[kind], add]


CONSTANTS = {
    "yes": np.array(True),
    "two": np.array(2, np.int64),
    "half": np.array(0.5, np.float32),
    "zero": np.array(0, np.float32),
    "chances": np.zeros((1, 50), np.float32),
}
RANDOM = (
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
    "Dropout",
)


PLACES = ("plain", "If", "Loop", "Scan")
DRAWING = [(kind, place) for kind in RANDOM for place in PLACES]
DRAWING.remove(("Dropout", "plain"))  # ONNX Runtime takes it out: see the test of remarks


@pytest.mark.parametrize(("kind", "place"), DRAWING)
def test_random_numbers_are_told_at_any_depth(tmp_path: Path, kind: str, place: str) -> None:
    model = sums(within(place, drawing(kind), "drawn"), "noisy", weights=CONSTANTS)
    told = refused(tmp_path, model, Answers(t=(4,), tail="refuse"), "random")
    assert (kind if place == "plain" else f"{kind} in {place}") in told
    assert "evaluation mode" in told


def test_random_numbers_in_a_local_function_are_told(tmp_path: Path) -> None:
    function = helper.make_function(
        "mine", "Noisy", ["all"], ["drawn"], drawing("RandomNormalLike"), [opset(18)]
    )
    call = helper.make_node("Noisy", ["all"], ["noisy"], domain="mine")
    model = onnx.load_from_string(sums())
    del model.graph.node[-1]
    model.graph.node.extend([call, helper.make_node("Identity", ["noisy"], ["y"])])
    model.functions.append(function)
    model.opset_import.append(opset(1, "mine"))
    told = refused(tmp_path, model.SerializeToString(), Answers(t=(4,), tail="refuse"), "random")
    assert "RandomNormalLike" in told


def opset(version: int, domain: str = "") -> onnx.OperatorSetIdProto:
    made: onnx.OperatorSetIdProto = helper.make_opsetid(domain, version)
    return made


def test_random_numbers_in_the_state_are_told(tmp_path: Path) -> None:
    model = onnx.load_from_string(sums())
    for node in model.graph.node:
        node.output[:] = ["kept" if name == "h_out" else name for name in node.output]
    model.graph.node.extend(
        [
            helper.make_node("RandomNormalLike", ["kept"], ["noise"]),
            helper.make_node("Add", ["kept", "noise"], ["h_out"]),
        ]
    )
    told = refused(tmp_path, model.SerializeToString(), Answers(t=(4,), tail="refuse"), "random")
    assert "`h_out`" in told


def test_a_dropout_that_is_off_draws_nothing(tmp_path: Path) -> None:
    off = {**CONSTANTS, "yes": np.array(False)}
    model = sums(within("plain", drawing("Dropout"), "drawn"), "noisy", weights=off)
    assert random_operators(onnx.load_from_string(model)) == ()
    done = adopt(tmp_path, model, Answers(t=(4,), tail="refuse"))
    assert all("Dropout" not in finding.text for finding in done.findings)


def test_a_random_operator_that_does_not_show_is_remarked(tmp_path: Path) -> None:
    off = {**CONSTANTS, "yes": np.array(False)}  # the branch that draws is not taken
    model = sums(within("If", drawing("RandomNormalLike"), "drawn"), "noisy", weights=off)
    done = adopt(tmp_path, model, Answers(t=(4,), tail="refuse"))
    (finding,) = [f for f in done.findings if "RandomNormalLike in If" in f.text]
    assert not finding.fine


def test_a_dropout_that_the_runtime_takes_out_is_remarked(tmp_path: Path) -> None:
    model = sums(within("plain", drawing("Dropout"), "drawn"), "noisy", weights=CONSTANTS)
    assert random_operators(onnx.load_from_string(model)) == ("Dropout",)
    try:
        done = adopt(tmp_path, model, Answers(t=(4,), tail="refuse"))
    except AdoptCheckError as error:  # a release of ONNX Runtime that leaves it in
        told, code = str(error), error.code
    else:
        (finding,) = [f for f in done.findings if not f.fine]
        told, code = finding.text, "random"
    assert ("Dropout" in told, code) == (True, "random")


# The cut


def lstm(direction: str, time: int | str = "time") -> bytes:
    ways = 2 if direction == "bidirectional" else 1
    nodes = [
        helper.make_node(
            "LSTM",
            ["x", "w", "r", "", "", "h0", "c0"],
            ["yt", "hn", "cn"],
            hidden_size=4,
            direction=direction,
        ),
        helper.make_node("Transpose", ["yt"], ["yy"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["yy", "flat"], ["y"]),
    ]
    state: list[int | str | None] = [ways, "batch", 4]
    return model_bytes(
        nodes,
        [info("x", [time, "batch", WIDTH]), info("h0", state), info("c0", state)],
        [info("y", [time, "batch", 4 * ways]), info("hn", state), info("cn", state)],
        {
            "w": drawn(ways, 16, WIDTH, seed=0, scale=0.4),
            "r": drawn(ways, 16, 4, seed=1, scale=0.4),
            "flat": np.array([0, 0, -1], np.int64),
        },
    )


def centred(time: int | str = "time") -> bytes:
    """Subtract the mean of the chunk: later items move earlier outputs."""
    mean = helper.make_node("ReduceMean", ["all", "ones"], ["mean"], keepdims=1)
    return sums([mean, helper.make_node("Sub", ["all", "mean"], ["less"])], "less", time=time)


def forgetful() -> bytes:
    """Keep the last item alone of a chunk in the state: right at T = 1, causal at any T."""
    model = onnx.load_from_string(
        sums([helper.make_node("Add", ["x", "before"], ["near"])], "near")
    )
    kept = [node for node in model.graph.node if "h_out" not in node.output]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["x", "last"], ["newest"], axis=1),
            helper.make_node("Mul", ["h", "fade"], ["faded"]),
            helper.make_node("Add", ["faded", "newest"], ["h_out"]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(-1, np.int64), "last"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0.5], np.float32), "fade"))
    onnx.checker.check_model(model)
    made: bytes = model.SerializeToString()
    return made


@pytest.mark.parametrize("tail", ["pad", "refuse"])
@pytest.mark.parametrize("sizes", [(8,), (4, 8)])
@pytest.mark.parametrize("make", [lambda: lstm("bidirectional"), lambda: lstm("reverse"), centred])
def test_later_items_that_move_earlier_outputs_are_labelled(
    tmp_path: Path, make: Callable[[], bytes], sizes: tuple[int, ...], tail: str
) -> None:
    done = adopt(tmp_path, make(), Answers(t=sizes, tail=tail))  # type: ignore[arg-type]
    assert done.manifest.contract.chunk.causal is False
    told = [finding.text for finding in done.findings if not finding.fine]
    assert any(text.startswith("non-causal: ") and "`y`" in text for text in told)
    assert any("T = 4" in text for text in told)  # given, or tried because the axis is free


@pytest.mark.parametrize("make", [lambda: lstm("bidirectional", 8), lambda: centred(8)])
def test_one_fixed_t_is_enough_to_tell(tmp_path: Path, make: Callable[[], bytes]) -> None:
    done = adopt(tmp_path, make(), Answers(t=(8,), tail="refuse"))
    assert done.manifest.contract.chunk.causal is False


@pytest.mark.parametrize("make", [lambda: lstm("bidirectional"), centred])
@pytest.mark.parametrize("tail", ["exact", None])
def test_an_exact_tail_is_refused_for_such_a_model(
    tmp_path: Path, make: Callable[[], bytes], tail: str | None
) -> None:
    told = refused(tmp_path, make(), Answers(t=(1, 8), tail=tail), "not-causal")  # type: ignore[arg-type]
    assert "later items of a chunk move earlier outputs" in told
    assert "--tail" in told


@pytest.mark.parametrize("make", [lambda: lstm("bidirectional"), centred, forgetful])
def test_chunks_of_one_item_are_right_and_others_remarked(
    tmp_path: Path, make: Callable[[], bytes]
) -> None:
    done = adopt(tmp_path, make(), Answers(t=(1,)))
    assert done.manifest.contract.chunk.causal is True
    assert any("T = 2 would answer otherwise" in f.text for f in done.findings if not f.fine)


@pytest.mark.parametrize("tail", ["pad", "refuse", None])
def test_what_is_lost_at_the_cut_is_told_apart(tmp_path: Path, tail: str | None) -> None:
    sizes = (4, 8) if tail else (1, 8)
    told = refused(tmp_path, forgetful(), Answers(t=sizes, tail=tail), "cut-matters")  # type: ignore[arg-type]
    assert "the cut matters" in told
    assert "no later item moves an earlier output" in told
    done = adopt(tmp_path, forgetful(), Answers(t=(8,), tail="refuse"))
    assert done.manifest.contract.chunk.causal is True
    (finding,) = [f for f in done.findings if not f.fine]
    assert "the cut matters" in finding.text
    assert "lost at the end of a chunk" in finding.text


@pytest.mark.parametrize(
    "answers", [Answers(t=(8,), tail="pad"), Answers(t=(1, 8)), Answers(t=(1,))]
)
@pytest.mark.parametrize("make", [lambda: lstm("forward"), sums])
def test_right_models_have_no_such_remark(
    tmp_path: Path, make: Callable[[], bytes], answers: Answers
) -> None:
    done = adopt(tmp_path, make(), answers)
    assert done.manifest.contract.chunk.causal is True
    assert all(finding.fine for finding in done.findings), done.findings


# What no bundle holds, said first


@pytest.mark.parametrize("names", [("batch", "time"), ("s1", "s2"), ("N", "frames")])
def test_two_streams_of_items_are_told_first(tmp_path: Path, names: tuple[str, str]) -> None:
    add = helper.make_node("Add", ["all", "f0"], ["shifted"])
    model = onnx.load_from_string(sums([add], "shifted", [info("f0", [*names, 1])]))
    for value in (*model.graph.input[:2], *model.graph.output):
        for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
            if dim.HasField("dim_param"):
                dim.dim_param = name
    told = refused(tmp_path, model.SerializeToString(), Answers())
    assert "`x` and `f0` both take new items in each step" in told
    assert "side by side" in told
    assert "open; answer" not in told


def test_a_step_that_only_carries_is_told_first(tmp_path: Path) -> None:
    model = onnx.load_from_string(sums())
    del model.graph.output[0]
    told = refused(tmp_path, model.SerializeToString(), Answers())
    assert "must answer something" in told
    assert "Identity" in told


def test_what_is_no_tensor_is_told_with_what_to_export(tmp_path: Path) -> None:
    model = onnx.load_from_string(sums())
    extra = helper.make_tensor_sequence_value_info("list", FLOAT, None)
    model.graph.input.append(extra)
    told = refused(tmp_path, model.SerializeToString(), Answers())
    assert "m.onnx: input `list` is no tensor but sequence" in told
    assert "of its own" in told


def test_an_output_that_is_no_tensor_can_be_dropped(tmp_path: Path) -> None:
    model = onnx.load_from_string(sums())
    model.graph.node.append(helper.make_node("SequenceConstruct", ["all", "sums"], ["list"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("list", FLOAT, None))
    told = refused(tmp_path, model.SerializeToString(), Answers(t=(1, 4)))
    assert "output `list` is no tensor but sequence" in told
    assert "--drop" in told
    done = adopt(tmp_path, model.SerializeToString(), Answers(t=(1, 4), drop=["list"]))
    assert [o.name for o in done.manifest.contract.outputs] == ["y"]


def test_a_chunk_whose_answer_is_longer_does_not_grow(tmp_path: Path) -> None:
    """Two samples for each item, and an input that is left: `x_out` is no next value of `x`."""
    model = model_bytes(
        [
            helper.make_node("Add", ["x", "bias"], ["shifted"]),
            helper.make_node("Concat", ["shifted", "shifted"], ["x_out"], axis=1),
            helper.make_node("ReduceSum", ["x", "ones"], ["gain"], keepdims=1),
            helper.make_node("Add", ["h", "gain"], ["h_out"]),
        ],
        [info("x", [1, "T"]), info("bias", [1, 1]), info("h", [1, 1])],
        [info("x_out", [1, "T2"]), info("h_out", [1, 1])],
        {"ones": np.array([1], np.int64)},
    )
    with pytest.raises(OpenQuestionsError, match="--stream-input bias"):
        adopt(tmp_path, model, Answers())
    done = adopt(tmp_path, model, Answers(stream_inputs={"bias": None}, t=(4,), tail="pad"))
    assert done.manifest.contract.outputs[0].shape == ("B", 8)


def test_whole_numbers_that_are_no_tokens_are_told_first(tmp_path: Path) -> None:
    pictures: list[int | str | None] = ["b", "time", 4, 4, 3]
    signal: list[int | str | None] = ["b", "t"]
    for dtype, shape in ((TensorProto.UINT8, pictures), (TensorProto.INT8, signal)):
        model = model_bytes(
            [
                helper.make_node("Cast", ["x"], ["f"], to=FLOAT),
                helper.make_node("ReduceMax", ["f"], ["top"], keepdims=0),
                helper.make_node("Add", ["h", "top"], ["h_out"]),
                helper.make_node("Identity", ["h_out"], ["y"]),
            ],
            [info("x", shape, dtype), info("h", ["b", 2])],
            [info("y", ["b", 2]), info("h_out", ["b", 2])],
            {},
        )
        told = refused(tmp_path, model, Answers())
        assert "no token ids" in told
        assert "Cast" in told


def test_a_file_that_cannot_be_loaded_is_told_before_questions(tmp_path: Path) -> None:
    model = onnx.load_from_string(sums())
    model.graph.node.append(helper.make_node("NoSuch", ["all"], ["z"], domain="mine"))
    model.opset_import.append(opset(1, "mine"))
    told = refused(tmp_path, model.SerializeToString(), Answers())
    assert "cannot be loaded" in told
    assert "NoSuch" in told


# One item or many


@pytest.mark.parametrize("batch", ["batch", 1, "N", "s7"])
def test_a_row_of_numbers_is_asked_about(tmp_path: Path, batch: int | str) -> None:
    model = model_bytes(
        [
            helper.make_node("MatMul", ["obs", "a"], ["oa"]),
            helper.make_node("Add", ["oa", "h"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["h_out"]),
            helper.make_node("MatMul", ["h_out", "c"], ["act"]),
        ],
        [info("obs", [batch, 48]), info("h", [batch, 4])],
        [info("act", [batch, 2]), info("h_out", [batch, 4])],
        {"a": drawn(48, 4, seed=0), "c": drawn(4, 2, seed=1)},
    )
    with pytest.raises(OpenQuestionsError) as caught:
        adopt(tmp_path, model, Answers())
    told = str(caught.value)
    assert "is it one item of 48 features (B,48), or 48 items of one number (B,T" in told
    assert "--shape obs=B,48   or --shape obs=B,T" in told
    assert "for example, add: --shape obs=B,48\n" in told
    for answers in (Answers(shapes={"obs": ("B", 48)}), Answers(t=(1,))):
        (tmp_path / "m.onnx").write_bytes(model)
        done = adopt_bundle(tmp_path / "m.onnx", tmp_path / "b", answers, name="b", overwrite=True)
        assert done.manifest.contract.chunk.shape == ("B", "T", 48)
        assert done.manifest.contract.chunk.allowed_t == (1,)
    many = adopt_bundle(
        tmp_path / "m.onnx", tmp_path / "b", Answers(t=(48,), tail="pad"), name="b", overwrite=True
    )
    assert many.manifest.contract.chunk.shape == ("B", "T")
