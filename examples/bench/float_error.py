"""A checkpoint in; how far float32 itself strays from float64, for torch and for both lowerings.

    python examples/bench/float_error.py --checkpoint runs/text/checkpoint.pt [--beta-max 2]

Every form carries its own state over real text; torch in float64 is the reference. Printed for
outputs and for the matrix memories: the largest max|d|/rms, and for memories also the largest
max|d|/max|x| and how far their largest element stands above their rms.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import dst
from dst.export.certify import (
    Chunks,
    Form,
    Tensors,
    initial_state,
    onnx_form,
    torch_form,
)
from dst.export.curves import error_of_peak
from dst.export.lowering.trace import trace_fused, trace_portable
from dst.export.model import Network, sized
from dst.graphs.weights import WeightsFile
from dst.runtime import relative_error

T = 32


def main() -> None:
    """Run the four forms side by side and print their errors."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--size", default="small")
    parser.add_argument("--beta-max", type=float, help="run the weights with another beta_max")
    parser.add_argument("--steps", type=int, default=300, help="of 32 bytes each")
    args = parser.parse_args()
    config = sized(args.size)
    if args.beta_max is not None:
        config = replace(config, beta_max=args.beta_max)
    network = Network(config).eval()
    network.load_state_dict(torch.load(args.checkpoint, weights_only=True)["model"])
    text = (Path(dst.__file__).parent / "heldout" / "stdlib.txt").read_bytes()
    chunks = Chunks(network.contract, np.frombuffer(text, np.uint8).astype(np.int64), T)

    with tempfile.TemporaryDirectory() as folder:
        store = WeightsFile(Path(folder) / "weights.bin")
        graphs = [trace_fused(network, store), trace_portable(network, store, T)]
        forms: dict[str, Form] = {"torch": torch_form(network)}
        for graph in graphs:
            content = graph.model.SerializeToString()
            forms[graph.lowering] = onnx_form(content, network.contract, graph.folder)
    reference = torch_form(copy.deepcopy(network).double())

    states = {name: initial_state(network) for name in forms}
    right: Tensors = {k: v.astype(np.float64) for k, v in initial_state(network).items()}
    worst = {name: {"logits": 0.0, "memory": 0.0, "of peak": 0.0} for name in forms}
    crest = 0.0
    for number in range(args.steps):
        chunk = chunks[number]
        outputs, right = reference(chunk, right)
        memories = [k for k in right if k.startswith("S.")]
        for memory in (right[k].astype(np.float64) for k in memories):
            crest = max(crest, float(np.abs(memory).max() / np.sqrt(np.mean(memory**2))))
        for name, form in forms.items():
            found, states[name] = form(chunk, states[name])
            errors = {
                "logits": relative_error(found["logits"], outputs["logits"]),
                "memory": max(relative_error(states[name][k], right[k]) for k in memories),
                "of peak": max(error_of_peak(states[name][k], right[k]) for k in memories),
            }
            worst[name] = {k: max(worst[name][k], value) for k, value in errors.items()}
    print(f"beta_max {config.beta_max:g}, {args.steps} steps of {T}; peak/rms up to {crest:.0f}")
    print(f"{'against float64':18}{'logits /rms':>14}{'memory /rms':>14}{'memory /peak':>14}")
    for name, errors in worst.items():
        print(f"{name:18}" + "".join(f"{value:14.1e}" for value in errors.values()))


if __name__ == "__main__":
    main()
