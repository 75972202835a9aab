"""Measure what it costs to quantize a weight that every recipe leaves in float32."""

from pathlib import Path
from typing import TYPE_CHECKING

from dst.cli.data import items_of
from dst.cli.output import Output, foreign
from dst.runtime import Bundle

if TYPE_CHECKING:
    from dst.evaluate.quality import Report

ITEMS = 10_000
_HEADS = 2


def measure_forced(source: Bundle, made: Path, output: Output) -> dict[str, object]:
    """Measure how far a bundle strays that quantizes what every recipe leaves, and warn of it.

    The whole bundle is held against its source, over one short stream and the starts of two others.

    Args:
        source: full precision.
        made: the quantized bundle.
        output: where to warn.

    Returns:
        For JSON: `divergence` and `state` of the first and of the last range of positions, KL in
        nats per item or relative error, as `unit` says, and relative distance, null where nobody
        looked.

    Raises:
        StepError: a graph failed, or gave a NaN or an infinity in its first chunk.
    """
    from dst.evaluate.quality import Settings, horizon_report

    items, about = items_of(source, None)
    settings = Settings(heads=_HEADS, head_items=ITEMS, drift_items=0, data=about)
    with output.progress("measuring", 1.0) as bar:
        told = horizon_report(
            source.root, made, items, ITEMS, settings, lambda what, share: bar.at(share, what)
        )
    output.err.print(f"[yellow]{foreign(_said(told))}[/]")
    return {
        "items": told.items,
        "data": told.data,
        "unit": told.unit,
        "divergence": [told.ranges[0].divergence, told.ranges[-1].divergence],
        "state": _ends(told),
        "broke_at": told.broke_at,
    }


def _ends(told: "Report") -> list[float | None]:
    """Return the distance of the state in the first and in the last range that was looked at."""
    looked = [r.state for r in told.ranges if r.state is not None]
    return [looked[0], looked[-1]] if looked else [None, None]


def _said(told: "Report") -> str:
    if told.broke_at is not None:
        return f"its outputs stopped being finite at item {told.broke_at}: do not use it"
    unit = "KL in nats per item" if told.unit == "nats" else "relative error"
    first, last = told.ranges[0].divergence, told.ranges[-1].divergence
    away = _ends(told)[1]
    state = "" if away is None else f", the state is {away:.1%} away"
    return (
        f"measured over {told.items:,} items of {told.data}: {unit} from {first:.1e} at the "
        f"first positions to {last:.1e} at the last{state}; dst report tells how it goes on"
    )
