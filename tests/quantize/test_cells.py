"""LSTM, GRU, RNN and convolutions are held in 8 bits: small, close, and with true reasons."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.raising import refused
from tests.steps import Floats, drawn, info

from dst.cli.app import call
from dst.evaluate.quality.causality import causality_of
from dst.graphs.walk import nodes_of
from dst.quantize import (
    Calibration,
    NothingQuantizedError,
    Override,
    Quantized,
    QuantizeError,
    quantize_bundle,
)
from dst.runtime import Session, open_bundle

Array = npt.NDArray[np.generic]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUTS, T = 32, 8
LEAST = {"LSTM": 256, "GRU": 384, "RNN": 384}
"""Hidden units from which on each has an 8-bit form in every recipe that rounds activations."""
CLOSE = 0.05


def saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    ends: tuple[Sequence[onnx.ValueInfoProto], Sequence[onnx.ValueInfoProto]],
    weights: Mapping[str, Array],
    opset: int = 17,
) -> Path:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[0], ends[1], tensors)
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))
    return path


def cell(
    path: Path,
    operator: str,
    hidden: int,
    *,
    bias: bool = True,
    peepholes: bool = False,
    directions: int = 1,
    attributes: Mapping[str, object] | None = None,
) -> Path:
    """A step x [T, B, 32] -> y with one recurrent operator, its state an input."""
    rows = GATES[operator] * hidden
    state = ["h", "c"] if operator == "LSTM" else ["h"]
    weights: dict[str, Array] = {
        "w": drawn(directions, rows, INPUTS, seed=1, scale=hidden**-0.5),
        "r": drawn(directions, rows, hidden, seed=2, scale=hidden**-0.5),
        "shape": np.array([0, 0, directions * hidden]),
    }
    inputs = ["x", "w", "r", "b" if bias else "", "", *state]
    if bias:
        weights["b"] = drawn(directions, 2 * rows, seed=3)
    if peepholes:
        weights["p"] = drawn(directions, 3 * hidden, seed=4)
        inputs.append("p")
    outputs = ["all", *(f"{name}_out" for name in state)]
    nodes = [
        helper.make_node(operator, inputs, outputs, "cell", hidden_size=hidden),
        helper.make_node("Transpose", ["all"], ["turned"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["turned", "shape"], ["y"]),
    ]
    for name, value in (attributes or {}).items():
        nodes[0].attribute.append(helper.make_attribute(name, value))
    held = [info(name, [directions, "batch", hidden]) for name in state]
    after = [info(f"{name}_out", [directions, "batch", hidden]) for name in state]
    x = info("x", ["time", "batch", INPUTS])
    y = info("y", ["time", "batch", directions * hidden])
    return saved(path, nodes, ([x, *held], [y, *after]), weights)


def adopted(path: Path, *words: str) -> Path:
    out = path.with_suffix("")
    usual = words or ("--t", f"1,{T}")
    assert call(["adopt", str(path), "--out", str(out), *usual]) == 0
    return out


def rows(width: int = INPUTS, count: int = 64) -> Floats:
    return drawn(count, width, seed=7, scale=1.0)


def apart(full: Path, other: Path, items: Floats) -> float:
    right, found = (np.float64(Session.open(p).stream().advance(items)["y"]) for p in (full, other))
    return float(np.linalg.norm(right - found) / np.linalg.norm(right))


def operators(done: Quantized) -> set[str]:
    file = done.bundle.manifest.graphs[0].file
    model = onnx.load(str(done.bundle.root / file), load_external_data=False)
    return {node.op_type for node in nodes_of(model.graph)}


@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-rows", "int8-weights", "int4-weights"])
@pytest.mark.parametrize("operator", GATES)
def test_a_recurrent_operator_takes_a_quarter_of_the_bytes(
    operator: str, recipe: str, tmp_path: Path
) -> None:
    full = adopted(cell(tmp_path / "step.onnx", operator, LEAST[operator]))
    done = quantize_bundle(full, tmp_path / "q", recipe)
    (record,) = done.records
    assert (record.weight, record.more, record.role) == ("w", ("r",), "cell")
    active = recipe in ("int8-dynamic", "int8-rows")
    assert record.form == (recipe if active else "int8-stored")
    assert record.reason == ""
    before, after = done.weights_bytes
    assert after < 0.27 * before
    assert 0 < apart(full, tmp_path / "q", rows()) < CLOSE
    if active:
        assert operator not in operators(done)  # none multiplies in float32
    graphs = [bundle.manifest.graphs[0] for bundle in (open_bundle(full), done.bundle)]
    before, after = (sum(graph.multiply_adds.values()) for graph in graphs)
    assert before == after > 0


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("late", [0, 1])
def test_item_by_item_no_later_item_moves_an_answer(
    operator: str, late: int, tmp_path: Path
) -> None:
    more = {"linear_before_reset": late} if operator == "GRU" else {}
    full = adopted(cell(tmp_path / "step.onnx", operator, LEAST[operator], attributes=more))
    quantize_bundle(full, tmp_path / "q", "int8-rows")
    assert apart(full, tmp_path / "q", rows()) < CLOSE
    session = Session.open(tmp_path / "q", chunk_sizes=[T])
    assert session.contract.chunk.allowed_t == (1, T)
    assert "non-causal" not in str(session.bundle.manifest.recipe)
    first = rows(count=T)[:, None]
    other = first.copy()
    other[T // 2 :] *= 50
    one, two = (session.stream().step(chunk)["y"][: T // 2] for chunk in (first, other))
    assert np.array_equal(one, two)


def test_one_answer_per_chunk_is_no_proof_that_its_scale_spans_nothing(tmp_path: Path) -> None:
    model = onnx.load(str(cell(tmp_path / "m.onnx", "LSTM", 256)))
    model.graph.initializer.append(numpy_helper.from_array(np.array(-1), "at"))
    model.graph.node.append(helper.make_node("Gather", ["y", "at"], ["last"], axis=0))
    model.graph.output[0].CopyFrom(info("last", ["batch", 256]))
    onnx.save(model, str(tmp_path / "m.onnx"))
    done = quantize_bundle(adopted(tmp_path / "m.onnx"), tmp_path / "q", "int8-dynamic")
    found = causality_of(Session.open(done.bundle.root), T, rows())
    assert not found.causal
    assert "each T is another model" in found.note
    items = causality_of(Session.open(tmp_path / "m"), T, rows())
    assert items.causal, "no scale at all"


KINDS: list[tuple[str, dict[str, object], str]] = [
    ("LSTM", {}, ""),
    ("LSTM", {"clip": 0.5}, ""),
    ("LSTM", {"input_forget": 1}, ""),
    ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Tanh"]}, ""),
    ("GRU", {}, ""),
    ("GRU", {"linear_before_reset": 1}, ""),
    ("RNN", {}, ""),
    ("GRU", {"clip": 1.0}, "GRU with clip has no 8-bit form"),
    ("RNN", {"activations": ["Relu"]}, "other activations than Tanh"),
]


@pytest.mark.parametrize(("operator", "more", "reason"), KINDS)
@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-rows"])
def test_every_kind_is_right_or_only_stored_with_its_reason(
    operator: str, more: dict[str, object], reason: str, recipe: str, tmp_path: Path
) -> None:
    path, peepholes = tmp_path / "step.onnx", operator == "LSTM"
    full = adopted(
        cell(path, operator, LEAST[operator], bias=False, peepholes=peepholes, attributes=more)
    )
    done = quantize_bundle(full, tmp_path / "q", recipe)
    (record,) = done.records
    assert record.form == ("int8-stored" if reason else recipe)
    assert reason in record.reason
    assert apart(full, tmp_path / "q", rows()) < CLOSE


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_an_lstm_that_reads_backwards_is_not_stepped_item_by_item(
    direction: str, tmp_path: Path
) -> None:
    directions = 2 if direction == "bidirectional" else 1
    path = cell(
        tmp_path / "step.onnx",
        "LSTM",
        256,
        directions=directions,
        attributes={"direction": direction},
    )
    full = adopted(path, "--t", str(T), "--tail", "refuse")
    forms = {}
    for recipe in ("int8-dynamic", "int8-rows"):
        done = quantize_bundle(full, tmp_path / recipe, recipe)
        forms[recipe] = (done.records[0].form, "backwards" in done.records[0].reason)
        assert apart(full, tmp_path / recipe, rows()) < CLOSE
    assert forms == {"int8-dynamic": ("int8-dynamic", False), "int8-rows": ("int8-stored", True)}


def test_a_small_one_is_stored_and_an_override_insists(tmp_path: Path) -> None:
    full = adopted(cell(tmp_path / "step.onnx", "GRU", 64))
    done = quantize_bundle(full, tmp_path / "q", "int8-rows")
    assert done.records[0].form == "int8-stored"
    assert "from 384 hidden units on, this has 64" in done.records[0].reason
    forced = [Override("w", "int8-rows")]
    done = quantize_bundle(full, tmp_path / "f", "int8-rows", overrides=forced)
    assert done.records[0].form == "int8-rows"
    assert apart(full, tmp_path / "f", rows()) < CLOSE
    with refused(
        QuantizeError, "override", match="of a recurrent operator, which cannot be int4-block"
    ):
        quantize_bundle(full, tmp_path / "n", "int8-rows", overrides=[Override("r", "int4-block")])


def test_two_that_share_their_weights_share_the_bytes(tmp_path: Path) -> None:
    hidden = INPUTS
    names = ("h", "g")
    nodes = []
    for number, name in enumerate(names):
        source, result = ("x", "a") if number == 0 else ("a", "y")
        inputs = [source, "w", "r", "", "", name, f"{name}_c"]
        nodes += [
            helper.make_node(
                "LSTM", inputs, [f"{result}4", f"{name}_out", f"{name}_c_out"], hidden_size=hidden
            ),
            helper.make_node("Squeeze", [f"{result}4", "one"], [result]),
        ]
    weights = {
        "w": drawn(1, 4 * hidden, INPUTS, seed=1, scale=0.2),
        "r": drawn(1, 4 * hidden, hidden, seed=2, scale=0.2),
        "one": np.array([1]),
    }
    states = [f"{name}{end}" for name in names for end in ("", "_c")]
    before = [info("x", ["time", "batch", INPUTS])]
    before += [info(s, [1, "batch", hidden]) for s in states]
    after = [info("y", ["time", "batch", hidden])]
    after += [info(f"{s}_out", [1, "batch", hidden]) for s in states]
    full = adopted(saved(tmp_path / "step.onnx", nodes, (before, after), weights))
    for recipe in ("int8-dynamic", "int8-weights"):
        overrides = [Override("w", "int8-dynamic")] if recipe == "int8-dynamic" else []
        done = quantize_bundle(full, tmp_path / recipe, recipe, overrides=overrides)
        assert len(done.records) == 1
        assert done.weights_bytes[1] < 0.35 * done.weights_bytes[0]
        assert apart(full, tmp_path / recipe, rows()) < CLOSE


def test_weights_that_an_exporter_stacks_are_found(tmp_path: Path) -> None:
    """As torch's dynamo exporter writes them: gates cut, put in order, stacked; one cast, too."""
    hidden = 64
    w = drawn(4 * hidden, INPUTS, seed=1, scale=hidden**-0.5).astype(np.float16)
    r = drawn(4 * hidden, hidden, seed=2, scale=hidden**-0.5)
    order = (0, 3, 1, 2)
    nodes, weights = [], {"one": np.array([1]), "zero": np.array([0])}
    for name, array in (("w", w), ("r", r)):
        weights[f"{name}.raw"] = array
        parts = []
        for gate in order:
            weights |= {f"from{gate}": np.array([gate * hidden])}
            weights |= {f"to{gate}": np.array([(gate + 1) * hidden])}
            parts.append(f"{name}.{gate}")
            cut = [f"{name}.raw", f"from{gate}", f"to{gate}", "zero"]
            nodes.append(helper.make_node("Slice", cut, parts[-1:]))
        nodes.append(helper.make_node("Concat", parts, [f"{name}.all"], axis=0))
        nodes.append(helper.make_node("Unsqueeze", [f"{name}.all", "zero"], [f"{name}.up"]))
        nodes.append(helper.make_node("Cast", [f"{name}.up"], [name], to=1))
    inputs = ["x", "w", "r", "", "", "h", "c"]
    nodes.append(
        helper.make_node("LSTM", inputs, ["all", "h_out", "c_out"], "cell", hidden_size=hidden)
    )
    nodes.append(helper.make_node("Squeeze", ["all", "one"], ["y"]))
    x, y = info("x", ["time", "batch", INPUTS]), info("y", ["time", "batch", hidden])
    state = [info(name, [1, "batch", hidden]) for name in ("h", "c")]
    after = [info(f"{name}_out", [1, "batch", hidden]) for name in ("h", "c")]
    path = saved(tmp_path / "step.onnx", nodes, ([x, *state], [y, *after]), weights)
    full = adopted(path)
    done = quantize_bundle(full, tmp_path / "q", "int8-dynamic")
    assert [record.form for record in done.records] == ["int8-dynamic"]
    assert operators(done) == {"DynamicQuantizeLSTM", "Squeeze"}
    assert apart(full, tmp_path / "q", rows()) < CLOSE


def test_a_weight_that_is_computed_is_listed_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An RNN whose weights depend on the input, and no other weight."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["w", "mean"], ["w_now"]),
        helper.make_node("RNN", ["x", "w_now", "r", "", "", "h"], ["all", "h_out"], "cell",
                         hidden_size=64),
        helper.make_node("Squeeze", ["all", "one"], ["y"]),
    ]  # fmt: skip
    x, y = info("x", ["time", "batch", INPUTS]), info("y", ["time", "batch", 64])
    state, after = ([info(name, [1, "batch", 64])] for name in ("h", "h_out"))
    weights = {
        "w": drawn(1, 64, INPUTS, seed=1),
        "r": drawn(1, 64, 64, seed=2),
        "one": np.array([1]),
    }
    path = saved(tmp_path / "step.onnx", nodes, ([x, *state], [y, *after]), weights)
    full = adopted(path, "--t", "1")
    out = tmp_path / "q"
    with pytest.raises(NothingQuantizedError, match="a weight of RNN that is computed") as caught:
        quantize_bundle(full, out, "int8-rows")
    assert [record.role for record in caught.value.records] == ["operator"]
    assert caught.value.code == "nothing-quantized"
    assert call(["quantize", str(full), "--recipe", "int8-rows", "--out", str(out)]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "nothing was written" in shown
    assert "is computed by the graph" in shown
    assert not out.exists()


def convolutions(path: Path, spread: bool = False) -> Path:
    """A causal convolution, a depthwise one and one of single frames.

    ``spread`` makes the channels between them of very unequal size, as a folded batch norm does.
    """
    width = 512
    sizes = 10.0 ** np.random.default_rng(4).uniform(-2, 1, width) if spread else np.ones(width)
    size = sizes.astype(np.float32)[:, None, None]
    nodes = [
        helper.make_node("Concat", ["cache", "x"], ["whole"], axis=2),
        helper.make_node("Slice", ["whole", "from", "to", "axis"], ["cache_out"]),
        helper.make_node("Conv", ["whole", "full", "bias"], ["a"], "full"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "deep"], ["c"], "deep", group=width, pads=[1, 1]),
        helper.make_node("Conv", ["c", "point"], ["y"], "point"),
    ]
    weights = {
        "full": drawn(width, INPUTS, 5, seed=1, scale=0.1) * size,
        "bias": drawn(width, seed=2) * size[:, 0, 0],
        "deep": drawn(width, 1, 3, seed=3, scale=0.6),
        "point": drawn(48, width, 1, seed=4, scale=0.1) / size.reshape(1, -1, 1),
        "from": np.array([-4]),
        "to": np.array([2**31]),
        "axis": np.array([2]),
    }
    before = [info("x", ["batch", INPUTS, "time"]), info("cache", ["batch", INPUTS, 4])]
    after = [info("y", ["batch", 48, "time"]), info("cache_out", ["batch", INPUTS, 4])]
    return saved(path, nodes, (before, after), weights)


@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-rows", "int8-weights", "int8-static"])
def test_convolutions_are_a_quarter_and_close(recipe: str, tmp_path: Path) -> None:
    words = ("--t", str(T), "--tail", "refuse")
    full = adopted(convolutions(tmp_path / "step.onnx"), *words)
    seen = Calibration.of_items(rows(), 1)
    done = quantize_bundle(full, tmp_path / "q", recipe, calibration=seen)
    forms = {record.weight: record.form for record in done.records}
    form = "int8-static" if recipe == "int8-static" else "int8-stored"
    assert forms == {"full": form, "deep": form, "point": form}
    assert done.weights_bytes[1] < 0.3 * done.weights_bytes[0]
    assert 0 < apart(full, tmp_path / "q", rows()) < CLOSE


def test_channels_of_unequal_size_are_held_as_well(tmp_path: Path) -> None:
    words = ("--t", str(T), "--tail", "refuse")
    full = adopted(convolutions(tmp_path / "step.onnx", spread=True), *words)
    quantize_bundle(full, tmp_path / "q", "int8-weights")
    assert apart(full, tmp_path / "q", rows()) < CLOSE


@pytest.mark.parametrize(("recipe", "precision"), [("int4-weights", "int8"), ("fp16", "float16")])
def test_the_label_says_what_precision_the_weights_really_have(
    recipe: str, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = adopted(cell(tmp_path / "lstm.onnx", "LSTM", hidden=64))
    out = tmp_path / "out"
    assert call(["quantize", str(full), "--recipe", recipe, "--out", str(out)]) == 0
    manifest = open_bundle(out).manifest
    assert manifest.precision == precision
    honest = f"{recipe}, no weight in int4" if recipe == "int4-weights" else recipe
    assert manifest.recipe == honest
    assert honest in " ".join(capsys.readouterr().out.split())
    assert call(["show", str(out)]) == 0
    assert f"{precision} by recipe {honest}" in " ".join(capsys.readouterr().out.split())


def test_a_weight_in_four_bits_keeps_the_label(tmp_path: Path) -> None:
    weights = {
        "a": drawn(64, 64, seed=1),
        "r": drawn(1, 64, 64, seed=2),
        "w": drawn(1, 64, 64, seed=3),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["m"], "mix"),
        helper.make_node("RNN", ["m", "w", "r", "", "", "h"], ["", "h_out"], hidden_size=64),
        helper.make_node("Identity", ["m"], ["y"]),
    ]
    ports = [info(name, [1, "batch", 64]) for name in ("h", "h_out")]
    x, y = (info(name, ["time", "batch", 64]) for name in "xy")
    full = adopted(saved(tmp_path / "m.onnx", nodes, ([x, ports[0]], [y, ports[1]]), weights))
    done = quantize_bundle(full, tmp_path / "q", "int4-weights")
    assert {r.form for r in done.records} == {"int4-block", "int8-stored"}
    manifest = done.bundle.manifest
    assert (manifest.precision, manifest.recipe) == ("int4", "int4-weights")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("lstm.weight_ih_l0", "lstm.weight_hh_l0"), "lstm.weight_ih_l0 + lstm.weight_hh_l0"),
        (("step.module.lstm.lifted_tensor_0", "step.module.lstm.lifted_tensor_1"), "cell"),
        (("onnx::LSTM_412", "onnx::LSTM_413"), "cell"),
    ],
)
def test_weights_are_shown_by_names_that_people_know(
    names: tuple[str, str], shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cell(tmp_path / "lstm.onnx", "LSTM", hidden=64)
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "LSTM")
    for old, new in zip("wr", names, strict=True):
        node.input[list(node.input).index(old)] = new
        next(t for t in model.graph.initializer if t.name == old).name = new
    onnx.save(model, path)
    full, out = adopted(path), tmp_path / "out"
    (record,) = quantize_bundle(full, out, "int8-weights").records
    assert record.label == (shown if shown != "cell" else record.node)
    capsys.readouterr()
    words = ["quantize", str(full), "--recipe", "int8-weights", "--out", str(tmp_path / "again")]
    assert call(words) == 0
    assert f"1 cell {record.label}" in " ".join(capsys.readouterr().out.split())
    keep = ["--keep", record.label.split(" + ")[0], "--overwrite"]
    assert call([*words, *keep]) != 0  # nothing else is there to quantize
