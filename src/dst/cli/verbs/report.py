"""`dst report`: two precisions of a model go in, how far they part over the horizon comes out."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from dst.cli.errors import CHECK_FAILED, WrongUseError
from dst.cli.inputs.material import items_of
from dst.cli.output import Output, foreign
from dst.cli.paths import check_apart
from dst.cli.signals import Interrupts
from dst.evaluate.quality import Report, Settings, attach
from dst.evaluate.quality import report as measure
from dst.evaluate.quality.gates import Budget
from dst.evaluate.quality.plot import draw
from dst.evaluate.rendering.canvas import NoMatplotlibError
from dst.runtime import Bundle, open_bundle
from dst.runtime.bundle.validation import is_full_precision
from dst.words import counted, mib

_NONE = "[dim]–[/]"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be compared, on what, and where it goes."""

    full: str
    quantized: str
    data: str | None
    items: int
    t: int | None
    nats: float
    error: float
    heads: int
    sample_every: int
    drift_items: int
    threads: int
    attach: bool
    other_file: bool
    png: Path | None


def report(order: Order, output: Output) -> int:
    """Measure, print, write what was asked for, and return the exit code.

    Raises:
        DstError: a bundle is broken, or they are not two precisions of one model.
        WrongUseError: not full precision first and a quantized bundle second, or too little data.
        OSError: the data cannot be read or a file cannot be written.
    """
    reads = {"FULL": order.full, "QUANTIZED": order.quantized, "DATA": order.data}
    check_apart(output, reads, {"--png": order.png})
    full, bundle = open_bundle(order.full), open_bundle(order.quantized)
    if order.other_file:
        _check_files(full, order)
    else:
        _check_order(full, bundle)
    items, about = items_of(bundle, order.data)
    settings = Settings(
        budget=Budget(order.nats, order.error),
        t=order.t,
        heads=order.heads,
        sample_every=order.sample_every,
        drift_items=order.drift_items,
        threads=order.threads,
        data=about,
        other_file=order.other_file,
    )
    with Interrupts() as interrupts:
        with output.progress("report", 1.0) as bar:
            made = measure(
                full.root,
                bundle.root,
                items,
                order.items,
                settings,
                interrupts.watched(lambda what, share: bar.at(share, f"{share:.0%}", what)),
            )
        if order.attach:
            attach(bundle.root, made)
    _show(made, output)
    if order.png is not None:
        try:
            draw(made, order.png)
        except NoMatplotlibError as error:
            output.err.print(foreign(str(error)))
    output.write_json(made)
    return CHECK_FAILED if made.passed is False else 0


def _check_files(full: Bundle, order: Order) -> None:
    """Refuse what two files of one model cannot have."""
    manifest = full.manifest
    if manifest.recipe is not None or manifest.precision not in ("float32", "float64"):
        raise WrongUseError(
            f"first bundle {full.root.name}: is {manifest.recipe or manifest.precision}; give the "
            "one of full precision first: the second is judged by it"
        )
    if order.attach:
        raise WrongUseError(
            "--attach goes without --other-file: a bundle holds the report against its own model"
        )


def _check_order(full: Bundle, quantized: Bundle) -> None:
    """Refuse bundles in the wrong order: full precision would be judged as if it were rounded."""
    for place, bundle, fits in (
        ("first", full, is_full_precision(full.manifest)),
        ("second", quantized, not is_full_precision(quantized.manifest)),
    ):
        if not fits:
            what = bundle.manifest.recipe or f"{bundle.manifest.precision}, not quantized by dst"
            raise WrongUseError(
                f"{place} bundle {bundle.root.name}: is {what}; report compares two precisions of "
                "one model, give full precision first and the quantized one second"
            )


def _show(made: Report, output: Output) -> None:
    full, quantized = made.full, made.quantized
    output.out.print(
        f"[bold]{foreign(quantized.name)}[/] {foreign(quantized.recipe or quantized.precision)} "
        f"against {foreign(full.precision)}: {counted(made.items, 'item')} of "
        f"{foreign(made.data)}, T = {made.items_per_step}"
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    divergence = "KL nats" if made.unit == "nats" else "error"
    for name in ("up to item", divergence, "loss", "state", "accumulation"):
        table.add_column(name, justify="right")
    for found in made.ranges:
        if not found.items:
            continue
        table.add_row(
            f"{found.end:,}",
            f"{found.divergence:.2e}",
            _NONE if found.loss_difference is None else f"{found.loss_difference:+.4f}",
            _NONE if found.state is None else f"{found.state:.1e}",
            _NONE if found.accumulation is None else f"{found.accumulation:.2f}",
        )
    output.out.print(table)
    if made.drift is not None:
        output.out.print(
            f"[dim]own drift, {foreign(made.drift.what)}: "
            f"{made.drift.divergence[-1]:.1e} after {counted(made.drift.items, 'item')}[/]"
        )
    sizes = quantized.parts.weights_size, full.parts.weights_size
    output.out.print(
        f"weights {mib(sizes[0])} of {mib(sizes[1])} ({sizes[0] / max(sizes[1], 1):.2f}), "
        f"files {mib(quantized.parts.bundle_size)} of {mib(full.parts.bundle_size)}"
    )
    marks = {"passed": "[green]✓[/]", "failed": "[bold red]✗[/]", "not judged": "[dim]?[/]"}
    for gate in made.gates:
        value = "not judged" if gate.value is None else f"{gate.value:.3g} ≤ {gate.bound:g}"
        output.out.print(f"{marks[gate.verdict]} {gate.name}  {value}")
    for note in made.notes:
        output.out.print(f"[dim]{foreign(note)}[/]")
