"""Draw a bench or a horizon report by matplotlib: as a PNG, or in single panels for the page.

What draws raises `NoMatplotlibError` where matplotlib is not installed.
"""

from collections.abc import Callable, Sequence
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, TypeVar

from dst.evaluate.result import BenchResult, Cell, Spread
from dst.runtime import DstError
from dst.runtime.install import install_line
from dst.words import counted, mib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dst.evaluate.quality import Report


COLOURS = ("#3b6fb6", "#d1742f", "#4c9a5b", "#a8518a", "#7a6fd0", "#8a7440", "#3a9aa8", "#c24d4d")
INK, SOFT, GRID = "#1c2430", "#667085", "#e2e6ec"
CSS = {INK: "--ink", SOFT: "--soft", GRID: "--line"}
"""Colours of a drawing -> what a page calls them."""
_INCH_DPI = 130
_LEAST = 1e-16  # what a logarithmic axis shows for nothing


class NoMatplotlibError(DstError):
    """A picture was asked for, and matplotlib is not installed."""


def new_figure(width_in: float, height_in: float) -> "Figure":
    """Make an empty figure that needs no display."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NoMatplotlibError(
            f"no picture: matplotlib is not installed; {install_line('plot')}"
        ) from None
    return Figure(figsize=(width_in, height_in), dpi=_INCH_DPI, layout="constrained")


def plain(label: str) -> str:
    r"""Return a label in which no `$` begins a formula.

    Examples:
        >>> plain("cost in $")
        'cost in \\$'
    """
    return label.replace("$", r"\$")


def dress(axes: "Axes", title: str, below: str, beside: str) -> None:
    """Give axes their words and a light grid."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_xlabel(below, fontsize=9, color=SOFT)
    axes.set_ylabel(beside, fontsize=9, color=SOFT)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=8, labelcolor=SOFT, color=SOFT)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(SOFT)
    legend = axes.get_legend()
    if legend is not None:
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set(color=INK, fontsize=8)


MIB = 1 << 20
Subject = TypeVar("Subject")
Panel = Callable[["Axes", BenchResult], None]
"""Draws one view of a bench on empty axes."""


def _four(
    subject: Subject, panels: Sequence[Callable[["Axes", Subject], None]], title: str
) -> bytes:
    """Return four panels under a title as PNG; the same subject gives the same bytes."""
    figure = new_figure(11, 7.4)
    for axes, panel in zip(figure.subplots(2, 2).flat, panels, strict=True):
        panel(axes, subject)
    figure.suptitle(title, fontsize=10, color=SOFT)
    room = BytesIO()
    figure.savefig(room, format="png", metadata={"Software": None})
    return room.getvalue()


def picture(result: BenchResult) -> bytes:
    """Return a PNG: items per second, speed over the first bundle, bytes, and divergence.

    Where no bundle has a horizon report, the last panel shows the time of a step.
    """
    with_quality = any(entry.quality is not None for entry in result.bundles)
    env = result.environment
    return _four(
        result,
        (_speed, ratio, _bytes, divergence if with_quality else _latency),
        f"{env.cpu}, {counted(result.threads, 'thread')}, onnxruntime {env.onnxruntime}, "
        f"{counted(result.rounds, 'round')} in turns",
    )


def panel_svg(panel: Panel, result: BenchResult) -> str:
    """Return one panel, `ratio` or `divergence`, as an `<svg>` element for the page.

    Words stay words, the background is that of the page, and ink follows its colours of `CSS`.
    """
    figure = new_figure(9.6, 3.2)
    axes = figure.subplots()
    panel(axes, result)
    axes.set_title("", loc="left")  # the page has its own
    import matplotlib

    room = StringIO()
    for part in figure.findobj():
        part.set_clip_on(False)  # or the drawing would refer to clipping paths by address
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dst"}):
        figure.savefig(room, format="svg", transparent=True, metadata=nothing)
    drawn = room.getvalue()
    for colour, name in CSS.items():
        drawn = drawn.replace(colour, f"var({name})")
    return drawn[drawn.index("<svg") :].rstrip()


def _speed(axes: "Axes", result: BenchResult) -> None:
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _curves(axes, result, lambda cell: cell.items_per_s, "Speed", "items per second")


def ratio(axes: "Axes", result: BenchResult) -> None:
    """Draw speed over the first bundle, by T."""
    axes.axhline(1.0, color=SOFT, linewidth=0.8, linestyle="--")
    title = f"Speed over {plain(result.bundles[0].label)}"
    _curves(axes, result, lambda cell: cell.ratio, title, "ratio")


def _curves(
    axes: "Axes",
    result: BenchResult,
    pick: Callable[[Cell], Spread | None],
    title: str,
    beside: str,
) -> None:
    """Draw a number of each bundle by T, with its interval as whiskers."""
    for colour, entry in zip(_colours(result), result.bundles, strict=True):
        cells = [(cell.t, found) for cell in entry.cells if (found := pick(cell)) is not None]
        if not cells:
            continue
        sizes, middle = [t for t, _ in cells], [s.median for _, s in cells]
        whiskers = [[s.median - s.low for _, s in cells], [s.high - s.median for _, s in cells]]
        label = plain(entry.label)
        axes.errorbar(
            sizes, middle, whiskers, fmt="o-", color=colour, label=label, markersize=4, capsize=3
        )
    axes.set_ylim(bottom=0)
    _ts(axes, result)
    axes.legend()
    dress(axes, title, "items per chunk (T)", beside)


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
        sizes, label = [c.t for c in cells], plain(entry.label)
        axes.plot(sizes, [c.p50_us or 0 for c in cells], "o-", color=colour, label=label)
        axes.plot(sizes, [c.p99_us or 0 for c in cells], "o--", color=colour, alpha=0.5)
    axes.set_yscale("log")
    _ts(axes, result)
    dress(axes, "One step: p50 (line) and p99 (dashes)", "items per chunk (T)", "microseconds")


def divergence(axes: "Axes", result: BenchResult) -> None:
    """Draw the distance from full precision, by position in the stream."""
    for colour, entry in zip(_colours(result), result.bundles, strict=True):
        if (held := entry.quality) is not None:
            values = [max(v, 1e-12) for v in held.divergence]
            axes.plot(held.positions, values, ".-", color=colour, label=plain(entry.label))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend()
    below = "position in the stream, items"
    dress(axes, "Distance from full precision", below, result.divergence_unit)


def _ts(axes: "Axes", result: BenchResult) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(result.sizes, [str(t) for t in result.sizes])
    axes.minorticks_off()


def _colours(result: BenchResult) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(result.bundles))]


def horizon_picture(made: "Report") -> bytes:
    """Return a PNG: divergence, loss, state distance and accumulation over the horizon."""
    word = {True: "all gates passed", False: "a gate failed", None: "not all gates judged"}
    return _four(
        made,
        (_distance, _loss, _state, _accumulation),
        f"{made.quantized.name} ({made.quantized.recipe or made.quantized.precision}) against "
        f"{made.full.precision}: {made.items:,} items at T = {made.items_per_step}, "
        f"{word[made.passed]}",
    )


def _distance(axes: "Axes", made: "Report") -> None:
    ranges = [r for r in made.ranges if r.items]
    ends = [r.end for r in ranges]
    middle = [max(r.divergence, _LEAST) for r in ranges]
    errors = [r.divergence_error or 0.0 for r in ranges]
    low = [max(m - 2 * e, m / 4) for m, e in zip(middle, errors, strict=True)]
    high = [m + 2 * e for m, e in zip(middle, errors, strict=True)]
    axes.fill_between(ends, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(ends, middle, "o-", color=COLOURS[0], markersize=3.5, label="quantized")
    if made.drift is not None:
        values = [max(v, _LEAST) for v in made.drift.divergence]
        axes.plot(made.drift.ends, values, ".--", color="#888888", label=made.drift.what)
    axes.set_yscale("log")
    axes.legend()
    unit = "KL, nats per item" if made.unit == "nats" else "relative error"
    _dress_horizon(axes, "Distance from full precision", unit)


def _loss(axes: "Axes", made: "Report") -> None:
    axes.axhline(0.0, color=SOFT, linewidth=0.8)
    points = [(r.end, r.loss_difference) for r in made.ranges if r.loss_difference is not None]
    if points:
        _plot(axes, points, COLOURS[1])
        bound = next((g.bound for g in made.gates if g.name == "loss"), None)
        if bound is not None:
            axes.axhline(bound, color=COLOURS[7], linestyle="--", linewidth=1, label="budget")
            axes.legend()
    else:
        axes.text(0.5, 0.5, "the outputs predict nothing", transform=axes.transAxes, ha="center")
    _dress_horizon(axes, "Loss over full precision", "nats per item")


def _state(axes: "Axes", made: "Report") -> None:
    roles = sorted({role for r in made.ranges for role in r.state_distance})
    for colour, role in zip(COLOURS, roles, strict=False):
        points = [(r.end, r.state_distance[role]) for r in made.ranges if role in r.state_distance]
        _plot(axes, points, colour, role)
    axes.set_ylim(bottom=0)
    if roles:
        axes.legend()
    _dress_horizon(axes, "Distance of the state", "relative")


def _accumulation(axes: "Axes", made: "Report") -> None:
    points = [(r.end, r.accumulation) for r in made.ranges if r.accumulation is not None]
    axes.axhline(1.0, color=SOFT, linewidth=0.8)
    if points:
        _plot(axes, points, COLOURS[2])
    axes.set_ylim(bottom=0)
    _dress_horizon(axes, "Accumulation: free over one chunk from the right state", "ratio")


def _plot(
    axes: "Axes", points: Sequence[tuple[int, float]], colour: str, label: str | None = None
) -> None:
    axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3.5, label=label)


def _dress_horizon(axes: "Axes", title: str, beside: str) -> None:
    dress(axes, title, "position, items", beside)
    axes.set_xscale("log")
