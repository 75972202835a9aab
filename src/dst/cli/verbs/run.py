"""`dst run`: read an input of any size through a bundle; print or write scores and answers."""

from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from dst.cli.errors import WrongUseError
from dst.cli.options import (
    BundleArgument,
    Format,
    Gap,
    Json,
    Provider,
    State,
    Threads,
    argument,
    names_of,
    option,
)
from dst.cli.output import Output, check_file, check_paths, foreign, state_files
from dst.cli.signals import Interrupts

if TYPE_CHECKING:
    from dst.cli.answers.alerts import Alerts
    from dst.cli.answers.file import AnswerFile
    from dst.cli.answers.line_alerts import LineAlerts
    from dst.cli.answers.run_report import Report, RunResult
    from dst.cli.answers.scores import Measure
    from dst.cli.inputs.block import Form
    from dst.cli.inputs.reading import Reading
    from dst.runtime.bundle.manifest import Contract
    from dst.runtime.errors import PartialChunkError


def run(
    bundle: BundleArgument,
    file: Annotated[str, argument("[FILE|-]", "What to read; - for standard input.")] = "-",
    out: Annotated[
        str | None, option("--out", "FILE", "Answers: .npy .csv .jsonl; - for CSV.")
    ] = None,
    outputs: Annotated[
        list[str] | None, option("--output", "NAME", "Only this output; may be repeated.")
    ] = None,
    classes: Annotated[
        str | None, option("--classes", "A,B", "Class names, or a file of them.")
    ] = None,
    per: Annotated[
        Literal["none", "line", "item"], option("--per", "WHAT", "Print each line, or each item.")
    ] = "none",
    top: Annotated[int, option("--top", "N", "Show the N most surprising.", least=0)] = 0,
    alert: Annotated[
        float | None, option("--alert", "RATE", "Print odd lines or items; RATE of false ones.")
    ] = None,
    format: Annotated[
        Format | None, option("--format", "KIND", f"{' '.join(get_args(Format))}.")
    ] = None,
    columns: Annotated[
        str | None, option("--columns", "A,B", "Columns to read, in the model's order.")
    ] = None,
    time: Annotated[
        str | None, option("--time", "NAME", "Keep this column beside the answers.")
    ] = None,
    gap: Annotated[Gap, option("--gap", "RULE", "refuse missing values, hold or skip.")] = "refuse",
    stream_inputs: Annotated[
        list[str] | None, option("--stream-input", "N=FILE", "What a stream is given once.")
    ] = None,
    state: State = None,
    save_every: Annotated[
        int | None, option("--save-every", "N", "Save to --state every N items or so.", least=1)
    ] = None,
    chunk: Annotated[
        int | None, option("--chunk", "T", "Items per step; else the bundle's own.")
    ] = None,
    provider: Provider = "cpu",
    threads: Threads = 1,
    json: Json = None,
) -> int:
    """Stream a file or a pipe of any size through a bundle, in constant memory.

    A model that predicts its input reports its surprise: bits = -log2 of the probability that
    it gave to what came; nats or quantile loss for numbers. --top ranks lines by bits per byte,
    or items. A model of bytes reads any file; others read CSV, JSON lines, WAV, .npy, .npz or
    raw samples, an item per row. --state goes on where an earlier run ended. docs/run.md tells
    all.

        dst run log server.log --alert 1e-3 --state server.state
        tail -f server.log | dst run text - --per line --state memory.state
        dst run feed cpu.csv --alert 1e-4 --state cpu.state
        dst run ./sensor feed.csv --time when --gap hold --out answers.csv
        arecord -t raw -f S16_LE -r 16000 | dst run ./vad - --format s16 --out -
    """
    from dst.cli.answers.alerts import Alerts
    from dst.cli.answers.file import AnswerFile
    from dst.cli.answers.forms import ending_of, form_of
    from dst.cli.answers.line_alerts import LineAlerts
    from dst.cli.answers.rows import choose_outputs, class_names, classes_of
    from dst.cli.answers.run_report import Report, RunResult, Times, note
    from dst.cli.answers.scores import measure_for
    from dst.cli.footprint import Meter
    from dst.cli.inputs.block import Form, Found
    from dst.cli.inputs.named import stream_inputs_of
    from dst.cli.inputs.reading import reading_of
    from dst.cli.inputs.rows import read_items
    from dst.cli.inputs.source import input_size, tokenizer_for
    from dst.runtime import Session
    from dst.runtime.bundle.manifest import Tokens
    from dst.runtime.errors import PartialChunkError

    output = Output.to(json)
    named_columns = () if columns is None else names_of("--columns", columns.split(","))
    form = Form(format=format, gap=gap, time=time, columns=named_columns)
    names = () if classes is None else class_names(classes)
    _check_files(bundle, file, stream_inputs or (), state, out, output, lines=alert is not None)
    _check_places(per, alert, out, output)
    if save_every is not None and state is None:
        raise WrongUseError("--save-every needs --state FILE, which is where it saves to")
    if (outputs or names) and out is None and per != "item":
        name = "--output" if outputs else "--classes"
        raise WrongUseError(f"{name} needs --out FILE or --per item, which show the answers")
    size = input_size(file)
    session = Session.open(bundle, provider=provider, threads=threads)
    contract = session.contract
    content, measure = contract.chunk.content, measure_for(contract)
    text = isinstance(content, Tokens) and content.tokenizer == "bytes"
    _check_model(form, per, top, measure, text, contract)
    alerts: Alerts | LineAlerts | None = None
    if alert is not None:
        alerts = LineAlerts(alert) if text and measure else Alerts(contract, alert)
    chosen = choose_outputs(contract, outputs or ())
    named = classes_of(names, chosen) if names else None
    prints = per == "item" and (measure is None or bool(names or outputs))
    inputs = stream_inputs_of(stream_inputs or (), contract)
    goes_on = state is not None and state.exists()
    answering = out is not None or prints or isinstance(alerts, Alerts)
    reading = reading_of(session, state, chunk, answering, inputs)
    shows_times = time is not None or isinstance(alerts, Alerts)
    texts = Times(reading.items + 1) if shows_times else None
    written = None
    if out is not None:
        spelling = form_of(ending_of(out), chosen, named, time)
        written = AnswerFile(out, spelling, reading.items if goes_on else None)
    tokenizer = tokenizer_for(session.bundle)
    report = Report(
        per="answer" if prints else per,
        top=top,
        text=text,
        outputs=chosen,
        classes=named,
        alerts=alerts,
        times=texts,
        file=written,
        tokenizer=tokenizer,
        output=output,
    )
    if state and goes_on and isinstance(alerts, LineAlerts):
        alerts.load(state, reading.record(), report.lines, output)
    found, meter = Found(format="bytes"), Meter()
    began_at = saved_at = reading.items
    told = 0
    lines = per != "none" or alerts is not None
    quiet = lines and output.out.is_terminal  # a bar would cut through the lines
    try:
        with (
            Interrupts() as interrupts,
            output.progress(Path(file).name, size if text else None, show=not quiet) as bar,
        ):
            stopped = lambda: interrupts.signal is not None  # noqa: E731
            for items in read_items(file, contract.chunk, form, found, stopped, tokenizer):
                if texts is not None and items.times is not None:
                    texts.extend(items.times, reading.waiting)
                for scored in reading.read(items.values) if len(items.values) else reading.settle():
                    report.take(scored)
                    if meter.add(len(scored.items)):
                        bar.at(meter.items, note(report, measure, meter))
                    done = reading.items - saved_at
                    if save_every and state and done >= save_every:
                        _save(reading, state, report, written, alerts)
                        saved_at = reading.items
                for sentence in found.notes[told:]:
                    said = f"[yellow]note:[/] {foreign(file)}: {foreign(sentence)}"
                    output.err.print(said, soft_wrap=True)
                told = len(found.notes)
                report.flush()
            refused = _end(reading, report, goes_on=state is not None)
            came = reading.items - began_at
            if not came and not interrupts.signal:
                why = f"; {found.gaps} with gaps were left out" if found.gaps else ""
                raise WrongUseError(f"{file}: is empty, there is nothing to read{why}")
            if state is not None and came:
                if written is not None:
                    written.mark(reading.items)
                if isinstance(alerts, LineAlerts):
                    alerts.save(state, reading.record(), report.lines)
                reading.save(state)
            if written is not None:
                written.close()
            if refused is not None and not interrupts.signal:
                saved = "" if state is None or not came else f"; they wait in {state}"
                raise PartialChunkError(f"{refused}{saved}")
    finally:
        if written is not None:
            written.abandon()
    meter.sample()
    result = RunResult(
        bundle=session.bundle.root.name,
        items=came,
        scored=report.scored,
        unit=None if measure is None else measure.unit,
        total=None if measure is None else report.total,
        per_item=report.total / report.scored if report.scored else None,
        format=found.format,
        gap=gap,
        gaps=found.gaps,
        left_out=found.left_out,
        notes=tuple(found.notes),
        out=out,
        rows=report.rows,
        seconds=meter.seconds,
        items_per_second=came / meter.seconds,
        rss_peak_bytes=meter.peak_bytes,
        rss_growth_bytes=meter.growth_bytes,
        state_bytes=session.layout.state_bytes,
        state=str(state) if state is not None and came else None,
        state_items=reading.items,
        interrupted=interrupts.signal is not None,
        top=report.best(),
        alerts=None if alerts is None else alerts.count,
        alert_lines=alerts.kept if isinstance(alerts, LineAlerts) else (),
    )
    _show(result, "byte" if text else "item", lines, out, output)
    output.write_json(result)
    return interrupts.exit_code


def _check_files(
    bundle: str,
    path: str,
    stream_inputs: Sequence[str],
    saved: Path | None,
    out: str | None,
    output: Output,
    lines: bool,
) -> None:
    """Find out before any work whether all files of the call are different and can be written."""
    from dst.cli.answers.forms import STREAMS, ending_of

    state = state_files("--state", saved)
    if lines and saved is not None:
        beside = state_files("the lines of --state", saved.with_name(saved.name + ".lines"))
        state = {**state, **beside}
    given = {f"--stream-input {t}": t.partition("=")[2] or None for t in stream_inputs}
    reads = {"BUNDLE": bundle, "FILE": path, **given}
    check_paths(output, reads, state)
    if out is None:
        return
    ending_of(out)
    if out not in STREAMS:
        check_file("--out", Path(out))
        check_paths(output, {**reads, **state}, {"--out": out})


def _check_places(per: str, alert: float | None, out: str | None, output: Output) -> None:
    """Raise where two things want standard output."""
    from dst.cli.answers.forms import STREAMS

    there = output.json == "-", per != "none", alert is not None, out in STREAMS
    both = list(compress(("--json -", f"--per {per}", "--alert", f"--out {out}"), there))[:2]
    if len(both) == 2:
        raise WrongUseError(
            f"{' and '.join(both)} both want standard output; give one of them, or a file where it "
            "takes one"
        )


def _check_model(
    form: "Form", per: str, top: int, measure: "Measure | None", text: bool, contract: "Contract"
) -> None:
    """Raise unless the options fit the model."""
    given = form.format is not None, form.time is not None, bool(form.columns), form.gap != "refuse"
    useless = next(compress(("--format", "--time", "--columns", "--gap"), given), None)
    if text and useless is not None:
        raise WrongUseError(
            f"{useless}: this model reads bytes, so every input is bytes as it stands"
        )
    if per == "line" and not (text and measure):
        raise WrongUseError("--per line needs a model that reads and predicts bytes")
    if top and measure is None:
        kinds = ", ".join(f"{o.name} ({o.meaning})" for o in contract.outputs)
        raise WrongUseError(
            "--top ranks items by their surprise, and no output of this model predicts its input: "
            f"{kinds}; --out FILE.csv writes the answers, which any tool can sort"
        )


def _save(
    reading: "Reading",
    state: Path,
    report: "Report",
    file: "AnswerFile | None",
    alerts: "Alerts | LineAlerts | None",
) -> None:
    """Save on the way: first what was answered, then the state that has answered for it."""
    from dst.cli.answers.line_alerts import LineAlerts

    for scored in reading.catch_up():
        report.take(scored)
    if file is not None:
        file.mark(reading.items)
    if isinstance(alerts, LineAlerts):
        alerts.save(state, reading.record(), report.lines)
    reading.save(state)
    if file is not None:
        file.confirm()


def _end(reading: "Reading", report: "Report", goes_on: bool) -> "PartialChunkError | None":
    """Answer for what is left, or keep it for the next run and return why that was refused."""
    from dst.runtime.errors import PartialChunkError

    refused = None
    try:
        for scored in reading.end():
            report.take(scored)
    except PartialChunkError as error:
        reading.keep()
        refused = error
    report.end(goes_on)
    return refused


def _show(result: "RunResult", item: str, lines: bool, out: str | None, output: Output) -> None:
    """Print the most surprising, and the summary: where rows go to stdout, on stderr."""
    from dst.cli.answers.forms import STREAMS
    from dst.cli.answers.run_report import summary, top_table

    console = output.err if out in STREAMS else output.out
    for line in top_table(result.top, result.unit or "", item, result.alerts is not None):
        console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
    if output.json != "-":
        console = output.err if lines else console
        console.print(summary(result, item))
