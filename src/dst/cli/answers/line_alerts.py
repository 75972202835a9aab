"""Print the lines of a text that are out of the habits of their stream."""

from pathlib import Path

import msgspec

from dst.cli.answers.lines import Line, Lines
from dst.cli.errors import WrongUseError
from dst.cli.output import Output, foreign
from dst.runtime import Snapshot
from dst.runtime.monitor.monitor import lines_of, load_lines, save_lines
from dst.runtime.monitor.scorer import LineScore, LineScorer

KEPT = 1000
"""Alerts that a report names."""


class AlertLine(msgspec.Struct, frozen=True):
    """A line that was alerted of; `probability` is the share of lines here that look as strange."""

    line: int
    bits: float
    usual_bits: float
    score: float
    probability: float
    text: str

    @property
    def shown(self) -> str:
        """Number, probability, bits over the usual ones, and the text."""
        more = self.bits - self.usual_bits
        return f"{self.line:9}  p {self.probability:.1e}  {more:+7.1f} bits  {self.text}\n"


class LineAlerts:
    """Judges lines, and finds those whose probability is at most `rate`.

    Raises:
        WrongUseError: the rate is not in (0, 1).
    """

    def __init__(self, rate: float) -> None:
        if not 0 < rate < 1:
            raise WrongUseError(
                f"--alert {rate:g}: expected a share of false alerts, such as 1e-3 for one line in "
                "1,000"
            )
        self._rate, self._scorer = rate, LineScorer()
        self.count = 0
        self.kept: tuple[AlertLine, ...] = ()  # the first ones, for the report

    def judge(self, line: Line) -> tuple[AlertLine, bool]:
        """Judge a line, and learn from it; also tell whether it is out of habit."""
        found: LineScore = self._scorer.judge(line.head, line.bits_of_head)
        judged = AlertLine(
            line.number, found.bits, found.usual_bits, found.score, found.probability, line.text
        )
        odd = found.probability <= self._rate
        if odd:
            self.count += 1
            if len(self.kept) < KEPT:
                self.kept = (*self.kept, judged)
        return judged, odd

    def save(self, state: Path, record: Snapshot, lines: Lines) -> None:
        """Write what is known of lines beside a state, the line that is not complete too."""
        save_lines(state, record, {**self._scorer.arrays(), **lines.arrays()})

    def load(self, state: Path, record: Snapshot, lines: Lines, output: Output) -> None:
        """Go on from what was saved with a state; tell it where nothing fits."""
        arrays = load_lines(state, record)
        if arrays is not None:
            self._scorer.restore(arrays)
            lines.restore(arrays)
            return
        said = f"{lines_of(state)} holds nothing of this moment: what is usual here is learned anew"
        output.err.print(f"[yellow]note:[/] {foreign(said)}", soft_wrap=True)
