"""Surprise: logits and the items that came in, bits per item out.

Shape letters: `V` vocabulary, `n` items.
"""

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.float64]
Ids = npt.NDArray[np.integer]
Logits = npt.NDArray[np.floating]


def surprise_bits(logits: Logits, items: Ids) -> Bits:
    """Return -log2 softmax(logits)[item], in float64.

    Args:
        logits: `[n, V]`, row i predicts `items[i]`.
        items: `[n]`, ids in `[0, V)`.

    Returns:
        `[n]` float64, bits.

    Raises:
        ValueError: the shapes do not fit.
    """
    if logits.ndim != 2 or items.shape != logits.shape[:1]:
        raise ValueError(f"logits {list(logits.shape)} do not fit items {list(items.shape)}")
    scores = logits.astype(np.float64)
    if not len(scores):
        return np.zeros(0)
    scores -= scores.max(axis=1, keepdims=True)
    nats = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(items)), items]
    return np.asarray(nats / np.log(2.0), np.float64)


class Scorer:
    """Joins the items that go into a stream with the logits that come out, whenever they come.

    The logits of item i predict item i + 1. Nothing predicts the first item; it costs
    log2(V) bits, what a coder pays who knows nothing.
    """

    __slots__ = ("_items", "_rows")

    def __init__(self, vocabulary: int) -> None:
        self._items: Ids = np.zeros(0, np.int64)
        self._rows: Logits = np.zeros((1, vocabulary), np.float32)  # equal logits: log2(V) bits

    def feed(self, items: Ids, logits: Logits) -> Bits:
        """Take new items `[n]` and new logits `[m, V]`; return the bits now known, in order.

        `logits` may belong to items of earlier calls: a stream answers when its chunk is full.

        Raises:
            ValueError: more logits than items were ever given, or another V.
        """
        waiting = np.concatenate([self._items, items])
        rows = np.concatenate([self._rows, logits])
        known = min(len(rows), len(waiting))
        if len(rows) - known > 1:
            raise ValueError(f"{len(rows) - known - 1} logits more than items were given")
        bits = surprise_bits(rows[:known], waiting[:known])
        self._items, self._rows = waiting[known:].copy(), rows[known:].copy()
        return bits
