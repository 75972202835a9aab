"""How well a model foresaw its input: a contract goes in, a score per item comes out.

Shape letters: `n` items, `V` vocabulary, `F` features.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dst.runtime.manifest import Contract, Features, Tokens
from dst.runtime.surprise import surprise_bits

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]
Outputs = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Measure:
    """A score per item.

    Attributes:
        unit: `bits` for tokens, `nats` for feature vectors.
        first: what an item costs that nothing predicts; None where it is not counted.
        score: outputs of at least n items and the n items they predict -> `[n]` float64.
    """

    unit: Literal["bits", "nats"]
    first: float | None
    score: Callable[[Outputs, Array], Floats]


def measure_for(contract: Contract) -> Measure | None:
    """Find out how to score items by this model's outputs; None where it predicts none.

    Logits give -log2 p(item). `mean` and `log_std` of meaning `gaussian` give the negative log
    density in nats per item, in the units of the graph's input (after normalisation).
    """
    content = contract.chunk.content
    if isinstance(content, Tokens):
        shape = ("B", "T", content.vocabulary)
        for output in contract.outputs:
            if output.meaning == "logits" and output.shape == shape:
                return _bits(output.name, content.vocabulary)
        return None
    heads = {
        o.name
        for o in contract.outputs
        if o.meaning == "gaussian" and o.shape[:2] == ("B", "T") == contract.chunk.shape[:2]
    }
    return _nats(content) if heads >= {"mean", "log_std"} else None


def _bits(name: str, vocabulary: int) -> Measure:
    def score(outputs: Outputs, items: Array) -> Floats:
        rows = outputs[name][0, : len(items)].astype(np.float64)
        return surprise_bits(rows, items.astype(np.int64))

    return Measure("bits", math.log2(vocabulary), score)


def _nats(features: Features) -> Measure:
    norm = features.normalisation
    half_log_tau = 0.5 * math.log(2 * math.pi)

    def score(outputs: Outputs, items: Array) -> Floats:
        seen = items.astype(np.float64)
        if norm is not None:
            mean_of, std_of = (np.reshape(v, seen.shape[1:]) for v in (norm.mean, norm.std))
            seen = (seen - mean_of) / std_of
        mean = outputs["mean"][0, : len(items)].astype(np.float64)
        log_std = outputs["log_std"][0, : len(items)].astype(np.float64)
        nats = 0.5 * ((seen - mean) * np.exp(-log_std)) ** 2 + log_std + half_log_tau
        return np.asarray(nats.reshape(len(items), -1).sum(axis=1), np.float64)

    return Measure("nats", None, score)
