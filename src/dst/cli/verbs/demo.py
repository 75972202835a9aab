"""`dst demo`: what the text model does, a log's odd lines, and a sensor's odd hours."""

import bz2
import lzma
import zlib
from itertools import count as count_from
from typing import TYPE_CHECKING, Annotated

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dst.cli.errors import CHECK_FAILED, WrongUseError
from dst.cli.options import MAX_THREADS, Json, option
from dst.cli.output import Output, check_paths, foreign, table
from dst.words import mib

if TYPE_CHECKING:
    from dst.cli.demo.log_lines import OddLines
    from dst.cli.demo.precisions import PrecisionResult
    from dst.cli.demo.sensor import OddHours
    from dst.cli.footprint import Meter
    from dst.cli.inputs.reading import Reading
    from dst.runtime import Session

BYTES = 300_000
CRASH_BYTES = 1 << 16
PRECISION_BYTES = 1 << 14
PROMPT = '    def __init__(self, name, size=0):\n        """'
SAMPLE_BYTES = 240
SAMPLE_SEED = 7
_BLOCK = 4096
_BAR = 36  # columns of the longest bar


def demo(
    count: Annotated[
        int | None, option("--bytes", "N", "Stream so many bytes; else 300,000.", least=1)
    ] = None,
    bundle: Annotated[
        str | None,
        option("--bundle", "BUNDLE", "Show a model of bytes of your own, and only that."),
    ] = None,
    chunk: Annotated[
        int | None, option("--chunk", "T", "Bytes per step; by default the most it takes.")
    ] = None,
    threads: Annotated[
        int | None,
        option("--threads", "N", "Threads; else the fastest here.", least=1, most=MAX_THREADS),
    ] = None,
    json: Json = None,
) -> int:
    """Show a memory that survives a kill, a log's odd lines, and a sensor's odd hours.

    Reads text through the shipped text model, 300,000 of a held-out megabyte, and compares its bits
    per byte with gzip, bzip2 and xz; kills a child process in mid-stream, resumes from the state it
    saved and checks that every output is the same, bit for bit; reads on in every precision that
    ships; continues a prompt. Then finds lines that were put into the log of a web server, and the
    odd hours of a made-up sensor. Exit code 1 if the resumed run differs.

        dst demo
        dst demo --bytes 100000 --json result.json
    """
    from dst.cli.answers.scores import measure_for
    from dst.cli.data import held_out
    from dst.cli.demo import log_lines, sensor
    from dst.cli.demo.kill import crash_and_resume
    from dst.cli.demo.precisions import siblings, side_by_side
    from dst.cli.inputs.reading import Reading
    from dst.runtime import Session
    from dst.runtime.bundle.manifest import Tokens

    output = Output.to(json)
    check_paths(output, {"--bundle": bundle} if bundle else {})
    session = Session.open(bundle or "text", threads=threads or "measured")
    content = session.contract.chunk.content
    measure = measure_for(session.contract)
    if measure is None or not (isinstance(content, Tokens) and content.tokenizer == "bytes"):
        raise WrongUseError(f"{session.bundle.label}: the demo needs a model of bytes with logits")
    data = held_out()[: count or BYTES]

    numbers = count_from(1)

    def title(text: str) -> None:
        output.out.print(f"\n[bold cyan]{next(numbers)}[/]  [bold]{text}[/]")

    def tell(what: RenderableType) -> None:
        output.out.print(Padding(what, (0, 0, 0, 3)))

    said = foreign(f"{session.bundle.root.name}: {session.bundle.manifest.description}")
    output.out.print(f"[bold]dst demo[/]  {said}")

    title(f"streams {len(data):,} bytes it has never seen, once, in fixed memory")
    reading = Reading(session.stream(), chunk or max(session.chunk_sizes), measure)
    total, seconds, meter = _stream(reading, data, output)
    packed = _packed(data)
    tell(_bars({"this model": total / len(data), **packed}))
    state_bytes = session.layout.state_bytes
    tell(
        f"[bold]{len(data) / seconds:,.0f}[/] bytes/s   memory [bold]{mib(meter.peak_bytes)}[/], "
        f"grew by [bold]{meter.growth_bytes / 2**20:.2f} MiB[/] over the stream   "
        f"state [bold]{mib(state_bytes)}[/]"
    )

    title("dies in mid-stream and lives on")
    piece = held_out()[:CRASH_BYTES]
    with output.progress("crash", None) as bar:
        saved_at, equal = crash_and_resume(session, piece, lambda what: bar.at(0, what=what))
    tell(f"killed by force; the last saved state had read {saved_at:,} of {len(piece):,} bytes")
    tell(
        "[bold green]✓ [/]resumed: every output after it and the final state equal the "
        "uninterrupted run, [bold]bit for bit[/]"
        if equal
        else "[bold red]✗ FAILED: the resumed run differs from the uninterrupted one[/]"
    )

    piece = held_out()[:PRECISION_BYTES]
    others = siblings(session)
    title(f"fits smaller places, side by side over {len(piece):,} bytes")
    with output.progress("precisions", len(piece) * (1 + len(others))) as bar:
        precisions = side_by_side(session, others, piece, lambda done: bar.at(done))
    tell(_compared(precisions))
    tell(_fastest(precisions))

    title("writes on")
    sample = _sample(session)
    tell(sample)

    lines: OddLines | None = None
    hours: OddHours | None = None
    if bundle is None:
        title("finds what does not belong in a log")
        with output.progress("log", None) as bar:
            lines = log_lines.odd_lines(lambda done, size: bar.at(done, f"{done / size:.0%}"))
        tell(log_lines.drawn(lines))
        title("finds the odd hours of a sensor")
        with output.progress("sensor", None) as bar:
            hours, values = sensor.odd_hours(lambda done, size: bar.at(done, f"{done / size:.0%}"))
        tell(sensor.drawn(hours, values))

    output.write_json(
        {
            "log": lines,
            "sensor": hours,
            "bundle": session.bundle.root.name,
            "bytes": len(data),
            "bits_per_byte": total / len(data),
            "gzip_bits_per_byte": packed["gzip -9"],
            "bzip2_bits_per_byte": packed["bzip2 -9"],
            "xz_bits_per_byte": packed["xz -9e"],
            "seconds": seconds,
            "bytes_per_second": len(data) / seconds,
            "chunk": reading.t,
            "threads": session.threads,
            "rss_mib": meter.peak_bytes / 2**20,
            "rss_growth_mib": meter.growth_bytes / 2**20,
            "state_bytes": state_bytes,
            "resumed_at": saved_at,
            "resumed_equal": equal,
            "precision_bytes": len(piece),
            "precisions": precisions,
            "sample": sample.plain,
        }
    )
    return 0 if equal else CHECK_FAILED


def _fastest(precisions: "list[PrecisionResult]") -> str:
    """Say which precision serves best on this machine."""
    full, *_ = precisions
    best = max(precisions, key=lambda one: one.speed_ratio)
    if best is full:
        return f"fastest on this machine: [bold]{full.bundle}[/]; the smaller ones save memory only"
    return f"fastest on this machine: [bold]{best.bundle}[/], {best.speed_ratio:.2f} x"


def _stream(reading: "Reading", data: bytes, output: Output) -> "tuple[float, float, Meter]":
    """Read all the data in blocks, as a stream would come; return bits, seconds and the meter."""
    import numpy as np

    from dst.cli.footprint import Meter

    ids = np.frombuffer(data, np.uint8)
    bits, meter = 0.0, Meter()
    with output.progress("reads", len(data)) as bar:
        for at in range(0, len(data), _BLOCK):
            for scored in reading.read(ids[at : at + _BLOCK].astype(np.int64)):
                bits += scored.total
                if meter.add(len(scored.items)):
                    rate = f"{bits / meter.items:.3f} bits/byte  {meter.per_second:,.0f} bytes/s"
                    bar.at(meter.items, f"{rate}  {mib(meter.peak_bytes)}")
        bits += sum(scored.total for scored in reading.end())
        seconds = meter.seconds
        meter.sample()
    return bits, seconds, meter


def _packed(data: bytes) -> dict[str, float]:
    """Bits per byte that the usual compressors need, at their best settings."""
    sizes = {
        "xz -9e": len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
        "bzip2 -9": len(bz2.compress(data, 9)),
        "gzip -9": len(zlib.compress(data, 9, wbits=31)),
    }
    return {name: 8 * size / len(data) for name, size in sizes.items()}


def _bars(rates: dict[str, float]) -> Table:
    """Draw bits per byte as bars; short is good."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", style="dim")
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right")
    longest = max(rates.values())
    for place, (name, rate) in enumerate(rates.items()):
        bar = "█" * max(1, round(_BAR * rate / longest))
        style = "bold green" if place == 0 else "dim"
        grid.add_row(name, Text(bar.ljust(_BAR), style), Text(f"{rate:.3f} bits/byte", style))
    return grid


def _compared(precisions: "list[PrecisionResult]") -> Table:
    grid = table("bundle", "precision", "recipe", ">weights", ">bits/byte", ">bytes/s", ">speed")
    for found in precisions:
        names = foreign(found.bundle), found.precision, foreign(found.recipe or "–")
        cost = mib(found.weights_bytes), f"{found.bits_per_byte:.4f}"
        speed = f"{found.bytes_per_second:,.0f}", f"[bold]{found.speed_ratio:.2f} ×[/]"
        grid.add_row(*names, *cost, *speed)
    return grid


def _sample(session: "Session") -> Text:
    """Continue a prompt with a fixed seed."""
    from dst.cli.answers.lines import escape
    from dst.runtime import generate

    stream, seed = session.stream(), SAMPLE_SEED
    made = bytes(generate(stream, PROMPT, SAMPLE_BYTES, temperature=0.6, top_p=0.95, seed=seed))
    shown = "\n".join(escape(line) for line in made.split(b"\n"))
    return Text.assemble((PROMPT, "bold"), shown)
