"""Ways to find 4-bit blocks in, what each costs on a bundle out: loss, KL, bits and seconds.

    python examples/bench/weight_methods.py text --items 100000

Those of `dst quantize` (rtn, search, gptq) stand beside the ones that onnxruntime's own
`matmul_nbits_quantizer` offers: rtn with a zero point, k-quant and HQQ (which needs torch). Every
weight that `int4-weights` holds in blocks is rounded, multiplied out again and put back into the
float32 graph, so that the way of rounding is all that differs: activations, kernels and the other
weights are the same. Bits are those of a weight with its share of scale and zero point.
Shape letters: ``K`` inputs and ``N`` outputs of a product.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from dst.evaluate.quality import Settings, horizon_report
from dst.graphs.weights import pack
from dst.quantize import Calibration, recipe_named
from dst.quantize.assign import choose
from dst.quantize.calibrate import observed
from dst.quantize.rewriting.rebuild import Opened, opened
from dst.quantize.rounded_weights import Seen
from dst.quantize.rounding import Rounded, by_block, by_block_compensated, by_block_search
from dst.runtime import open_bundle, write_bundle
from dst.runtime.bundle.manifest import Stored
from dst.runtime.bundle.reader import Bundle
from dst.runtime.bundle.validation import INIT_FILE

Floats = npt.NDArray[np.float32]
BITS, T = 4, 256


@dataclass(frozen=True, slots=True)
class Way:
    """One way of rounding.

    Attributes:
        restored: weight (K, N), block, what calibration saw -> what the rounded weight stands for.
        zero_bits: what a block's zero point takes.
    """

    restored: Callable[[Floats, int, Seen], Floats]
    zero_bits: int = 0


def multiplied(rounded: Rounded, block: int) -> Floats:
    """What numbers and scales stand for, (K, N)."""
    rows = rounded.values.shape[0]
    return np.asarray(rounded.values * rounded.scale.repeat(block, axis=0)[:rows], np.float32)


def groups(weight: Floats, block: int) -> Floats:
    """The blocks of a weight as rows (N * K / block, block), zeros behind the last."""
    padded = np.pad(weight, ((0, -weight.shape[0] % block), (0, 0)))
    return np.ascontiguousarray(padded.T).reshape(-1, block)


def ungrouped(rows: npt.NDArray[np.generic], weight: Floats) -> Floats:
    """Undo ``groups``."""
    turned = rows.reshape(weight.shape[1], -1)[:, : weight.shape[0]]
    return np.ascontiguousarray(turned.T, np.float32)


def rtn(weight: Floats, block: int, seen: Seen) -> Floats:
    return multiplied(by_block(weight, BITS, block), block)


def search(weight: Floats, block: int, seen: Seen) -> Floats:
    return multiplied(by_block_search(weight, BITS, block), block)


def search_seen(weight: Floats, block: int, seen: Seen) -> Floats:
    return multiplied(by_block_search(weight, BITS, block, seen.importance), block)


def gptq(weight: Floats, block: int, seen: Seen) -> Floats:
    return multiplied(by_block_compensated(weight, BITS, block, seen.moments), block)


def rtn_zero(weight: Floats, block: int, seen: Seen) -> Floats:
    """Rounding with a zero point, onnxruntime's."""
    from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor

    values, scale, zero = quant_tensor(groups(weight, block), BITS, block, "asym", "uint")
    return ungrouped((values - zero.astype(np.float32)) * scale, weight)


def k_quant(weight: Floats, block: int, seen: Seen) -> Floats:
    """K-quant, onnxruntime's: scale and least value by weighed least squares, as in llama.cpp."""
    from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor_k_quant_cpu

    values, scale, zero = quant_tensor_k_quant_cpu(groups(weight, block), BITS, block)
    return ungrouped((values - zero.astype(np.float32)) * scale, weight)


def hqq(weight: Floats, block: int, seen: Seen, whole: bool = False) -> Floats:
    """HQQ, onnxruntime's, with a zero point in float32; ``whole`` rounds that to 4 bits."""
    import torch
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        HQQWeightOnlyQuantConfig,
        HQQWeightOnlyQuantizer,
    )

    solver = HQQWeightOnlyQuantizer(HQQWeightOnlyQuantConfig(block_size=block, bits=BITS))
    rows = groups(weight, block)
    _, scale, zero = (
        x.numpy() for x in solver.quantize_internal(torch.from_numpy(rows), BITS, group_size=block)
    )
    highest = 2**BITS - 1
    if whole:
        zero = np.clip(np.rint(zero), 0, highest)
    values = np.clip(np.rint(rows / scale + zero), 0, highest)
    return ungrouped((values - zero) * scale, weight)


def hqq_whole(weight: Floats, block: int, seen: Seen) -> Floats:
    return hqq(weight, block, seen, whole=True)


WAYS = {
    "rtn": Way(rtn),
    "search": Way(search),
    "search, calibrated": Way(search_seen),
    "gptq": Way(gptq),
    "onnxruntime rtn + zero": Way(rtn_zero, 4),
    "onnxruntime k-quant": Way(k_quant, 4),
    "onnxruntime hqq": Way(hqq, 32),
    "onnxruntime hqq, 4-bit zero": Way(hqq_whole, 4),
}


def rounded_bundle(
    bundle: Bundle, graph: Opened, path: Path, way: Way, block: int, seen: dict[str, Seen]
) -> float:
    """Write the bundle with its products' weights rounded; seconds that rounding took."""
    choices = choose({graph.entry.file: graph.found}, recipe_named("int4-weights"), ())
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    spent = 0.0
    for use in graph.found.uses:
        if choices[use.key].form != "int4-block":
            continue
        weight = np.ascontiguousarray(graph.weight(use))
        start = time.perf_counter()
        restored = way.restored(weight, block, seen[use.key])
        spent += time.perf_counter() - start
        array = np.ascontiguousarray(restored.T if use.turned else restored)
        tensors[use.weight].CopyFrom(numpy_helper.from_array(array, use.weight))
    with tempfile.TemporaryDirectory() as folder:
        parts = pack({graph.entry.file: model}, bundle.root, Path(folder))
        if any(isinstance(s.init, Stored) for s in bundle.manifest.contract.state):
            parts[INIT_FILE] = bundle.root / INIT_FILE
        manifest = msgspec.structs.replace(
            bundle.manifest, graphs=(graph.entry,), golden=(), certificates=(), files={}
        )
        write_bundle(path, manifest, parts, overwrite=True)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description="Ways of rounding to 4 bits, against float32.")
    parser.add_argument("bundle", help="of byte tokens, such as text")
    parser.add_argument("--items", type=int, default=100_000, help="to measure on")
    parser.add_argument("--calibrate", type=int, default=100_000, help="items, from the end")
    parser.add_argument("--blocks", nargs="+", type=int, default=[32, 64, 128])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    bundle = open_bundle(given.bundle)
    text = files("dst").joinpath("heldout", "stdlib.txt").read_bytes()
    items = np.frombuffer(text, np.uint8).astype(np.int64)
    if given.items + given.calibrate > len(items):
        parser.error(f"--items and --calibrate: the held-out text has {len(items)} bytes in all")
    nominal = bundle.manifest.contract.chunk.nominal_t
    every = opened(bundle, {graph.file: 1 for graph in bundle.manifest.graphs})
    graphs = [g for g in every if {T, nominal} <= set(g.entry.allowed_t)]
    if not graphs:
        parser.error(f"{bundle.label}: no graph runs both T = {T} and T = {nominal}")
    shown = Calibration.of_items(items[len(items) - given.calibrate :])
    seen = observed(bundle, bundle, graphs, shown, True, lambda what, share: None)
    settings = Settings(t=T, heads=0, drift_items=0, sample_every=64)
    print(f"{given.items} items, T = {T}; loss and KL in nats per item, of all items")
    for block in given.blocks:
        for name in given.ways:
            way = WAYS[name]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "rounded"
                spent = rounded_bundle(bundle, graphs[0], path, way, block, seen)
                found = horizon_report(
                    given.bundle, path, items[: given.items], given.items, settings
                )
            ranges = [r for r in found.ranges if r.items]
            count = sum(r.items for r in ranges)
            loss = sum(r.items * (r.loss_difference or 0.0) for r in ranges) / count
            apart = sum(r.items * r.divergence for r in ranges) / count
            bits = BITS + (32 + way.zero_bits) / block
            print(
                f"block {block:<4d} {name:28s} loss {loss:+.5f}  KL {apart:.5f}  "
                f"{bits:.3f} bits  {spent:6.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
