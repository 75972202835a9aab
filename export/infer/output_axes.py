"""Find batch and time in the outputs of a module, by running it at other sizes.

Shape letters: ``B`` batch, ``T`` items per chunk.
"""

from dataclasses import dataclass

from torch import Tensor

from dst.export.errors import ExportError
from dst.export.infer.axes import Axes, Known, Prober, grown


@dataclass(frozen=True, slots=True)
class OutputAxes:
    """Where batch and time lie in an output.

    Attributes:
        batch: None where it has no batch axis.
        time: None where it answers once per chunk.
        whole: It has a row for every item that is read, lookback and lookahead too.
    """

    batch: int | None
    time: int | None
    whole: bool = False


def find_outputs(probe: Prober, axes: Axes, known: Known) -> dict[str, OutputAxes]:
    """Find batch and time in each output.

    Raises:
        ExportError: `step-contract`: an output has as many items as neither the chunk nor a fixed
            number.
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
        others = [t + known.extra for t in known.sizes if t + known.extra != here]
        there = max(others, default=here + 1)
        longer, _ = probe.call(probe.resized(axes, one, there), probe.states(axes, one))
    found: dict[str, OutputAxes] = {}
    for name, tensor in base.items():
        batch = None
        if batched is not None:
            batch = grown(tensor, batched[name], 1, 3)
        elif axes.batch is not None and tensor.dim() > axes.batch and tensor.shape[axes.batch] == 1:
            batch = axes.batch
        time, whole = None, False
        if axes.time is not None:
            time, whole = _time_of(
                name, tensor, None if longer is None else longer[name], (here, there), batch, known
            )
        found[name] = OutputAxes(batch, time, whole)
    return found


def _time_of(
    name: str,
    base: Tensor,
    longer: Tensor | None,
    sizes: tuple[int, int],
    batch: int | None,
    known: Known,
) -> tuple[int | None, bool]:
    """Return the time axis of an output, and whether it has a row for every item that is read."""
    here, there = sizes
    for less in dict.fromkeys((known.extra, 0)):
        lengths = (here - less, there - less)
        if longer is not None:
            axis = grown(base, longer, *lengths)
        else:
            fits = [i for i, n in enumerate(base.shape) if n == lengths[0] and i != batch]
            axis = fits[0] if fits else None
        if axis is not None:
            return axis, less < known.extra
    one = len(known.sizes) == 1  # then no other length is ever asked for
    if longer is not None and base.shape != longer.shape and not one:
        raise ExportError(
            f"output `{name}` is {list(base.shape)} for T = {here - known.extra} and "
            f"{list(longer.shape)} for T = {there - known.extra}; expected one row for each "
            "item, or the same shape always; give one T only, t=(n,), to have it per chunk",
            code="output-length",
        )
    return None, False
