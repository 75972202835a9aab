"""Time and memory per item of a Transformer with a key-value cache, and of a DST network as large.

    python examples/evaluate/quadratic/measure.py --json runs/quadratic.json

Both have as many parameters, float32, and one thread; they step one item at a time, in turns. The
Transformer has random weights, and its cache is filled up to a position without computing what lies
before it, which does not change what a step costs. DST has no position; its last row is after
`--real` items that it has read.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
import onnxruntime as ort
from transformer import Sizes, graph

from dst.evaluate.drawing import COLOURS, dress, new_figure
from dst.evaluate.machine import environment
from dst.runtime import Session

POSITIONS = (256, 1024, 4096, 16_384, 65_536, 131_072)
TURNS, STEPS = 9, 16


class Row(msgspec.Struct, frozen=True):
    """What a step costs at a position; `bytes` is what the past takes in memory."""

    engine: str
    position: int
    microseconds: float
    bytes: int


class Transformer:
    """The Transformer on prebuilt bindings; past and present are one buffer.

    Args:
        sizes: of the network.
    """

    def __init__(self, sizes: Sizes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.sizes = sizes
        self.session = ort.InferenceSession(graph(sizes), options, ["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        self.ids = np.zeros((1, 1), np.int64)
        self.seen, self.total = np.zeros(1, np.int32), np.zeros((), np.int32)
        self.caches = []
        random = np.random.default_rng(1)
        for i in range(sizes.layers):
            for part in ("key", "value"):
                cache = ort.OrtValue.ortvalue_from_numpy(
                    random.standard_normal(sizes.cache_shape(), np.float32)
                )
                self.caches.append(cache)
                self.binding.bind_ortvalue_input(f"{part}.{i}", cache)
                self.binding.bind_ortvalue_output(f"{part}.{i}.next", cache)
        self.binding.bind_output("logits", "cpu")

    def step(self, position: int) -> None:
        """Read one item at a position."""
        self.binding.bind_cpu_input("ids", self.ids)
        self.binding.bind_cpu_input("seen", np.array([position], np.int32))
        self.binding.bind_cpu_input("total", np.array(position + 1, np.int32))
        self.session.run_with_iobinding(self.binding)

    def bytes_at(self, position: int) -> int:
        """What keys and values up to a position take."""
        return 2 * self.sizes.layers * self.sizes.width * 4 * position


def timed(step: Callable[[], object]) -> float:
    """Microseconds of a step, mean of some."""
    step()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    return 1e6 * (time.perf_counter() - began) / STEPS


def measured(bundle: str, real: int) -> tuple[list[Row], dict[str, int]]:
    """Measure both at every position, in turns."""
    session = Session.open(bundle, threads=1)
    stream, state = session.stream(), session.layout.state_bytes
    sizes = Sizes(320, 2, 1024, 256, POSITIONS[-1])  # those of the named size `small`
    other = Transformer(sizes)
    one = np.zeros((1, 1), np.int64)
    rows: list[Row] = []
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(TURNS):
        for position in POSITIONS:
            at = position - STEPS - 1
            spent = timed(lambda: other.step(at))  # noqa: B023
            times.setdefault(("Transformer with cache", position), []).append(spent)
            times.setdefault(("DST", position), []).append(timed(lambda: stream.step(one)))
    for (engine, position), turns in times.items():
        size = state if engine == "DST" else other.bytes_at(position)
        rows.append(Row(engine, position, median(turns), size))
    text = np.random.default_rng(0).integers(0, 256, 65_536)
    while stream.items_consumed < real:
        stream.advance(text, last=True)
        stream.flush(last=True)
    rows.append(Row("DST", stream.items_consumed, timed(lambda: stream.step(one)), state))
    return rows, {
        "DST": session.bundle.manifest.weights_bytes // 4,
        "Transformer with cache": sizes.parameters,
    }


def draw(rows: list[Row], target: Path) -> None:
    """Draw time and memory against the position."""
    figure = new_figure(9.5, 3.6)
    left, right = figure.subplots(1, 2)
    for colour, engine in zip(COLOURS, ("DST", "Transformer with cache"), strict=False):
        mine = sorted((row for row in rows if row.engine == engine), key=lambda row: row.position)
        at = [row.position for row in mine]
        left.plot(at, [row.microseconds for row in mine], "-o", ms=3, color=colour, label=engine)
        right.plot(at, [row.bytes / 2**20 for row in mine], "-o", ms=3, color=colour, label=engine)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.legend()
    dress(left, "Time of one item", "items read before", "microseconds")
    dress(right, "Memory of the past", "items read before", "MiB")
    figure.savefig(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--bundle", default="text", help="of the named size `small`")
    add("--real", type=int, default=10_000_000, help="items that DST reads before its last row")
    add("--json", type=Path, default=Path("runs/quadratic.json"), help="the picture is beside it")
    given = parser.parse_args()
    rows, parameters = measured(given.bundle, given.real)
    print(f"parameters: {parameters}")
    for row in rows:
        print(
            f"{row.engine:24} {row.position:12,} items  {row.microseconds:10,.0f} us  "
            f"{row.bytes / 2**20:10,.2f} MiB"
        )
    out = {"machine": environment(None, None), "parameters": parameters, "rows": rows}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_bytes(msgspec.json.format(msgspec.json.encode(out), indent=1))
    draw(rows, given.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
