"""Bundles and a provider in; what runs where, how far from the CPU, how fast against it out.

    python examples/bench/providers.py text runs/tiny --provider openvino

The same graphs run on both, each with its own carried state, one thread each; the steps that are
timed take turns, and a ratio is the median over pairs of neighbours.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

import dst
from dst.evaluate.providers import time_golden
from dst.runtime import Session, open_bundle, relative_error, replay_golden
from dst.runtime.execution.providers import Lowering, Provider


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--provider", choices=get_args(Provider), required=True)
    parser.add_argument("--lowering", choices=get_args(Lowering), default=None)
    parser.add_argument("--items", type=int, default=8192, help="length of the carried stream")
    parser.add_argument("--rounds", type=int, default=60, help="rounds over the golden chunks")
    told = parser.parse_args()
    print(f"onnxruntime {ort.__version__}, {told.provider} against cpu\n")
    for bundle in told.bundles:
        compare(bundle, told.provider, told.lowering, told.items, told.rounds)


def compare(
    bundle: str, provider: Provider, lowering: Lowering | None, items: int, rounds: int
) -> None:
    """Print all there is to say of one bundle."""
    print(bundle)
    there = Session.open(bundle, provider=provider, lowering=lowering)
    for load in there.report().graphs:
        parts = ", ".join(f"{s.provider} {s.nodes} nodes" for s in load.shares)
        print(
            f"  {load.graph}: {load.fraction:.1%} of {load.multiply_adds:,} multiply-adds; {parts}"
        )
    for check in replay_golden(open_bundle(bundle), provider, lowering=lowering):
        worst = max(check.errors.values())
        mark = "passed" if check.passed else "FAILED"
        print(f"  golden {check.graph}: {worst:.1e} of {check.tolerance:.0e} allowed, {mark}")
    carried(bundle, there, items)
    for found in time_golden(open_bundle(bundle), provider, lowering=lowering, rounds=rounds):
        print(f"  {found.graph}, T = {found.t}: {provider} / cpu {found.ratio:.2f}")


def carried(bundle: str, there: Session, items: int) -> None:
    """Carry one stream on each over the held-out text, and print how far they came apart."""
    held_out = Path(dst.__file__).parent / "heldout" / "stdlib.txt"
    chunk = there.contract.chunk
    text = np.frombuffer(held_out.read_bytes()[:items], np.uint8).astype(chunk.dtype)
    taken = {load.lowering for load in there.report().graphs}
    same: Lowering = "portable" if taken == {"portable"} else "fused"
    here = Session.open(bundle, lowering=same).stream()
    stream = there.stream()
    outputs: list[float] = []
    peaks: list[float] = []
    for start in range(0, items - chunk.nominal_t + 1, chunk.nominal_t):
        piece = text[None, start : start + chunk.nominal_t]
        expected, found = here.step(piece), stream.step(piece)
        outputs += [relative_error(found[name], value) for name, value in expected.items()]
        after = stream.state
        peaks.append(max(of_peak(after[name], value) for name, value in here.state.items()))
    tenth = max(len(peaks) // 10, 1)
    growth = float(np.mean(peaks[-tenth:])) / max(float(np.mean(peaks[:tenth])), 1e-30)
    print(
        f"  carried {items:,} items: outputs {max(outputs):.1e} of their rms, state "
        f"{max(peaks):.1e} of its peak, last tenth over first {growth:.2f}"
    )


def of_peak(found: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> float:
    """max|d| / max|x|."""
    wide, right = found.astype(np.float64), expected.astype(np.float64)
    return float(np.abs(wide - right).max()) / max(float(np.abs(right).max()), 1e-30)


if __name__ == "__main__":
    main()
