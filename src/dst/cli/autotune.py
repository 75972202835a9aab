"""`dst quantize --auto`: try the recipes on this machine, and take the one that serves best."""

import math
from collections import Counter
from pathlib import Path

from rich.table import Table

from dst.cli.data import items_of
from dst.cli.errors import CHECK_FAILED
from dst.cli.output import NONE, Output, check_paths, foreign, shown, table
from dst.cli.signals import Interrupts
from dst.evaluate.quality import Budget
from dst.quantize.autotune import (
    Autotuned,
    Goal,
    Search,
    Speed,
    Trial,
    Verdict,
    autotune,
    budget_for,
)
from dst.quantize.autotune.trial import USUAL
from dst.runtime import open_bundle
from dst.words import counted, mib

SHOWN_HARMS = 8


def pick_recipe(
    source: str,
    out: Path,
    budget: str | None,
    goal: Goal,
    count: int | None,
    data: str | None,
    *,
    overwrite: bool,
    output: Output,
) -> int:
    """Try the recipes, explain the choice, write its bundle, and return the exit code.

    In the JSON `path`, `bundle_id` and `recipe` are null where nothing holds. A `budget`, a `count`
    of items or `data` that is None is the usual one.
    """
    check_paths(output, {"BUNDLE": source, "--input": data, "--out": out})
    full = open_bundle(source)
    allowed = Budget() if budget is None else budget_for(budget, full.manifest.contract)
    items, about = items_of(full, data)
    trial = Trial(budget=allowed, items=count or USUAL.items, data=about)
    with Interrupts() as interrupts, output.progress("quantize", 1.0) as bar:
        told = interrupts.watched(lambda what, share: bar.at(share, f"{share:.0%}", what=what))
        picked = autotune(full, out, items, goal, trial, overwrite=overwrite, progress=told)
    output.out.print(f"[dim]{trial.items:,} items of {foreign(about)}, goal {goal}[/]")
    output.out.print(_candidates(picked))
    for search in picked.searches:
        _tell_search(search, output)
    left = Counter(record.reason for record in picked.records if record.form == "float32")
    for reason, number in sorted(left.items()):
        output.out.print(f"[dim]float32: {number} × {foreign(reason)}[/]")
    _tell_choice(picked, source, out, output)
    made = None if picked.bundle is None else picked.bundle.manifest
    output.write_json(
        {
            "path": None if made is None else str(out),
            "bundle_id": None if made is None else made.bundle_id,
            "model_id": full.manifest.model_id,
            "recipe": None if made is None else made.recipe,
            "why": picked.why,
            "goal": goal,
            "nats_per_item": allowed.nats_per_item,
            "relative_error": allowed.relative_error,
            "items": trial.items,
            "data": about,
            "candidates": picked.verdicts,
            "searches": picked.searches,
            "weights": picked.records,
        }
    )
    return CHECK_FAILED if made is None else 0


def _candidates(picked: Autotuned) -> Table:
    sizes = sorted({speed.t for found in picked.verdicts for speed in found.speeds})
    in_nats = any(found.gate("loss") is not None for found in picked.verdicts)
    harm = ">loss" if in_nats else ">error"
    speeds = (f"speed at T = {t}" for t in sizes)
    recipes = table("recipe", ">weights", *speeds, harm, ">growth", "verdict")
    for found in picked.verdicts:
        loss, growth = found.gate("loss", "error"), found.gate("growth-per-decade")
        grows = NONE
        if growth is not None:
            grows = "[dim]not judged[/]" if growth.value is None else f"≤ {growth.value:.0%}"
        recipes.add_row(
            foreign(found.recipe),
            f"{found.weights_share:.2f}",
            *(_speed(found.speed(t)) for t in sizes),
            shown(None if loss is None else loss.value, ".2g"),
            grows,
            _verdict(found, picked),
        )
    return recipes


def _speed(speed: Speed | None) -> str:
    if speed is None:
        return NONE
    ratio = speed.ratio
    return f"{ratio.median:.2f}× [dim]{ratio.low:.2f}–{ratio.high:.2f}[/]"


def _verdict(found: Verdict, picked: Autotuned) -> str:
    if found is picked.chosen:
        return "[bold green]✓ chosen[/]"
    if found.holds:
        return "[green]✓[/] holds"
    return "[bold red]✗[/] " + foreign("; ".join(refusal.why for refusal in found.refusals))


def _tell_search(search: Search, output: Output) -> None:
    """Show which weights hurt most alone, and how many of them had to be wider."""
    count = search.widened
    end = "no mix holds the budget" if count is None else f"the budget holds with {count} wider"
    output.out.print(
        f"[bold]{foreign(search.recipe)}[/], each of "
        f"{counted(len(search.sensitivities), 'weight')} alone: {end}"
    )
    harms = table("weight", "role", "form", "harm", "held as")
    most = max(SHOWN_HARMS, count or 0)
    for place, harm in enumerate(search.sensitivities[:most]):
        wide = count is not None and place < count
        size = f"{harm.divergence:.1e}" if math.isfinite(harm.divergence) else "not finite"
        held = f"[bold]{harm.wider}[/]" if wide else harm.form
        harms.add_row(foreign(harm.weight), harm.role, harm.form, size, held)
    output.out.print(harms)
    if len(search.sensitivities) > most:
        output.out.print(f"[dim]… and {len(search.sensitivities) - most} that hurt less[/]")


def _tell_choice(picked: Autotuned, source: str, out: Path, output: Output) -> None:
    if picked.chosen is None or picked.bundle is None:
        output.out.print(
            "[bold red]✗[/] nothing holds: full precision serves best here; nothing was written"
        )
        return
    chosen = picked.chosen
    output.out.print(f"{foreign(picked.why)}")
    output.out.print(
        f"[green]✓[/] wrote [bold]{foreign(str(out))}[/]: {foreign(chosen.recipe)}, weights "
        f"{mib(chosen.weights_bytes)}"
    )
    gate = chosen.gate("loss", "error")
    if gate is not None:
        option = "--budget" if gate.name == "loss" else "--error-budget"
        output.out.print(
            f"[dim]the horizon was not judged, and another run may find another worst {gate.name}; "
            f"to know: dst report {foreign(source)} {foreign(str(out))} {option} "
            f"{gate.bound:g} --attach[/]"
        )
