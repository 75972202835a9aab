"""Judge the feed model: anomalies of the Numenta benchmark, and streams with a known optimum.

    python examples/evaluate/feed/judge.py nab FOLDER --bundle feed --json runs/feed/nab.json
    python examples/evaluate/feed/judge.py known --bundle feed --json runs/feed/known.json

FOLDER holds `windows.json` and `data/` in the benchmark's own form. Each file is read once, from
the cold state, by the bundle in the runtime; one set of parameters serves all files. Scores are
those of the standard profile with the one best threshold over all files, as there; with
the threshold that is best on the other half of the files; and with the fixed rates of false alerts
that the bundle states. Every other file by name is in the first half.
"""

import argparse
import json
from pathlib import Path

import known
import nab
import numpy as np
from detectors import Floats, random_scores, seasonal_naive, windowed_gaussian

from dst.runtime import Session
from dst.runtime.monitor.calendar import seconds_of, time_inputs

Judged = dict[str, dict[str, float]]
"""What is known of a detector on all files, on the first half and on the second."""
RATES = (1e-2, 1e-3, 3e-4, 1e-4)


def items_of(file: nab.File) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The items of a file as feed models read them, `[n, 3]`."""
    times = time_inputs([seconds_of(text) for text in file.times])
    return np.concatenate([file.values[:, None].astype(np.float32), times], 1)


def alerts_of(bundle: str, files: list[nab.File]) -> list[Floats]:
    """Run a bundle over each file from the cold state; `-log10` of the rate of false alerts."""
    session = Session.open(bundle)
    found = []
    for file in files:
        stream = session.stream()
        items = items_of(file)
        parts = [stream.advance(items)["alert"], stream.flush()["alert"]]
        found.append(np.concatenate([part[0] for part in parts]).astype(np.float64))
    return found


def judged(files: list[nab.File], scores: list[Floats], rates: bool) -> Judged:
    """Score a detector on all files and on both halves, with several thresholds."""
    halves = {"all": list(range(len(files)))}
    halves["first half"], halves["second half"] = halves["all"][0::2], halves["all"][1::2]
    other = {"first half": "second half", "second half": "first half"}
    told: Judged = {}
    best: dict[str, nab.Result] = {}
    for name, chosen in halves.items():
        best[name] = nab.judge([files[i] for i in chosen], [scores[i] for i in chosen])
    for name, chosen in halves.items():
        part, given = [files[i] for i in chosen], [scores[i] for i in chosen]
        result = best[name]
        row: dict[str, float] = {
            "score": result.score,
            "threshold": result.threshold,
            "found": result.found,
            "windows": result.windows,
            "false": result.false,
            "rows": sum(len(file.values) for file in part),
        }
        if name in other:
            row["score at the other half's threshold"] = nab.judge(
                part, given, best[other[name]].threshold
            ).score
        for rate in RATES if rates else ():
            row[f"score at the rate {rate:g}"] = nab.judge(part, given, -np.log10(rate)).score
        told[name] = row
    return told


def benchmark(folder: Path, bundles: list[str]) -> dict[str, Judged]:
    """Score bundles and baselines on the same files."""
    files = nab.read(folder)
    given: dict[str, list[Floats]] = {name: alerts_of(name, files) for name in bundles}
    given["windowed Gaussian"] = [windowed_gaussian(file.values) for file in files]
    given["seasonal naive"] = [
        seasonal_naive(f.values, np.array([seconds_of(text) for text in f.times])) for f in files
    ]
    given["random"] = [random_scores(len(file.values), seed) for seed, file in enumerate(files)]
    return {name: judged(files, scores, name in bundles) for name, scores in given.items()}


def table(found: dict[str, Judged]) -> list[str]:
    """Return the lines of a table: a detector per row."""
    lines = [f"{'':20} {'all':>7} {'first':>7} {'second':>7}  at the other's  found false"]
    for name, parts in found.items():
        whole, first, second = (parts[part] for part in ("all", "first half", "second half"))
        cross = "score at the other half's threshold"
        lines.append(
            f"{name:20} {whole['score']:7.2f} {first['score']:7.2f} {second['score']:7.2f}  "
            f"{first[cross]:6.2f} {second[cross]:6.2f}  "
            f"{whole['found']:>3}/{whole['windows']} {whole['false']:5}"
        )
        fixed = [key for key in whole if key.startswith("score at the rate")]
        for key in fixed:
            cells = " ".join(f"{part[key]:7.2f}" for part in (whole, first, second))
            lines.append(f"  {key.removeprefix('score '):18} {cells}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["nab", "known"])
    parser.add_argument("folder", nargs="?", type=Path, help="of the benchmark")
    parser.add_argument("--bundle", action="append", help="may be repeated; else feed")
    parser.add_argument("--json", type=Path, help="where to write the result")
    given = parser.parse_args()
    bundles = given.bundle or ["feed"]
    if given.what == "nab":
        if given.folder is None:
            parser.error("nab needs the folder of the benchmark")
        judgement = benchmark(given.folder, bundles)
        print(*table(judgement), sep="\n")
        text = json.dumps(judgement, indent=1)
    else:
        found = {name: known.measured(name) for name in bundles}
        for name, rows in found.items():
            print(name, *known.table(rows), sep="\n")
        text = json.dumps(found, indent=1)
    if given.json:
        given.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
