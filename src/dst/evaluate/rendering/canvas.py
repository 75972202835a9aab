"""The canvas: a size in, an empty matplotlib figure out, or an error that says what to install."""

from pathlib import Path
from typing import TYPE_CHECKING

from dst.runtime import DstError
from dst.runtime.install import install_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#3b6fb6", "#d1742f", "#4c9a5b", "#a8518a", "#7a6fd0", "#8a7440", "#3a9aa8", "#c24d4d")
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


def dress(axes: "Axes", title: str, below: str, beside: str) -> None:
    """Give axes their words and a light grid."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(below, fontsize=9)
    axes.set_ylabel(beside, fontsize=9)
    axes.grid(True, color="#d9d9d9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, in one rename.

    Raises:
        OSError: it cannot be written; the error names it.
    """
    work = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(work, format="png", metadata={"Software": None})
        work.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        work.unlink(missing_ok=True)
