"""Draw the comparison: for each size, T and number of threads, the quickest cell of each engine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from examples.bench.peers.cells import FULL, Cell, grouped

from dst.evaluate.drawing import GRID, INK, SOFT, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LANES = (
    ("llama.cpp, quickest", "#8a94a6"),
    ("llama.cpp float32", "#c9d0da"),
    ("DST quantized, quickest", "#1f5fb4"),
    ("DST float32", "#8db8ea"),
    ("naive loop, quickest", "#c98a2b"),
    ("OpenVINO float32", "#7a6fd0"),
    ("ExecuTorch float32", "#4c9a5b"),
    ("torch.compile", "#c24d4d"),
    ("torch eager", "#e0a3a3"),
)
"""Name -> colour, in the order of the bars."""
NAMES = {
    "naive": "naive loop, quickest",
    "openvino": "OpenVINO float32",
    "executorch": "ExecuTorch float32",
    "compiled": "torch.compile",
    "eager": "torch eager",
}


def lanes_of(cell: Cell) -> tuple[str, ...]:
    """Say in which bars a cell counts."""
    full = cell.precision in FULL
    if cell.engine == "llama":
        return (LANES[0][0], *((LANES[1][0],) if full else ()))
    if cell.way == "bare":  # what no app takes
        return ()
    if cell.engine == "dst":
        return (LANES[3][0] if full else LANES[2][0],)
    return (NAMES[cell.engine],)


def quickest(cells: Sequence[Cell]) -> dict[str, Cell]:
    """The cell with the least median in each bar."""
    best: dict[str, Cell] = {}
    for cell in cells:
        for lane in lanes_of(cell):
            if lane not in best or cell.median_ms < best[lane].median_ms:
                best[lane] = cell
    return best


def draw(cells: Sequence[Cell], path: Path) -> None:
    """Draw compared cells as a PNG.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
    """
    panels: dict[tuple[str, int], dict[int, list[Cell]]] = {}
    for (size, threads, t), group in grouped(cells):
        panels.setdefault((size, threads), {})[t] = group
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    figure = new_figure(7.2 * columns, 3.3 * rows + 0.9)
    lanes = [name for name, _ in LANES if any(name in lanes_of(cell) for cell in cells)]
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, ((size, threads), by_t) in zip(grid.flat, panels.items(), strict=False):
        panel(axes, by_t, lanes)
        title = f"{size}, {threads} thread{'s' if threads > 1 else ''}"
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2 * columns + 1,
        frameon=False,
        fontsize=8,
    )
    figure.suptitle(
        "Speed beside llama.cpp's quickest cell, equal parameters; bars: medians, dots: minima",
        fontsize=10,
        color=INK,
        x=0.01,
        ha="left",
    )
    figure.savefig(path)


def panel(axes: "Axes", by_t: dict[int, list[Cell]], lanes: Sequence[str]) -> None:
    """Draw one size with one number of threads: a group of bars for each T."""
    colours = dict(LANES)
    width = 0.86 / len(lanes)
    groups = [quickest(group) for group in by_t.values()]
    for place, lane in enumerate(lanes):
        found = [(n, best[lane]) for n, best in enumerate(groups) if lane in best]
        left = [n + (place - (len(lanes) - 1) / 2) * width for n, _ in found]
        medians = [cell.ratio_of_medians or 0.0 for _, cell in found]
        minima = [cell.ratio_of_minima or 0.0 for _, cell in found]
        axes.bar(left, medians, width * 0.9, color=colours[lane], label=lane)
        axes.plot(left, minima, ".", color=INK, markersize=3)
        for x, height, dot in zip(left, medians, minima, strict=True):
            text = f"{height:.2f}" if height < 10 else f"{height:.0f}"
            spot = (x, max(height, dot))
            axes.annotate(
                text,
                spot,
                (0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=6,
                color=SOFT,
                rotation=90,
            )
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(by_t)), [f"T = {t}" for t in by_t])
    axes.set_ylabel("times llama.cpp", fontsize=9, color=SOFT)
    axes.margins(y=0.18)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=SOFT, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
