"""Score each item by how well the model foresaw it, from what its outputs predict.

Shape letters: `n` items, `V` vocabulary, `F` features, `Q` quantile levels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.manifest import Contract, Features, Output, Tokens
from dst.runtime.scoring import surprise_bits

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]
Outputs = Mapping[str, Array]
Unit = Literal["bits", "nats", "quantile loss"]


@dataclass(frozen=True, slots=True)
class Measure:
    """A score per item."""

    unit: Unit  # `bits` for tokens; for feature vectors `nats`, or `quantile loss`
    first: float | None  # what an item costs that nothing predicts; None where it is not counted
    # outputs of at least n items and the n items they predict -> `[n]` float64
    score: Callable[[Outputs, Array], Floats]


def measure_for(contract: Contract) -> Measure | None:
    """Find out how to score items by this model's outputs; None where it predicts none.

    Logits give -log2 p(item). `mean` and `log_std` of meaning `gaussian` give the negative log
    density in nats per item. Quantiles give the mean quantile loss over their levels, summed over
    features: for the level q and a miss d = item - quantile it is max(q d, (q - 1) d). The last
    two are in the units of the graph's input (after normalisation).
    """
    content = contract.chunk.content
    if isinstance(content, Tokens):
        shape = ("B", "T", content.vocabulary)
        for output in contract.outputs:
            if output.meaning == "logits" and output.shape == shape:
                return _bits(output.name, content.vocabulary)
        return None
    if contract.chunk.shape[:2] != ("B", "T"):
        return None
    heads = {
        o.name for o in contract.outputs if o.meaning == "gaussian" and o.shape[:2] == ("B", "T")
    }
    if heads >= {"mean", "log_std"}:
        return _nats(content)
    for output in contract.outputs:
        if output.meaning == "quantiles" and output.shape[:-1] == contract.chunk.shape:
            return _loss(output, content)
    return None


def _bits(name: str, vocabulary: int) -> Measure:
    def score(outputs: Outputs, items: Array) -> Floats:
        rows = outputs[name][0, : len(items)].astype(np.float64)
        return surprise_bits(rows, items.astype(np.int64))

    return Measure("bits", math.log2(vocabulary), score)


def _nats(features: Features) -> Measure:
    half_log_tau = 0.5 * math.log(2 * math.pi)

    def score(outputs: Outputs, items: Array) -> Floats:
        seen = _normalised(features, items)
        mean = outputs["mean"][0, : len(items)].astype(np.float64)
        log_std = outputs["log_std"][0, : len(items)].astype(np.float64)
        nats = 0.5 * ((seen - mean) * np.exp(-log_std)) ** 2 + log_std + half_log_tau
        return np.asarray(nats.reshape(len(items), -1).sum(axis=1), np.float64)

    return Measure("nats", None, score)


def _loss(output: Output, features: Features) -> Measure:
    levels = np.asarray(output.levels)

    def score(outputs: Outputs, items: Array) -> Floats:
        quantiles = outputs[output.name][0, : len(items)].astype(np.float64)
        miss = _normalised(features, items)[..., None] - quantiles
        loss = np.maximum(levels * miss, (levels - 1) * miss).mean(axis=-1)
        return np.asarray(loss.reshape(len(items), -1).sum(axis=1), np.float64)

    return Measure("quantile loss", None, score)


def _normalised(features: Features, items: Array) -> Floats:
    """The items as the graph sees them."""
    seen = items.astype(np.float64)
    norm = features.normalisation
    if norm is None:
        return seen
    mean, std = (np.reshape(np.asarray(v), seen.shape[1:]) for v in (norm.mean, norm.std))
    return np.asarray((seen - mean) / std, np.float64)
