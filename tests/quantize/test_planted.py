"""Bad recipes are planted; the judge that the picker uses refuses each, and says by which rule."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)
from tests.steps import (
    PLAIN,
    Array,
    Floats,
    chunk_of,
    contract_of,
    drawn,
    graph_of,
    info,
    manifest_of,
    model_of,
    output_of,
    state_of,
)

from dst.evaluate.quality import Budget
from dst.quantize import quantize_bundle
from dst.quantize.autotune import Trial, Verdict, judge
from dst.runtime import Bundle, open_bundle, write_bundle

WIDTH, HIDDEN = 64, 512
SHORT = Trial(items=2000, rounds=5, slot_ms=2.0, budget=Budget(relative_error=0.05))
ITEMS = drawn(4000, WIDTH, seed=9, scale=1.0)


def step_of(
    nodes: Sequence[onnx.NodeProto],
    state: Sequence[int | str],
    t: int | str,
    weights: Mapping[str, Array],
) -> onnx.ModelProto:
    """A step: x [B, T, 64] and the state h -> y [B, T, 64] and h_next."""
    inputs = [info("x", ["B", t, WIDTH]), info("h", state)]
    return model_of(nodes, inputs, [info("y", ["B", t, WIDTH]), info("h_next", state)], weights)


def leaky() -> onnx.ModelProto:
    """A memory that keeps 0.999 of itself per item, a chunk is one item: h' = 0.999 h + x W."""
    nodes = [
        helper.make_node("Squeeze", ["x", "one"], ["item"]),
        helper.make_node("MatMul", ["item", "w_in"], ["v"]),
        helper.make_node("Mul", ["h", "keep"], ["old"]),
        helper.make_node("Add", ["old", "v"], ["h_next"]),
        helper.make_node("Unsqueeze", ["h_next", "one"], ["s"]),
        helper.make_node("MatMul", ["s", "w_out"], ["y"]),
    ]
    weights = {
        "one": np.array([1]),
        "keep": np.array(0.999, np.float32),
        "w_in": drawn(WIDTH, HIDDEN, seed=0, scale=0.05),
        "w_out": drawn(HIDDEN, WIDTH, seed=1, scale=0.05),
    }
    return step_of(nodes, ["B", HIDDEN], 1, weights)


def convolving() -> onnx.ModelProto:
    """Two convolutions, the first with its batch norm folded in: channels of very unequal size."""
    drawn_size = 10.0 ** np.random.default_rng(4).uniform(-2, 1, (WIDTH, 1, 1))
    size: Floats = drawn_size.astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["h", "xt"], ["whole"], axis=2),
        helper.make_node("Conv", ["whole", "first"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], "second"),
        helper.make_node("Transpose", ["c"], ["y"], perm=[0, 2, 1]),
        helper.make_node("Slice", ["whole", "from", "to", "axis"], ["h_next"]),
    ]
    weights = {
        "first": drawn(WIDTH, WIDTH, 5, seed=2, scale=0.06) * size,
        "second": drawn(WIDTH, WIDTH, 1, seed=3, scale=0.12) / size.reshape(1, WIDTH, 1),
        "from": np.array([-4]),
        "to": np.array([2**31]),
        "axis": np.array([2]),
    }
    return step_of(nodes, ["B", WIDTH, 4], 16, weights)


def wide() -> onnx.ModelProto:
    """Two large products over a chunk of 16 items, and a running mean as state."""
    nodes = [
        helper.make_node("MatMul", ["x", "w_in"], ["v"], "into"),
        helper.make_node("Relu", ["v"], ["r"]),
        helper.make_node("MatMul", ["r", "w_out"], ["o"], "out"),
        helper.make_node("ReduceMean", ["o", "one"], ["mean"], keepdims=0),
        helper.make_node("Add", ["h", "mean"], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["h_next"]),
        helper.make_node("Unsqueeze", ["h", "one"], ["h1"]),
        helper.make_node("Add", ["o", "h1"], ["y"]),
    ]
    weights = {
        "one": np.array([1]),
        "half": np.array(0.5, np.float32),
        "w_in": drawn(WIDTH, 1024, seed=5, scale=0.12),
        "w_out": drawn(1024, WIDTH, seed=6, scale=0.04),
    }
    return step_of(nodes, ["B", WIDTH], 16, weights)


def bundle_of(path: Path, model: onnx.ModelProto, precision: str = "float32") -> Path:
    """Wrap a step, whoever made it, as a bundle of one and the same model."""
    x, before = model.graph.input
    t = x.type.tensor_type.shape.dim[1].dim_value
    shape = [d.dim_value or d.dim_param for d in before.type.tensor_type.shape.dim]
    contract = contract_of(
        chunk_of(PLAIN, (t,), WIDTH, tail="refuse"),
        [output_of("y", ("B", "T", WIDTH))],
        [state_of("h", tuple(shape))],
    )
    graph = replace(
        graph_of((t,), lowering="other", golden_tolerance=1e-4),
        opsets={o.domain or "ai.onnx": o.version for o in model.opset_import},
        domains=tuple(sorted({n.domain or "ai.onnx" for n in model.graph.node})),
    )
    manifest = manifest_of(
        contract,
        [graph],
        name=path.name,
        model_id="c" * 64,
        precision=precision,
        weights_bytes=model.ByteSize(),
    )
    write_bundle(path, manifest, {"step.onnx": model.SerializeToString()})
    return path


def rules(found: Verdict) -> set[str]:
    return {refusal.rule for refusal in found.refusals}


def with_state_in_int8(good: Bundle, path: Path) -> Path:
    """The same bundle, its state rounded to 8 bits at the end of every step."""
    model = onnx.load(str(good.root / "step.onnx"))
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["exact" if name == "h_next" else name for name in names]
    model.graph.node.extend(
        [
            helper.make_node("DynamicQuantizeLinear", ["exact"], ["q", "q_scale", "q_zero"]),
            helper.make_node("DequantizeLinear", ["q", "q_scale", "q_zero"], ["h_next"]),
        ]
    )
    return bundle_of(path, model, "int8")


def test_a_state_in_int8_is_refused_for_its_error(tmp_path: Path) -> None:
    full = bundle_of(tmp_path / "full", leaky())
    good = quantize_bundle(full, tmp_path / "good", "int8-rows").bundle
    bad = with_state_in_int8(good, tmp_path / "bad")
    assert "error" not in rules(judge(full, good, ITEMS, SHORT))
    found = judge(full, bad, ITEMS, SHORT)
    assert "error" in rules(found)
    assert "size" not in rules(found)
    gate = found.gate("error")
    assert gate is not None
    assert gate.value is not None
    assert gate.value > 2 * gate.bound


def test_default_operator_lists_are_refused_on_convolutions(tmp_path: Path) -> None:
    full = bundle_of(tmp_path / "full", convolving())
    step, rounded = open_bundle(full).root / "step.onnx", tmp_path / "rounded.onnx"
    quantize_dynamic(str(step), str(rounded))
    model = onnx.load(str(rounded))
    assert "ConvInteger" in {node.op_type for node in model.graph.node}
    found = judge(full, bundle_of(tmp_path / "bad", model, "int8"), ITEMS, SHORT)
    assert "error" in rules(found)
    ours = quantize_bundle(full, tmp_path / "ours", "int8-dynamic")
    assert {record.form for record in ours.records} == {"int8-stored"}
    assert "error" not in rules(judge(full, ours.bundle, ITEMS, SHORT))


def test_accuracy_level_0_is_refused_for_its_speed(tmp_path: Path) -> None:
    full = bundle_of(tmp_path / "full", wide())
    slow = MatMulNBitsQuantizer(
        wide(),
        bits=8,
        algo_config=DefaultWeightOnlyQuantConfig(
            block_size=32, is_symmetric=True, accuracy_level=0, bits=8
        ),
    )
    slow.process()
    products = [n for n in slow.model.model.graph.node if n.op_type == "MatMulNBits"]
    assert len(products) == 2
    bad = bundle_of(tmp_path / "bad", slow.model.model, "int8")
    found = judge(full, bad, ITEMS, SHORT)
    assert rules(found) == {"speed"}  # it is small and true: on the clock alone it fails
    assert found.weights_share < 0.35
    assert any("slower than full precision" in refusal.why for refusal in found.refusals)


def test_full_precision_itself_is_refused_as_no_smaller(tmp_path: Path) -> None:
    full = bundle_of(tmp_path / "full", wide())
    found = judge(full, full, ITEMS, SHORT)
    assert "size" in rules(found)
    assert found.weights_share == 1.0
    gate = found.gate("error")
    assert gate is not None
    assert gate.value == 0.0


@pytest.mark.parametrize("at", ["first", "later"])
def test_what_is_not_finite_is_refused(at: str, tmp_path: Path) -> None:
    full = bundle_of(tmp_path / "full", leaky())
    model = leaky()
    scale = next(t for t in model.graph.initializer if t.name == "keep")
    if at == "later":  # it grows a hundredfold per item
        scale.CopyFrom(numpy_helper.from_array(np.array(100, np.float32), "keep"))
    else:
        weight = next(t for t in model.graph.initializer if t.name == "w_out")
        broken = np.full((HIDDEN, WIDTH), 3e38, np.float32)
        weight.CopyFrom(numpy_helper.from_array(broken, "w_out"))
    found = judge(full, bundle_of(tmp_path / "bad", model, "int8"), ITEMS, SHORT)
    assert "finite" in rules(found)
    assert (found.report is None) == (at == "first")
