"""Find batch and time in the outputs of a module, by running it at other sizes."""

from typing import NamedTuple

from dst.export.errors import ExportError
from dst.export.infer.axes import Axes, Known, Prober, grown
from dst.export.infer.call import Tensors


class OutputAxes(NamedTuple):
    """Where batch and time lie in an output, each None where it has no such axis.

    ``whole`` says that it has a row for every item that is read, lookback and lookahead too.
    """

    batch: int | None
    time: int | None
    whole: bool = False


def find_outputs(probe: Prober, axes: Axes, known: Known) -> dict[str, OutputAxes]:
    """Find batch and time in each output."""
    one = 1 if axes.any_batch else None

    def outputs(batch: int | None, t: int | None = None) -> Tensors:
        return probe.call(probe.resized(axes, batch, t), probe.states(axes, batch))[0]

    base, batched = outputs(one), outputs(3) if axes.any_batch else None
    here = there = 1 if axes.time is None else probe.chunk.shape[axes.time]
    longer: Tensors | None = None
    if axes.time is not None and axes.free:
        others = [t + known.extra for t in known.sizes if t + known.extra != here]
        there = max(others, default=here + 1)
        longer = outputs(one, there)
    found: dict[str, OutputAxes] = {}
    for name, tensor in base.items():
        batch = None
        if batched is not None:
            batch = grown(tensor, batched[name], 1, 3)
        elif axes.batch is not None and tensor.dim() > axes.batch and tensor.shape[axes.batch] == 1:
            batch = axes.batch
        found[name] = OutputAxes(batch, None)
        if axes.time is None:
            continue
        for less in dict.fromkeys((known.extra, 0)):
            if longer is None:
                fits = (i for i, n in enumerate(tensor.shape) if n == here - less and i != batch)
                time = next(fits, None)
            else:
                time = grown(tensor, longer[name], here - less, there - less)
            if time is not None:
                found[name] = OutputAxes(batch, time, less < known.extra)
                break
        if time is not None or longer is None or len(known.sizes) == 1:
            continue  # with one T, no other length is ever asked for
        if tensor.shape != longer[name].shape:
            raise ExportError(
                f"output `{name}` is {list(tensor.shape)} for T = {here - known.extra} and "
                f"{list(longer[name].shape)} for T = {there - known.extra}; expected one row for "
                "each item, or the same shape always; give one T only, t=(n,), to have it per "
                "chunk",
                code="output-length",
            )
    return found
