"""Measure how long a process takes from its start to the first output of a bundle.

    python examples/bench/start_up.py [BUNDLE ...] [--rounds 15] [--json FILE]

Each line is a Python process of its own. In every round all of them run, in another order; the
files are in the system's cache. A ratio is the median over the rounds of a process's wall time
over that of `import onnxruntime` in the same round, `cpu` the same for the processor's time,
which a busy machine disturbs less. `ms` is the median of the wall times, and `peak` the most
memory that the process ever held, in MiB. Compiled Python is kept in a folder of this run, as an
installation keeps it beside the modules.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = "import onnxruntime"
OUTPUT = """
import numpy as np
from dst.runtime import Session
session = Session.open({bundle!r}, verify={verify!r})
stream = session.stream()
chunk = session.contract.chunk
t = {t} or chunk.nominal_t
shape = [1 if n == "B" else t + chunk.lookahead if n == "T" else n for n in chunk.shape]
stream.step(np.zeros(shape, chunk.dtype))
"""
Command = list[str]


def commands(bundles: list[str], text: Path) -> dict[str, Command]:
    """Return what is run, by the name that the table gives it."""
    python = [sys.executable, "-c"]
    found = {
        "python alone": [*python, "pass"],
        "import numpy": [*python, "import numpy"],
        BASE: [*python, "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; " + BASE],
        "import dst.runtime": [*python, "import dst.runtime"],
        "from dst.runtime import Session": [*python, "from dst.runtime import Session"],
    }
    for bundle in bundles:
        for note, verify, t in (
            ("", "full", 0),
            (", T = 1", "full", 1),
            (", verify='size'", "size", 0),
        ):
            code = OUTPUT.format(bundle=bundle, verify=verify, t=t)
            found[f"{bundle}: first output{note}"] = [*python, code]
    for bundle in bundles:
        command = [sys.executable, "-m", "dst", "run", bundle, str(text), "--json", "-"]
        found[f"dst run {bundle} FILE"] = command
    found["dst --version"] = [sys.executable, "-m", "dst", "--version"]
    return found


def run(command: Command, environment: dict[str, str]) -> tuple[float, float, float]:
    """Run a command to its end and return its seconds, seconds of CPU, and peak memory in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 2**20


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", nargs="*", default=["text"], metavar="BUNDLE")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_bytes(b"a line of text\n" * 4)
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(Path(folder) / "compiled")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        wanted = commands(options.bundles, text)
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in wanted}
        for name in wanted:  # the first of each reads files from the disk and compiles modules
            run(wanted[name], environment)
        names = list(wanted)
        for _ in range(options.rounds):
            random.shuffle(names)
            for name in names:
                found[name].append(run(wanted[name], environment))
    print(f"{'':44} {'ratio':>6} {'cpu':>6} {'ms':>7} {'peak':>7}")
    result = {}
    for name, rounds in found.items():
        pairs = list(zip(rounds, found[BASE], strict=True))
        ratio, cpu = (statistics.median(own[i] / base[i] for own, base in pairs) for i in (0, 1))
        ms, peak = (statistics.median(own[i] for own in rounds) for i in (0, 2))
        print(f"{name:44} {ratio:6.2f} {cpu:6.2f} {1000 * ms:7.0f} {peak:7.1f}")
        result[name] = {"ratio": ratio, "cpu_ratio": cpu, "ms": 1000 * ms, "peak_mib": peak}
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
