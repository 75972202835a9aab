"""Nothing in; milliseconds of a large model's products in every integer form of onnxruntime out.

    python examples/bench/product_forms.py --t 1 64

The products are those of the `130m` size, layer by layer and its head: 128M random weights, far
more than the caches hold. One thread; the forms take turns, medians are compared.
Shape letters: ``K`` inputs and ``N`` outputs of a product.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from dst.runtime.execution.providers import session_options

LAYERS = 12
LAYER = ((768, 3840), (768, 3200), (1600, 768), (1024, 768))
HEAD = (768, 50304)
FORMS = ("float32", "int8-dynamic", "8/64", "8/128", "8/256", "4/32", "4/64", "4/128", "4/256")
"""``8/64``: MatMulNBits with accuracy level 4, of 8 bits in blocks of 64."""

Tensors = list[TensorProto]
Array = npt.NDArray[np.generic]


def product(
    form: str, x: str, name: str, size: tuple[int, int], random: np.random.Generator
) -> tuple[NodeProto, Tensors]:
    """One product of random weights."""
    rows, columns = size
    scale = np.full(columns, 0.01, np.float32)
    arrays: list[Array]
    attributes: dict[str, int] = {}
    if form == "float32":
        op, domain = "MatMul", ""
        arrays = [random.standard_normal(size, np.float32)]
    elif form == "int8-dynamic":
        op, domain = "DynamicQuantizeMatMul", "com.microsoft"
        arrays = [random.integers(-64, 65, size, np.int8), scale]
    else:
        op, domain = "MatMulNBits", "com.microsoft"
        bits, block = (int(part) for part in form.split("/"))
        count = -(-rows // block)
        packed = (columns, count, block * bits // 8)
        arrays = [random.integers(0, 256, packed, np.uint8), scale.repeat(count)]
        attributes = {"K": rows, "N": columns, "bits": bits, "block_size": block}
        attributes |= {"accuracy_level": 4}
    names = [f"{name}.{number}" for number in range(len(arrays))]
    node = helper.make_node(op, [x, *names], [name], domain=domain)
    node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    return node, [numpy_helper.from_array(a, n) for a, n in zip(arrays, names, strict=True)]


def chain(form: str) -> ort.InferenceSession:
    """A session over every product, none of which feeds another; of each the maximum comes out."""
    random = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    tensors: Tensors = []
    outputs: list[str] = []
    sizes = [*LAYER] * LAYERS + [HEAD]
    for number, size in enumerate(sizes):
        node, held = product(form, f"x{size[0]}", f"y{number}", size, random)
        outputs.append(f"z{number}")
        nodes += [node, helper.make_node("ReduceMax", node.output, outputs[-1:], keepdims=0)]
        tensors += held
    widths = sorted({size[0] for size in sizes})
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info(f"x{w}", TensorProto.FLOAT, ["T", w]) for w in widths],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in outputs],
        tensors,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return ort.InferenceSession(
        model.SerializeToString(), session_options(1, True), providers=["CPUExecutionProvider"]
    )


def measure(sessions: dict[str, ort.InferenceSession], t: int, rounds: int) -> None:
    """Run the forms in turns and print medians and ratios to the first."""
    random = np.random.default_rng(1)
    widths = {size[0] for size in (*LAYER, HEAD)}
    inputs = {f"x{w}": random.standard_normal((t, w), np.float32) for w in widths}
    spent: dict[str, list[float]] = {form: [] for form in sessions}
    for number in range(rounds + 2):
        for form, session in sessions.items():
            start = time.thread_time()
            session.run(None, inputs)
            if number >= 2:
                spent[form].append(1e3 * (time.thread_time() - start))
    first = np.asarray(next(iter(spent.values())))
    for form, values in spent.items():
        ratio = float(np.median(first / np.asarray(values)))
        print(f"T={t:<4d} {form:13s} {np.median(values):8.2f} ms  {ratio:5.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Products in every integer form.")
    parser.add_argument("--t", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    sessions = {form: chain(form) for form in given.forms}
    for t in given.t:
        measure(sessions, t, given.rounds)


if __name__ == "__main__":
    main()
