"""Write generated logs to files, or measure them, or print some to be read.

python examples/train/logs --out runs/logs/generated --programs 10 --seed 1000000000
python examples/train/logs --measure --programs 200
python examples/train/logs --show 8 --programs 20
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from logs.measure import NAMES, measured
from logs.program import Program


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--programs", type=int, default=10)
    add("--seed", type=int, default=0, help="of the first program; the next ones follow")
    add("--bytes", type=int, default=300_000, help="of each log")
    add("--out", type=Path, help="write the logs into this folder")
    add("--show", type=int, metavar="N", help="print N lines of each, from its middle")
    add("--measure", action="store_true", help="print quantiles of what is told of real logs")
    given = parser.parse_args()
    rows: list[list[float]] = []
    seconds, size = 0.0, 0
    for seed in range(given.seed, given.seed + given.programs):
        start = time.process_time()
        text = Program(seed).read(given.bytes)
        seconds, size = seconds + time.process_time() - start, size + len(text)
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            whole = text[: text.rfind(b"\n") + 1]
            (given.out / f"program-{seed}.log").write_bytes(whole)
        if given.show:
            lines = text.decode("utf-8", "replace").splitlines()
            middle = len(lines) // 2
            print(f"=== {seed}", *lines[middle : middle + given.show], sep="\n")
        if given.measure:
            rows.append(measured(text))
    if rows:
        print(f"{'':>28}" + "".join(f"{q:>9}%" for q in (5, 25, 50, 75, 95)))
        for name, column in zip(NAMES, np.array(rows).T, strict=True):
            shown = "".join(f"{v:10.2f}" for v in np.percentile(column, (5, 25, 50, 75, 95)))
            print(f"{name:>28}{shown}")
    print(f"{size:,} bytes, {size / seconds / 1e6:.2f} MB/s of generated text, programs included")


if __name__ == "__main__":
    main()
