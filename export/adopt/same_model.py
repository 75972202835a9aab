"""Prove on data that a new bundle holds the model of an older one, so that it may keep its id.

Two exports of the same weights may hold them in another form (folded or not, by another exporter),
and then have ids of their own. Both bundles are run over the same items, each carrying its own
state; outputs and states are compared after every step.

Shape letters: `T` items per chunk, `n` items of any number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dst.export.adopt.cut import CUT_BOUND, Finding, error_of_peak
from dst.export.errors import AdoptCheckError, AdoptError
from dst.runtime.bundle import Bundle
from dst.runtime.golden import relative_error
from dst.runtime.items import laid_out
from dst.runtime.manifest import Certificate, Contract, Curve, Features, State
from dst.runtime.schema import item_shape
from dst.runtime.session import Session

Array = npt.NDArray[np.generic]

STEPS = 1000
"""How many carried steps are compared, where the items allow it."""
DECILE_RATIO_BOUND = 2.0
CERTIFICATE = "adopted-vs-model"


@dataclass(frozen=True, slots=True)
class SameModel:
    """What two bundles of one model have shown.

    Attributes:
        model_id: of the older one.
        certificate: their distance over the steps.
        finding: the same in words.
    """

    model_id: str
    certificate: Certificate
    finding: Finding


def check_within(where: str, new: str, old: Bundle, within: float | None) -> float:
    """Return how far a bundle of a precision may stray from an older one: 1e-5, or as said.

    Raises:
        AdoptError: another bound is asked for where the precision is the same, or makes no sense.
    """
    if within is None:
        return CUT_BOUND
    if not 0 < within <= 1:
        raise AdoptError(f"{where}: --within {within}: expected a share above 0 and at most 1")
    if new == old.manifest.precision:
        raise AdoptError(
            f"{where}: --within {within:g}: both are {new}, so that the same model strays by "
            f"{CUT_BOUND:.0e} at most; a wider bound is for another precision of it"
        )
    return within


def prove_same(
    where: str, new: Bundle, old: Bundle, items: Array, given: Mapping[str, Array], within: float
) -> SameModel:
    """Run both over the same items and compare.

    Args:
        where: the file that the new bundle was made of, for messages.
        new: the bundle that was made of it.
        old: the bundle whose model it is said to be.
        items: what is read, `[n, ...]`.
        given: what is given once per stream.
        within: the largest distance, outputs of their rms and states of their peak.

    Raises:
        AdoptCheckError: they differ by more; the message tells by how much.
        AdoptError: they cannot be compared, or a state of one does not fit the other.
    """
    ours, theirs = new.manifest, old.manifest
    same_precision = ours.precision == theirs.precision
    t = _check_contracts(where, ours.contract, theirs.contract, same_precision)
    names = [o.name for o in ours.contract.outputs if o in theirs.contract.outputs]
    if not names:
        raise AdoptError(
            f"{where}: answers {', '.join(o.name for o in ours.contract.outputs)}, {old.label} "
            f"{', '.join(o.name for o in theirs.contract.outputs)}: no output has the same name "
            "and shape, so there is nothing to compare"
        )
    errors = _errors(new, old, items, given, t, names)
    worst = {name: max(values) for name, values in errors.items()}
    name = max(worst, key=lambda key: worst[key])
    steps = len(errors[name])
    kind = "output" if name in names else "state"
    share = "rms" if name in names else "peak"
    told = f"over {steps:,} steps of T = {t} {kind} `{name}` strays by {worst[name]:.1e} of its {share}"
    if not worst[name] <= within:
        raise AdoptCheckError(f"{where}: {_refusal(new, old, told, within)}", code="not-the-model")
    certificate = _certificate(errors, names, steps, t, within)
    if same_precision:
        finding = Finding(f"is the model of {old.label}, and keeps its id: {told}", True)
    else:
        finding = Finding(
            f"recorded as {ours.precision} of the model of {old.label}, which is "
            f"{theirs.precision}: {told}, {within:g} was allowed",
            False,
        )
    return SameModel(theirs.model_id, certificate, finding)


def _refusal(new: Bundle, old: Bundle, told: str, within: float) -> str:
    ours, theirs = new.manifest.precision, old.manifest.precision
    if ours == theirs:
        return (
            f"is not the model of {old.label}: {told}, {within:.0e} is allowed; leave --model-of "
            "out, and it gets an id of its own"
        )
    return (
        f"is {ours}, and {old.label} is {theirs}: {told}, {within:g} is allowed; where that is "
        f"what its quantization costs, say --within with a larger share, and it is recorded as "
        f"{ours} of that model with its distance"
    )


def _check_contracts(where: str, ours: Contract, theirs: Contract, same_precision: bool) -> int:
    """A state of one must fit the other, and both must read the same items; return a common T."""
    for name, mine, other in (
        ("item shape", item_shape(ours.chunk), item_shape(theirs.chunk)),
        ("lookback", ours.chunk.lookback, theirs.chunk.lookback),
        ("look-ahead", ours.chunk.lookahead, theirs.chunk.lookahead),
        ("kind of items", _kind(ours), _kind(theirs)),
        ("constants", ours.constants, theirs.constants),
        ("inputs per stream", ours.stream_inputs, theirs.stream_inputs),
    ):
        if mine != other:
            raise AdoptError(f"{where}: --model-of: {name} {_shown(mine)}, there {_shown(other)}")
    mine, other = (tuple(_layout(s, same_precision) for s in c.state) for c in (ours, theirs))
    if mine != other:
        first = next(((m, o) for m, o in zip(mine, other, strict=False) if m != o), (mine, other))
        raise AdoptError(
            f"{where}: --model-of: a state of the other bundle would not fit: here "
            f"{_shown(first[0])}, there {_shown(first[1])}; export it with the same names, shapes "
            "and first values"
        )
    common = set(ours.chunk.allowed_t) & set(theirs.chunk.allowed_t)
    if not common:
        raise AdoptError(
            f"{where}: --model-of: runs T = {list(ours.chunk.allowed_t)}, there "
            f"{list(theirs.chunk.allowed_t)}: no T in common; give one of those with --t"
        )
    nominal = ours.chunk.nominal_t
    return nominal if nominal in common else max(common)


def _kind(contract: Contract) -> str:
    content = contract.chunk.content
    return "features" if isinstance(content, Features) else f"{content.vocabulary} tokens"


def _layout(state: State, same_precision: bool) -> tuple[object, ...]:
    """What must agree of a state; another precision may keep it in another dtype."""
    shape = ", ".join(map(str, state.shape))
    if not same_precision:
        return (f"`{state.input}` [{shape}]",)
    return (f"`{state.input}` -> `{state.output}` {state.dtype} [{shape}]", state.init)


def _shown(value: object) -> str:
    told = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return told if len(told) <= 200 else told[:200] + "…"


def _errors(
    new: Bundle, old: Bundle, items: Array, given: Mapping[str, Array], t: int, names: list[str]
) -> dict[str, list[float]]:
    """Name -> its error after each step: outputs of the rms, states of the peak."""
    streams = [
        Session.open(bundle.root, chunk_sizes=[t]).stream(inputs=dict(given) or None)
        for bundle in (new, old)
    ]
    chunks = [bundle.manifest.contract.chunk for bundle in (new, old)]
    states = [state.input for state in new.manifest.contract.state]
    errors: dict[str, list[float]] = {name: [] for name in (*names, *states)}
    ahead = new.manifest.contract.chunk.lookahead
    for at in range(0, len(items) - t - ahead + 1, t):
        own = items[at : at + t + ahead]
        found, right = (
            stream.step(laid_out(chunk, own))
            for stream, chunk in zip(streams, chunks, strict=True)
        )
        for name in names:
            errors[name].append(relative_error(found[name], right[name]))
        for name in states:
            errors[name].append(error_of_peak(streams[0].state[name], streams[1].state[name]))
        if at // t + 1 == STEPS:
            break
    return errors


def _certificate(
    errors: Mapping[str, list[float]], names: list[str], steps: int, t: int, within: float
) -> Certificate:
    points = sorted({max(1, steps * (i + 1) // 10) for i in range(10)})
    starts = [0, *points[:-1]]
    curve = {
        name: tuple(max(values[a:b]) for a, b in zip(starts, points, strict=True))
        for name, values in errors.items()
    }
    tenth = max(1, steps // 10)
    ratios = [
        float(np.mean(values[-tenth:]) / np.mean(values[:tenth]))
        for values in errors.values()
        if np.mean(values[:tenth]) > 0
    ]
    state = max((max(v) for n, v in errors.items() if n not in names), default=0.0)
    return Certificate(
        name=CERTIFICATE,
        steps=steps,
        items_per_step=t,
        data="as given with --data, or noise",
        bound=within,
        decile_ratio_bound=DECILE_RATIO_BOUND,
        passed=True,
        curve=Curve(steps=tuple(points), tensors=curve),
        worst=max(max(errors[name]) for name in names),
        worst_state=state,
        worst_state_of_peak=state,
        decile_ratio=max(ratios, default=0.0),
    )
