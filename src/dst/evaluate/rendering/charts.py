"""Draw a bench: one picture of four panels, or single panels for the page."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dst.evaluate.rendering.canvas import COLOURS, SOFT, dress, new_figure, plain, png_of, svg_of
from dst.evaluate.result import BenchResult, Spread
from dst.words import counted, mib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIB = 1 << 20
Panel = Callable[["Axes", BenchResult], None]
"""Draws one view of a bench on empty axes."""


def picture(result: BenchResult) -> bytes:
    """Return a PNG: items per second, speed over the first bundle, bytes, and divergence.

    Where no bundle has a horizon report, the last panel shows the time of a step.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
    """
    with_quality = any(entry.quality is not None for entry in result.bundles)
    panels = (_speed, ratio, _bytes, divergence if with_quality else _latency)
    figure = new_figure(11, 7.4)
    for axes, panel in zip(figure.subplots(2, 2).flat, panels, strict=True):
        panel(axes, result)
    env = result.environment
    figure.suptitle(
        f"{env.cpu}, {counted(result.threads, 'thread')}, onnxruntime {env.onnxruntime}, "
        f"{counted(result.rounds, 'round')} in turns",
        fontsize=10,
        color=SOFT,
    )
    return png_of(figure)


def panel_svg(panel: Panel, result: BenchResult) -> str:
    """Return one panel, `ratio` or `divergence`, as SVG for the page.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
    """
    figure = new_figure(9.6, 3.2)
    axes = figure.subplots()
    panel(axes, result)
    axes.set_title("", loc="left")  # the page has its own
    return svg_of(figure)


def _speed(axes: "Axes", result: BenchResult) -> None:
    for colour, entry in zip(_colours(result), result.bundles, strict=True):
        cells = [(c.t, c.items_per_s) for c in entry.cells if c.items_per_s is not None]
        _line(axes, cells, colour, plain(entry.label))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _ts(axes, result)
    axes.legend()
    dress(axes, "Speed", "items per chunk (T)", "items per second")


def ratio(axes: "Axes", result: BenchResult) -> None:
    """Draw speed over the first bundle, by T."""
    for colour, entry in zip(_colours(result), result.bundles, strict=True):
        cells = [(c.t, c.ratio) for c in entry.cells if c.ratio is not None]
        _line(axes, cells, colour, plain(entry.label))
    axes.axhline(1.0, color=SOFT, linewidth=0.8, linestyle="--")
    axes.set_ylim(bottom=0)
    _ts(axes, result)
    axes.legend()
    dress(axes, f"Speed over {plain(result.bundles[0].label)}", "items per chunk (T)", "ratio")


def _bytes(axes: "Axes", result: BenchResult) -> None:
    entries = result.bundles
    rows = range(len(entries))
    peaks = [e.start.peak_rss_bytes / MIB if e.start else 0.0 for e in entries]
    files = [e.file_bytes / MIB for e in entries]
    axes.barh([r - 0.19 for r in rows], files, 0.36, color=_colours(result))
    axes.barh([r + 0.19 for r in rows], peaks, 0.36, color=_colours(result), alpha=0.45)
    for row, (entry, file, peak) in enumerate(zip(entries, files, peaks, strict=True)):
        disk = f" {mib(entry.file_bytes)} on disk"
        axes.text(file, row - 0.19, disk, va="center", fontsize=8)
        if entry.start is not None:
            memory = f" {mib(entry.start.peak_rss_bytes)} peak of a process"
            axes.text(peak, row + 0.19, memory, va="center", fontsize=8)
    axes.set_yticks(list(rows), [plain(e.label) for e in entries])
    axes.set_xlim(0, 1.6 * max(*files, *peaks, 1e-3))
    axes.invert_yaxis()
    dress(axes, "Bytes", "MiB", "")


def _latency(axes: "Axes", result: BenchResult) -> None:
    for colour, entry in zip(_colours(result), result.bundles, strict=True):
        cells = [c for c in entry.cells if c.p50_us is not None and c.p99_us is not None]
        sizes = [c.t for c in cells]
        axes.plot(
            sizes, [c.p50_us or 0 for c in cells], "o-", color=colour, label=plain(entry.label)
        )
        axes.plot(sizes, [c.p99_us or 0 for c in cells], "o--", color=colour, alpha=0.5)
    axes.set_yscale("log")
    _ts(axes, result)
    dress(axes, "One step: p50 (line) and p99 (dashes)", "items per chunk (T)", "microseconds")


def divergence(axes: "Axes", result: BenchResult) -> None:
    """Draw the distance from full precision, by position in the stream."""
    for colour, entry in zip(_colours(result), result.bundles, strict=True):
        if entry.quality is None:
            continue
        values = [max(v, 1e-12) for v in entry.quality.divergence]
        axes.plot(entry.quality.positions, values, ".-", color=colour, label=plain(entry.label))
    axes.set_xscale("log")
    axes.set_yscale("log")
    where = "position in the stream, items"
    axes.legend()
    dress(axes, "Distance from full precision", where, result.divergence_unit)


def _line(axes: "Axes", cells: list[tuple[int, Spread]], colour: str, label: str) -> None:
    if not cells:
        return
    sizes = [t for t, _ in cells]
    middle = [s.median for _, s in cells]
    whiskers = [[s.median - s.low for _, s in cells], [s.high - s.median for _, s in cells]]
    axes.errorbar(
        sizes, middle, whiskers, fmt="o-", color=colour, label=label, markersize=4, capsize=3
    )


def _ts(axes: "Axes", result: BenchResult) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(result.sizes, [str(t) for t in result.sizes])
    axes.minorticks_off()


def _colours(result: BenchResult) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(result.bundles))]
