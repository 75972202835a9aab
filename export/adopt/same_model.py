"""Prove on data that a new bundle holds the model of an older one, so that it may keep its id.

Two exports of the same weights may hold them in another form (folded or not, by another exporter),
and then have ids of their own. Both bundles are run over the same items, each carrying its own
state; outputs and states are compared after every step.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from dst.export.adopt.cut import CUT_BOUND, Finding
from dst.export.curves import Distances
from dst.export.errors import AdoptCheckError, AdoptError
from dst.runtime.bundle.layout import Array, laid_out
from dst.runtime.bundle.manifest import (
    Contract,
    Features,
    Gate,
    Manifest,
    Quality,
    State,
    item_shape,
)
from dst.runtime.bundle.reader import Bundle
from dst.runtime.session import Session

STEPS = 1000
"""How many carried steps are compared, where the items allow it."""
CERTIFICATE = "adopted-vs-model"
DATA = "as given with --data, or noise"


class _Distances(Distances):
    """What was measured after each step, and the sums for the distance over several steps."""

    def __init__(self, t: int, outputs: Sequence[str], states: Sequence[str]) -> None:
        super().__init__(outputs, states)
        self.t, self.steps = t, 0
        self._squares: dict[str, list[tuple[float, float]]] = {n: [] for n in (*outputs, *states)}

    def add_squares(self, name: str, found: Array, right: Array) -> None:
        """Keep the squared difference of a tensor, and the squared reference."""
        wide, reference = found.astype(np.float64), right.astype(np.float64)
        sums = float(((wide - reference) ** 2).sum()), float((reference**2).sum())
        self._squares[name].append(sums)

    def share(self, name: str, first: int = 0, end: int | None = None) -> float:
        """How far two are apart over some steps: rms of the difference over the reference's."""
        difference, reference = np.array(self._squares[name][first:end]).sum(axis=0)
        return float(np.sqrt(difference / reference)) if reference else float(difference > 0)


def check_within(new: str, old: Bundle, within: float | None) -> float:
    """Return how far a bundle of a precision may stray from an older one: 1e-5, or as said."""
    theirs = old.manifest.precision
    if new != theirs and new == "float32":
        raise AdoptError(
            f"is float32, and {old.label} is {theirs}: a quantized bundle is another "
            "precision of a float32 one; adopt the float32 file first, and then the other with "
            "--model-of that bundle"
        )
    if within is None:
        return CUT_BOUND
    if not 0 < within <= 1:
        raise AdoptError(f"--within {within:g}: expected a share above 0 and at most 1")
    if new == theirs:
        raise AdoptError(
            f"--within {within:g}: both are {new}, and then the same model strays by "
            f"{CUT_BOUND:.0e} at most; a wider bound is for another precision of it"
        )
    return within


def prove_same(
    manifest: Manifest,
    new: Bundle,
    old: Bundle,
    items: Array,
    given: Mapping[str, Array],
    within: float,
) -> tuple[Manifest, Finding]:
    """Run both over the same items and compare.

    Args:
        manifest: of the new bundle, as it is without the older one.
        new: the bundle that was made of the file.
        old: the bundle whose model it is said to be.
        items: what is read, `[n, ...]`.
        given: what is given once per stream.
        within: the largest distance. For one precision it bounds max|d| at every step, outputs
            over their rms and states over their peak; for another precision the rms of an output's
            difference over its rms, all steps together.

    Returns:
        The manifest with the older one's ``model_id``, its order of the state tensors where the
        dtypes are the same, and the distance: a certificate, or the quality of another precision;
        and what was found.

    Raises:
        AdoptCheckError: they differ by more; the message tells by how much.
        AdoptError: they cannot be compared, or a state of one does not fit the other.
    """
    ours, theirs = manifest.contract, old.manifest.contract
    same_precision = manifest.precision == old.manifest.precision
    t = _check_contracts(ours, theirs, same_precision)
    names = [o.name for o in ours.outputs if o in theirs.outputs]
    if not names:
        raise AdoptError(
            f"answers {', '.join(o.name for o in ours.outputs)}, {old.label} "
            f"{', '.join(o.name for o in theirs.outputs)}: no output has the same name "
            "and shape, so there is nothing to compare"
        )
    errors = _errors(new, old, items, given, t, names)
    if _layouts(theirs.state, True) == _layouts(ours.state, True):
        ours = replace(ours, state=theirs.state)  # in this order, so that its states fit
    manifest = replace(manifest, model_id=old.manifest.model_id, contract=ours)
    if not same_precision:
        return _as_another_precision(manifest, old, errors, within)
    tensor, worst, of = errors.worst
    told = f"over {errors.steps:,} steps of T = {t} {tensor} strays by {worst:.1e} of {of}"
    if not worst <= within:
        raise AdoptCheckError(
            f"is not the model of {old.label}: {told}, {within:.0e} is allowed; leave "
            "--model-of out, and it gets an id of its own",
            code="not-the-model",
        )
    told = f"is the model of {old.label}, and keeps its id: {told}"
    certificate = errors.certificate(CERTIFICATE, DATA, t=t, bound=within)
    manifest = replace(manifest, certificates=(certificate,))
    content = ours.chunk.content
    read = len(np.unique(items[: errors.steps * t]))
    if isinstance(content, Features) or read >= content.vocabulary:
        return manifest, Finding(told, True)
    told += f"; {read:,} of {content.vocabulary:,} tokens were read, and of the others nothing is "
    told += "proved: give a larger --t, or --data that holds them"
    return manifest, Finding(told, False)


def _as_another_precision(
    manifest: Manifest, old: Bundle, errors: _Distances, within: float
) -> tuple[Manifest, Finding]:
    ours, theirs = manifest.precision, old.manifest.precision
    shares = {name: errors.share(name) for name in errors.outputs}
    name = max(shares, key=lambda key: shares[key])
    told = f"over {errors.steps:,} steps of T = {errors.t} the error of output `{name}` is "
    told += f"{shares[name]:.1e} of its rms"
    if not shares[name] <= within:
        raise AdoptCheckError(
            f"is {ours}, and {old.label} is {theirs}: {told}, {within:g} is allowed; "
            "where that is what the other precision costs, say it with --within X, and it is "
            f"recorded as {ours} of that model together with its distance",
            code="not-the-model",
        )
    points = sorted({max(1, errors.steps * (i + 1) // 10) for i in range(10)})
    bins = list(zip([0, *points[:-1]], points, strict=True))
    quality = Quality(
        full=old.manifest.bundle_id,
        items=errors.steps * errors.t,
        items_per_step=errors.t,
        data=DATA,
        unit="relative",
        positions=tuple(point * errors.t for point in points),
        divergence=tuple(max(errors.share(n, a, b) for n in errors.outputs) for a, b in bins),
        loss_difference=None,
        state_distance=tuple(max(errors.share(n, a, b) for n in errors.state) for a, b in bins),
        causal=manifest.contract.chunk.causal,
        gates=(Gate(name="distance", value=shares[name], bound=within, verdict="passed"),),
        passed=True,
    )
    told = f"recorded as {ours} of the model of {old.label}, which is {theirs}: {told}"
    finding = Finding(f"{told}, {within:g} was allowed", False)
    return replace(manifest, certificates=(), quality=quality), finding


def _check_contracts(ours: Contract, theirs: Contract, same_precision: bool) -> int:
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
            raise AdoptError(f"--model-of: {name} {_shown(mine)}, there {_shown(other)}")
    here, there = (_layouts(c.state, same_precision) for c in (ours, theirs))
    if here != there:
        first = next(((m, o) for m, o in zip(here, there, strict=False) if m != o), (here, there))
        raise AdoptError(
            "--model-of: a state of the other bundle would not fit: here "
            f"{_shown(first[0])}, there {_shown(first[1])}; export it with the same names, shapes "
            "and first values"
        )
    common = set(ours.chunk.allowed_t) & set(theirs.chunk.allowed_t)
    if not common:
        raise AdoptError(
            f"--model-of: runs T = {list(ours.chunk.allowed_t)}, there "
            f"{list(theirs.chunk.allowed_t)}: no T in common; give one of those with --t"
        )
    nominal = ours.chunk.nominal_t
    return nominal if nominal in common else max(common)


def _kind(contract: Contract) -> str:
    content = contract.chunk.content
    return "features" if isinstance(content, Features) else f"{content.vocabulary} tokens"


def _layouts(states: Sequence[State], same_precision: bool) -> tuple[tuple[object, ...], ...]:
    """What must agree of each state, by name; another precision may keep it in another dtype.

    The order of the tensors and what they are taken for (their role) are the writer's choice.
    """
    found: list[tuple[object, ...]] = []
    for state in sorted(states, key=lambda state: state.input):
        shape = ", ".join(map(str, state.shape))
        whole = f"`{state.input}` -> `{state.output}` {state.dtype} [{shape}]", state.init
        found.append(whole if same_precision else (f"`{state.input}` [{shape}]",))
    return tuple(found)


def _shown(value: object) -> str:
    told = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return told if len(told) <= 200 else told[:200] + "…"


def _errors(
    new: Bundle, old: Bundle, items: Array, given: Mapping[str, Array], t: int, names: list[str]
) -> _Distances:
    """Step both over the same items, and compare after each step."""
    streams = [
        Session.open(bundle.root, chunk_sizes=[t]).stream(inputs=dict(given) or None)
        for bundle in (new, old)
    ]
    chunks = [bundle.manifest.contract.chunk for bundle in (new, old)]
    states = [state.input for state in new.manifest.contract.state]
    errors = _Distances(t, names, states)
    ahead = chunks[0].lookahead
    for at in range(0, len(items) - t - ahead + 1, t)[:STEPS]:
        own = items[at : at + t + ahead]
        found, right = (
            stream.step(laid_out(chunk, own)) for stream, chunk in zip(streams, chunks, strict=True)
        )
        for name in names:
            errors.add_output(name, found[name], right[name])
            errors.add_squares(name, found[name], right[name])
        for name in states:
            values = [stream.state[name] for stream in streams]
            errors.add_state(name, *values)
            errors.add_squares(name, *values)
        errors.steps += 1
    return errors
