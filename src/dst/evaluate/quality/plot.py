"""Draw a horizon report: divergence, loss, state and accumulation by position."""

from typing import TYPE_CHECKING

from dst.evaluate.quality.report import Report
from dst.evaluate.rendering.canvas import COLOURS, SOFT, dress, new_figure, png_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST = 1e-16  # what a logarithmic axis shows for nothing


def picture(made: Report) -> bytes:
    """Return a PNG: divergence, loss, state distance and accumulation over the horizon.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
    """
    figure = new_figure(11, 7.4)
    places = figure.subplots(2, 2)
    _divergence(places[0, 0], made)
    _loss(places[0, 1], made)
    _state(places[1, 0], made)
    _accumulation(places[1, 1], made)
    for axes in places.reshape(-1):
        axes.set_xscale("log")
    word = {True: "all gates passed", False: "a gate failed", None: "not all gates judged"}
    figure.suptitle(
        f"{made.quantized.name} ({made.quantized.recipe or made.quantized.precision}) against "
        f"{made.full.precision}: {made.items:,} items at T = {made.items_per_step}, "
        f"{word[made.passed]}",
        fontsize=10,
        color=SOFT,
    )
    return png_of(figure)


def _divergence(axes: "Axes", made: Report) -> None:
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
    unit = "KL, nats per item" if made.unit == "nats" else "relative error"
    axes.legend()
    dress(axes, "Distance from full precision", "position, items", unit)


def _loss(axes: "Axes", made: Report) -> None:
    ranges = [r for r in made.ranges if r.loss_difference is not None]
    axes.axhline(0.0, color=SOFT, linewidth=0.8)
    if ranges:
        values = [r.loss_difference or 0.0 for r in ranges]
        axes.plot([r.end for r in ranges], values, "o-", color=COLOURS[1], markersize=3.5)
        bound = next((g.bound for g in made.gates if g.name == "loss"), None)
        if bound is not None:
            axes.axhline(bound, color=COLOURS[7], linestyle="--", linewidth=1, label="budget")
            axes.legend()
    else:
        axes.text(0.5, 0.5, "the outputs predict nothing", transform=axes.transAxes, ha="center")
    dress(axes, "Loss over full precision", "position, items", "nats per item")


def _state(axes: "Axes", made: Report) -> None:
    roles = sorted({role for r in made.ranges for role in r.state_distance})
    for colour, role in zip(COLOURS, roles, strict=False):
        points = [(r.end, r.state_distance[role]) for r in made.ranges if role in r.state_distance]
        axes.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3.5, label=role)
    axes.set_ylim(bottom=0)
    if roles:
        axes.legend()
    dress(axes, "Distance of the state", "position, items", "relative")


def _accumulation(axes: "Axes", made: Report) -> None:
    points = [(r.end, r.accumulation) for r in made.ranges if r.accumulation is not None]
    axes.axhline(1.0, color=SOFT, linewidth=0.8)
    if points:
        axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[2], markersize=3.5)
    axes.set_ylim(bottom=0)
    title = "Accumulation: free over one chunk from the right state"
    dress(axes, title, "position, items", "ratio")
