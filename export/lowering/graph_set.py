"""Trace a step into as few graphs as it allows, and compare each with torch.

Shape letters: ``B`` batch, ``T`` items per chunk.
"""

import contextlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from dst.export.certify import Chunks, Progress, initial_state, onnx_form, torch_form
from dst.export.curves import error_of_peak
from dst.export.errors import LoweringError, StepFaultError
from dst.export.lowering.trace import (
    Traced,
    portable_file,
    trace_fused,
    trace_portable,
    trace_single,
    trace_static,
)
from dst.export.step import Step
from dst.graphs.versions import random_operators
from dst.graphs.weights import WeightsFile
from dst.runtime.bundle.layout import Array
from dst.runtime.execution.engine import first_line

Tell = Callable[[str], None]
"""Called with a sentence about what was decided."""

STEPS_COMPARED = 3
STRAY = 1e-4
"""Error of a tensor against its peak beyond which a graph is not what torch does; the
certificates hold it to less."""
_CODES = re.compile(
    r"^\w+: \[ONNXRuntimeError\] : \d+ : \w+ : (Non-zero status code returned while running )?"
)


def silent(_: str) -> None:
    """Tell nobody."""


def trace_all(
    step: Step,
    items: Array,
    store: WeightsFile,
    portable_t: Sequence[int] | None = None,
    tell: Tell = silent,
    progress: Progress | None = None,
) -> list[Traced]:
    """Trace a step into as few graphs as it allows, each run and compared with torch.

    First one graph with free B and T. Where T cannot be free, one graph for each allowed T; where
    B cannot either, B = 1. To these come portable graphs, if torch can write them.

    Args:
        step: What to trace.
        items: Items to compare on, ``[n]`` or ``[n, F]``.
        store: Where the graphs' large weights are written.
        portable_t: The T of the portable graphs, which then must be possible; by default the
            nominal T and 1, as far as they are.
        tell: Told what could not be had, and why.
        progress: Told of the share done.

    Raises:
        LoweringError: torch cannot export the step, or a portable graph that was asked for.
        StepFaultError: a graph draws random numbers (`random`).
    """
    chunk = step.contract.chunk
    progress = progress or (lambda what, share: None)
    progress("tracing", 0.0)
    graphs, why = _free(step, items, store)
    if not graphs:
        for done, t in enumerate(chunk.allowed_t, 1):
            graphs.append(_static(step, items, store, t))
            progress("tracing", done / (len(chunk.allowed_t) + 2))
        sizes = ", ".join(str(t) for t in chunk.allowed_t)
        if len(chunk.allowed_t) > 1:
            tell(
                f"one graph for each T = {sizes}, on the same weights: T cannot be free, as where "
                f"torch writes out a loop over time ({why})"
            )
    if step.any_batch and any(g.batch for g in graphs):
        tell("B = 1 only: a graph for several streams answers otherwise, or cannot be traced")
    asked = portable_t is not None
    if portable_t is None:
        portable_t = [t for t in (chunk.nominal_t, 1) if t in chunk.allowed_t]
    for t in dict.fromkeys(portable_t):
        if any(g.file == portable_file(t) for g in graphs):
            continue
        try:
            traced = trace_portable(step, store, t)
            if (fault := _strays(traced, step, items)) is not None:
                raise LoweringError(f"{traced.file}: {fault}")
            graphs.append(traced)
        except LoweringError as error:
            if asked:
                raise
            tell(f"no portable graph for T = {t}: {error}")
    for graph in graphs:
        if drawn := random_operators(graph.model):
            raise StepFaultError(
                f"{graph.file} draws random numbers ({', '.join(drawn)}), though the answers that "
                "were compared did not depend on them; take them out of `forward`",
                code="random",
            )
    return graphs


def _free(step: Step, items: Array, store: WeightsFile) -> tuple[list[Traced], str]:
    """Trace with free T and, if the step has any, free B; or say why that cannot be."""
    if step.fused() is not step:  # written by hand: it keeps both free, or that is its fault
        graphs = [trace_fused(step, store)]
        single = step.single() if 1 in step.contract.chunk.allowed_t[:-1] else None
        return [*graphs, *([trace_single(step, single, store)] if single else [])], ""
    if not step.any_batch and len(step.contract.chunk.allowed_t) == 1:
        return [], ""
    traced, why = _told_or_found(step, items, store)
    return ([] if traced is None else [traced]), why


def _told_or_found(
    step: Step, items: Array, store: WeightsFile, t: int | None = None
) -> tuple[Traced | None, str]:
    """Trace with axes that torch is told to leave free, else those it finds; or say why not."""
    why = ""
    for automatic in (False, True):
        try:
            traced = trace_fused(step, store, t, automatic=automatic)
        except LoweringError as error:
            why = str(error)
            continue
        fault = _strays(traced, step, items)
        if fault is None:
            return traced, ""
        why = fault
    return None, why


def _static(step: Step, items: Array, store: WeightsFile, t: int) -> Traced:
    """Trace for one T: with free B, or portable with B = 1, or with B = 1 and any operators.

    Raises:
        LoweringError: torch can do none of it.
    """
    if step.any_batch and len(step.contract.chunk.allowed_t) > 1:
        free, _ = _told_or_found(step, items, store, t)
        if free is not None:
            return free
    with contextlib.suppress(LoweringError):
        traced = trace_portable(step, store, t)
        if _strays(traced, step, items) is None:
            return traced
    traced = trace_static(step, store, t)
    if (fault := _strays(traced, step, items)) is not None:
        raise LoweringError(f"the graph for T = {t}, B = 1 is not what torch does: {fault}")
    return traced


def _strays(traced: Traced, step: Step, items: Array) -> str | None:
    """Run a graph at every T, and at another B, beside torch; say where it differs, if it does.

    A tracer may fix a size without a word, or keep what only holds at the size it saw.
    """
    contract = step.contract
    try:
        graph = traced.model.SerializeToString()
        run = onnx_form(graph, contract, traced.folder, traced.answers)
    except Exception as error:  # onnxruntime's own classes share no base but this
        return f"ONNX Runtime does not load it: {first_line(error)}"
    reference = torch_form(step)
    for batch in (1,) if traced.batch else (1, 3):
        for t in traced.allowed_t:
            left = right = initial_state(step, batch)
            source = Chunks(contract, items, t)
            for number in range(STEPS_COMPARED):
                rows = [source[number + STEPS_COMPARED * row] for row in range(batch)]
                chunk = np.concatenate(rows, contract.chunk.batch_axis)
                expected, left = reference(chunk, left)
                try:
                    found, right = run(chunk, right)
                except Exception as error:
                    return f"the graph fails at T = {t}, B = {batch}: {_reason(error)}"
                for name, value in (expected | left).items():
                    other = (found | right)[name]
                    if value.shape != other.shape:
                        sizes = f"{list(other.shape)} and not {list(value.shape)}"
                        return f"at T = {t}, B = {batch} the graph's `{name}` is {sizes}"
                    if error_of_peak(other, value) > STRAY:
                        return f"at T = {t}, B = {batch} the graph answers otherwise (`{name}`)"
    return None


def _reason(error: Exception) -> str:
    """What ONNX Runtime said, without its own codes."""
    return _CODES.sub("", first_line(error))[:120].rstrip()
