"""A state's size in, the cost of saving and loading it out: file and store, synced and not.

    python examples/bench/store_cost.py [--state-kib 1024] [--rounds 60] [--folder DIR]

The bundle is made here: one state tensor of that size, passed through. Each round takes every way
once, beginning with another one, so that all meet the same weather. The figures are medians and
95th percentiles of milliseconds; `folder` decides which disk is measured. `file, no fsync` is
`Stream.save` with `os.fsync` replaced by nothing; the store's `NORMAL` and `FULL` are
`durable=False` and `durable=True`.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from dst.runtime import Session, StateStore, Stream, write_bundle
from dst.runtime.bundle.manifest import (
    Chunk,
    Contract,
    Features,
    Graph,
    Horizon,
    Manifest,
    Output,
    Producer,
    State,
    Zeros,
)


def make_bundle(path: Path, floats: int) -> Path:
    """Write a bundle whose state is `floats` numbers, to each of which a step adds its item."""
    name = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Add", ["s", "x"], ["s_next"]),
                helper.make_node("Identity", ["x"], ["y"]),
            ],
            "step",
            [name("x", TensorProto.FLOAT, [1, 1]), name("s", TensorProto.FLOAT, [1, floats])],
            [name("y", TensorProto.FLOAT, [1, 1]), name("s_next", TensorProto.FLOAT, [1, floats])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.checker.check_model(model)
    contract = Contract(
        chunk=Chunk(
            input="x",
            dtype="float32",
            shape=("B", "T"),
            nominal_t=1,
            allowed_t=(1,),
            content=Features(names=(), sample_rate_hz=None, normalisation=None),
            lookback=0,
            lookback_fill=None,
            tail="exact",
            pad_value=None,
        ),
        constants=(),
        outputs=(
            Output(
                name="y",
                dtype="float32",
                shape=("B", "T"),
                meaning="custom",
            ),
        ),
        state=(
            State(
                input="s",
                output="s_next",
                dtype="float32",
                shape=("B", floats),
                init=Zeros(),
                role="memory",
            ),
        ),
    )
    manifest = Manifest(
        name="carried",
        description="",
        license="",
        model_id="0" * 64,
        precision="float32",
        recipe=None,
        producer=Producer(name="store_cost", version="0"),
        contract=contract,
        graphs=(
            Graph(
                file="step.onnx",
                lowering="portable",
                allowed_t=(1,),
                batch=(1,),
                opsets={"ai.onnx": 18},
                domains=("ai.onnx",),
                min_ort="1.17",
                golden_tolerance=1e-5,
            ),
        ),
        golden=(),
        certificates=(),
        horizon=Horizon(half_life_items=None),
        weights_bytes=0,
    )
    write_bundle(path, manifest, {"step.onnx": model.SerializeToString()})
    return path


@contextmanager
def no_fsync() -> Iterator[None]:
    """Let `os.fsync` do nothing, as a file system without power loss would."""
    real, os.fsync = os.fsync, lambda fd: None
    try:
        yield
    finally:
        os.fsync = real


def save_quickly(stream: Stream, path: Path) -> None:
    with no_fsync():
        stream.save(path)


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def measure(ways: Sequence[Sequence[Callable[[], object]]], turn: int) -> list[list[float]]:
    """Time every call of every way once, beginning with another way each turn."""
    times: list[list[float]] = [[] for _ in ways]
    for place in range(len(ways)):
        way = (turn + place) % len(ways)
        times[way] = [milliseconds(call) for call in ways[way]]
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state-kib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="where to write; the temporary folder if not")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as place:
        run(Path(place), asked.state_kib, asked.rounds)


def run(place: Path, state_kib: int, rounds: int) -> None:
    session = Session.open(make_bundle(place / "bundle", state_kib * 256))
    stream = session.stream()
    stores = {
        f"store, {level}{', history' if history else ''}": StateStore(
            place / f"{level}{history}.db", durable=level == "FULL", history_bytes=history
        )
        for history in (0, 16 << 20)
        for level in ("NORMAL", "FULL")
    }
    quick, synced = place / "quick.state", place / "synced.state"
    ways: dict[str, list[Callable[[], object]]] = {
        "file, no fsync": [
            partial(save_quickly, stream, quick),
            partial(Stream.load, session, quick),
        ],
        "file, fsync": [
            partial(stream.save, synced),
            partial(Stream.load, session, synced),
        ],
    }
    for name, store in stores.items():
        ways[name] = [
            lambda store=store: store.put("s", stream.saved()),  # type: ignore[misc]
            lambda store=store: session.stream(store.get("s")),  # type: ignore[misc]
        ]
    columns: list[list[list[float]]] = [[] for _ in ways]
    for turn in range(-5, rounds):
        stream.step(np.full((1, 1), turn, np.float32))
        for column, times in zip(columns, measure(list(ways.values()), turn), strict=True):
            if turn >= 0:
                column.append(times)
    for store in stores.values():
        store.close()
    print(f"a state of {state_kib} KiB, {rounds} rounds, milliseconds: median (95th percentile)")
    print(f"{'':<24} {'save':>16} {'load':>16} {'both':>16} {'to the first':>13}")
    first = 0.0
    for name, column in zip(ways, columns, strict=True):
        parts = [[times[0] for times in column], [times[1] for times in column]]
        parts.append([sum(times) for times in column])
        both = statistics.median(parts[2])
        first = first or both
        cells = " ".join(f"{spell(part):>16}" for part in parts)
        print(f"{name:<24} {cells} {both / first:>13.2f}")


def spell(times: Sequence[float]) -> str:
    high = statistics.quantiles(times, n=20)[-1]
    return f"{statistics.median(times):.2f} ({high:.2f})"


if __name__ == "__main__":
    main()
