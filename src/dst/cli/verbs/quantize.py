"""`dst quantize`: a bundle and a recipe go in, a smaller or faster bundle comes out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from rich.table import Table

from dst.cli.errors import CHECK_FAILED, WrongUseError
from dst.cli.forced import Strayed, strayed
from dst.cli.inputs.rows import item_blocks
from dst.cli.output import Output, check_folder, foreign
from dst.cli.paths import check_apart
from dst.cli.signals import Interrupts
from dst.quantize import (
    Calibration,
    NothingQuantizedError,
    Override,
    Quantized,
    Recipe,
    WeightRecord,
    override_named,
    quantize_bundle,
    recipe_named,
)
from dst.quantize.optimum import OptimumBackend
from dst.runtime import open_bundle
from dst.runtime.bundle.reader import Bundle
from dst.runtime.install import install_line
from dst.words import mib

MAX_CALIBRATION_ITEMS = 1 << 22


@dataclass(frozen=True, slots=True)
class Order:
    """What to quantize and how: see the options of `dst quantize`."""

    bundle: str
    recipe: str
    out: Path
    block: int | None
    method: str | None
    weight_bits: int | None
    calibrate: str | None
    keep: tuple[str, ...]
    forms: tuple[str, ...]
    backend: str
    overwrite: bool


class Result(msgspec.Struct, frozen=True):
    """The bundle that was written; `strayed` where an override quantizes what no recipe would.

    `path` and `bundle_id` are null where nothing could be quantized; `weights` then says why.
    `weights_bytes` is what weights take on disk, `held_bytes` what one open graph holds of them.
    """

    path: str | None
    bundle_id: str | None
    model_id: str
    precision: str
    recipe: str | None
    weights_bytes: int
    weights_bytes_before: int
    held_bytes: int
    weights: tuple[WeightRecord, ...]
    strayed: Strayed | None


def quantize(order: Order, output: Output) -> int:
    """Quantize a bundle, say what became of every weight, and return the exit code.

    Raises:
        DstError: the bundle is broken, the recipe does not fit, or nothing could be written.
        WrongUseError: an option does not fit.
    """
    check_folder("--out", order.out)
    reads = {"BUNDLE": order.bundle, "--calibrate": order.calibrate, "--out": order.out}
    check_apart(output, reads)
    recipe = recipe_named(
        order.recipe, block=order.block, method=order.method, weight_bits=order.weight_bits
    )
    backend = _optimum(recipe) if order.backend == "optimum" else None
    bundle = open_bundle(order.bundle)
    calibration = None if order.calibrate is None else _calibration(order.calibrate, bundle)
    try:
        with Interrupts() as interrupts, output.progress("quantize", 1.0) as bar:
            done = quantize_bundle(
                bundle,
                order.out,
                recipe,
                calibration=calibration,
                overrides=_overrides(order),
                backend=backend,
                overwrite=order.overwrite,
                progress=interrupts.watched(lambda what, share: bar.at(share, what=what)),
            )
    except NothingQuantizedError as nothing:
        return _tell_nothing(bundle, recipe, nothing, output)
    _tell(order.out, done, output)
    if bundle.manifest.certificates and not done.bundle.manifest.certificates:
        output.out.print("[dim]certificates of the source do not describe these graphs[/]")
    insisted = any(record.forced for record in done.records)
    drift = strayed(bundle, order.out, output) if insisted else None
    before, after = done.weights_bytes
    output.write_json(
        Result(
            path=str(order.out),
            bundle_id=done.bundle.manifest.bundle_id,
            model_id=done.bundle.manifest.model_id,
            precision=done.bundle.manifest.precision,
            recipe=done.bundle.manifest.recipe,
            weights_bytes=after,
            weights_bytes_before=before,
            held_bytes=done.bundle.manifest.weights_bytes,
            weights=done.records,
            strayed=drift,
        )
    )
    return 0


def _calibration(path: str, bundle: Bundle) -> Calibration:
    """Read items to calibrate on, up to a number that fits in memory."""
    blocks, count = [], 0
    for block in item_blocks(path, bundle.manifest.contract.chunk):
        blocks.append(block)
        count += len(block)
        if count >= MAX_CALIBRATION_ITEMS:
            break
    if not count:
        raise WrongUseError(f"--calibrate {path}: holds no items; give real input of the model")
    return Calibration.of_items(np.concatenate(blocks))


def _optimum(recipe: Recipe) -> OptimumBackend:
    """Find out before any work whether optimum is there and can do the recipe."""
    backend = OptimumBackend()
    try:
        backend.check(recipe)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("dst"):
            raise
        missing = (error.name or "optimum").partition(".")[0]
        raise WrongUseError(
            f"--with optimum needs {missing}, which is not installed: "
            f"{install_line('optimum', 'torch==2.13.0')}"
        ) from None
    return backend


def _overrides(order: Order) -> list[Override]:
    overrides = [Override(pattern, "float32") for pattern in order.keep]
    for text in order.forms:
        pattern, found, form = text.rpartition("=")
        if not found or not pattern:
            raise WrongUseError(f"--form {text}: expected PATTERN=FORM, e.g. 'val_48=int8-rows'")
        overrides.append(override_named(pattern, form))
    return overrides


def _tell_nothing(
    bundle: Bundle, recipe: Recipe, nothing: NothingQuantizedError, output: Output
) -> int:
    """Say of every weight why it stays as it is, and return the exit code."""
    manifest = bundle.manifest
    output.out.print(
        f"[bold red]✗[/] nothing can be quantized by {foreign(recipe.label)}; nothing was written"
    )
    if nothing.records:
        output.out.print(_weights(nothing.records))
    else:
        output.out.print("the graphs hold no weight that a recipe knows")
    output.write_json(
        Result(
            path=None,
            bundle_id=None,
            model_id=manifest.model_id,
            precision=manifest.precision,
            recipe=None,
            weights_bytes=manifest.weights_bytes,
            weights_bytes_before=manifest.weights_bytes,
            held_bytes=manifest.weights_bytes,
            weights=nothing.records,
            strayed=None,
        )
    )
    return CHECK_FAILED


def _weights(records: Sequence[WeightRecord]) -> Table:
    """Show what became of the weights, those of one fate in one row."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("form", "weights", "which"):
        table.add_column(heading, overflow="fold")
    kinds = Counter((r.form, r.role, r.reason) for r in records)
    for (form, role, reason), count in sorted(kinds.items()):
        alike = [r for r in records if (r.form, r.role, r.reason) == (form, role, reason)]
        shown = ", ".join(r.label for r in alike[:3]) + (", …" if count > 3 else "")
        why = f" ({reason})" if reason else ""
        table.add_row(form, f"{count} {role}", foreign(f"{shown}{why}"))
    return table


def _tell(path: Path, done: Quantized, output: Output) -> None:
    manifest = done.bundle.manifest
    before, after = done.weights_bytes
    share = f"{after / before:.3f} of the weights' bytes" if before else "no weights"
    output.out.print(
        f"[green]✓[/] wrote [bold]{foreign(str(path))}[/]: "
        f"{foreign(manifest.recipe or 'as it was')}, {mib(before)} → {mib(after)} ({share})"
    )
    output.out.print(_weights(done.records))
    if any(record.form == "int8-stored" for record in done.records):
        output.out.print(
            "[dim]int8-stored: smaller on disk, multiplied out when the graph is opened, which "
            f"then holds {mib(manifest.weights_bytes)}[/]"
        )
    for record in done.records:
        if record.forced:
            output.err.print(
                f"[yellow]{foreign(record.label)}: {record.role} is quantized because you asked; "
                "every recipe leaves it in float32[/]"
            )
