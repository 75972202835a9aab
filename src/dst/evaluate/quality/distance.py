"""Compare the outputs of two forms of a step, item by item.

Shape letters: `T` items per chunk, `V` classes, `F` features, `O` outputs that are compared.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.layout import rows_of
from dst.runtime.bundle.manifest import Contract, Features, Output, Tokens
from dst.runtime.scoring import log_softmax

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]
Outputs = Mapping[str, Array]

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class Distance(NamedTuple):
    """How far the outputs of one step are from the reference, per item.

    `error` `[T, O]` is KL in nats, or squared errors summed over an item; `scale` `[T, O]` is one
    where KL was taken, or the squared reference. `losses` `[T, 2]` are those of the item that
    followed, in nats, for the reference and the other; None where the outputs predict none.
    """

    error: Floats
    scale: Floats
    losses: Floats | None


class Divergence(NamedTuple):
    """How the `places` = `O` outputs of one contract are compared.

    `unit` is `nats` (KL per item) or `relative` (error over the rms of the reference);
    `judges_loss` says whether the outputs predict the next item. `distance` takes the outputs of
    the reference, those of the other, and the items `[T, ...]` that follow those of the chunk.
    """

    unit: Literal["nats", "relative"]
    places: int
    judges_loss: bool
    distance: Callable[[Outputs, Outputs, Array], Distance]


def divergence_for(contract: Contract) -> Divergence:
    """Choose the comparison: KL where an output is a distribution, else the relative error.

    Logits give the KL of their softmax, and the loss of the next token where they range over the
    vocabulary. `mean` and `log_std` of meaning `gaussian` give KL and the loss of the next
    features, in the units of the graph's input. Several logits outputs are averaged.
    """
    logits = [o for o in contract.outputs if o.meaning == "logits"]
    if logits:
        return _categorical(contract, logits)
    heads = {o.name: o for o in contract.outputs if o.meaning == "gaussian" and o.per == "item"}
    content = contract.chunk.content
    if {"mean", "log_std"} <= heads.keys() and isinstance(content, Features):
        return _gaussian(heads["mean"], heads["log_std"], content)
    floats = [o for o in contract.outputs if o.dtype.startswith("float")]
    return _relative(floats or list(contract.outputs))


def rows(output: Output, value: Array) -> Floats:
    """View one output, B = 1, as float64 `[T, ...]`, or `[1, ...]` where it is one per chunk."""
    return np.asarray(rows_of(output.shape, value), np.float64)


def _categorical(contract: Contract, logits: Sequence[Output]) -> Divergence:
    content = contract.chunk.content
    next_token = None
    if isinstance(content, Tokens):
        shape = ("B", "T", content.vocabulary)
        next_token = next((o.name for o in logits if o.shape == shape), None)

    def distance(reference: Outputs, other: Outputs, following: Array) -> Distance:
        error = np.zeros((len(following), len(logits)))
        scale = np.zeros_like(error)
        losses = None
        for place, output in enumerate(logits):
            p = log_softmax(rows(output, reference[output.name]))
            q = log_softmax(rows(output, other[output.name]))
            each = (np.exp(p) * (p - q)).sum(axis=-1).reshape(len(p), -1).mean(axis=1)
            error[-len(p) :, place] = np.maximum(each, 0.0)  # rounding may go below 0
            scale[-len(p) :, place] = 1.0
            if output.name == next_token:
                at = np.arange(len(p)), following.astype(np.int64)
                losses = -np.stack([p[at], q[at]], axis=1)
        return Distance(error, scale, losses)

    return Divergence("nats", len(logits), next_token is not None, distance)


def _gaussian(mean: Output, log_std: Output, content: Features) -> Divergence:
    norm = content.normalisation

    def nats(seen: Floats, m: Floats, s: Floats) -> Floats:
        each = 0.5 * ((seen - m) * np.exp(-s)) ** 2 + s + _HALF_LOG_TAU
        return np.asarray(each.reshape(len(each), -1).sum(axis=1), np.float64)

    def distance(reference: Outputs, other: Outputs, following: Array) -> Distance:
        seen = following.astype(np.float64)
        if norm is not None:
            mean_of, std_of = (np.reshape(v, seen.shape[1:]) for v in (norm.mean, norm.std))
            seen = (seen - mean_of) / std_of
        m, s = rows(mean, reference["mean"]), rows(log_std, reference["log_std"])
        n, r = rows(mean, other["mean"]), rows(log_std, other["log_std"])
        each = r - s + 0.5 * (np.exp(2 * (s - r)) + ((m - n) * np.exp(-r)) ** 2 - 1.0)
        error = np.maximum(each.reshape(len(each), -1).sum(axis=1), 0.0)[:, None]
        losses = np.stack([nats(seen, m, s), nats(seen, n, r)], axis=1)
        return Distance(error, np.ones_like(error), losses)

    return Divergence("nats", 1, True, distance)


def _relative(outputs: Sequence[Output]) -> Divergence:
    def distance(reference: Outputs, other: Outputs, following: Array) -> Distance:
        error = np.zeros((len(following), len(outputs)))
        scale = np.zeros_like(error)
        for place, output in enumerate(outputs):
            right = rows(output, reference[output.name])
            off = rows(output, other[output.name]) - right
            error[-len(right) :, place] = (off * off).reshape(len(right), -1).sum(axis=1)
            scale[-len(right) :, place] = (right * right).reshape(len(right), -1).sum(axis=1)
        return Distance(error, scale, None)

    return Divergence("relative", len(outputs), False, distance)
