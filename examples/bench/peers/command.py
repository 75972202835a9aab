"""Compare the speed of our runtime with other engines, at equal parameters.

    python examples/bench/peers --work runs/peers --out runs/peers.json --sizes text 130m

Builds llama.cpp, installs OpenVINO and ExecuTorch in environments of their own, makes models of as
many parameters as ours with random weights, and times all of them in turns on an idle machine.
What lies in the work folder is used again. Writes JSON, prints a table, and draws a PNG beside the
JSON. Ratios are speed over llama.cpp's quickest cell, of any family and quantization.

Shape letter: `T` items per chunk.
"""

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from examples.bench.peers.building import (
    LLAMA,
    Compiler,
    LeftOutError,
    Llama,
    compiler,
    limits,
    llama,
)
from examples.bench.peers.cells import Cell, Limits, compared, table
from examples.bench.peers.contestants import NETWORKS, PEERS, LeftOut, Making
from examples.bench.peers.picture import draw
from examples.bench.peers.rounds import Gate, Round

from dst.evaluate.drawing import NoMatplotlibError
from dst.evaluate.machine import environment, load_average
from dst.evaluate.result import Environment


@dataclass(frozen=True, slots=True)
class Result:
    """All that is written.

    Attributes:
        machine: the CPU, its instructions, versions and load.
        kernels: the class of int8 kernels: `AVX512-VNNI`, `AVX2` or `other`.
        compiler: of llama.cpp and `peak.c`; null where there is none.
        llama: the package that llama.cpp came in.
        limits: what the machine can do, by number of threads.
        rounds: at most so many were asked for.
        idle_cores: so many had to be idle for a turn to begin.
        depth: items in llama.cpp's memory before a step.
        cells: what was measured.
        left_out: who did not take part, and why.
    """

    machine: Environment
    kernels: str
    compiler: str | None
    llama: str
    limits: dict[int, Limits]
    rounds: int
    idle_cores: float
    depth: int
    cells: list[Cell]
    left_out: list[LeftOut]


@dataclass(frozen=True, slots=True)
class Asked:
    """The arguments."""

    work: Path
    out: Path
    sizes: list[str]
    t: list[int]
    threads: list[int]
    rounds: int
    peers: list[str]
    minutes: float
    idle: float
    wait: float
    depth: int
    jobs: int


def arguments() -> Asked:
    parser = argparse.ArgumentParser(
        prog="peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = os.cpu_count() or 1
    add = parser.add_argument
    add("--work", type=Path, default=Path("runs/peers"), help="builds and models, kept")
    add("--out", type=Path, default=Path("runs/peers.json"), help="the JSON; the PNG is beside it")
    add("--sizes", nargs="+", choices=list(NETWORKS), default=["text", "130m"])
    add("--t", nargs="+", type=int, default=[1, 16, 64, 256], help="items per chunk")
    add("--threads", nargs="+", type=int, default=[1, 2])
    add("--rounds", type=int, default=6, help="turns of each contestant, at most")
    add("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    add("--minutes", type=float, default=120, help="for the rounds; building is not counted")
    add("--idle", type=float, default=cores - 0.3, help="idle cores that a turn needs; 0: any")
    add("--wait", type=float, default=60, help="seconds to wait for them")
    add("--depth", type=int, default=0, help="items in llama.cpp's memory before a step")
    add("--jobs", type=int, default=1, help="files compiled at once")
    given = vars(parser.parse_args())
    return Asked(**{**given, "work": given["work"].absolute()})


def tell(what: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {what}", flush=True)


def built(asked: Asked, left_out: list[LeftOut]) -> tuple[Compiler | None, Llama | None]:
    """Find the compiler and llama.cpp, or note why there is none."""
    chosen = None
    try:
        chosen = compiler()
        if "llama" not in asked.peers:
            return chosen, None
        tell("building or finding llama.cpp")
        return chosen, llama(asked.work, chosen, asked.jobs)
    except LeftOutError as error:
        left_out.append(LeftOut("all", "llama", str(error)))
        return chosen, None


def raced(
    asked: Asked, build: Llama | None, cells: list[Cell], left_out: list[LeftOut]
) -> Iterator[None]:
    """Measure every size, number of threads and T; what is found is added to the lists."""
    gate = Gate(asked.idle, asked.wait)
    left = len(asked.sizes) * len(asked.threads) * len(asked.t)
    minutes = asked.minutes
    for size in asked.sizes:
        making = Making(asked.work, size, tell)
        for t in asked.t:
            contestants = making.contestants(asked.peers, asked.t, t, build)
            for threads in asked.threads:
                tell(f"{size} T={t} threads={threads}: {len(contestants)} contestants get ready")
                with Round(contestants, size, t, threads, build, asked.depth) as contest:
                    began = time.monotonic()
                    cells += contest.race(asked.rounds, minutes / left, gate, tell)
                    minutes = max(0.0, minutes - (time.monotonic() - began) / 60)
                left -= 1
                left_out += contest.left_out
                yield
        left_out += making.left_out
    yield


def kernels(machine: Environment) -> str:
    """Name the class of int8 kernels of a machine."""
    flags = set(machine.instructions)
    if {"avx512f", "avx512_vnni"} <= flags:
        return "AVX512-VNNI"
    return "AVX2" if "avx2" in flags else "other"


def main() -> None:
    asked = arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    before = load_average()
    left_out: list[LeftOut] = []
    chosen, build = built(asked, left_out)
    measured: dict[int, Limits] = {}
    for threads in asked.threads if chosen else ():
        tell(f"measuring what the machine can do with {threads} threads")
        Gate(asked.idle, asked.wait).passed()
        try:
            assert chosen is not None
            measured[threads] = msgspec.convert(limits(asked.work, chosen, threads), Limits)
        except LeftOutError as error:
            left_out.append(LeftOut("all", "limits", str(error), threads=threads))
    found: list[Cell] = []
    for _ in raced(asked, build, found, left_out):  # a run that is broken off leaves what it has
        machine = environment(None, before)
        result = Result(
            machine=machine,
            kernels=kernels(machine),
            compiler=chosen.version if chosen else None,
            llama=LLAMA,
            limits=measured,
            rounds=asked.rounds,
            idle_cores=asked.idle,
            depth=asked.depth,
            cells=compared(found, measured),
            left_out=list(dict.fromkeys(left_out)),
        )
        asked.out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1))
    cells = result.cells
    print(table(cells))
    for out in result.left_out:
        where = f" T={out.t} threads={out.threads}" if out.t else ""
        print(f"left out: {out.size}{where} {out.contestant}: {out.why}")
    try:
        if any(cell.ratio_of_medians for cell in cells):
            draw(cells, asked.out.with_suffix(".png"))
        else:
            print("no picture: nothing of llama.cpp's was measured")
    except NoMatplotlibError as error:
        print(error)


if __name__ == "__main__":
    main()
