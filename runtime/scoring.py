"""Score a prediction: how many bits of surprise the item that came is.

Shape letters: `V` vocabulary, `n` items.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.integer]
Logits = npt.NDArray[np.floating]


def surprise_bits(logits: Logits, items: Ids) -> Floats:
    """Return -log2 softmax(logits)[item], in float64.

    Args:
        logits: `[n, V]`, row i predicts `items[i]`.
        items: `[n]`, ids in `[0, V)`.

    Returns:
        `[n]` float64, bits.

    Raises:
        ValueError: the shapes do not fit.

    Examples:
        >>> surprise_bits(np.zeros((2, 256)), np.array([65, 66]))  # any byte is as likely
        array([8., 8.])
    """
    if logits.ndim != 2 or items.shape != logits.shape[:1]:
        raise ValueError(f"logits {list(logits.shape)} do not fit items {list(items.shape)}")
    if not len(items):
        return np.zeros(0)
    nats = -log_softmax(logits)[np.arange(len(items)), items]
    return np.asarray(nats / np.log(2.0), np.float64)


def log_softmax(logits: Logits) -> Floats:
    """Return the log-probabilities of logits `[..., V]`, in float64.

    Examples:
        >>> np.exp(log_softmax(np.zeros((1, 4)))).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True)), np.float64)
