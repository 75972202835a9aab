"""Measure how far two precisions of one model part over the horizon of a stream.

Quality is a curve over the positions of a stream, not a number: what stands at a position is the
mean over a range of positions, ten thousand times as long at the end as at the beginning.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from dst.evaluate.quality.causality import Causality, causality_of
from dst.evaluate.quality.drift import reference_for
from dst.evaluate.quality.gates import Budget, gates_of, growth_of
from dst.evaluate.quality.rollout import Progress, Rollout, Walk, check_pair, rollout
from dst.evaluate.quality.sizes import Parts, parts_of
from dst.runtime import BundleError, Session, StepError, open_bundle, write_bundle
from dst.runtime.bundle.manifest import Gate, Manifest, Quality
from dst.runtime.bundle.validation import passed

Array = npt.NDArray[np.generic]
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """How a report is made.

    Attributes:
        budget: what may be lost.
        t: items per chunk; None for the nominal number of the quantized bundle.
        heads: further short streams, which even out how hard early positions are.
        head_items: items of each.
        sample_every: of how many chunks one is sampled for state distance and injected state.
        drift_items: items over which full precision's own drift is measured; 0 for not at all.
        threads: threads inside one operator.
        data: what the items are, for the reader.
        other_file: the bundles are of two files of one model: states are not to be compared.
    """

    budget: Budget = field(default_factory=Budget)
    t: int | None = None
    heads: int = 16
    head_items: int = 10_000
    sample_every: int = 16
    drift_items: int = 100_000
    threads: int = 1
    data: str = "not stated"
    other_file: bool = False


class Precision(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two bundles."""

    name: str
    precision: str
    recipe: str | None
    bundle_id: str
    parts: Parts


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """What was found at positions `start` to `end` of a stream, `end` not included.

    `divergence` is KL of full precision from the quantized model in nats per item, or the error of
    the outputs over their rms; `divergence_error` its standard error. Losses are nats per item.
    `state_distance` is relative, by role; `state` that of all tensors. `accumulation` is the
    divergence over that of a chunk that starts from full precision's state. Null means unknown.
    """

    start: int
    end: int
    items: int
    divergence: float
    divergence_error: float | None
    loss_full: float | None
    loss_quantized: float | None
    loss_difference: float | None
    state: float | None
    state_distance: dict[str, float]
    accumulation: float | None


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How far two forms of full precision part: entry i is the mean up to `ends[i]`."""

    what: str
    items: int
    items_per_step: int
    ends: tuple[int, ...]
    divergence: tuple[float, ...]
    state: tuple[float | None, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A quantized bundle against full precision, over the horizon.

    `times_read` says how often the long stream went through the data; `heads` streams of
    `head_items` items began elsewhere in it. State and accumulation were sampled at the first
    chunks and at every `sampled_every`-th after them. `drift` is null with `drift_missing` saying
    why. `broke_at` is the item at which the quantized model gave a NaN or an infinity.
    """

    full: Precision
    quantized: Precision
    model_id: str
    data: str
    items: int
    items_per_step: int
    times_read: float
    heads: int
    head_items: int
    sampled_every: int
    unit: str
    ranges: tuple[Range, ...]
    last_over_early: float | None
    growth_per_decade: float | None
    growth_per_decade_lower: float | None
    growth_per_decade_upper: float | None
    broke_at: int | None
    drift: Drift | None
    drift_missing: str | None
    causality: Causality
    gates: tuple[Gate, ...]
    passed: bool | None
    notes: tuple[str, ...]


def horizon_report(
    full: str | Path,
    quantized: str | Path,
    items: Array,
    length: int,
    settings: Settings = Settings(),
    progress: Progress | None = None,
) -> Report:
    """Measure how far a quantized bundle strays from full precision.

    Args:
        full: the bundle of full precision.
        quantized: the bundle of another precision of the same model.
        items: `[n]` or `[n, F]` as callers give them; read round and round.
        length: items of the long stream; the gate on the horizon wants 1,000,000.
        settings: how it is measured.
        progress: told of what is being done and of the share done.

    Raises:
        BundleError: a bundle is broken.
        StateMismatchError: `other-model`, `other-state-layout`: they are not two precisions of one
            model.
        SessionError: `chunk-size`: one of them does not run the T that is asked for.
        StepError: items cannot be read, or a graph failed.
    """
    if length < 1:
        raise StepError(
            f"a report needs a length of at least 1 item, {length} came", code="argument"
        )
    other = Session.open(quantized, threads=settings.threads)
    t = other.contract.chunk.nominal_t if settings.t is None else settings.t
    other.graph_for(t)
    right = Session.open(full, threads=settings.threads, chunk_sizes=[t])
    check_pair(right, other, settings.other_file)
    apart = settings.other_file
    sampling = settings.heads, settings.head_items, settings.sample_every
    walk = Walk(length, t, *sampling, inject=not apart, states=not apart)
    ran = rollout(right, other, items, walk, progress)
    causality = causality_of(other, t, items)
    growth = growth_of(ran)
    gates = gates_of(ran, growth, settings.budget)
    drift = _drift(right, items, walk, settings, progress)
    return Report(
        full=_precision(right, t),
        quantized=_precision(other, t),
        model_id=right.identity.model_id,
        data=settings.data,
        items=ran.items,
        items_per_step=t,
        times_read=_short(ran.items / len(items)),
        heads=settings.heads,
        head_items=min(ran.items, settings.head_items),
        sampled_every=settings.sample_every,
        unit=ran.unit,
        ranges=tuple(_range(ran, where) for where in range(len(ran.free.ends))),
        last_over_early=_maybe(growth.last_over_early),
        growth_per_decade=_maybe(growth.per_decade),
        growth_per_decade_lower=_maybe(growth.per_decade_lower),
        growth_per_decade_upper=_maybe(growth.per_decade_upper),
        broke_at=ran.broke_at,
        drift=drift if isinstance(drift, Drift) else None,
        drift_missing=drift if isinstance(drift, str) else None,
        causality=causality,
        gates=gates,
        passed=passed(gates),
        notes=(*_notes(ran, gates, causality.note, len(items)), *([_OTHER_FILE] if apart else [])),
    )


def quality_of(made: Report) -> Quality:
    """Return the part of a report that stands in the manifest of the quantized bundle."""
    ranges = [r for r in made.ranges if r.items]
    losses = [r.loss_difference for r in ranges if r.loss_difference is not None]
    return Quality(
        full=made.full.bundle_id,
        items=made.items,
        items_per_step=made.items_per_step,
        data=made.data,
        unit="nats" if made.unit == "nats" else "relative",
        positions=tuple(r.end for r in ranges),
        divergence=tuple(r.divergence for r in ranges),
        loss_difference=tuple(losses) if len(losses) == len(ranges) else None,
        state_distance=tuple(r.state for r in ranges),
        causal=made.causality.causal,
        gates=made.gates,
        passed=made.passed,
    )


def _precision(session: Session, t: int) -> Precision:
    manifest = session.bundle.manifest
    return Precision(
        name=manifest.name,
        precision=manifest.precision,
        recipe=manifest.recipe,
        bundle_id=manifest.bundle_id,
        parts=parts_of(session.bundle, session.graph_for(t)),
    )


def _range(ran: Rollout, where: int) -> Range:
    held = ran.free.sums(where)
    full = quantized = None
    if ran.judges_loss and held.items:
        full, quantized = (held.losses / held.items).tolist()
    distances = {role: ran.state_distance(where, role) for role in sorted(set(ran.roles))}
    return Range(
        start=ran.free.ends[where - 1] if where else 0,
        end=ran.free.ends[where],
        items=held.items,
        divergence=_short(ran.free.value(where)),
        divergence_error=_maybe(ran.free.error(where)),
        loss_full=_maybe(full),
        loss_quantized=_maybe(quantized),
        loss_difference=None if full is None else _short(quantized - full),
        state=_maybe(ran.state_distance(where)),
        state_distance={role: _short(d) for role, d in distances.items() if d is not None},
        accumulation=_maybe(ran.accumulation(where)),
    )


def _drift(
    right: Session, items: Array, walk: Walk, settings: Settings, progress: Progress | None
) -> Drift | str:
    if settings.drift_items < 1:
        return "not asked for"
    with tempfile.TemporaryDirectory(prefix="dst-drift-") as folder:
        found = reference_for(right.bundle, Path(folder), walk.t, settings.threads)
        if isinstance(found, str):
            return found

        told = None if progress is None else lambda _, share: progress("own drift", share)
        length = min(walk.length, settings.drift_items)
        short = replace(walk, t=found.t, length=length, heads=0, inject=False)
        ran = rollout(found.right, found.other, items, short, told)
    places = [i for i in range(len(ran.free.ends)) if ran.free.sums(i).items]
    return Drift(
        what=found.what,
        items=ran.items,
        items_per_step=found.t,
        ends=tuple(ran.free.ends[i] for i in places),
        divergence=tuple(_short(ran.free.value(i)) for i in places),
        state=tuple(_maybe(ran.state_distance(i)) for i in places),
    )


def _notes(ran: Rollout, gates: Sequence[Gate], causal: str, available: int) -> list[str]:
    notes = [causal]
    if ran.items > available:
        notes.append(
            f"the data has {available:,} items and was read {ran.items / available:.1f} times: "
            "later rounds meet items that the state has seen"
        )
    for gate in gates:
        if gate.verdict == "not judged":
            notes.append(_WHY_NOT.get(gate.name, f"{gate.name} was not judged"))
    if ran.broke_at is not None:
        notes.append(f"the quantized model gave a NaN or an infinity at item {ran.broke_at:,}")
    return notes


_OTHER_FILE = (
    "the bundles are of two files: their states were neither exchanged nor compared, and a saved "
    "state of one does not load into the other"
)
_WHY_NOT = {
    "last-over-early": "the horizon was not judged: that takes a stream of 1,000,000 items",
    "growth-per-decade": "growth was not judged: the stream is too short to be sure of it",
}


def _short(value: float) -> float:
    """Round to four digits that count: more say nothing and make large files."""
    return float(f"{value:.{DIGITS}g}")


def _maybe(value: float | None) -> float | None:
    return None if value is None else _short(value)


REPORT_FILE = "report.json"


def attach(path: str | Path, made: Report) -> Manifest:
    """Write the measured bundle anew, in one rename, with its report: in the manifest and a file.

    The report names the bundle as it was measured: the `bundle_id` changes by attaching it.

    Raises:
        BundleError: the bundle is broken, is not the one that was measured, or cannot be written.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    if manifest.bundle_id != made.quantized.bundle_id:
        raise BundleError(
            f"{bundle.label}: is not the bundle of the report: expected bundle_id "
            f"{made.quantized.bundle_id[:16]}…, it is {manifest.bundle_id[:16]}…; measure it anew",
            code="other-bundle",
        )
    files: dict[str, bytes | Path] = {name: bundle.root / name for name in manifest.files}
    files[REPORT_FILE] = msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n"
    with_quality = msgspec.structs.replace(manifest, quality=quality_of(made))
    return write_bundle(bundle.root, with_quality, files, overwrite=True)
