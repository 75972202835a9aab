"""`dst quantize`: make a smaller or faster bundle by a recipe, or by the best one with `--auto`."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.table import Table

from dst.cli.errors import CHECK_FAILED, WrongUseError, needing
from dst.cli.options import BundleArgument, Json, Out, Overwrite, flag, option
from dst.cli.output import Output, check_folder, check_paths, foreign, table
from dst.cli.signals import Interrupts
from dst.words import mib

if TYPE_CHECKING:
    from dst.quantize import Quantized, WeightRecord
    from dst.runtime import Bundle

MAX_CALIBRATION_ITEMS = 1 << 22  # what fits in memory


def quantize(
    bundle: BundleArgument,
    out: Out,
    recipe: Annotated[str | None, option("--recipe", "NAME", "One of the list above.")] = None,
    auto: Annotated[bool, flag("--auto", "Measure the recipes here, and pick one.")] = False,
    budget: Annotated[
        str | None, option("--budget", "UNIT<X", "--auto: loss; else nats<0.02, error<0.05.")
    ] = None,
    goal: Annotated[
        Literal["speed", "size"] | None,
        option("--goal", "WHAT", "--auto: speed (by default) or size."),
    ] = None,
    items: Annotated[
        int | None, option("--items", "N", "--auto: how many to measure; else 20,000.", least=1)
    ] = None,
    data: Annotated[
        str | None, option("--input", "FILE", "--auto: real input to measure on.")
    ] = None,
    block: Annotated[
        int | None, option("--block", "N", "Values to a scale: 16, 32, 64 or 128.")
    ] = None,
    method: Annotated[
        str | None, option("--method", "NAME", "Of finding scales: rtn, search or gptq.")
    ] = None,
    weight_bits: Annotated[
        int | None, option("--weight-bits", "N", "Of int8 columns: 7; 8: VNNI, NPU only.")
    ] = None,
    calibrate: Annotated[
        str | None, option("--calibrate", "FILE", "Real input, of any kind that run reads.")
    ] = None,
    keep: Annotated[
        list[str] | None, option("--keep", "PATTERN", "Weights or nodes to leave in float32.")
    ] = None,
    form: Annotated[
        list[str] | None, option("--form", "NAME=FORM", "Hold these weights in this form.")
    ] = None,
    backend: Annotated[
        Literal["dst", "optimum"] | None,
        option("--with", "WHO", "Who rounds products: dst, or optimum."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = None,
) -> int:
    """Make a smaller or faster bundle of a model.

    State, decay, gates, norms and softmax stay float32. Shell patterns fit the names printed; forms
    are float32, float16, int8-dynamic, int8-static, int8-rows, int8-block, int8-stored, int4-block,
    int4-rows. --auto takes the fastest (--goal size: smallest) recipe that keeps gates and budget.
    Exit code 1: nothing gained. Needs the extra onnx; see docs/quantization.md.

        int8-rows     8 bits, a scale per item: causal, any T, fast chunks
        int8-dynamic  8 bits, a scale per chunk: fastest chunks; T fixed, not causal
        int8-static   8 bits, scales from --calibrate: for NPUs
        int8-weights  8-bit blocks of 64: closest to float32, fast single steps
        int4-weights  4-bit blocks of 32: smallest, fastest single steps
        int4-rows     the same numbers, which chunks read as 8 bits: fast chunks too
        int4-mixed    the same, but 8 bits where a product feeds the state
        fp16          half precision, for GPU, WebGPU, Core ML; no gain on CPU

        dst quantize text --auto --budget "nats<0.005" --input my.txt --out text-fast
        dst quantize text --recipe int4-rows --keep 'head.*' --out text-4
    """
    output = Output.to(json)
    check_folder("--out", out)
    if auto == (recipe is not None):
        raise WrongUseError("expected either --recipe NAME or --auto, see dst quantize --help")
    by_hand = {
        "--block": block,
        "--method": method,
        "--weight-bits": weight_bits,
        "--calibrate": calibrate,
        "--keep": keep or None,
        "--form": form or None,
        "--with": backend,
    }
    measured = {"--budget": budget, "--goal": goal, "--items": items, "--input": data}
    wrong, how = (by_hand, "without") if auto else (measured, "with")
    for name, value in wrong.items():
        if value is not None:
            raise WrongUseError(f"{name} goes {how} --auto")
    with needing("quantize", "onnx"):
        from dst.cli.autotune import pick_recipe
        from dst.cli.data import read
        from dst.quantize import (
            Calibration,
            NothingQuantizedError,
            Override,
            override_named,
            quantize_bundle,
            recipe_named,
        )
        from dst.quantize.optimum import OptimumBackend
        from dst.runtime import open_bundle
    if recipe is None:
        return pick_recipe(
            bundle, out, budget, goal or "speed", items, data, overwrite=overwrite, output=output
        )
    check_paths(output, {"BUNDLE": bundle, "--calibrate": calibrate, "--out": out})
    chosen = recipe_named(recipe, block=block, method=method, weight_bits=weight_bits)
    rounder = None
    if backend == "optimum":  # found out before any work
        rounder = OptimumBackend()
        with needing("--with optimum", "optimum", "torch==2.13.0"):
            rounder.check(chosen)
    source = open_bundle(bundle)
    calibration = None
    if calibrate is not None:
        real = read(calibrate, source.manifest.contract.chunk, most=MAX_CALIBRATION_ITEMS)
        if not len(real):
            raise WrongUseError(
                f"--calibrate {calibrate}: holds no items; give real input of the model"
            )
        calibration = Calibration.of_items(real)
    overrides = [Override(pattern, "float32") for pattern in keep or ()]
    overrides += [override_named(*_form(text)) for text in form or ()]
    done, manifest = None, source.manifest
    sizes = (manifest.weights_bytes, manifest.weights_bytes)
    try:
        with Interrupts() as interrupts, output.progress("quantize", 1.0) as bar:
            done = quantize_bundle(
                source,
                out,
                chosen,
                calibration=calibration,
                overrides=overrides,
                backend=rounder,
                overwrite=overwrite,
                progress=interrupts.watched(bar.share),
            )
        records, manifest, sizes = done.records, done.bundle.manifest, done.weights_bytes
        _tell(out, done, output)
        if source.manifest.certificates and not manifest.certificates:
            output.out.print("[dim]certificates of the source do not describe these graphs[/]")
    except NothingQuantizedError as nothing:
        records = nothing.records
        output.out.print(
            f"[bold red]✗[/] nothing can be quantized by {foreign(chosen.label)}; nothing was "
            "written"
        )
        nothing_known = "the graphs hold no weight that a recipe knows"
        output.out.print(_weights(records) if records else nothing_known)
    forced = done is not None and any(record.forced for record in records)
    output.write_json(
        {
            "path": None if done is None else str(out),
            "bundle_id": None if done is None else manifest.bundle_id,
            "model_id": manifest.model_id,
            "precision": manifest.precision,
            "recipe": None if done is None else manifest.recipe,
            "weights_bytes": sizes[1],  # on disk; held_bytes: of one open graph
            "weights_bytes_before": sizes[0],
            "held_bytes": manifest.weights_bytes,
            "weights": records,  # where nothing was quantized they say why
            "strayed": measure_forced(source, out, output) if forced else None,
        }
    )
    return CHECK_FAILED if done is None else 0


def _form(text: str) -> tuple[str, str]:
    """Read `PATTERN=FORM`."""
    pattern, found, form = text.rpartition("=")
    if not found or not pattern:
        raise WrongUseError(f"--form {text}: expected PATTERN=FORM, e.g. 'head.*=int8-rows'")
    return pattern, form


def _weights(records: "Sequence[WeightRecord]") -> Table:
    """Show what became of the weights, those of one fate in one row."""
    fates, kinds = table("form", "weights", "which"), defaultdict(list)
    for r in records:
        kinds[r.form, r.role, r.reason].append(r.label)
    for (form, role, reason), labels in sorted(kinds.items()):
        some = ", ".join(labels[:3]) + (", …" if len(labels) > 3 else "")
        why = f" ({reason})" if reason else ""
        fates.add_row(form, f"{len(labels)} {role}", foreign(f"{some}{why}"))
    return fates


def _tell(path: Path, done: "Quantized", output: Output) -> None:
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


ITEMS = 10_000
_HEADS = 2


def measure_forced(source: "Bundle", made: Path, output: Output) -> dict[str, object]:
    """Measure how far a bundle strays that quantizes what every recipe leaves, and warn of it.

    The whole bundle is held against its source in full precision, over one short stream and the
    starts of two others.

    Returns:
        For JSON: `divergence` and `state` of the first and of the last range of positions, KL in
        nats per item or relative error, as `unit` says, and relative distance, null where nobody
        looked.
    """
    from dst.cli.data import items_of
    from dst.evaluate.quality import Settings, horizon_report

    items, about = items_of(source, None)
    settings = Settings(heads=_HEADS, head_items=ITEMS, drift_items=0, data=about)
    with output.progress("measuring", 1.0) as bar:
        told = horizon_report(
            source.root, made, items, ITEMS, settings, lambda what, share: bar.at(share, what)
        )
    first, last = told.ranges[0].divergence, told.ranges[-1].divergence
    looked = [r.state for r in told.ranges if r.state is not None]
    if told.broke_at is None:
        unit = "KL in nats per item" if told.unit == "nats" else "relative error"
        state = f", the state is {looked[-1]:.1%} away" if looked else ""
        said = (
            f"measured over {told.items:,} items of {told.data}: {unit} from {first:.1e} at the "
            f"first positions to {last:.1e} at the last{state}; dst report tells how it goes on"
        )
    else:
        said = f"its outputs stopped being finite at item {told.broke_at}: do not use it"
    output.err.print(f"[yellow]{foreign(said)}[/]")
    return {
        "items": told.items,
        "data": told.data,
        "unit": told.unit,
        "divergence": [first, last],
        "state": [looked[0], looked[-1]] if looked else [None, None],
        "broke_at": told.broke_at,
    }
