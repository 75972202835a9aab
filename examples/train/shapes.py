"""Compare network shapes of equal size: loss after a short training, and time per step.

    python examples/train/shapes.py --out runs/shapes --steps 400
    python examples/train/shapes.py --out runs/shapes --steps 0     # the times alone

Every candidate has about as many parameters as the shipped text model. All are trained on the same
bytes in the same order, 8 x 512 a step, a quarter of the steps from the zero state; their loss is
that on the first held-out bytes, read once with a carried state. Times are those of the thread, of
`Stream.step` in sessions for that T alone, candidates in turns in one process.
Trained candidates and losses are kept in the folder; a second call goes on with what is missing.
"""

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from corpus import split
from text import text_task
from torch.nn import functional as F
from trainer import Plan, train

from dst.export import export_bundle
from dst.export.model import Network
from dst.export.model.config import Config
from dst.quantize import quantize_bundle
from dst.runtime import Session

SMALL = Config(224, 4, 4, 32, 48, 4, 32, 64, 576, beta_max=1.0)
"""The size `small` before this comparison; now it is the fourth shape below."""
WIDE = replace(SMALL, heads=2, key=64, value=64)
SHAPES: dict[str, Config] = {
    "4 layers of 224, 4 x 32 x 48": SMALL,
    "4 layers of 224, 2 x 64 x 64": replace(WIDE, hidden=600),
    "3 layers of 256, 2 x 64 x 64": replace(WIDE, width=256, layers=3, hidden=784),
    "2 layers of 320, 2 x 64 x 64": replace(WIDE, width=320, layers=2, hidden=1024),
    "2 layers of 320, 4 x 64 x 64": replace(WIDE, width=320, layers=2, heads=4, hidden=832),
}
"""Name -> sizes; the memories of H x K x V are those of one layer."""
RECIPES = ("float32", "int8-rows", "int4-rows")
HELD_OUT, SEGMENT = 1 << 17, 512


def learned(config: Config, given: argparse.Namespace, folder: Path) -> Network:
    """Train a network, or read it where that was done before."""
    task = text_task([*split()[0].values()], config)
    plan = Plan(
        folder, given.steps, given.steps // 4, decay=0.6, threads=given.threads, compiled=False
    )
    network = train(task, plan)
    assert isinstance(network, Network)
    return network


def held_out_bits(network: Network) -> float:
    """Bits per byte on held-out text, read once."""
    text = b"".join(split()[1].values())[: HELD_OUT + 1]
    items = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()[None]
    state, total = network.initial_state(1), 0.0
    with torch.no_grad():
        for start in range(0, HELD_OUT, SEGMENT):
            outputs, state = network(items[:, start : start + SEGMENT], state)
            target = items[0, start + 1 : start + SEGMENT + 1]
            total += F.cross_entropy(outputs["logits"][0], target, reduction="sum").item()
    return total / HELD_OUT / math.log(2)


def times_us(paths: dict[str, Path], t: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds of this thread per step of T items, all bundles in turns."""
    streams = {n: Session.open(p, chunk_sizes=[t]).stream() for n, p in paths.items()}
    random = np.random.default_rng(0)
    repeats = 8 if t == 1 else 1
    spent: dict[str, list[float]] = {name: [] for name in paths}
    for number in range(rounds + 2):
        for name in random.permutation(list(streams)):
            chunk = random.integers(0, 256, (1, t))
            streams[name].step(chunk, copy=False)
            start = time.thread_time()
            for _ in range(repeats):
                streams[name].step(chunk, copy=False)
            if number >= 2:  # the first steps touch the memory
                spent[name].append(1e6 * (time.thread_time() - start) / repeats)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description="Network shapes: loss and time per step.")
    parser.add_argument("--out", type=Path, required=True, help="folder of networks and results")
    parser.add_argument("--steps", type=int, default=400, help="0 leaves the training out")
    parser.add_argument("--only", type=int, nargs="+", help="numbers of shapes, from 0")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2, help="of the training")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, float]] = {}
    networks: dict[str, Network] = {}
    for number, (name, config) in enumerate(SHAPES.items()):
        if given.only and number not in given.only:
            continue
        print(name, flush=True)
        network = Network(config).eval()
        rows[name] = {"parameters": sum(p.numel() for p in network.parameters())}
        if given.steps:
            network = learned(config, given, given.out / f"{number}-{given.steps}")
            rows[name]["bits_per_byte"] = round(held_out_bits(network), 4)
            print(f"  held out: {rows[name]['bits_per_byte']}", flush=True)
        networks[name] = network
    paths: dict[str, Path] = {}
    for name, network in networks.items():
        folder = given.out / f"{[*SHAPES].index(name)}-bundles"
        folder.mkdir(exist_ok=True)
        for recipe in RECIPES:
            path = paths[f"{name} | {recipe}"] = folder / recipe
            if recipe == "float32":
                export_bundle(network, path, certify_steps=1, portable_t=(), overwrite=True)
            else:
                quantize_bundle(folder / "float32", path, recipe, overwrite=True)
    for t in (1, 32):
        for key, spent in times_us(paths, t, given.rounds).items():
            name, _, recipe = key.partition(" | ")
            rows[name][f"{recipe} T={t} us"] = round(float(np.median(spent)), 1)
            rows[name][f"{recipe} T={t} us least"] = round(min(spent), 1)
    for name, row in rows.items():
        print(name, json.dumps(row), flush=True)
    (given.out / "shapes.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
