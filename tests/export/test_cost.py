"""Laws of the multiply-adds table: counted by hand for every operator, and true of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.steps import PLAIN, chunk_of, contract_of, info, output_of, state_of

from dst.graphs.cost import multiply_adds
from dst.runtime import open_bundle
from dst.runtime.bundle.manifest import Contract

WIDTH, T = 6, 4


def contract(allowed_t: tuple[int, ...] = (1, T)) -> Contract:
    return contract_of(
        chunk_of(PLAIN, allowed_t, WIDTH, tail="refuse"),
        [output_of("y", ("B", "T", 1))],
        [state_of("s", ("B", 2, 3, 5))],
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    shapes: Mapping[str, Sequence[int]],
    fixed: Mapping[str, Sequence[int]] | None = None,
) -> onnx.ModelProto:
    """A graph of `nodes` with a chunk, a state, zero weights and constants of whole numbers."""
    weights = [numpy_helper.from_array(np.zeros(s, np.float32), n) for n, s in shapes.items()]
    weights += [numpy_helper.from_array(np.array(v), n) for n, v in (fixed or {}).items()]
    graph = helper.make_graph(
        nodes,
        "step",
        [info("x", ["B", "T", WIDTH]), info("s", ["B", 2, 3, 5])],
        [info("y", None), info("s_next", None)],
        weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def count(
    node: onnx.NodeProto,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed: Mapping[str, Sequence[int]] | None = None,
    before: Sequence[onnx.NodeProto] = (),
    t: tuple[int, ...] = (1, T),
) -> int | None:
    node.name = "it"
    whole = model([*before, node], shapes or {}, fixed)
    return multiply_adds(whole, contract(t), t, ()).get("it")


node = helper.make_node
FLAT = node("Reshape", ["x", "rows"], ["r"])  # [1, T, 6] -> [T, 6]
IMAGE = node("Transpose", ["x"], ["image"], perm=[0, 2, 1])  # [1, 6, T]


def test_products() -> None:
    assert count(node("MatMul", ["x", "w"], ["y"]), {"w": (WIDTH, 7)}) == T * WIDTH * 7
    rows = {"rows": [T, WIDTH]}
    assert count(node("Gemm", ["r", "w"], ["y"]), {"w": (WIDTH, 7)}, rows, [FLAT]) == T * WIDTH * 7
    turned = node("Gemm", ["r", "w"], ["y"], transA=1)
    assert count(turned, {"w": (T, 7)}, rows, [FLAT]) == WIDTH * T * 7
    fused = node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", transA=1)
    assert count(fused, {"w": (T, 7)}) == WIDTH * T * 7
    letters = node("Einsum", ["x", "w"], ["y"], equation="bti,ij->btj")
    assert count(letters, {"w": (WIDTH, 7)}) == T * WIDTH * 7
    bits = node("MatMulNBits", ["x", "w", "z"], ["y"], domain="com.microsoft", K=WIDTH, N=7)
    assert count(bits, {"w": (7, 1, 16), "z": (7,)}) == T * WIDTH * 7


def test_convolutions() -> None:
    wide = node("Conv", ["image", "w"], ["y"], pads=[1, 1])
    assert count(wide, {"w": (8, WIDTH, 3)}, before=[IMAGE]) == 8 * T * WIDTH * 3
    deep = node("Conv", ["image", "w"], ["y"], pads=[1, 1], group=WIDTH)
    assert count(deep, {"w": (WIDTH, 1, 3)}, before=[IMAGE]) == WIDTH * T * 3
    back = node("ConvTranspose", ["image", "w"], ["y"])
    assert count(back, {"w": (WIDTH, 8, 3)}, before=[IMAGE]) == T * WIDTH * 8 * 3
    carried = node("CausalConvWithState", ["image", "w"], ["y"], domain="com.microsoft")
    assert count(carried, {"w": (WIDTH, 1, 3)}, before=[IMAGE]) == WIDTH * T * 3


def test_an_lstm_in_8_bits_costs_what_it_costs_in_float32_and_hands_its_shape_on() -> None:
    """Its weights are turned; a product behind it is counted, so its outputs are known."""
    shapes = {"w": (1, WIDTH, 20), "r": (1, 5, 20), "a": (1, 20), "z": (1, 20), "v": (5, 3)}
    inputs = ["x", "w", "r", "", "", "", "", "", "a", "z", "a", "z"]
    lstm = node("DynamicQuantizeLSTM", inputs, ["all"], domain="com.microsoft", hidden_size=5)
    assert count(lstm, shapes) == T * (WIDTH * 20 + 5 * 20)
    lstm.name = "before"
    assert count(node("MatMul", ["all", "v"], ["y"]), shapes, before=[lstm]) == T * 5 * 3


@pytest.mark.parametrize(("kind", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrences(kind: str, gates: int) -> None:
    hidden = 5
    weights = {"w": (1, gates * hidden, WIDTH), "r": (1, gates * hidden, hidden)}
    it = node(kind, ["x", "w", "r"], ["y"], hidden_size=hidden)
    assert count(it, weights) == T * gates * hidden * (WIDTH + hidden)


@pytest.mark.parametrize(
    ("rule", "passes"), [("linear", 2), ("gated", 2), ("delta", 3), ("gated_delta", 3)]
)
def test_linear_attention(rule: str, passes: int) -> None:
    it = node(
        "LinearAttention",
        ["x", "x", "v", "s"],
        ["y", "s_next"],
        domain="com.microsoft",
        q_num_heads=2,
        kv_num_heads=2,
        update_rule=rule,
    )
    value = node("MatMul", ["x", "w"], ["v"])
    assert count(it, {"w": (WIDTH, 10)}, before=[value]) == T * 2 * 3 * 5 * passes


@pytest.mark.parametrize(
    ("shapes", "attributes", "expected"),
    [
        ({"q": (1, 2, 4, 8), "k": (1, 2, 6, 8), "v": (1, 2, 6, 3)}, {}, 2 * 4 * 6 * (8 + 3)),
        (
            {"q": (1, 4, 16), "k": (1, 6, 8), "v": (1, 6, 3)},
            {"q_num_heads": 2, "kv_num_heads": 1},
            4 * 6 * (16 + 2 * 3),
        ),
    ],
)
def test_attention(
    shapes: dict[str, tuple[int, ...]], attributes: dict[str, int], expected: int
) -> None:
    it = node("Attention", ["q", "k", "v"], ["y"])
    it.attribute.extend(helper.make_attribute(name, n) for name, n in attributes.items())
    assert count(it, shapes) == expected
    it.domain = "com.microsoft"  # another operator of that name
    assert count(it, shapes) is None


def test_a_shape_behind_a_contrib_operator_is_known() -> None:
    attention = node(
        "LinearAttention",
        ["x", "x", "v", "s"],
        ["o", "s_next"],
        domain="com.microsoft",
        q_num_heads=2,
        kv_num_heads=2,
    )
    value = node("MatMul", ["x", "w"], ["v"])
    it = node("MatMul", ["o", "u"], ["y"])
    assert count(it, {"w": (WIDTH, 10), "u": (10, 3)}, before=[value, attention]) == T * 10 * 3


def test_a_scan_costs_its_body_times_its_length() -> None:
    body = helper.make_graph(
        [node("MatMul", ["item", "w"], ["out"], name="same"), node("Identity", ["c"], ["c_next"])],
        "body",
        [info("c", [1]), info("item", [1, WIDTH])],
        [info("c_next", [1]), info("out", [1, 7])],
    )
    scan = node("Scan", ["start", "x"], ["last", "y"], body=body, num_scan_inputs=1)
    scan.attribute.extend([helper.make_attribute("scan_input_axes", [1])])
    assert count(scan, {"w": (WIDTH, 7), "start": (1,)}) == T * WIDTH * 7


def test_work_without_products_is_none_and_what_is_not_known_is_missing() -> None:
    assert count(node("Softmax", ["x"], ["y"])) == 0
    assert count(node("Unheard", ["x"], ["y"], domain="com.microsoft")) is None
    known = node("MatMul", ["x", "w"], ["y"], name="it")
    hidden = node("Unheard", ["x"], ["h"], domain="com.microsoft")
    assert count(node("MatMul", ["h", "w"], ["y"]), {"w": (WIDTH, 7)}, before=[hidden]) is None
    twice = model([known, node("Relu", ["y"], ["z"], name="it"), node("Abs", ["z"], ["q"])], {})
    assert multiply_adds(twice, contract(), (1, T), ()) == {}


def test_the_sizes_are_those_of_one_step() -> None:
    it = node("MatMul", ["x", "w"], ["y"])
    per_item = WIDTH * 7
    assert count(it, {"w": (WIDTH, 7)}, t=(1,)) == per_item
    assert count(it, {"w": (WIDTH, 7)}, t=(1, 2)) == 2 * per_item
    it.name = "it"
    batched = multiply_adds(model([it], {"w": (WIDTH, 7)}), contract(), (1, T), (3, 5))
    assert batched == {"it": 3 * T * per_item}


def test_every_node_of_an_exported_network_is_counted(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    for graph in bundle.manifest.graphs:
        file = onnx.load(bundle.root / graph.file, load_external_data=False).graph
        names = [n.name for n in file.node]
        assert len(set(names)) == len(names)
        assert set(graph.multiply_adds) == set(names)
        # each weight of a projection meets each item once
        t = 1 if graph.allowed_t == (1,) else bundle.manifest.contract.chunk.nominal_t
        weights = {w.name: list(w.dims) for w in file.initializer if np.prod(w.dims) >= 4096}
        products = [n for n in file.node if n.op_type == "MatMul" and n.input[1] in weights]
        assert len(products) == 9  # qkv, o, two of the FFN, in two layers; the head
        for product in products:
            expected = t * int(np.prod(weights[product.input[1]]))
            assert graph.multiply_adds[product.name] == expected
