"""A decoder-only Transformer with a key-value cache as an ONNX graph, with random weights.

It is built as its users run one: `GroupQueryAttention` of ONNX Runtime turns keys and queries, and
writes new keys and values into a buffer of the longest length that past and present share.

Shape letters: D width, A heads of d = 64, F hidden, V vocabulary, L positions of the buffer.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

HEAD = 64


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the network.

    Attributes:
        width: D, a multiple of 64.
        layers: how many.
        hidden: F.
        vocabulary: V.
        positions: L.
    """

    width: int
    layers: int
    hidden: int
    vocabulary: int
    positions: int

    @property
    def heads(self) -> int:
        """A."""
        return self.width // HEAD

    @property
    def parameters(self) -> int:
        """Numbers in the weights; the head has the embedding's."""
        layer = 4 * self.width**2 + 3 * self.width * self.hidden
        return self.layers * layer + self.vocabulary * self.width

    def cache_shape(self) -> tuple[int, int, int, int]:
        """Of the keys, and of the values, of one layer."""
        return (1, self.heads, self.positions, HEAD)


def graph(sizes: Sizes, seed: int = 0) -> bytes:
    """Return a model of `ids [1, T]`, `seen [1]`, `total []` and caches; it gives `logits`.

    `seen` is the position of the last item, `total` one more.
    """
    random, s = np.random.default_rng(seed), sizes
    nodes: list[onnx.NodeProto] = []
    held: list[onnx.TensorProto] = []

    def weight(name: str, value: npt.NDArray[np.float32]) -> str:
        held.append(numpy_helper.from_array(value, name))
        return name

    def matrix(name: str, rows: int, columns: int) -> str:
        value = random.standard_normal((rows, columns)) * rows**-0.5
        return weight(name, value.astype(np.float32))

    def node(kind: str, inputs: list[str], outputs: list[str], **given: Any) -> str:
        domain = "com.microsoft" if kind in _CONTRIB else ""
        nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **given))
        return outputs[0]

    def product(x: str, name: str, rows: int, columns: int) -> str:
        return node("MatMul", [x, matrix(f"W.{name}", rows, columns)], [name])

    def norm(x: str, name: str) -> str:
        return node("SimplifiedLayerNormalization", [x, ones], [name], epsilon=1e-6, axis=-1)

    ones = weight("ones", np.ones(s.width, np.float32))
    table = matrix("table", s.vocabulary, s.width)
    angles = np.outer(np.arange(s.positions), 10_000.0 ** (-np.arange(HEAD // 2) / (HEAD // 2)))
    turn = [weight("cos", np.cos(angles).astype(np.float32))]
    turn.append(weight("sin", np.sin(angles).astype(np.float32)))
    x = node("Gather", [table, "ids"], ["x"])
    caches: list[tuple[str, str]] = []
    for i in range(s.layers):
        u = norm(x, f"u{i}")
        parts = [product(u, f"{part}{i}", s.width, s.width) for part in "qkv"]
        outputs = [f"o{i}", f"key.{i}.next", f"value.{i}.next"]
        caches += [(f"key.{i}", outputs[1]), (f"value.{i}", outputs[2])]
        o = node(
            "GroupQueryAttention",
            [*parts, f"key.{i}", f"value.{i}", "seen", "total", *turn],
            outputs,
            num_heads=s.heads,
            kv_num_heads=s.heads,
            do_rotary=1,
        )
        y = node("Add", [x, product(o, f"m{i}", s.width, s.width)], [f"y{i}"])
        n = norm(y, f"n{i}")
        a, b = (product(n, f"{part}{i}", s.width, s.hidden) for part in "ab")
        gate = node("Mul", [a, node("Sigmoid", [a], [f"s{i}"])], [f"g{i}"])
        h = node("Mul", [gate, b], [f"h{i}"])
        x = node("Add", [y, product(h, f"f{i}", s.hidden, s.width)], [f"x{i}"])
    last = norm(x, "last")
    node("MatMul", [last, node("Transpose", [table], ["head"], perm=[1, 0])], ["logits"])
    shape = s.cache_shape()
    cache = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, _ in caches]
    following = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for _, n in caches]
    made = helper.make_graph(
        nodes,
        "transformer",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "T"]),
            helper.make_tensor_value_info("seen", TensorProto.INT32, [1]),
            helper.make_tensor_value_info("total", TensorProto.INT32, []),
            *cache,
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "T", s.vocabulary]),
            *following,
        ],
        held,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model: bytes = helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


_CONTRIB = {"GroupQueryAttention"}
