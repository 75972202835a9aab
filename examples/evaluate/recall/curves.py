"""Judge the recall model: answers against facts held, distance, changes, restarts; JSON and a plot.

    python examples/evaluate/recall/curves.py recall recall-int8 --json runs/recall.json

Conversations are none of the training's, and the talk between is held-out prose. Several bundles,
of other precisions or other seeds, are drawn in one picture. With `--search` the first bundle also
answers from what BM25 finds in all that was said (`searching.py`), which keeps every sentence.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec

# the conversations are those of the training
sys.path.insert(1, str(Path(__file__).resolve().parents[2] / "train"))
from asking import Asker, Case, Score, by_distance, run
from corpus import packages
from facts.chatter import Talk, talk_of
from facts.words import Spelling

from dst.evaluate.drawing import COLOURS, dress, new_figure
from dst.evaluate.machine import environment
from dst.runtime import Session, Stream

FACTS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
DISTANCES = (0, 100, 1_000, 10_000, 100_000, 1_000_000)
CHANGES = (0, 8, 16, 32, 64)
CYCLES = 1_000


Curves = dict[str, list[dict[str, float]]]
"""Name of a curve -> its points."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How many conversations each figure is of."""

    usual: int
    far: int
    million: int


def restarted(asker: Asker, worlds: int, seed: int) -> dict[str, float]:
    """Save and load a thousand times between telling and asking, with talk between each two."""
    score = Score()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.state"
        for number in range(worlds):
            random = Random(f"{seed} restarts {number}")
            world, stream = asker.told(Case(8, 0), random)
            for _ in range(CYCLES):
                stream.save(path, durable=False)
                stream = Stream.load(asker.session, path)
                asker.read(stream, asker.talk(random))
            asker.ask_all(stream, world, 0, score, Score())
    return {"cycles": CYCLES, "accuracy": score.share, "asked": score.asked}


def judged(bundle: str, asker: Asker, amount: Amount, seed: int) -> Curves:
    """Every curve of one bundle."""

    def at(case: Case, worlds: int) -> dict[str, float]:
        began = time.perf_counter()
        score, none = run(asker, case, worlds, seed)
        print(
            f"{bundle}: {case.facts} facts, {case.distance:,} items, {case.changes} changes: "
            f"{score.share:.4f} of {score.asked}  ({time.perf_counter() - began:.0f} s)",
            flush=True,
        )
        found: dict[str, float] = {
            "facts": case.facts, "distance": case.distance, "changes": case.changes,
            "spelled": case.spelled, "accuracy": score.share, "asked": score.asked,
        }  # fmt: skip
        if none.asked:
            found |= {"unknown": none.share, "unknown_asked": none.asked}
        return found

    many = {n: max(4, amount.usual * 8 // n) for n in FACTS}
    report: Curves = {
        "facts_near": [at(Case(n, 200, missing=2), many[n]) for n in FACTS],
        "facts_far": [
            at(Case(n, 10_000, missing=2), max(2, amount.far * 8 // n)) for n in FACTS if n <= 32
        ],
        "changes": [at(Case(8, 1_000, changes=n), amount.usual) for n in CHANGES],
        "spelled": [at(Case(n, 1_000, spelled=1.0), many[n]) for n in FACTS if n <= 16],
    }
    distances = [d for d in DISTANCES if amount.million or d < 1_000_000]
    worlds = amount.million or amount.far // 4
    for facts in (8, 16):
        rows = []
        for distance, score in by_distance(asker, Case(facts, 0), distances, worlds, seed):
            rows.append({"distance": distance, "accuracy": score.share, "asked": score.asked})
            print(
                f"{bundle}: {facts} facts at {distance:,}: {score.share:.4f} of {score.asked}",
                flush=True,
            )
        report[f"distance_{facts}"] = rows
    report["restarts"] = [restarted(asker, max(2, amount.usual // 10), seed)]
    print(f"{bundle}: {CYCLES} saves and loads: {report['restarts']}", flush=True)
    return report


def searched(session: Session, talk: Talk, amount: Amount, seed: int) -> Curves:
    """Conversations of the same kinds, answered by search, and the bytes of text that it keeps."""
    from searching import Searcher

    searcher = Searcher(session, talk)
    report: Curves = {"facts_near": [], "facts_far": [], "changes": []}
    cases = {
        "facts_near": [Case(n, 200) for n in FACTS],
        "facts_far": [Case(n, 10_000) for n in FACTS if n <= 32],
        "changes": [Case(8, 1_000, changes=n) for n in CHANGES],
    }
    for curve, many in cases.items():
        for case in many:
            score, _ = run(searcher, case, max(2, amount.far * 8 // case.facts), seed)
            report[curve].append(
                {"facts": case.facts, "distance": case.distance, "changes": case.changes,
                 "accuracy": score.share, "asked": score.asked, "kept_bytes": searcher.kept_bytes}
            )  # fmt: skip
            print(f"BM25: {report[curve][-1]}", flush=True)
    return report


def draw(results: dict[str, Curves], target: Path) -> None:
    """Draw accuracy against facts held and against distance."""
    figure = new_figure(9.5, 3.8)
    left, right = figure.subplots(1, 2)
    lines = (
        (left, "facts_near", "facts", "-o", "200 items between"),
        (left, "facts_far", "facts", "--s", "10,000 items between"),
        (right, "distance_8", "distance", "-o", "8 facts"),
        (right, "distance_16", "distance", "--s", "16 facts"),
    )
    for colour, (bundle, result) in zip(COLOURS, results.items(), strict=False):
        for axes, rows, by, style, label in lines:
            if rows not in result:
                continue
            at = [max(1, row[by]) for row in result[rows]]
            right_share = [row["accuracy"] for row in result[rows]]
            axes.plot(at, right_share, style, ms=3, color=colour, label=f"{bundle}, {label}")
    right.set_xscale("log")
    for axes in (left, right):
        axes.set_ylim(0, 1.02)
        axes.legend(loc="lower left")
    left.set_xscale("log", base=2)
    left.xaxis.set_major_formatter("{x:.0f}")
    dress(left, "Facts held", "facts told", "share of right answers")
    dress(right, "Distance", "items of talk between fact and question", "share of right answers")
    figure.savefig(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("bundles", nargs="+", help="shipped names or paths")
    add("--json", type=Path, default=Path("runs/recall.json"), help="the picture is beside it")
    add("--worlds", type=int, default=40, help="conversations of 8 facts for each figure nearby")
    add("--far", type=int, default=20, help="those with 10,000 items between")
    add("--million", type=int, default=4, help="those with a million; 0: stop at 100,000")
    add("--search", action="store_true", help="also answer by BM25")
    add("--seed", type=int, default=1_000_000, help="no seed of the training")
    add("--work", type=Path, default=Path("runs/corpus"), help="packages with prose, kept")
    given = parser.parse_args()
    held_out = packages(given.work)[1]
    prose = [
        text.decode("utf-8", "replace")
        for kind, files in held_out.items()
        if kind.startswith("prose")
        for text in files.values()
    ]
    amount = Amount(given.worlds, given.far, given.million)
    results: dict[str, Curves] = {}
    for bundle in given.bundles:
        session = Session.open(bundle)
        talk = talk_of(prose, Spelling.of(session.bundle.root / "tokenizer.json"))
        name = session.bundle.root.name
        results[name] = judged(name, Asker(session, talk), amount, given.seed)
        reset = run(Asker(session, talk, forgetful=True), Case(8, 200), given.worlds, given.seed)[0]
        results[name]["reset_each_chunk"] = [{"accuracy": reset.share, "asked": reset.asked}]
        print(f"{name}: state reset each chunk: {reset.share:.4f}", flush=True)
        if given.search and bundle == given.bundles[0]:
            results["BM25"] = searched(session, talk, amount, given.seed)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    out = {"machine": environment(None, None), "bundles": results}
    given.json.write_bytes(msgspec.json.format(msgspec.json.encode(out), indent=1))
    draw(results, given.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
