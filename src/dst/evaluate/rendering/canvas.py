"""Make matplotlib figures that need no display, and turn them into PNG or SVG."""

from io import BytesIO, StringIO
from typing import TYPE_CHECKING

from dst.runtime import DstError
from dst.runtime.install import install_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#3b6fb6", "#d1742f", "#4c9a5b", "#a8518a", "#7a6fd0", "#8a7440", "#3a9aa8", "#c24d4d")
INK, SOFT, GRID = "#1c2430", "#667085", "#e2e6ec"
CSS = {INK: "--ink", SOFT: "--soft", GRID: "--line"}
"""Colours of a drawing -> what a page calls them."""
_INCH_DPI = 130


class NoMatplotlibError(DstError):
    """A picture was asked for, and matplotlib is not installed."""


def new_figure(width_in: float, height_in: float) -> "Figure":
    """Make an empty figure that needs no display.

    Raises:
        NoMatplotlibError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NoMatplotlibError(
            f"no picture: matplotlib is not installed; {install_line('plot')}"
        ) from None
    return Figure(figsize=(width_in, height_in), dpi=_INCH_DPI, layout="constrained")


def plain(label: str) -> str:
    r"""Return a label in which no `$` begins a formula.

    Example:
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


def png_of(figure: "Figure") -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    room = BytesIO()
    figure.savefig(room, format="png", metadata={"Software": None})
    return room.getvalue()


def svg_of(figure: "Figure") -> str:
    """Return a figure as an `<svg>` element for a page that defines the colours of `CSS`.

    Words stay words, the background is that of the page, and ink follows its colours.
    """
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
