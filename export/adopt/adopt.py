"""Wrap a stateful ONNX file and a few answers into a bundle; this needs onnx, not torch.

The file is first run as it is, in a plain ONNX Runtime loop: what it does there is checked, and
recorded as the bundle's golden run. Then the bundle is made, and must do the same in the runtime.

Shape letters: `T` items per chunk, `n` items of any number.
"""

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from dst.export.adopt.answers import (
    Answers,
    Question,
    check_names,
    check_numbers,
    checked_data,
    spelled,
)
from dst.export.adopt.assemble import assembled, contract_of
from dst.export.adopt.checks import prove_rows, prove_state, prove_stream_inputs
from dst.export.adopt.chunk_input import shaped
from dst.export.adopt.contract import Draft, draft
from dst.export.adopt.cut import Finding, prove_cut
from dst.export.adopt.layout import Placed, as_run, place_output
from dst.export.adopt.limits import check_growth
from dst.export.adopt.ports import Port, ports_of, read_model
from dst.export.adopt.reference import Plain, open_file
from dst.export.adopt.same_model import STEPS, SameModel, check_within, prove_same
from dst.export.errors import AdoptCheckError, AdoptError, OpenQuestionsError
from dst.graphs.versions import random_operators
from dst.runtime.bundle.layout import Array, sized
from dst.runtime.bundle.manifest import Manifest
from dst.runtime.bundle.reader import Bundle, open_bundle
from dst.runtime.bundle.writer import check_target, write_bundle
from dst.runtime.golden import replay_golden

Progress = Callable[[str, float], None]
"""Called with what is being done and the share that is done."""

LEAST_ITEMS, LEAST_STEPS = 64, 4
"""How much of the data is read: so many items at least, and so many chunks."""
MOST_ITEMS = 1 << 16
"""And so many items at most; the state after each chunk is kept."""
SAME = 1e-5
"""Largest error (max|d|/rms) of the bundle against the file it was made from, on this machine."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was made of a file.

    Attributes:
        manifest: as written.
        findings: what running the file has shown.
        worst: largest error (max|d|/rms) of the bundle against the file; 0 is bit for bit.
    """

    manifest: Manifest
    findings: tuple[Finding, ...]
    worst: float


def adopt_bundle(
    model: str | Path,
    path: str | Path,
    answers: Answers,
    *,
    name: str,
    data: Array | None = None,
    description: str = "",
    license: str = "",
    overwrite: bool = False,
    model_of: str | Path | None = None,
    within: float | None = None,
    progress: Progress | None = None,
) -> Adopted:
    """Wrap an existing stateful ONNX file into a bundle.

    Args:
        model: The ONNX file; its external data lies beside it.
        path: Directory to make.
        answers: What the graph does not tell by itself.
        name: The bundle's name.
        data: Items to run it on, ``[n]`` or ``[n, F]``; noise, or random tokens, by default.
        description: What the model does, in a sentence.
        license: SPDX expression of the weights' licence.
        overwrite: Replace a bundle that stands at ``path``.
        model_of: A bundle of the same model, from another export: where both do the same on the
            data, the new bundle keeps its ``model_id``, and states that were saved with the one
            load in the other.
        within: For a file of another precision than ``model_of``, such as int8: the largest
            distance that is allowed, as a share of an output's rms and of a state's peak. It is
            recorded as another precision of that model, with the distance that was measured.
        progress: Called with a label and the share done.

    Returns:
        What was written and found.

    Raises:
        OpenQuestionsError: something must be said first; the message lists every open question.
        AdoptError: the file cannot be read or loaded, or an answer does not fit it.
        AdoptCheckError: it ran, and is not the step that was described, or not the model of
            ``model_of``; nothing was written.
        BundleError: ``path`` cannot be written to, or ``model_of`` is no bundle.

    Examples:
        ``adopt_bundle("gru.onnx", "gru", Answers(t=(1, 16)), name="gru")``
    """
    source, progress = Path(model), progress or (lambda what, share: None)
    check_target(Path(path), overwrite)
    old = None if model_of is None else open_bundle(model_of)
    if within is not None and old is None:
        raise AdoptError(
            f"{source.name}: --within {within:g} needs --model-of, the model it is held to"
        )
    progress("reading the file", 0.0)
    loaded = read_model(source)
    with _told_of(source):
        ports = ports_of(loaded, answers.drop)
        check_names(ports, answers)
        check_numbers(answers)
    session = open_file(source)
    with _told_of(source):
        check_growth(ports, answers, session)
        plan = draft(loaded, ports, answers)
        items = _items(plan, data)
        random = random_operators(loaded)
        plain = Plain(session, plan, answers.lookback_fill, random)
        progress("running the file", 0.2)
        exact = answers.tail == "exact" or (answers.tail is None and not answers.lookahead)
        try:
            outputs, stale = _outputs(plan, plain, answers, items)
            runs = {t: plain.carry([items], t, outputs) for t in plan.sizes}
            findings = prove_state(plan, plain, runs[plan.sizes[-1]], outputs)
            about_cut, causal = prove_cut(plan, plain, runs, outputs, items, exact)
            batch, about_rows = prove_rows(plan, plain, items, outputs)
            about_rows += prove_stream_inputs(plan, plain, runs[plan.sizes[-1]], outputs)
        except AdoptCheckError as error:
            hint = ""
            if error.code == "step-failed":
                hint = _other_t(plan, plain, items) or _other_axes(plan, answers)
            raise AdoptCheckError(f"{error}{hint}", code=error.code) from None
        contract = contract_of(
            plan, answers, outputs, "exact" if exact else answers.tail or "refuse", causal
        )
        progress("writing", 0.7)
        with tempfile.TemporaryDirectory() as folder:
            files, manifest = assembled(
                loaded, source.parent, Path(folder), plan, contract, outputs, batch, runs
            )
            manifest = msgspec.structs.replace(
                manifest, name=name, description=description, license=license
            )
            progress("running the bundle", 0.8)
            worst, same = _tried(manifest, files, old, within, plan, data)
            about_model: list[Finding] = []
            if same is not None:
                about_model.append(same.finding)
                if same.state is not None:  # in the older bundle's order, so that its states fit
                    contract = msgspec.structs.replace(contract, state=same.state)
                    manifest = msgspec.structs.replace(manifest, contract=contract)
                certificates = () if same.certificate is None else (same.certificate,)
                manifest = msgspec.structs.replace(
                    manifest,
                    model_id=same.model_id,
                    certificates=certificates,
                    quality=same.quality,
                )
            written = write_bundle(path, manifest, files, overwrite=overwrite)
        kept = [Finding(f"input `{n}` keeps the value the file gives it", True) for n in plan.kept]
        drawn = [
            Finding(f"holds {name}, which drew nothing that shows in these runs", False)
            for name in random
        ]
        findings += [*about_cut, *about_rows, *stale, *kept, *drawn, *about_model]
        return Adopted(written, tuple(findings), worst)


@contextlib.contextmanager
def _told_of(file: Path) -> Iterator[None]:
    """Put the name of the file before what is wrong with it."""
    try:
        yield
    except AdoptError as error:
        raise error.within(file.name) from None


def _other_t(plan: Draft, plain: Plain, items: Array) -> str:
    """Say which T does run, where the file leaves it open but was traced with one."""
    chunk = plan.chunk
    if not chunk.free_time:
        return ""
    stated = {d for port in plan.outputs for d in port.dims if isinstance(d, int)}
    able: list[int] = []
    for t in sorted({1, 2, *stated} - {*plan.sizes}):
        try:
            plain.shapes(np.resize(items, (t + plan.lookahead, *items.shape[1:])))
        except AdoptCheckError:
            continue
        able.append(t)
    if not able:
        return ""
    told = ", ".join(map(str, able))
    return (
        f"; T = {told} runs, so the file fixes it although its axis is free: say --t "
        f"{able[0]}, or export the model again with T free or with the T that you want"
    )


def _other_axes(plan: Draft, answers: Answers) -> str:
    """Say how the chunk's axes were taken, where the caller did not say it."""
    chunk = plan.chunk
    if chunk.port.name in answers.shapes or len(chunk.own_shape) < 2 or "T" not in chunk.own_shape:
        return ""
    other = ",".join(str({"B": "T", "T": "B"}.get(str(d), d)) for d in chunk.own_shape)
    option = f"--shape {chunk.port.name}={other}"
    return f"; the chunk was taken as {chunk}: if that is wrong, say {option}"


def _items(plan: Draft, data: Array | None, steps: int = LEAST_STEPS) -> Array:
    """Enough items to carry the state for some chunks of every T; data is read round and round."""
    period = math.lcm(*plan.sizes)
    steps = max(LEAST_STEPS, min(steps, MOST_ITEMS // period))
    count = period * max(-(-LEAST_ITEMS // period), steps) + plan.lookahead
    if count > MOST_ITEMS:
        raise AdoptError(
            f"to compare T = {list(plan.sizes)} with each other, {count:,} items would "
            f"be run at each, and {MOST_ITEMS:,} is the cap; give fewer T, or such as divide one "
            "another"
        )
    chunk = plan.chunk
    width = tuple(d for d in chunk.shape if not isinstance(d, str))
    if data is not None and (not data.ndim or not len(data) or data.shape[1:] != width):
        raise AdoptError(
            f"the data has shape {list(data.shape)}, expected [n, …] with items of "
            f"{list(width)}, n at least 1"
        )
    if data is not None and data.dtype.kind not in "biuf":
        raise AdoptError(f"the data has dtype {data.dtype}, expected numbers")
    if data is not None:
        return np.resize(checked_data(data[:count], chunk.port.dtype), (count, *width))
    random = np.random.default_rng(0)
    if plan.vocabulary is not None:
        rounds = range(-(-count // plan.vocabulary))  # each token as often as any other
        tokens = np.concatenate([random.permutation(plan.vocabulary) for _ in rounds])
        return tokens[:count].astype(chunk.port.dtype)
    return random.normal(size=(count, *width)).astype(chunk.port.dtype)


def _outputs(
    plan: Draft, plain: Plain, answers: Answers, items: Array
) -> tuple[dict[str, Placed], list[Finding]]:
    """Place every output: as the caller said, or as its shapes at each T tell."""
    shapes = {t: plain.shapes(items[: t + plan.lookahead]) for t in plan.sizes}
    wider = _at_two(plan, plain, items) if plan.sizes == (1,) else {}
    placed: dict[str, Placed] = {}
    questions: list[Question] = []
    stale: list[Finding] = []
    for port in plan.outputs:
        runs = {t: shape[port.name] for t, shape in shapes.items()}
        if len({len(shape) for shape in runs.values()}) > 1:
            told = ", ".join(f"{list(shape)} at T = {t}" for t, shape in runs.items())
            raise AdoptError(f"output `{port.name}` has {told}; give --t one size")
        true = as_run(port, runs.values())
        found = _placed(plan, answers, true, runs)
        if port.name in wider and port.name not in answers.shapes:
            both = runs | {2: wider[port.name]}
            longer = as_run(port, both.values())
            at_two = _placed(plan, answers, longer, both)
            if isinstance(at_two, Placed) and at_two.time_axis is not None:
                true, found = longer, at_two
        if isinstance(found, Question):
            questions.append(found)
            continue
        placed[port.name] = found
        if true != port:
            told = f"output {port} is {found} in a run, and the run is right"
            stale.append(Finding(told, True))
    if questions:
        known = [f"output {port}" for port in placed.values()]
        raise OpenQuestionsError(spelled(questions, known))
    return placed, stale


def _at_two(plan: Draft, plain: Plain, items: Array) -> dict[str, tuple[int, ...]]:
    """The shapes of outputs at T = 2: at T = 1 alone an axis of time looks like any other of 1."""
    chunk = plan.chunk
    if not chunk.free_time:
        return {}
    try:
        found = plain.shapes(items[: 2 + plan.lookahead])
    except AdoptCheckError:  # it runs T = 1 only
        return {}
    ranks = {port.name: len(found[port.name]) for port in plan.outputs}
    one = plain.shapes(items[: 1 + plan.lookahead])
    return {name: found[name] for name, rank in ranks.items() if rank == len(one[name])}


def _placed(
    plan: Draft, answers: Answers, port: Port, found: dict[int, tuple[int, ...]]
) -> Placed | Question:
    if port.name not in answers.shapes:
        return place_output(port, plan.chunk, found, plan.named_t)
    placed = shaped(port, answers, timed=bool(plan.chunk.added))
    for t, shape in found.items():
        said = sized(placed.own_shape, t)
        if said != shape:
            raise AdoptError(
                f"--shape {port.name}: the output has shape {list(shape)} at T = {t}, "
                f"that says {list(said)}"
            )
    return placed


def _tried(
    manifest: Manifest,
    files: Mapping[str, bytes | Path],
    old: Bundle | None,
    within: float | None,
    plan: Draft,
    data: Array | None,
) -> tuple[float, SameModel | None]:
    """Write the bundle on trial: replay the file's run, and hold it against an older bundle."""
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "bundle"
        write_bundle(trial, manifest, files)
        bundle = open_bundle(trial)
        worst = _worst(bundle)
        if old is None:
            return worst, None
        bound = check_within(manifest.precision, old, within)
        items = _items(plan, data, STEPS)
        given = {s.port.name: s.example for s in plan.stream_inputs}
        return worst, prove_same(bundle, old, items, given, bound)


def _worst(bundle: Bundle) -> float:
    """Replay the file's run on the bundle, through the runtime."""
    checks = replay_golden(bundle)
    errors = {name: error for check in checks for name, error in check.errors.items()}
    worst = max(errors, key=lambda name: errors[name])
    if errors[worst] > SAME:
        raise AdoptCheckError(
            f"the bundle does not do what the file does: `{worst}` strays by "
            f"{errors[worst]:.1e} of its rms, {SAME:.0e} is allowed; please report this"
        )
    return errors[worst]
