"""Wrap a stateful ONNX file and a few answers into a bundle; this needs onnx, not torch.

The file is first run as it is, in a plain ONNX Runtime loop: what it does there is checked, and
recorded as the bundle's golden run. Then the bundle is made, and must do the same in the runtime.
"""

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator
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
from dst.export.adopt.same_model import STEPS, check_within, prove_same
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
            stale = _place_outputs(plain, answers, items)
            runs = {t: plain.carry([items], t) for t in plan.sizes}
            nominal = runs[plan.sizes[-1]]
            findings = prove_state(plain, nominal)
            about_cut, causal = prove_cut(plain, runs, items, exact)
            batch, about_rows = prove_rows(plain, items)
            findings += [*about_cut, *about_rows, *prove_stream_inputs(plain, nominal), *stale]
        except AdoptCheckError as error:
            hint = ""
            if error.code == "step-failed":
                hint = _other_t(plain, items) or _other_axes(plan, answers)
            raise AdoptCheckError(f"{error}{hint}", code=error.code) from None
        contract = contract_of(
            plan, answers, plain.outputs, "exact" if exact else answers.tail or "refuse", causal
        )
        findings += [
            Finding(f"input `{n}` keeps the value the file gives it", True) for n in plan.kept
        ]
        findings += [
            Finding(f"holds {name}, which drew nothing that shows in these runs", False)
            for name in random
        ]
        progress("writing", 0.7)
        with tempfile.TemporaryDirectory() as folder:
            files, manifest = assembled(
                loaded, source.parent, Path(folder), plan, contract, plain.outputs, batch, runs
            )
            manifest = msgspec.structs.replace(
                manifest, name=name, description=description, license=license
            )
            progress("running the bundle", 0.8)
            trial = Path(folder) / "trial"
            write_bundle(trial, manifest, files)
            bundle = open_bundle(trial)
            worst = _worst(bundle)
            if old is not None:
                bound = check_within(manifest.precision, old, within)
                given = {s.port.name: s.example for s in plan.stream_inputs}
                manifest, finding = prove_same(
                    manifest, bundle, old, _items(plan, data, STEPS), given, bound
                )
                findings.append(finding)
            written = write_bundle(path, manifest, files, overwrite=overwrite)
        return Adopted(written, tuple(findings), worst)


@contextlib.contextmanager
def _told_of(file: Path) -> Iterator[None]:
    """Put the name of the file before what is wrong with it."""
    try:
        yield
    except AdoptError as error:
        raise error.within(file.name) from None


def _other_t(plain: Plain, items: Array) -> str:
    """Say which T does run, where the file leaves it open but was traced with one."""
    plan = plain.plan
    if not plan.chunk.free_time:
        return ""
    stated = {d for port in plan.outputs for d in port.dims if isinstance(d, int)}
    able: list[int] = []
    for t in sorted({1, 2, *stated} - {*plan.sizes}):
        with contextlib.suppress(AdoptCheckError):
            plain.shapes(np.resize(items, (t + plan.lookahead, *items.shape[1:])))
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
    if data is not None:
        if not data.ndim or not len(data) or data.shape[1:] != width:
            raise AdoptError(
                f"the data has shape {list(data.shape)}, expected [n, …] with items of "
                f"{list(width)}, n at least 1"
            )
        if data.dtype.kind not in "biuf":
            raise AdoptError(f"the data has dtype {data.dtype}, expected numbers")
        return np.resize(checked_data(data[:count], chunk.port.dtype), (count, *width))
    random = np.random.default_rng(0)
    if plan.vocabulary is not None:
        rounds = range(-(-count // plan.vocabulary))  # each token as often as any other
        tokens = np.concatenate([random.permutation(plan.vocabulary) for _ in rounds])
        return tokens[:count].astype(chunk.port.dtype)
    return random.normal(size=(count, *width)).astype(chunk.port.dtype)


def _place_outputs(plain: Plain, answers: Answers, items: Array) -> list[Finding]:
    """Place every output: as the caller said, or as its shapes at each T tell."""
    plan = plain.plan
    shapes = {t: plain.shapes(items[: t + plan.lookahead]) for t in plan.sizes}
    longer: dict[str, tuple[int, ...]] = {}
    if plan.sizes == (1,) and plan.chunk.free_time:  # an axis of time is like any other of 1
        with contextlib.suppress(AdoptCheckError):  # it may run T = 1 only
            longer = plain.shapes(items[: 2 + plan.lookahead])
    questions: list[Question] = []
    stale: list[Finding] = []
    placed: dict[str, Placed] = {}
    for port in plan.outputs:
        name, runs = port.name, {t: shape[port.name] for t, shape in shapes.items()}
        if len({len(shape) for shape in runs.values()}) > 1:
            told = ", ".join(f"{list(shape)} at T = {t}" for t, shape in runs.items())
            raise AdoptError(f"output `{name}` has {told}; give --t one size")
        true = as_run(port, runs.values())
        found = _placed(plan, answers, true, runs)
        same_rank = name in longer and len(longer[name]) == len(true.dims)
        if same_rank and name not in answers.shapes:
            both = runs | {2: longer[name]}
            moving = as_run(port, both.values())
            at_two = _placed(plan, answers, moving, both)
            if isinstance(at_two, Placed) and at_two.time_axis is not None:
                true, found = moving, at_two
        if isinstance(found, Question):
            questions.append(found)
            continue
        placed[name] = found
        if true != port:
            stale.append(Finding(f"output {port} is {found} in a run, and the run is right", True))
    if questions:
        known = [f"output {port}" for port in placed.values()]
        raise OpenQuestionsError(spelled(questions, known))
    plain.outputs = placed
    return stale


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
