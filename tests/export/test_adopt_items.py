"""Files that read fewer items than a chunk holds, answer single tokens, or keep a short window."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.adopting import ITEM, adopt, loop
from tests.steps import Array, drawn, info, model_bytes

from dst.export import AdoptCheckError, AdoptError, Answers
from dst.runtime import Session, Stream

INT64 = TensorProto.INT64


def traced(count: int, time: int | str = "time") -> bytes:
    """A loop over time that was written out for ``count`` items; more are not read."""
    nodes, before, answers = [], "h", []
    for i in range(count):
        after = "h_out" if i == count - 1 else f"h{i}"
        nodes += [
            helper.make_node("Gather", ["x", f"i{i}"], [f"x{i}"], axis=1),
            helper.make_node("MatMul", [f"x{i}", "w"], [f"p{i}"]),
            helper.make_node("Add", [f"p{i}", before], [f"s{i}"]),
            helper.make_node("Tanh", [f"s{i}"], [after]),
            helper.make_node("Unsqueeze", [after, "one"], [f"y{i}"]),
        ]
        before = after
        answers.append(f"y{i}")
    nodes.append(helper.make_node("Concat", answers, ["y"], axis=1))
    numbers: dict[str, Array] = {f"i{i}": np.array(i) for i in range(count)}
    return model_bytes(
        nodes,
        [info("x", ["B", time, 8]), info("h", ["B", 8])],
        [info("y", ["B", count, 8]), info("h_out", ["B", 8])],
        {"w": drawn(8, 8, seed=0, scale=0.3), "one": np.array([1]), **numbers},
    )


@pytest.mark.parametrize("t", [4, 5, 16])
@pytest.mark.parametrize("tail", ["pad", "refuse"])
def test_a_loop_that_was_written_out_for_fewer_items_is_refused(
    tmp_path: Path, t: int, tail: str
) -> None:
    with pytest.raises(AdoptCheckError, match="only the first 3 make a difference") as caught:
        adopt(tmp_path, traced(3), Answers(t=(t,), tail=tail))  # type: ignore[arg-type]
    assert caught.value.code == "items-not-read"
    assert "say --t 3," in str(caught.value).lower()
    assert not (tmp_path / "b").exists()


def test_the_size_it_was_written_out_for_is_taken(tmp_path: Path) -> None:
    done = adopt(tmp_path, traced(3), Answers(t=(3,), tail="pad"))
    assert done.manifest.contract.outputs[0].per == "item"
    with pytest.raises(AdoptCheckError, match=r"T = 3, 8 runs.*say --t 3,"):
        adopt(tmp_path, traced(3), Answers(t=(2,), tail="pad"), "c")


def test_a_fixed_chunk_whose_last_items_are_not_read_is_remarked(tmp_path: Path) -> None:
    done = adopt(tmp_path, traced(3, time=5), Answers(shapes={"x": ("B", "T", 8)}, tail="pad"))
    (told,) = [finding.text for finding in done.findings if not finding.fine]
    assert "of the 5 items that a step takes only the first 3" in told


def words(table: int = 40) -> bytes:
    """Add up the rows of a table, token by token."""
    return model_bytes(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("CumSum", ["rows", "axis"], ["sums"]),
            helper.make_node("Unsqueeze", ["h", "axis"], ["before"]),
            helper.make_node("Add", ["sums", "before"], ["y"]),
            helper.make_node("ReduceSum", ["rows", "axis"], ["sum"], keepdims=0),
            helper.make_node("Add", ["sum", "h"], ["h_out"]),
        ],
        [info("ids", ["B", "time"], INT64), info("h", ["B", 8])],
        [info("y", ["B", "time", 8]), info("h_out", ["B", 8])],
        {"table": drawn(table, 8, seed=0), "axis": np.array([1])},
    )


def test_single_tokens_are_answered_item_by_item(tmp_path: Path) -> None:
    done = adopt(tmp_path, words(), Answers(t=(1,), vocabulary=40))
    (output,) = done.manifest.contract.outputs
    assert (output.shape, output.per) == (("B", "T", 8), "item")
    ids = np.random.default_rng(0).integers(0, 40, 9)
    assert Session.open(tmp_path / "b").stream().advance(ids)["y"].shape == (1, 9, 8)


def test_a_number_given_once_per_stream(tmp_path: Path) -> None:
    model = model_bytes(
        [
            helper.make_node("Gather", ["table", "who"], ["row"]),
            helper.make_node("Add", ["x", "row"], ["s"]),
            helper.make_node("Add", ["s", "h"], ["t"]),
            helper.make_node("Tanh", ["t"], ["h_out"]),
            helper.make_node("Identity", ["h_out"], ["y"]),
        ],
        [info("x", ["B", 8]), info("who", [], INT64), info("h", ["B", 8])],
        [info("y", ["B", 8]), info("h_out", ["B", 8])],
        {"table": drawn(10, 8, seed=0, scale=1.0)},
    )
    adopt(tmp_path, model, Answers(shapes=ITEM, stream_inputs={"who": None}))
    session, items = Session.open(tmp_path / "b"), drawn(9, 8, seed=1)
    for who in (np.array(3), np.array(7)):
        feeds = [{"x": item[None], "who": who} for item in items]
        start: dict[str, Array] = {"h": np.zeros((1, 8), np.float32)}
        steps = loop(tmp_path / "b.onnx", feeds, start, {"h": "h_out"})
        stream = session.stream(inputs={"who": who})
        first = stream.advance(items[:4])["y"]
        stream.save(tmp_path / "state")
        rest = Stream.load(session, tmp_path / "state").advance(items[4:])["y"]
        expected = np.stack([step["y"][0] for step in steps])
        assert np.array_equal(np.concatenate([first, rest], 1)[0], expected)


def window(length: int, kept: bool) -> bytes:
    """Keep the last items in a window whose length the file leaves open, or all of them."""
    nodes = [
        helper.make_node("Concat", ["past", "x"], ["all"], axis=1),
        helper.make_node("Slice", ["all", "from", "to", "axis"], ["past_out"]),
        helper.make_node("ReduceMean", ["past_out", "axis"], ["mean"], keepdims=1),
        helper.make_node("Add", ["x", "mean"], ["y"]),
    ]
    return model_bytes(
        nodes,
        [info("x", ["B", 1, 8]), info("past", ["B", "slots", 8])],
        [info("y", ["B", 1, 8]), info("past_out", ["B", "after", 8])],
        {
            "from": np.array([-length if kept else 0]),
            "to": np.array([1 << 30]),
            "axis": np.array([1]),
        },
    )


def test_a_window_of_fixed_length_does_not_grow(tmp_path: Path) -> None:
    past = Answers(chunk="x", states={"past": "past_out"})
    with pytest.raises(AdoptError, match="--shape past=B,slots,8   with a number"):
        adopt(tmp_path, window(16, kept=True), past)
    with pytest.raises(AdoptError, match="the state grows with each chunk"):
        adopt(tmp_path, window(16, kept=False), past, "c")


@pytest.mark.parametrize(("table", "fine"), [(40, True), (3000, False)])
def test_tokens_that_were_not_read_are_not_proved(tmp_path: Path, table: int, fine: bool) -> None:
    answers = Answers(t=(1,), vocabulary=table)
    adopt(tmp_path, words(table), answers, "old")
    done = adopt(tmp_path, words(table), answers, "new", model_of=tmp_path / "old")
    (told,) = [finding for finding in done.findings if "keeps its id" in finding.text]
    assert told.fine is fine
    assert ("1,000 of 3,000 tokens were read" in told.text) is not fine


def test_a_cache_that_no_name_pairs_grows_in_the_first_message(tmp_path: Path) -> None:
    model = onnx.load_from_string(window(16, kept=False))
    for node in model.graph.node:
        node.output[:] = ["longer" if name == "past_out" else name for name in node.output]
        node.input[:] = ["longer" if name == "past_out" else name for name in node.input]
    model.graph.output[1].name = "longer"
    with pytest.raises(AdoptError, match="the state grows with each chunk: `past`") as caught:
        adopt(tmp_path, model.SerializeToString(), Answers())
    assert caught.value.code == "state-grows"
