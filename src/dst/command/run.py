"""`dst run`: a bundle and an input of any size go in, surprise and a summary come out."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from rich.table import Table
from rich.text import Text

from dst.command.apart import check_apart, state_files
from dst.command.errors import WrongUseError
from dst.command.lines import Line, Lines, Top, escape
from dst.command.measure import Measure, measure_for
from dst.command.meter import Meter
from dst.command.output import Output, check_folder, foreign, write_out
from dst.command.reading import Reading, Scored, reading_of
from dst.command.rows import item_blocks
from dst.command.signals import Interrupts
from dst.command.source import input_size
from dst.command.token_text import tokenizer_for
from dst.runtime import Session
from dst.runtime.errors import PartialChunkError
from dst.runtime.manifest import Tokens
from dst.runtime.providers import Provider
from dst.words import mib

Per = Literal["line", "item", "none"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for: see the options of `dst run`.

    Attributes:
        per: what is printed for every line or item.
        top: how many of the most surprising lines are kept.
        state: the saved state to continue from and to save to.
        save_every: items between two saves, None for none on the way.
        chunk: items per chunk, None for the nominal number.
    """

    per: Per
    top: int
    state: Path | None
    save_every: int | None
    chunk: int | None


class TopLine(msgspec.Struct, frozen=True):
    """One of the most surprising lines."""

    line: int
    bits: float
    bytes: int
    text: str


class RunResult(msgspec.Struct, frozen=True):
    """The summary of a run; what the model gives no measure for is null.

    `state` is the file that was saved to, null where nothing was saved.
    """

    bundle: str
    items: int
    scored: int
    unit: str | None
    total: float | None
    per_item: float | None
    seconds: float
    items_per_second: float
    rss_peak_bytes: int
    rss_growth_bytes: int
    state_bytes: int
    state: str | None
    state_items: int
    interrupted: bool
    top: tuple[TopLine, ...]


class _Report:
    """Takes scored items, prints what was asked for and adds up."""

    def __init__(self, wish: Wish, output: Output, text: bool) -> None:
        self._wish, self._output, self._text = wish, output, text
        self._cuts_lines = wish.per == "line" or wish.top > 0
        self._lines, self._top = Lines(), Top(wish.top)
        self.total, self.scored = 0.0, 0

    def take(self, scored: Scored) -> None:
        if scored.scores is None:
            return
        self.total += float(scored.scores.sum())
        self.scored += len(scored.scores)
        if self._wish.per == "item":
            self._items(scored)
        if self._cuts_lines:
            for line in self._lines.feed(scored.items.astype(np.int64), scored.scores):
                self._line(line)

    def end(self) -> None:
        rest = self._lines.rest()
        if rest is not None:
            self._line(rest)
        sys.stdout.flush()

    def best(self) -> list[Line]:
        return self._top.best()

    def _line(self, line: Line) -> None:
        self._top.offer(line)
        if self._wish.per != "line":
            return
        if self._output.out.is_terminal:
            self._output.out.print(_coloured(line), no_wrap=True, overflow="ellipsis", crop=True)
        else:
            write_out(f"{line.bits:9.1f} {line.bits / line.size:7.3f}  {line.text}\n")

    def _items(self, scored: Scored) -> None:
        if scored.scores is None:
            return
        for item, score in zip(scored.items, scored.scores.tolist(), strict=True):
            shown = escape(bytes([int(item)])) if self._text else " ".join(map(str, item.flat))
            write_out(f"{score:9.3f}  {shown}\n")


def run(
    bundle: str, path: str, provider: Provider, threads: int, wish: Wish, output: Output
) -> int:
    """Read an input to its end, or until a signal comes, and return the exit code.

    Raises:
        DstError: the bundle, the state or an item cannot be used; where a part of a chunk is
            left that the model refuses, the state was saved first.
        OSError: the input cannot be read.
        WrongUseError: options contradict each other or the model, the input is empty, or it
            would be overwritten.
    """
    check_folder("--state", wish.state)
    check_apart(output, {"BUNDLE": bundle, "FILE": path}, state_files("--state", wish.state))
    size = input_size(path)
    session = Session.open(bundle, provider=provider, threads=threads)
    chunk = session.contract.chunk
    measure = measure_for(session.contract)
    text = isinstance(chunk.content, Tokens) and chunk.content.tokenizer == "bytes"
    _check(wish, measure, text, output)
    reading = reading_of(session, wish.state, wish.chunk)
    report, meter = _Report(wish, output, text), Meter()
    began_at = saved_at = reading.items
    quiet = wish.per != "none" and output.out.is_terminal  # a bar would cut through the lines
    with (
        Interrupts() as interrupts,
        output.progress(Path(path).name, size if text else None, show=not quiet) as bar,
    ):
        stop, tokenizer = lambda: interrupts.signal is not None, tokenizer_for(session.bundle)
        for items in item_blocks(path, chunk, stop, tokenizer):
            for scored in reading.read(items) if len(items) else reading.settle():
                report.take(scored)
                if meter.add(len(scored.items)):
                    bar.at(meter.items, _note(report, measure, meter))
                if wish.save_every and wish.state and reading.items - saved_at >= wish.save_every:
                    reading.save(wish.state)
                    saved_at = reading.items
            sys.stdout.flush()
        refused = _end(reading, report)
        came = reading.items - began_at
        if not came and not interrupts.signal:
            raise WrongUseError(f"{path}: is empty, there is nothing to read")
        if wish.state is not None and came:
            reading.save(wish.state)
        if refused is not None and not interrupts.signal:
            saved = "" if wish.state is None or not came else f"; they wait in {wish.state}"
            raise PartialChunkError(f"{refused}{saved}")
    meter.sample()
    result = RunResult(
        bundle=session.bundle.root.name,
        items=came,
        scored=report.scored,
        unit=None if measure is None else measure.unit,
        total=None if measure is None else report.total,
        per_item=report.total / report.scored if report.scored else None,
        seconds=meter.seconds,
        items_per_second=came / meter.seconds,
        rss_peak_bytes=meter.peak_bytes,
        rss_growth_bytes=meter.growth_bytes,
        state_bytes=session.layout.state_bytes,
        state=str(wish.state) if wish.state is not None and came else None,
        state_items=reading.items,
        interrupted=interrupts.signal is not None,
        top=tuple(TopLine(x.number, x.bits, x.size, x.text) for x in report.best()),
    )
    _show(result, "byte" if text else "item", wish, output)
    output.write_json(result)
    return interrupts.exit_code


def _end(reading: Reading, report: _Report) -> PartialChunkError | None:
    """Answer for what is left, or keep it for the next run and return why that was refused."""
    refused = None
    try:
        for scored in reading.end():
            report.take(scored)
    except PartialChunkError as error:
        reading.keep()
        refused = error
    report.end()
    return refused


def _check(wish: Wish, measure: Measure | None, text: bool, output: Output) -> None:
    """Raise unless the options fit each other and the model."""
    if wish.save_every is not None and wish.state is None:
        raise WrongUseError("--save-every needs --state FILE, which is where it saves to")
    if output.json == "-" and wish.per != "none":
        raise WrongUseError(
            f"--json - and --per {wish.per} both want standard output; give --json a file"
        )
    if (wish.per == "line" or wish.top) and not (text and measure):
        raise WrongUseError("--per line and --top need a model that reads and predicts bytes")
    if wish.per == "item" and measure is None:
        raise WrongUseError("--per item needs a model whose outputs predict its input")


def _note(report: _Report, measure: Measure | None, meter: Meter) -> str:
    score = (
        f"{report.total / report.scored:.3f} {measure.unit}/item  "
        if measure is not None and report.scored
        else ""
    )
    return f"{meter.items:,} items  {score}{meter.per_second:,.0f}/s  {mib(meter.peak_bytes)}"


def _coloured(line: Line) -> Text:
    """Dress a line for a terminal: the more bits per byte, the warmer."""
    rate = line.bits / line.size
    style = "dim" if rate < 1 else "" if rate < 2.5 else "yellow" if rate < 4 else "bold red"
    return Text.assemble(
        (f"{line.bits:9.1f} ", "dim"), (f"{rate:7.3f}  ", style), (line.text, style)
    )


def _show(result: RunResult, item: str, wish: Wish, output: Output) -> None:
    """Print the most surprising lines, and the summary: where lines go to stdout, on stderr."""
    if result.top:
        output.out.print("[bold]most surprising lines[/]")
        output.out.print(f"[dim]{'bits':>9} {'/' + item:>7} {'line':>8}  text[/]")
        for x in result.top:
            numbers = f"{x.bits:9.1f} {x.bits / x.bytes:7.3f} {x.line:8}  "
            shown = Text.assemble((numbers, "dim"), x.text)
            output.out.print(shown, no_wrap=True, overflow="ellipsis", crop=True)
        output.out.print()
    console = output.out if wish.per == "none" else output.err
    if output.json == "-":
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    grid.add_row("read", f"{result.items:,} {item}s in {result.seconds:.1f} s")
    if result.total is not None and result.per_item is not None:
        scored = f"{result.per_item:.4f} {result.unit} per {item}, {result.total:,.1f} in all"
        grid.add_row("surprise", scored)
    grid.add_row("speed", f"{result.items_per_second:,.0f} {item}s/s")
    grown = f"{result.rss_growth_bytes / 2**20:.2f} MiB"
    grid.add_row("memory", f"{mib(result.rss_peak_bytes)} at most, grew by {grown} when warm")
    state = mib(result.state_bytes)
    if result.state is not None:
        state += f", saved to {foreign(result.state)} at {item} {result.state_items:,}"
    grid.add_row("state", state)
    if result.interrupted:
        grid.add_row("ended", "by a signal, before the input did")
    console.print(grid)
