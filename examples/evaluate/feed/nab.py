"""Score anomaly detectors as the Numenta Anomaly Benchmark does, in its standard profile.

Written from the paper: A. Lavin and S. Ahmad, Evaluating Real-time Anomaly Detection Algorithms,
2015 (arXiv:1510.03336). A detector gives each row of a file a score. Rows at or above a threshold
are detections. In each labelled window the earliest detection counts, the more the earlier it is;
a window without one costs 1; each detection outside of a window costs up to 0.11, less shortly
behind a window. The sum is scaled so that a detector which says nothing gets 0 and a perfect one
100. As in the benchmark, one threshold serves all files, and it is the best one there is.

Shape letters: n rows of a file, W windows of it.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MISS, FALSE = 1.0, 0.11
"""Weights of a missed window and of a false detection, standard profile."""
PROBATION, LONGEST_PROBATION = 0.15, 750
"""Rows at the begin of a file that are not judged: this share of them, at most so many."""


@dataclass(frozen=True, slots=True)
class File:
    """One labelled series."""

    name: str
    times: list[str]
    values: Floats  # [n]
    windows: npt.NDArray[np.int64]  # [W, 2], first and last row of each

    @property
    def probation(self) -> int:
        """Rows at the begin that are not judged."""
        return min(int(PROBATION * len(self.values)), LONGEST_PROBATION)


def read(folder: Path) -> list[File]:
    """Read `windows.json` and the files it names under `data`, in the order of their names."""
    labels = json.loads((folder / "windows.json").read_text("utf-8"))
    files = []
    for name, spans in sorted(labels.items()):
        with (folder / "data" / name).open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        times = [row["timestamp"] for row in rows]
        moments = np.array([datetime.fromisoformat(text) for text in times], "datetime64[us]")
        edges = []
        for begin, end in spans:
            limits = [np.datetime64(datetime.fromisoformat(text), "us") for text in (begin, end)]
            inside = np.flatnonzero((moments >= limits[0]) & (moments <= limits[1]))
            edges.append((inside[0], inside[-1]))
        values = np.array([float(row["value"]) for row in rows])
        files.append(File(name, times, values, np.array(edges, np.int64).reshape(-1, 2)))
    return files


def halves(files: Sequence[File]) -> tuple[list[File], list[File]]:
    """Split the files in two, every other one by name, so that each kind is in both."""
    return list(files[0::2]), list(files[1::2])


def sigmoid(place: Floats) -> Floats:
    """What a detection counts, by its place: -1 a window's begin, 0 its end, beyond it above 0."""
    return np.where(place > 3.0, -1.0, 2.0 / (1.0 + np.exp(np.minimum(5.0 * place, 60.0))) - 1.0)


def changes(file: File, scores: Floats) -> tuple[Floats, Floats]:
    """Return how the sum changes as the threshold falls: scores, and what is added at each.

    The sum begins at minus the number of windows, for a threshold above all scores.
    """
    n = len(scores)
    rows = np.arange(n)
    outside = rows >= file.probation
    place = np.full(n, np.inf)
    levels, added = [], []
    for first, last in file.windows.tolist():
        width = last - first + 1
        place[last + 1 :] = (rows[last + 1 :] - last) / (width - 1)
        inside = np.flatnonzero(outside[first : last + 1]) + first
        outside[first : last + 1] = False
        worth = sigmoid(-(last - inside + 1) / width) / sigmoid(np.array(-1.0))
        order = np.argsort(-scores[inside], kind="stable")
        reached = np.maximum.accumulate(np.append(-MISS, worth[order]))
        levels.append(scores[inside[order]])
        added.append(np.diff(reached))
    levels.append(scores[outside])
    added.append(FALSE * sigmoid(place[outside]))
    return np.concatenate(levels), np.concatenate(added)


@dataclass(frozen=True, slots=True)
class Result:
    """A score of 0 (says nothing) to 100 (perfect), below 0 for worse, and its threshold."""

    score: float
    threshold: float
    found: int
    windows: int
    false: int


def judge(
    files: Sequence[File], scores: Sequence[Floats], threshold: float | None = None
) -> Result:
    """Score detections at a threshold; at the best one where none is given."""
    if threshold is None:
        threshold = _best(files, scores)
    total, windows, caught, false = 0.0, 0, 0, 0
    for file, given in zip(files, scores, strict=True):
        total += -MISS * len(file.windows)
        levels, added = changes(file, given)
        total += float(added[levels >= threshold].sum())
        windows += len(file.windows)
        above = (given >= threshold) & (np.arange(len(given)) >= file.probation)
        for first, last in file.windows.tolist():
            caught += bool(above[first : last + 1].any())
            above[first : last + 1] = False
        false += int(above.sum())
    scaled = 100.0 * (total + MISS * windows) / ((1.0 + MISS) * windows)
    return Result(round(scaled, 2), threshold, caught, windows, false)


def _best(files: Sequence[File], scores: Sequence[Floats]) -> float:
    """Return the threshold of the highest sum."""
    parts = [changes(file, given) for file, given in zip(files, scores, strict=True)]
    levels, added = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(-levels, kind="stable")
    levels, sums = levels[order], np.cumsum(added[order])
    last = np.append(levels[1:] != levels[:-1], True)  # all rows of one score come together
    if sums[last].max() <= 0:
        return float("inf")
    return float(levels[last][np.argmax(sums[last])])
