"""Find batch and time in the outputs of a module, by running it at other sizes.

Shape letters: ``B`` batch, ``T`` items per chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dst.export.axes import Axes, Hints, Prober, grown
from dst.export.errors import StepContractError


@dataclass(frozen=True, slots=True)
class OutputAxes:
    """Where batch and time lie in an output.

    Attributes:
        batch: None where it has no batch axis.
        time: None where it answers once per chunk.
        trim: Items at the start that answer for the lookback.
    """

    batch: int | None
    time: int | None
    trim: int = 0


def find_outputs(probe: Prober, axes: Axes, hints: Hints) -> dict[str, OutputAxes]:
    """Find batch and time in each output.

    Raises:
        StepContractError: an output has as many items as neither the chunk nor a fixed number.
    """
    one = 1 if axes.any_batch else None
    base, _ = probe.call(probe.resized(axes, one), probe.states(axes, one))
    batched = None
    if axes.any_batch:
        batched, _ = probe.call(probe.resized(axes, 3), probe.states(axes, 3))
    here = 1 if axes.time is None else probe.chunk.shape[axes.time]
    there = here
    longer = None
    if axes.time is not None and axes.free:
        others = [t + hints.lookback for t in hints.sizes if t + hints.lookback != here]
        there = max(others, default=here + 1)
        longer, _ = probe.call(probe.resized(axes, one, there), probe.states(axes, one))
    found: dict[str, OutputAxes] = {}
    for name, tensor in base.items():
        batch = None
        if batched is not None:
            batch = grown(tensor, batched[name], 1, 3)
        elif axes.batch is not None and tensor.dim() > axes.batch and tensor.shape[axes.batch] == 1:
            batch = axes.batch
        time, trim = None, 0
        if axes.time is not None:
            time, trim = _time_of(
                name, tensor, None if longer is None else longer[name], (here, there), batch, hints
            )
        found[name] = OutputAxes(batch, time, trim)
    return found


def _time_of(
    name: str,
    base: Tensor,
    longer: Tensor | None,
    sizes: tuple[int, int],
    batch: int | None,
    hints: Hints,
) -> tuple[int | None, int]:
    """Return the time axis of an output and what to cut from its start."""
    here, there = sizes
    for trim in dict.fromkeys((hints.lookback, 0)):
        # an output of T items, or of lookback + T of which the first answer for the past
        start = hints.lookback - trim
        lengths = (here - trim, there - trim)
        if longer is not None:
            axis = grown(base, longer, *lengths)
        else:
            fits = [i for i, n in enumerate(base.shape) if n == lengths[0] and i != batch]
            axis = fits[0] if fits else None
        if axis is not None:
            return axis, start
    if longer is not None and base.shape != longer.shape:
        raise StepContractError(
            f"output `{name}` is {list(base.shape)} for T = {here - hints.lookback} and "
            f"{list(longer.shape)} for T = {there - hints.lookback}; expected one row for each "
            "item, or the same shape always; give one T only, t=(n,), to have it per chunk",
            code="output-length",
        )
    return None, 0
