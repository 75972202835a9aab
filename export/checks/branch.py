"""Find Python code of a step that decides by the values of a tensor (`data-dependent`).

A graph holds no Python: such a branch either stops torch's exporter, or one side of it is written
down for good. The values that leave torch are watched in a plain call; where there are any, the
step is captured and the capture is held against the module on several streams.
"""

import contextlib
import io
import linecache
import logging
import os
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dst.export.errors import StepFaultError
from dst.export.infer import probe as probe_module
from dst.export.infer.call import Tensors, seed_all, where
from dst.export.infer.probe import Gaps, Probe, said
from dst.export.step import Step

CAPTURE_SHARE = 1e-3
"""A capture may differ from the module by this share of a tensor's peak; a branch differs by 1."""
_LEAVING = {
    "__bool__": "its truth",
    "__float__": "a number",
    "__int__": "a number",
    "__index__": "a number",
    "__complex__": "a number",
    "__contains__": "its contents",
    "__array__": "a numpy array",
    "numpy": "a numpy array",
    "item": "a number",
    "tolist": "a list",
    "equal": "whether two are equal",
    "allclose": "whether two are close",
    "is_nonzero": "its truth",
    "nonzero": "where it is not zero",
    "argwhere": "where it is not zero",
    "unique": "its distinct values",
    "masked_select": "as many values as a mask has",
}
_TORCH = os.sep + "torch" + os.sep


def check_branches(probe: Probe) -> None:
    """Watch a step for values that leave torch, and prove that a capture does without them.

    Raises:
        StepFaultError: Python code decides by them (`data-dependent`).
    """
    watch = _Watch()
    t = probe.sizes[0]
    state = probe.late("data", t)
    with watch:
        for size in probe.sizes:
            probe.call(probe.chunk("data", 1, size), state)
    if not watch.seen:
        return
    for t in probe.sizes:
        chunk = probe.chunk("data", 1, t)
        try:
            program = _captured(probe.step, chunk, state)
        except Exception as error:  # the exporter raises whatever it likes
            fault = data_dependence(error, next(iter(watch.seen)))
            if fault is None:
                return  # another trouble, which tracing itself will tell
            raise fault from error
        _compare(probe, program, t, next(iter(watch.seen)))


def data_dependence(error: BaseException, place: str | None = None) -> StepFaultError | None:
    """Say so where an error of torch's exporter means a branch on values, else None.

    Args:
        error: what ``torch.export`` or ``torch.onnx.export`` raised.
        place: the user's line, where it is known; else it is looked for in the traceback.
    """
    if not any(_tells(e) for e in _chain(error)):
        return None
    at = place or _user_line(error)
    return StepFaultError(
        f"Python code decides by the values of a tensor{f' ({at})' if at else ''}: a graph holds "
        "no Python, so it could keep one side of the branch only, whatever comes. Compute both "
        "sides and choose with `torch.where(condition, a, b)`, or with a mask; `torch.cond` "
        "where the sides cost much; take checks of values (`assert`) out of `forward`",
        code="data-dependent",
    )


class _Watch(TorchFunctionMode):
    """Record the lines of the user's code at which values of tensors leave torch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, None] = {}

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _LEAVING:
            place = _spell(traceback.extract_stack(limit=30))
            if place:
                self.seen[place] = None
        return func(*args, **(kwargs or {}))


class Flat(nn.Module):
    """The step with its state as positional tensors, in the contract's order.

    A step with ``answers`` takes that tensor behind the state.
    """

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, chunk: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, and then the next state."""
        contract = self.step.contract
        names = [s.input for s in contract.state]
        held = dict(zip(names, state, strict=not self.step.answers))
        outputs, after = self.step(chunk, held, *state[len(names) :])
        return (*(outputs[o.name] for o in contract.outputs), *(after[n] for n in names))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing be printed, logged or warned of while entered; errors still raise."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _captured(step: Step, chunk: Tensor, state: Tensors) -> nn.Module:
    names = [s.input for s in step.contract.state]
    args = (chunk.clone(), *(state[n].clone() for n in names))
    with torch.no_grad(), quiet():
        return torch.export.export(Flat(step).eval(), args, strict=False).module()


def _compare(probe: Probe, program: nn.Module, t: int, place: str) -> None:
    names = [s.input for s in probe.contract.state]
    for stream in probe.streams:
        state = probe.start()
        for number in range(6):
            chunk = probe.chunk(stream, number, t)
            outputs, after = probe.call(chunk, state)
            seed_all(0)
            with torch.no_grad():
                found = program(chunk.clone(), *(state[n].clone() for n in names))
            expected = {**outputs, **{f"next state {n}": after[n] for n in names}}
            keys = [*(o.name for o in probe.contract.outputs), *(f"next state {n}" for n in names)]
            apart = Gaps((dict(zip(keys, found, strict=True)), expected)).beyond(CAPTURE_SHARE)
            if apart:
                name = max(apart, key=lambda key: apart[key])
                raise StepFaultError(
                    f"Python code decides by the values of a tensor ({place}), and torch's "
                    f"exporter keeps one side: `{name}` of the captured step differs "
                    f"{said(apart[name])} {where(probe.contract, chunk)}. Compute both sides and "
                    "choose with `torch.where(condition, a, b)`",
                    code="data-dependent",
                )
            state = after


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _tells(error: BaseException) -> bool:
    kinds = {k.__name__ for k in type(error).__mro__}
    text = str(error).lower()
    return bool(
        kinds & {"GuardOnDataDependentSymNode", "DataDependentOutputException"}
        or "data-dependent" in text
        or "data dependent" in text
        or ".numpy() is not supported for tensor subclasses" in text
        or "cannot access data pointer" in text
        or "cannot call numpy" in text
    )


def _user_line(error: BaseException) -> str:
    for e in _chain(error):
        place = _spell(traceback.extract_tb(e.__traceback__))
        if place:
            return place
    return ""


def _spell(stack: traceback.StackSummary) -> str:
    """Spell the innermost line that is neither torch's nor ours, as ``file:line: code``."""
    own = {__file__, str(probe_module.__file__)}
    for frame in reversed(stack):
        if _TORCH not in frame.filename and frame.filename not in own:
            code = linecache.getline(frame.filename, frame.lineno or 0).strip()
            name = Path(frame.filename).name
            return f"{name}:{frame.lineno}" + (f": `{code}`" if code else "")
    return ""
