"""A bundle quantized where every recipe says float32 in, how far its stream strays out."""

from pathlib import Path

import msgspec

from dst.cli.inputs.material import items_of
from dst.cli.output import Output, foreign
from dst.evaluate.quality import Report, Settings
from dst.evaluate.quality import report as measure
from dst.runtime import Bundle

ITEMS = 10_000
_HEADS = 2


class Strayed(msgspec.Struct, frozen=True):
    """The whole bundle against its source, over one short stream and the starts of two others.

    `divergence` and `state` are those of the first and of the last range of positions: KL in nats
    per item or relative error, as `unit` says, and relative distance, null where nobody looked.
    """

    items: int
    data: str
    unit: str
    divergence: tuple[float, float]
    state: tuple[float | None, float | None]
    broke_at: int | None


def strayed(source: Bundle, made: Path, output: Output) -> Strayed:
    """Measure the drift, since the user insisted, and warn of it.

    Args:
        source: full precision.
        made: the quantized bundle.
        output: where to warn.

    Raises:
        StepError: a graph failed, or gave a NaN or an infinity in its first chunk.
    """
    items, about = items_of(source, None)
    settings = Settings(heads=_HEADS, head_items=ITEMS, drift_items=0, data=about)
    with output.progress("measuring", 1.0) as bar:
        told = measure(source.root, made, items, ITEMS, settings, lambda what, s: bar.at(s, what))
    found = _of(told)
    output.err.print(f"[yellow]{foreign(_said(found))}[/]")
    return found


def _of(told: Report) -> Strayed:
    first, last = told.ranges[0], told.ranges[-1]
    looked = [r.state for r in told.ranges if r.state is not None]
    return Strayed(
        items=told.items,
        data=told.data,
        unit=told.unit,
        divergence=(first.divergence, last.divergence),
        state=(looked[0], looked[-1]) if looked else (None, None),
        broke_at=told.broke_at,
    )


def _said(found: Strayed) -> str:
    if found.broke_at is not None:
        return f"its outputs stopped being finite at item {found.broke_at}: do not use it"
    unit = "KL in nats per item" if found.unit == "nats" else "relative error"
    first, last = found.divergence
    state = "" if found.state[1] is None else f", the state is {found.state[1]:.1%} away"
    return (
        f"measured over {found.items:,} items of {found.data}: {unit} from {first:.1e} at the "
        f"first positions to {last:.1e} at the last{state}; dst report tells how it goes on"
    )
