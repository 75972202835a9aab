"""Try the products in blocks of a bundle by themselves, on the CPU that runs the tests."""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from tests.quantize.conftest import optimized

from dst.runtime import open_bundle

Kernel = tuple[int, int, int, int]
"""Of a product in blocks: bits, block, inputs and outputs."""


def kernels(bundle: Path, folder: Path) -> set[Kernel]:
    """The products in blocks that ONNX Runtime makes of a bundle's graphs."""
    found: set[Kernel] = set()
    for graph in open_bundle(bundle).manifest.graphs:
        for node in optimized(bundle / graph.file, folder):
            if node.op_type == "MatMulNBits":
                held = {a.name: int(a.i) for a in node.attribute}
                found.add((held["bits"], held["block_size"], held["K"], held["N"]))
    return found


@cache
def keeps_rows(kernel: Kernel, sizes: tuple[int, ...]) -> bool:
    """Whether a product of random numbers answers each row the same among so many rows."""
    bits, block, inputs, outputs_ = kernel
    count = -(-inputs // block)
    random = np.random.default_rng(7)
    weights: dict[str, npt.NDArray[np.generic]] = {
        "w": random.integers(0, 256, (outputs_, count, block * bits // 8), dtype=np.uint8),
        "s": random.uniform(0.001, 0.01, (outputs_, count)).astype(np.float32),
    }
    node = onnx.helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft")
    held = {"K": inputs, "N": outputs_, "bits": bits, "block_size": block, "accuracy_level": 4}
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in held.items())
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [value("x", onnx.TensorProto.FLOAT, ["rows", inputs])],
        [value("y", onnx.TensorProto.FLOAT, ["rows", outputs_])],
        [onnx.numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    x = random.standard_normal((max(sizes), inputs)).astype(np.float32)
    answers = [
        np.concatenate([session.run(None, {"x": x[i : i + t]})[0] for i in range(0, len(x), t)])
        for t in sizes
    ]
    return all(np.array_equal(answer, answers[0]) for answer in answers)
