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
from dst.export.infer.call import seed_all, where
from dst.export.infer.probe import Probe, beyond, furthest
from dst.export.step import Step

CAPTURE_SHARE = 1e-3
"""A capture may differ from the module by this share of a tensor's peak; a branch differs by 1."""
_LEAVING = frozenset(
    [
        *("__bool__", "__float__", "__int__", "__index__", "__complex__", "__contains__"),
        *("__array__", "numpy", "item", "tolist", "equal", "allclose", "is_nonzero", "nonzero"),
        *("argwhere", "unique", "masked_select"),
    ]
)
"""What brings values out of a tensor, or makes a shape of them."""
_MEANS_A_BRANCH = (
    "data-dependent",
    "data dependent",
    ".numpy() is not supported for tensor subclasses",
    "cannot access data pointer",
    "cannot call numpy",
)
"""What errors of torch's exporter then say, in small letters."""
_TORCH = os.sep + "torch" + os.sep


def check_branches(probe: Probe) -> None:
    """Watch a step for values that leave torch, and prove that a capture does without them."""
    watch = _Watch()
    state = probe.late("data", probe.sizes[0])
    with watch:
        for t in probe.sizes:
            probe.call(probe.chunk("data", 1, t), state)
    if not watch.seen:
        return
    place = next(iter(watch.seen))
    for t in probe.sizes:
        args = (probe.chunk("data", 1, t).clone(), *(state[n].clone() for n in probe.names))
        try:
            with torch.no_grad(), quiet():
                step = Flat(probe.step).eval()
                program = torch.export.export(step, args, strict=False).module()
        except Exception as error:  # the exporter raises whatever it likes
            fault = data_dependence(error, place)
            if fault is None:
                return  # another trouble, which tracing itself will tell
            raise fault from error
        _compare(probe, program, t, place)


def data_dependence(error: BaseException, place: str | None = None) -> StepFaultError | None:
    """Say so where an error of torch's exporter means a branch on values, else None.

    ``place`` is the user's line, where it is known; else it is looked for in the traceback.
    """
    chain = _chain(error)
    if not any(_tells(e) for e in chain):
        return None
    places = (_spell(traceback.extract_tb(e.__traceback__)) for e in chain)
    at = place or next(filter(None, places), "")
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
        leaves = getattr(func, "__name__", "") in _LEAVING
        if leaves and (place := _spell(traceback.extract_stack(limit=30))):
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
    out, err = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    try:
        with warnings.catch_warnings(action="ignore"), out, err:
            yield
    finally:
        logging.disable(level)


def _compare(probe: Probe, program: nn.Module, t: int, place: str) -> None:
    names = probe.names
    keys = [*(o.name for o in probe.contract.outputs), *(f"next state {n}" for n in names)]
    for stream in probe.streams:
        state = probe.start()
        for number in range(6):
            chunk = probe.chunk(stream, number, t)
            outputs, after = probe.call(chunk, state)
            seed_all(0)
            with torch.no_grad():
                found = program(chunk.clone(), *(state[n].clone() for n in names))
            expected = outputs | {f"next state {n}": after[n] for n in names}
            apart = beyond([(dict(zip(keys, found, strict=True)), expected)], CAPTURE_SHARE)
            if apart:
                name, by = furthest(apart)
                raise StepFaultError(
                    f"Python code decides by the values of a tensor ({place}), and torch's "
                    f"exporter keeps one side: `{name}` of the captured step differs "
                    f"{by} {where(probe.contract, chunk)}. Compute both sides and "
                    "choose with `torch.where(condition, a, b)`",
                    code="data-dependent",
                )
            state = after


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _tells(error: BaseException) -> bool:
    text = str(error).lower()
    return any(
        kind.__name__ in ("GuardOnDataDependentSymNode", "DataDependentOutputException")
        for kind in type(error).__mro__
    ) or any(part in text for part in _MEANS_A_BRANCH)


def _spell(stack: traceback.StackSummary) -> str:
    """Spell the innermost line that is neither torch's nor ours, as ``file:line: code``."""
    own = {__file__, str(probe_module.__file__)}
    for frame in reversed(stack):
        if _TORCH not in frame.filename and frame.filename not in own:
            code = linecache.getline(frame.filename, frame.lineno or 0).strip()
            name = Path(frame.filename).name
            return f"{name}:{frame.lineno}" + (f": `{code}`" if code else "")
    return ""
