"""Judge what watches logs: bits per byte against compressors, and the ranks of planted lines.

    python examples/evaluate/log runs/logs/real/held-out --bundle log --json runs/logs/judged.json

Each log is read once, from the cold state. Ten strange lines of ten kinds (`planting.py`) are put
into its second half; each scorer ranks all lines of that half, 1 being the strangest, and a line
that ties with others has the worst rank of them. The bars: bits per byte below gzip -9 on 8 of 10
logs; for a log, the median of the ten ranks at most 12, and 7 of 10 among the first 20.
"""

import argparse
import gzip
import json
import lzma
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from baselines import baselines
from model import ModelScorers, Reader, by_form, opened
from planting import KINDS, Planted, Planter

TENTHS, FIRST = 10, 20
RATES = (0.01, 0.003, 0.001)
"""Of false alarms, as `dst run --alert` takes them."""


@dataclass(slots=True)
class Result:
    """What was found for one log.

    Attributes:
        lines, size: of the log that was read, `size` in bytes.
        bits: name -> bits per byte.
        tenths: bundle -> bits per byte of each tenth of the log.
        ranks: scorer -> for each planting the ten ranks, in the order of `KINDS`.
        planted: for each planting what was planted, as text.
        alerts: bundle -> for each rate of `RATES` the share of lines alerted of that were not
            planted, and of those that were.
    """

    lines: int
    size: int
    bits: dict[str, float] = field(default_factory=dict)
    tenths: dict[str, list[float]] = field(default_factory=dict)
    ranks: dict[str, list[list[int]]] = field(default_factory=dict)
    planted: list[list[tuple[str, str]]] = field(default_factory=list)
    alerts: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def median(self, scorer: str) -> float:
        """Return the median rank, averaged over the plantings."""
        return float(np.mean(np.median(self.ranks[scorer], axis=1)))

    def first(self, scorer: str) -> float:
        """Return how many of the ten are among the first 20, averaged over the plantings."""
        return float(np.mean(np.sum(np.array(self.ranks[scorer]) <= FIRST, axis=1)))


def ranked(scores: list[float], planted: list[Planted], half: int) -> list[int]:
    """Return the rank of each planted line among the lines from `half` on."""
    tail = np.array(scores[half:])
    return [int(np.sum(tail >= scores[one.place])) for one in planted]


def judged(
    lines: list[bytes], other: list[bytes], readers: dict[str, Reader], plantings: int
) -> Result:
    """Judge every scorer on one log."""
    text = b"".join(lines)
    result = Result(len(lines), len(text))
    wide = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]
    packed = lzma.compress(text, format=lzma.FORMAT_XZ, filters=wide)
    result.bits = {
        "gzip -9": 8 * len(gzip.compress(text, 9, mtime=0)) / len(text),
        "xz -9e": 8 * len(packed) / len(text),
    }
    half = len(lines) // 2
    cut = sum(map(len, lines[:half]))
    known: dict[str, ModelScorers] = {}
    for name, reader in readers.items():
        middle = reader.fork()
        first = middle.read(text[:cut])
        known[name] = ModelScorers(middle, lines[:half], first)
        bits = np.concatenate([first, middle.fork().read(text[cut:])])
        result.bits[name] = float(bits.mean())
        result.tenths[name] = [float(part.mean()) for part in np.array_split(bits, TENTHS)]
    planter = Planter(lines, other)
    chances: dict[str, list[tuple[bool, float]]] = {name: [] for name in known}
    for name, scorers in known.items():
        chances[name] += [(False, one.probability) for one in scorers.found]
    for seed in range(plantings):
        log, planted = planter.planted(seed)
        result.planted.append([(one.kind, one.line.decode("utf-8", "replace")) for one in planted])
        for name, scorer in baselines(log).items():
            scores = [scorer(line) for line in log]
            result.ranks.setdefault(name, []).append(ranked(scores, planted, half))
        for name, scorers in known.items():
            tail, places = log[half:], {one.place - half for one in planted}
            found = scorers.continued(tail, scorers.reader.fork().read(b"".join(tail)))
            chances[name] += [(i in places, one.probability) for i, one in enumerate(found)]
            for form, scores in by_form(tail, found).items():
                ranks = ranked([0.0] * half + scores, planted, half)
                result.ranks.setdefault(f"{name}: {form}", []).append(ranks)
    for name, told in chances.items():
        result.alerts[name] = [
            (_share(told, False, rate), _share(told, True, rate)) for rate in RATES
        ]
    return result


def _share(chances: list[tuple[bool, float]], planted: bool, rate: float) -> float:
    """Share of the lines, planted ones or others, that a rate alerts of."""
    kind = [chance <= rate for is_planted, chance in chances if is_planted is planted]
    return float(np.mean(kind))


def table(results: dict[str, Result]) -> list[str]:
    """Return the lines of the printed tables."""
    first = next(iter(results.values()))
    rows = [f"{'bits per byte':<16}{'lines':>7}" + "".join(f"{n[:13]:>14}" for n in first.bits)]
    for log, result in results.items():
        shown = "".join(f"{bits:14.3f}" for bits in result.bits.values())
        rows.append(f"{log[:15]:<16}{result.lines:>7}{shown}")
    for bundle in first.tenths:
        better = sum(r.bits[bundle] < r.bits["gzip -9"] for r in results.values())
        rows.append(f"{bundle}: below gzip -9 on {better} of {len(results)} logs")
        means = np.mean([r.tenths[bundle] for r in results.values()], axis=0)
        rows.append(f"{bundle}: by tenth of the log: " + " ".join(f"{m:.2f}" for m in means))
    rows += ["", "ranks of planted lines: median rank, and how many of ten among the first 20"]
    rows.append(f"{'':<16}" + "".join(f"{number:>13}" for number in range(1, len(first.ranks) + 1)))
    for log, result in results.items():
        cells = [f"{result.median(s):7.1f} {result.first(s):5.1f}" for s in result.ranks]
        rows.append(f"{log[:15]:<16}" + "".join(f"{cell:>13}" for cell in cells))
    for number, scorer in enumerate(first.ranks, 1):
        passed = sum(r.median(scorer) <= 12 and r.first(scorer) >= 7 for r in results.values())
        rows.append(f"{number:>3} = {scorer}: passes on {passed} of {len(results)} logs")
    for number, scorer in enumerate(first.ranks, 1):
        median = np.mean([r.median(scorer) for r in results.values()])
        among = np.mean([r.first(scorer) for r in results.values()])
        rows.append(
            f"{number:>3} = {scorer}: on average median rank {median:.1f}, {among:.1f} found"
        )
    for bundle in first.alerts:
        for place, rate in enumerate(RATES):
            shares = [r.alerts[bundle][place] for r in results.values()]
            false, true = np.mean(shares, axis=0).tolist()
            worst = max(share for share, _ in shares)
            rows.append(
                f"{bundle}: alerts at {rate:g}: {false:.5f} of the lines not planted (worst log "
                f"{worst:.5f}), {true:.2f} of those planted"
            )
    rows += [
        "",
        "share among the first 20 by kind: " + " ".join(map(str, range(1, len(first.ranks) + 1))),
    ]
    for place, kind in enumerate(KINDS):
        parts = [
            np.mean([[ranks[place] <= FIRST for ranks in r.ranks[s]] for r in results.values()])
            for s in first.ranks
        ]
        rows.append(f"{kind:<14}" + " ".join(f"{part:5.2f}" for part in parts))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("logs", type=Path, help="folder of logs, *.log; at least two")
    add("--bundle", nargs="+", default=[], help="bundles that read bytes, shipped or paths")
    add("--plantings", type=int, default=5, help="for each log (default 5)")
    add("--lines", type=int, default=6000, help="of each log, at most (default 6000)")
    add("--only", nargs="+", help="names of logs, without .log")
    add("--json", type=Path, help="write all figures and the planted lines here")
    given = parser.parse_args()
    logs = {
        path.stem: path.read_bytes().splitlines(keepends=True)[: given.lines]
        for path in sorted(given.logs.glob("*.log"))
    }
    if len(logs) < 2:
        raise SystemExit(f"log: {given.logs} has {len(logs)} files *.log, need two at least")
    readers = {bundle: opened(bundle) for bundle in given.bundle}
    results: dict[str, Result] = {}
    names = [*logs]
    for place, name in enumerate(names):
        if given.only and name not in given.only:
            continue
        other = logs[names[(place + 1) % len(names)]]
        results[name] = judged(logs[name], other, readers, given.plantings)
        print(f"{name}: read", flush=True)
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            shown = {log: asdict(result) for log, result in results.items()}
            given.json.write_text(json.dumps(shown, indent=1) + "\n")
    print(*table(results), sep="\n")


if __name__ == "__main__":
    main()
