"""Write committed results as the tables of README.md and docs/speed.md.

    python examples/bench/peers/summary.py examples/bench/peers/results/*.json

For each size, number of threads and T: llama.cpp's quickest cell, ours, and speed over llama.cpp by
medians and by minima. Ours is taken as an app takes it, by `Stream.step`, for the last item's
logits as llama.cpp computes them; `all logits` is our quickest that answers for every item, and
`huge pages` our quickest for the last item with `huge_pages=True`, where that was measured.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Cells = list[dict[str, Any]]
HEAD = (
    "| size, threads, T | llama.cpp | ms | DST Edge | ms | speed over llama.cpp | all logits "
    "| huge pages |\n"
    "|---|---|---|---|---|---|---|---|"
)


def quickest(cells: Cells, by: str = "median_ms") -> dict[str, Any]:
    return min(cells, key=lambda cell: float(cell[by]))


def ratios(rivals: Cells, ours: Cells) -> str:
    """Speed over llama.cpp: of the quickest medians, and of the quickest minima in brackets."""
    found = [
        quickest(rivals, by)[by] / quickest(ours, by)[by] for by in ("median_ms", "minimum_ms")
    ]
    return f"{found[0]:.2f} ({found[1]:.2f})"


def row(key: tuple[str, int, int], cells: Cells) -> str:
    """Write one row."""
    rivals = [cell for cell in cells if cell["engine"] == "llama"]
    dst = [cell for cell in cells if cell["engine"] == "dst"]
    stream = [cell for cell in dst if cell["way"].startswith("stream")]
    huge = [cell for cell in dst if cell["way"].startswith("huge")]
    every = [cell for cell in stream if cell["way"] == "stream"]
    rival, own = quickest(rivals), quickest(stream)
    size, threads, t = key
    return (
        f"| {size}, {threads}, {t} | {rival['label'].removeprefix('llama ')} "
        f"| {rival['median_ms']:.2f} | {own['precision']} | {own['median_ms']:.2f} "
        f"| {ratios(rivals, stream)} | {ratios(rivals, every)} "
        f"| {ratios(rivals, huge) if huge else '–'} |"
    )


def comparable(cells: Cells) -> bool:
    """Tell whether llama.cpp and our runtime both took part."""
    return {"llama", "dst"} <= {cell["engine"] for cell in cells}


def summary(files: Sequence[Path]) -> str:
    """Write the table of some results."""
    lines = []
    for file in files:
        result = json.loads(file.read_bytes())
        groups: dict[tuple[str, int, int], Cells] = {}
        for cell in result["cells"]:
            groups.setdefault((cell["size"], cell["threads"], cell["t"]), []).append(cell)
        title = f"{result['kernels']}, ONNX Runtime {result['machine']['onnxruntime']}"
        lines += [f"**{title}** (`{file.name}`)", "", HEAD]
        compared = ((key, cells) for key, cells in groups.items() if comparable(cells))
        lines += [row(key, cells) for key, cells in compared] + [""]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="what the comparison has written")
    print(summary(parser.parse_args().results))
