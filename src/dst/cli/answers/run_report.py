"""Print and add up what `dst run` finds: lines, items, answers, the most surprising ones."""

import sys
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt
from rich.table import Table
from rich.text import Text

from dst.cli.answers.alerts import Alerts, alert_line
from dst.cli.answers.file import AnswerFile
from dst.cli.answers.line_alerts import AlertLine, LineAlerts
from dst.cli.answers.lines import Line, Lines, Top, escape
from dst.cli.answers.rows import Answers, Classes, flat
from dst.cli.answers.scores import Measure
from dst.cli.footprint import Meter
from dst.cli.inputs.reading import Scored
from dst.cli.output import Output, foreign, pairs, write_out
from dst.runtime import TextTokenizer
from dst.runtime.bundle.manifest import Output as Answer
from dst.words import counted, mib

Array = npt.NDArray[np.generic]
SHOWN_VALUES = 8  # of an item or an answer, in one line


class TopLine(msgspec.Struct, frozen=True):
    """One of the most surprising lines: by bits per byte, with `--alert` by its score."""

    line: int
    bits: float
    bytes: int
    bits_per_byte: float
    text: str


class TopItem(msgspec.Struct, frozen=True):
    """One of the most surprising items; `item` counts from 1 at the start of the stream.

    `text` is what a token id stands for, null where no tokenizer tells.
    """

    item: int
    score: float
    values: tuple[float, ...]
    time: str | None
    text: str | None


class RunResult(msgspec.Struct, frozen=True):
    """The summary of a run; what the model gives no measure for is null."""

    bundle: str
    items: int
    scored: int
    unit: str | None
    total: float | None
    per_item: float | None
    format: str  # what the input was read as
    gap: str
    gaps: int  # items with a missing value
    left_out: tuple[str, ...]  # columns that were not read
    notes: tuple[str, ...]
    out: str | None  # the file of the answers
    rows: int  # written there
    seconds: float
    items_per_second: float
    rss_peak_bytes: int
    rss_growth_bytes: int
    state_bytes: int
    state: str | None  # the file that was saved to
    state_items: int
    interrupted: bool
    alerts: int | None  # lines or items that --alert has printed
    alert_lines: tuple[AlertLine, ...]  # the first 1,000 of them, where they are lines
    top: tuple[TopLine | TopItem, ...]


class Times:
    """The text of the time column for the items that are on their way."""

    def __init__(self, first: int) -> None:
        """Begin with the item of this number."""
        self._first = first
        self._texts: list[str] = []

    def extend(self, texts: Sequence[str], waiting: int) -> None:
        """Add those of newer items; of the older ones, `waiting` are still to be asked for."""
        old = max(0, len(self._texts) - waiting - 1)
        del self._texts[:old]
        self._first += old
        self._texts += texts

    def of(self, number: int, count: int) -> list[str]:
        """Return the texts of `count` items from this number on; "" where there is none."""
        places = range(number - self._first, number - self._first + count)
        return [self._texts[at] if 0 <= at < len(self._texts) else "" for at in places]


class Report:
    """Takes scored items, prints and writes what was asked for, and adds up."""

    def __init__(
        self,
        *,
        per: Literal["none", "line", "item", "answer"],
        top: int,
        text: bool,
        outputs: Sequence[Answer],
        classes: Classes | None,
        alerts: Alerts | LineAlerts | None,
        times: Times | None,
        file: AnswerFile | None,
        tokenizer: TextTokenizer | None,
        output: Output,
    ) -> None:
        self._per, self._text, self._output = per, text, output
        self._outputs, self._classes = outputs, classes
        self._alerts, self._times, self._file = alerts, times, file
        self._tokenizer = tokenizer
        self._cuts_lines = text and (per == "line" or top > 0 or alerts is not None)
        self.lines, self._top_lines = Lines(), Top[Line](top if text else 0)
        self._top_items = Top[TopItem](0 if text else top)
        self.total, self.scored = 0.0, 0  # of the scores: their sum and number
        self.rows = 0  # of answers, written or printed

    def take(self, scored: Scored) -> None:
        """Look at some more."""
        if scored.answers is not None:
            self._answers(scored.answers)
            if isinstance(self._alerts, Alerts):
                self._alert(self._alerts, scored.answers, scored.items)
        if scored.scores is None:
            return
        self.total += scored.total
        self.scored += len(scored.scores)
        if self._per == "item":
            self._items(scored)
        for at in self._top_items.worth(scored.scores):
            number, values = scored.number + at, scored.items[at].reshape(-1).tolist()
            time = None if self._times is None else self._times.of(number, 1)[0]
            text = None if self._tokenizer is None else self._tokenizer.decode(values)
            score, numbers = float(scored.scores[at]), tuple(map(float, values))
            self._top_items.offer(score, number, TopItem(number, score, numbers, time, text))
        if self._cuts_lines:
            for line in self.lines.feed(scored.items.astype(np.int64), scored.scores):
                self._line(line)

    def flush(self) -> None:
        """Let what was printed and written be seen."""
        sys.stdout.flush()
        if self._file is not None:
            self._file.flush()

    def end(self, goes_on: bool) -> None:
        """Take the last line, which no newline ends; where alerts go on later, it may go on too."""
        waits = goes_on and isinstance(self._alerts, LineAlerts)
        rest = None if waits else self.lines.rest()
        if rest is not None:
            self._line(rest)
        sys.stdout.flush()

    def best(self) -> tuple[TopLine | TopItem, ...]:
        """The most surprising lines or items."""
        lines = self._top_lines.best()
        told = [TopLine(x.number, x.bits, x.size, x.rate, x.text) for x in lines]
        return (*told, *self._top_items.best())

    def _line(self, line: Line) -> None:
        rate = line.rate
        if isinstance(self._alerts, LineAlerts):
            judged, odd = self._alerts.judge(line)
            rate = judged.score  # what is asked for is what is out of habit
            if odd:
                write_out(judged.shown)
        self._top_lines.offer(rate, line.number, line)
        if self._per != "line":
            return
        if self._output.out.is_terminal:
            self._output.out.print(_coloured(line), no_wrap=True, overflow="ellipsis", crop=True)
        else:
            write_out(f"{line.bits:9.1f} {line.rate:7.3f}  {line.text}\n")

    def _items(self, scored: Scored) -> None:
        if scored.scores is None:
            return
        times = None if self._times is None else self._times.of(scored.number, len(scored.items))
        for at, score in enumerate(scored.scores.tolist()):
            item = scored.items[at]
            shown = escape(bytes([int(item)])) if self._text else " ".join(map(str, item.flat))
            time = "" if times is None else f"{foreign_plain(times[at])}  "
            write_out(f"{score:9.3f}  {time}{shown}\n")

    def _answers(self, answers: Answers) -> None:
        times = None if self._times is None else self._times.of(answers.first, answers.count)
        if self._file is not None:
            self._file.write(answers, times)
        if self._file is not None or self._per == "answer":
            self.rows += sum(len(numbers) for _, numbers, _, _ in answers.parts(self._outputs))
        if self._per != "answer":
            return
        lines: list[tuple[int, str]] = []
        for _, numbers, outputs, held in answers.parts(self._outputs):
            columns = [self._printed(o, rows) for o, rows in zip(outputs, held, strict=True)]
            for row, number in enumerate(numbers):
                time = "" if times is None else f"  {foreign_plain(times[number - answers.first])}"
                values = "  ".join(column[row] for column in columns)
                lines.append((number, f"{number:9}{time}  {values}\n"))
        write_out("".join(line for _, line in sorted(lines, key=lambda pair: pair[0])))

    def _alert(self, alerts: Alerts, answers: Answers, items: Array) -> None:
        times = None if self._times is None else self._times.of(answers.first, answers.count)
        write_out("".join(alert_line(alert) for alert in alerts.find(answers, items, times)))

    def _printed(self, output: Answer, rows: Array) -> list[str]:
        """Spell the rows of an output for a reader."""
        if self._classes is not None and self._classes.output == output.name:
            names, shares = self._classes.top(rows)
            return [f"{n} {share:.3f}" for n, share in zip(names, shares.tolist(), strict=True)]
        values = flat(rows)
        more = " …" if values.shape[1] > SHOWN_VALUES else ""
        name = f"{output.name} " if len(self._outputs) > 1 else ""
        return [
            f"{name}{' '.join(f'{value:.6g}' for value in row)}{more}"
            for row in values[:, :SHOWN_VALUES].tolist()
        ]


def foreign_plain(text: str) -> str:
    """Make text of an input plain for a terminal: no control characters."""
    return escape(text.encode())


def note(report: Report, measure: Measure | None, meter: Meter) -> str:
    """Say how far a run is."""
    score = ""
    if measure is not None and report.scored:
        score = f"{report.total / report.scored:.3f} {measure.unit}/item  "
    return f"{meter.items:,} items  {score}{meter.per_second:,.0f}/s  {mib(meter.peak_bytes)}"


def _coloured(line: Line) -> Text:
    """Dress a line for a terminal: the more bits per byte, the warmer."""
    rate = line.rate
    style = "dim" if rate < 1 else "" if rate < 2.5 else "yellow" if rate < 4 else "bold red"
    return Text.assemble((f"{line.bits:9.1f} ", "dim"), (f"{rate:7.3f}  {line.text}", style))


def top_table(top: Sequence[TopLine | TopItem], unit: str, item: str, by_score: bool) -> list[Text]:
    """Show the most surprising lines or items, the first of them first.

    `by_score`: lines were ranked by how far they are out of habit, as `--alert` judges them.
    """
    if not top:
        return []
    width = max(9, len(unit))
    if isinstance(top[0], TopLine):
        what = "lines, by " + ("their score" if by_score else "bits per byte")
        head = f"{'/' + item:>7} {'bits':>9} {'line':>8}  text"
    else:
        what, timed = f"items, by {unit}", "time  " if top[0].time is not None else ""
        head = f"{unit:>{width}} {'item':>9}  {timed}values"
    shown = [Text(f"most surprising {what}", "bold"), Text(head, "dim")]
    for x in top:
        if isinstance(x, TopLine):
            numbers = f"{x.bits_per_byte:7.3f} {x.bits:9.1f} {x.line:8}  "
            shown.append(Text.assemble((numbers, "dim"), x.text))
        else:
            values = " ".join(f"{value:.6g}" for value in x.values[:SHOWN_VALUES])
            more = " …" if len(x.values) > SHOWN_VALUES else ""
            time = "" if x.time is None else f"{foreign_plain(x.time)}  "
            numbers = f"{x.score:{width}.3f} {x.item:9}  "
            text = "" if x.text is None else f"  {foreign_plain(x.text)}"
            shown.append(Text.assemble((numbers, "dim"), f"{time}{values}{more}{text}"))
    return [*shown, Text()]


def summary(result: RunResult, item: str) -> Table:
    """Show what a run has done."""
    grid = pairs()
    grid.add_row("read", f"{result.items:,} {item}s in {result.seconds:.1f} s")
    if result.gaps:
        done = {"hold": "held", "skip": "left out"}[result.gap]
        grid.add_row("gaps", f"{counted(result.gaps, 'item')} with missing values, {done}")
    if result.left_out:
        names = ", ".join(name or "(no name)" for name in result.left_out)
        grid.add_row("not read", foreign(names))
    if result.total is not None and result.per_item is not None:
        scored = f"{result.per_item:.4f} {result.unit} per {item}, {result.total:,.1f} in all"
        grid.add_row("surprise", scored)
    if result.out is not None:
        grid.add_row("answers", f"{counted(result.rows, 'row')} in {foreign(result.out)}")
    grid.add_row("speed", f"{result.items_per_second:,.0f} {item}s/s")
    grown = f"{result.rss_growth_bytes / 2**20:.2f} MiB"
    grid.add_row("memory", f"{mib(result.rss_peak_bytes)} at most, grew by {grown} when warm")
    state = mib(result.state_bytes)
    if result.state is not None:
        state += f", saved to {foreign(result.state)} at {item} {result.state_items:,}"
    grid.add_row("state", state)
    if result.interrupted:
        grid.add_row("ended", "by a signal, before the input did")
    return grid
