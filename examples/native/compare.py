r"""Compare a whole step in C++ (layer.cpp) with torch and with ONNX Runtime, and time both.

    g++ -std=c++17 -O3 -march=native -fno-trapping-math -fPIC -shared \
        examples/native/layer.cpp -o out/layer.so
    taskset -c 0 python examples/native/compare.py out [--readme examples/native/README.md]

Two networks of random weights: the `small` size, and one with memories of 64 x 64. Each is
exported and quantized once, below the folder given (minutes), and read again later.

Errors are `dst.runtime.relative_error` over carried steps from the empty state, each side with a
state of its own:

- `rounded torch`: torch in float64 with the same int8 numbers, multiplied out, and the items
  rounded as the recipe `int8-rows` rounds them. Most steps differ by the rounding of float32
  alone. Now and then a value that lies on the edge between two whole numbers tips to the other
  side; such steps, and those after them that still remember it, are counted as `tipped`. Every
  float32 form does this, ONNX Runtime's and torch's own as well;
- `torch`: the same without rounding items. An item's rounding moves each input of a product by at
  most peak / 254, so an output by at most peak / 254 times the column's sum of magnitudes. Through
  layers and steps no useful bound follows from it; ONNX Runtime's error against the same torch
  stands beside it, and ours may be at most a quarter larger;
- `onnx`: the step of the `int8-rows` bundle.

Times are microseconds of this thread. `bare` is `run_with_iobinding` on two prebuilt bindings.
The ways run in turns, in another order each round, some steps in a row: the first meets caches
full of the others (`cold`, as in an app that does other things between two items), the rest its
own (`warm`, as in a loop that generates).
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from figures import Row, machine, table, write_figures
from native_layer import NativeNetwork, Numbers, int8_weights, write_network
from torch import Tensor, nn

from dst.export import export_bundle
from dst.export.model import Config, Network, sized
from dst.quantize import quantize_bundle
from dst.runtime import Session, relative_error
from dst.runtime.bundle.layout import sized as shape_of

Floats = npt.NDArray[np.float32]
# two allowed T, so that the bundle has a graph of its own for T = 1
SHAPES: dict[str, Config] = {
    "small": replace(sized("small"), max_chunk=2),
    "heads64": Config(320, 2, 2, 64, 64, 4, 32, 64, 1024, beta_max=1.0, max_chunk=2),
}
RECIPES = ("int8-rows", "int8-weights", "int4-weights")
TIPPED = 1e-4
"""An error that float32 alone does not make: at least one rounded value differs by 1."""
SLACK = 1.25
BURST = 8
"""Steps in a row."""
WARM = "warm us, median / least"


def bundles(folder: Path, name: str, network: Network) -> dict[str, Path]:
    """The bundle of each recipe; made if missing."""
    paths = {recipe: folder / f"{name}-{recipe}" for recipe in ("float32", *RECIPES)}
    if not paths["float32"].exists():
        tokens = np.random.default_rng(0).integers(0, 256, 4096)
        export_bundle(network, paths["float32"], data=tokens, certify_steps=8, portable_t=())
    for recipe in RECIPES:
        if not paths[recipe].exists():
            quantize_bundle(paths["float32"], paths[recipe], recipe)
    return paths


def dequantized(network: Network, numbers: Numbers) -> Network:
    """The network with the weights that the bundle's whole numbers stand for."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if f"{name}.int8" in numbers:
                values = numbers[f"{name}.int8"].astype(np.float32)
                if f"{name}.scales" in numbers:  # a table (V, D), a scale per row
                    weight = values * numbers[f"{name}.scales"].astype(np.float32)
                else:  # (K, N), a scale per column; torch holds (N, K)
                    weight = (values * numbers[f"{name}.scale"].astype(np.float32)).T
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
    return network


def rounding(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """Round each item with its own scale, as the recipe int8-rows does."""
    (x,) = inputs
    peak = x.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    unit = torch.tensor(np.float32(1 / 127))
    return (x / peak / unit).round() * unit * peak


def torch_stepper(network: Network, rounds: bool) -> Callable[[int], tuple[Floats, Floats]]:
    """A step from token to logits and flat state, which keeps its state."""
    state = network.initial_state(1)
    products = [network.head.out, *(p for n, p in network.named_modules() if n[-3:] in PRODUCTS)]

    def step(token: int) -> tuple[Floats, Floats]:
        nonlocal state
        hooks = [p.register_forward_pre_hook(rounding) for p in products] if rounds else []
        with torch.no_grad():
            outputs, state = network(torch.tensor([[token]]), state)
        for hook in hooks:
            hook.remove()
        return outputs["logits"].numpy().ravel(), flat(state)

    return step


PRODUCTS = ("_in", "out")  # the last letters of mix_in, mix_out, feed_in and feed_out


def flat(state: Mapping[str, Tensor] | Mapping[str, npt.NDArray[np.generic]]) -> Floats:
    """The state in the contract's order, without `ok`."""
    parts = [np.asarray(value).ravel() for name, value in state.items() if name != "ok"]
    return np.concatenate(parts).astype(np.float32)


class Bare:
    """ONNX Runtime's step of a bundle at T = 1, on two prebuilt bindings and nothing else."""

    def __init__(self, path: Path) -> None:
        session = Session.open(path, chunk_sizes=[1])
        contract = session.contract
        self.runner = session.runner_for(1)
        value = ort.OrtValue.ortvalue_from_numpy
        self.sides = [{n: a.copy() for n, a in session.initial.items()} for _ in range(2)]
        self.token = np.zeros((1, 1), np.int64)
        (logits,) = contract.outputs
        self.logits = np.zeros(shape_of(logits.shape, 1), np.float32)
        self.bindings = []
        for source, target in ((0, 1), (1, 0)):
            binding = self.runner.io_binding()
            binding.bind_ortvalue_input(contract.chunk.input, value(self.token))
            for name, constant in session.constants.items():
                binding.bind_ortvalue_input(name, constant)
            binding.bind_ortvalue_output(logits.name, value(self.logits))
            for s in contract.state:
                binding.bind_ortvalue_input(s.input, value(self.sides[source][s.input]))
                binding.bind_ortvalue_output(s.output, value(self.sides[target][s.input]))
            self.bindings.append(binding)
        self.order = [s.input for s in contract.state]
        self.side = 0

    def run(self) -> None:
        self.runner.run_with_iobinding(self.bindings[self.side])
        self.side ^= 1

    def step(self, token: int) -> tuple[Floats, Floats]:
        self.token[...] = token
        self.run()
        state = self.sides[self.side]
        return self.logits.ravel().copy(), flat({n: state[n] for n in self.order})


def errors(name: str, network: Network, native: NativeNetwork, onnx: Bare, steps: int) -> list[Row]:
    """Step all sides with the same tokens; errors of logits and state."""
    native.reset()
    ours: Callable[[int], tuple[Floats, Floats]] = native.step
    network = copy.deepcopy(network).double()
    exact, rounded = torch_stepper(network, False), torch_stepper(network, True)
    pairs = {
        "C++ / rounded torch": (ours, rounded),
        "onnx / rounded torch": (onnx.step, rounded),
        "C++ / onnx": (ours, onnx.step),
        "C++ / torch": (ours, exact),
        "onnx / torch": (onnx.step, exact),
    }
    sides = {side for pair in pairs.values() for side in pair}
    found: dict[str, list[tuple[float, float]]] = {pair: [] for pair in pairs}
    for token in np.random.default_rng(1).integers(0, 256, steps):
        answers = {side: side(int(token)) for side in sides}
        for pair, (one, other) in pairs.items():
            (a, b), (right_a, right_b) = answers[one], answers[other]
            found[pair].append((relative_error(a, right_a), relative_error(b, right_b)))
    worst = {pair: np.max(values, axis=0) for pair, values in found.items()}
    typical = {pair: np.median(values, axis=0) for pair, values in found.items()}
    tipped = {pair: np.mean([value[0] > TIPPED for value in found[pair]]) for pair in found}
    # tipping is rounding: it may not cost more than all rounding of items together
    assert (typical["C++ / rounded torch"] <= TIPPED).all(), typical
    assert (worst["C++ / rounded torch"] <= worst["onnx / torch"]).all(), worst
    assert (worst["C++ / torch"] <= SLACK * worst["onnx / torch"]).all(), worst
    rows: list[Row] = []
    for pair in pairs:
        (logits, state), (most, most_state) = typical[pair], worst[pair]
        share = "" if pair.endswith("/ torch") else f"{tipped[pair]:.0%}"
        figures = (f"{value:.1e}" for value in (logits, most, state, most_state))
        rows.append((name, pair, share, *figures))
    return rows


def times(name: str, ways: Mapping[str, Callable[[], object]], rounds: int) -> list[Row]:
    """Time each way in bursts, in turns: the first step of a burst, and the median of the rest."""
    cold: dict[str, list[float]] = {way: [] for way in ways}
    warm: dict[str, list[float]] = {way: [] for way in ways}
    shuffle = random.Random(0)
    for number in range(rounds + 10):
        for way in shuffle.sample(list(ways), len(ways)):
            spent = [timed_us(ways[way]) for _ in range(BURST)]
            if number >= 10:
                cold[way].append(spent[0])
                warm[way].append(float(np.median(spent[1:])))
    first = next(iter(ways))
    rows: list[Row] = []
    for way in ways:
        row = [name, way]
        for values in (cold, warm):
            ratio = np.quantile(np.divide(values[way], values[first]), (0.25, 0.5, 0.75))
            row.append(f"{np.median(values[way]):.0f} / {np.min(values[way]):.0f}")
            row.append(f"{ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f})")
        rows.append(tuple(row))
    return rows


def timed_us(call: Callable[[], object]) -> float:
    start = time.thread_time_ns()
    call()
    return (time.thread_time_ns() - start) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where layer.so is and bundles are made")
    parser.add_argument("--steps", type=int, default=400, help="carried steps that are compared")
    parser.add_argument("--rounds", type=int, default=400, help="of the timing")
    parser.add_argument("--readme", type=Path, help="a page to put the tables into")
    given = parser.parse_args()
    torch.set_num_threads(1)
    all_errors: list[Row] = []
    all_times: list[Row] = []
    for name, config in SHAPES.items():
        torch.manual_seed(0)
        network = Network(config).eval()
        paths = bundles(given.folder, name, network)
        numbers = int8_weights(paths["int8-rows"])
        network = dequantized(network, numbers)
        file = given.folder / f"{name}.bin"
        write_network(file, network, numbers)
        native = NativeNetwork(given.folder / "layer.so", file, config)
        peers = {recipe: Bare(path) for recipe, path in paths.items()}
        all_errors += errors(name, network, native, peers["int8-rows"], given.steps)
        ways: dict[str, Callable[[], object]] = {"C++": partial(native.run, 65)}
        ways["C++, its int8 products alone"] = native.products
        ways |= {f"bare, {recipe}": peer.run for recipe, peer in peers.items()}
        all_times += times(name, ways, given.rounds)
    heads = ("network", "error of / against", "steps tipped", "logits, median", "largest")
    tables = [table((*heads, "state, median", "largest"), all_errors)]
    ratio = "of C++'s (quartiles)"
    columns = ("network", "one step", "cold us, median / least", ratio, WARM, ratio)
    tables.append(table(columns, all_times))
    about = f"{machine()}; {given.steps} steps compared, {given.rounds} rounds timed."
    write_figures("layer", "\n\n".join([about, *tables]), given.readme)


if __name__ == "__main__":
    main()
