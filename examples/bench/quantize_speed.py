"""Speed of quantized bundles over full precision, in turns on this machine; ratios come out.

    python examples/bench/quantize_speed.py text
    python examples/bench/quantize_speed.py 130m --folder big --t 1 64

`130m` is the named size with random weights, exported once into the folder (needs torch; minutes).
Its speed is that of trained weights; its outputs mean nothing, so nothing is said of its loss.
Each round steps every bundle once at every T, so that what else the machine does meets all alike;
time is that of the thread, medians of rounds are compared, with the quartiles beside them.
"""

import argparse
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from dst.quantize import quantize_bundle, recipe_named
from dst.runtime import Session, open_bundle
from dst.runtime.bundle.manifest import Tokens

NOMINAL = 64
"""The T of the exported bundle; int8-dynamic runs at this and at 1."""
DEFAULT = ("int8-dynamic", "int8-rows", "int8-weights", "int4-weights", "int4-weights/128")


def exported(path: Path, size: str) -> Path:
    """Write a named size with random weights as a bundle."""
    import torch

    from dst.export import export_bundle
    from dst.export.model import Network, sized

    torch.manual_seed(0)
    network = Network(sized(size)).eval()
    chunk = msgspec.structs.replace(network.contract.chunk, nominal_t=NOMINAL)
    network.contract = msgspec.structs.replace(network.contract, chunk=chunk)
    export_bundle(network, path, certify_steps=1, portable_t=())
    return path


def thread_ms(bundles: dict[str, Session], t: int, rounds: int) -> dict[str, list[float]]:
    """Step every bundle once a round; milliseconds of this thread per step."""
    able = {name: s for name, s in bundles.items() if t in s.chunk_sizes}
    streams = {name: session.stream() for name, session in able.items()}
    spent: dict[str, list[float]] = {name: [] for name in able}
    random = np.random.default_rng(0)
    for number in range(rounds + 2):
        for name, stream in streams.items():
            content = able[name].contract.chunk.content
            highest = content.vocabulary if isinstance(content, Tokens) else 1
            chunk = random.integers(0, highest, (1, t))
            start = time.thread_time()
            stream.step(chunk, copy=False)
            if number >= 2:  # the first steps touch the memory
                spent[name].append(1e3 * (time.thread_time() - start))
    return spent


def quartiles(values: npt.NDArray[np.float64]) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:5.2f} ({low:.2f}..{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of quantized bundles, as ratios.")
    parser.add_argument("model", help="a bundle of tokens, or 130m")
    parser.add_argument(
        "--recipes", nargs="+", default=DEFAULT, help="names, perhaps with a block: int4-weights/64"
    )
    parser.add_argument("--t", nargs="+", type=int, default=[1, 32, 64])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="keep the bundles here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        source = given.model
        if source == "130m":
            source = str(folder / "130m")
            if not Path(source).exists():
                exported(Path(source), "130m")
        name = Path(source).name
        paths = {"float32": source}
        for recipe in given.recipes:
            plain, _, block = recipe.partition("/")
            chosen = recipe_named(plain, block=int(block) if block else None)
            paths[recipe] = str(folder / f"{name}-{recipe.replace('/', '-')}")
            if not Path(paths[recipe]).exists():
                quantize_bundle(source, paths[recipe], chosen)
        bundles = {n: Session.open(p, chunk_sizes=sizes(p, given.t)) for n, p in paths.items()}
        full = bundles["float32"].bundle.manifest.weights_bytes
        for recipe, session in bundles.items():
            held = session.bundle.manifest.weights_bytes
            print(f"{recipe:16s} {held / 2**20:7.1f} MiB of weights, {held / full:.3f} of float32")
        print("speed over float32, by thread time: median of rounds (quartiles)")
        for t in given.t:
            spent = {n: np.asarray(v) for n, v in thread_ms(bundles, t, given.rounds).items()}
            for recipe, values in spent.items():
                middle = float(np.median(values))
                ratio = quartiles(spent["float32"] / values)
                print(f"T={t:<4d} {recipe:16s} {middle:9.3f} ms  {ratio}", flush=True)


def sizes(path: str, wanted: list[int]) -> list[int]:
    """The wanted T that a bundle runs."""
    return [t for t in wanted if t in open_bundle(path, "size").manifest.contract.chunk.allowed_t]


if __name__ == "__main__":
    main()
