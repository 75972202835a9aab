r"""Compare an int8 matrix product in C++ (gemm.cpp) with ONNX Runtime's, on the same numbers.

    g++ -std=c++17 -O3 -march=native -fno-trapping-math -fPIC -shared \
        examples/native/gemm.cpp -o out/gemm.so
    taskset -c 0 python examples/native/compare_gemm.py out [--readme examples/native/README.md]

The int32 sums must equal numpy's, and the floats those of `MatMulIntegerToFloat` within float32.
GOP/s are 2 T K N operations over the median and the least time of this thread. The three take
turns; a share is that of the median in the peak's median of the same rounds. The peak is
`vpmaddubsw` and `vpmaddwd` alone, all in registers: no kernel made of these two can pass it.

Shape letters: T items, K inputs and N outputs of a product.
"""

from __future__ import annotations

import argparse
import ctypes
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from figures import Row, machine, table, write_figures
from onnx import TensorProto, helper, numpy_helper

from dst.runtime.execution.providers import session_options

PRODUCTS = ((768, 3840), (768, 3200), (224, 1152))
ITEMS = (16, 32, 64, 256)
A_SCALE = np.float32(1 / 127)
PEAK_ROUNDS, PEAK_WORK = 50_000, 8 * 64.0
"""Rounds of `gemm_peak` and operations of each."""
Array = npt.NDArray[np.generic]


def pointer(array: Array) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


class Native:
    """The product of gemm.cpp with a packed B (K, N)."""

    def __init__(self, library: ctypes.CDLL, b: Array, scale: Array) -> None:
        self.library, self.outputs = library, b.shape[1]
        self.packed = ctypes.c_void_p(library.gemm_pack(pointer(b), pointer(scale), *b.shape))
        if not self.packed:
            raise ValueError(f"K must be a multiple of 4 and N of 16, got {b.shape}")

    def sums(self, a: Array) -> npt.NDArray[np.int32]:
        c = np.zeros((len(a), self.outputs), np.int32)
        self.library.gemm_sums(self.packed, pointer(a), len(a), pointer(c))
        return c

    def floats(self, a: Array, c: Array) -> Callable[[], object]:
        """A call that multiplies `a` into `c`."""
        scale = ctypes.c_float(float(A_SCALE))
        arguments = (self.packed, pointer(a), len(a), scale, pointer(c))
        return partial(self.library.gemm_floats, *arguments)


def onnx_product(b: Array, scale: Array) -> ort.InferenceSession:
    """A graph of one MatMulIntegerToFloat with constant B."""
    tensors = {"b": b, "a_scale": A_SCALE, "scale": scale, "zero": np.uint8(128)}
    node = helper.make_node(
        "MatMulIntegerToFloat",
        ["a", "b", "a_scale", "scale", "zero"],
        ["c"],
        domain="com.microsoft",
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, ["T", b.shape[0]])],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, ["T", b.shape[1]])],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in tensors.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = session_options(1, True)
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def bound(session: ort.InferenceSession, a: Array, c: Array) -> Callable[[], object]:
    """A call on a prebuilt binding."""
    binding = session.io_binding()
    binding.bind_ortvalue_input("a", ort.OrtValue.ortvalue_from_numpy(a))
    binding.bind_ortvalue_output("c", ort.OrtValue.ortvalue_from_numpy(c))
    return partial(session.run_with_iobinding, binding)


def seconds(ways: list[Callable[[], object]], rounds: int) -> npt.NDArray[np.float64]:
    """Times (ways, rounds) of this thread, in turns."""
    shuffle = random.Random(0)
    spent = np.zeros((len(ways), rounds + 3))
    for number in range(rounds + 3):
        for way in shuffle.sample(range(len(ways)), len(ways)):
            start = time.thread_time_ns()
            ways[way]()
            spent[way, number] = (time.thread_time_ns() - start) / 1e9
    return spent[:, 3:]


def compare(library: ctypes.CDLL, size: tuple[int, int], rounds: int) -> list[Row]:
    """Assert that the numbers are right, then time one product at every T."""
    generator = np.random.default_rng(0)
    b = generator.integers(-64, 65, size).astype(np.int8)
    scale = generator.uniform(0.001, 0.01, size[1]).astype(np.float32)
    b[:, 0], b[:, 1] = -64, 64  # with 255 and 0 below: the largest sums there are
    native, session = Native(library, b, scale), onnx_product(b, scale)
    rows: list[Row] = []
    for t in ITEMS:
        a = generator.integers(0, 256, (t, size[0])).astype(np.uint8)
        a[0], a[1] = 255, 0
        right = (a.astype(np.float64) - 128) @ b.astype(np.float64)  # exact: far below 2^53
        np.testing.assert_array_equal(native.sums(a), right.astype(np.int32))
        np.testing.assert_array_equal(native.sums(a[:7]), right[:7].astype(np.int32))
        ours, theirs = np.zeros((2, t, size[1]), np.float32)
        ways = [native.floats(a, ours), bound(session, a, theirs)]
        ways.append(partial(library.gemm_peak, ctypes.c_int64(PEAK_ROUNDS)))
        spent = seconds(ways, rounds)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        work = np.array([2.0 * t * size[0] * size[1]] * 2 + [PEAK_ROUNDS * PEAK_WORK]) / 1e9
        middle, best = work / np.median(spent, axis=1), work / np.min(spent, axis=1)
        ratio = np.quantile(spent[1] / spent[0], (0.25, 0.5, 0.75))
        speeds = [f"{m:.0f} / {least:.0f}" for m, least in zip(middle, best, strict=True)]
        shares = [f"{value / middle[2]:.0%}" for value in middle[:2]]
        faster = f"{ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f})"
        rows.append((f"{size[0]} x {size[1]}", str(t), *speeds, *shares, faster))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where gemm.so is")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--readme", type=Path, help="a page to put the table into")
    given = parser.parse_args()
    library = ctypes.CDLL(str((given.folder / "gemm.so").resolve()))
    library.gemm_pack.restype = ctypes.c_void_p
    library.gemm_peak.restype = ctypes.c_int64
    if not library.gemm_peak(ctypes.c_int64(1)):
        parser.error("gemm.so was built without AVX2, so there is no peak to compare with")
    rows = [row for size in PRODUCTS for row in compare(library, size, given.rounds)]
    heads = ["K x N", "T", "C++, GOP/s median / best", "ONNX Runtime", "peak"]
    heads += ["C++ of peak", "ONNX Runtime of peak", "ONNX Runtime's time / C++'s (quartiles)"]
    text = f"{machine()}; {given.rounds} rounds.\n\n{table(heads, rows)}"
    write_figures("gemm", text, given.readme)


if __name__ == "__main__":
    main()
