"""The intake: a contract's chunk in, the buffers its items go to, normalised, out.

Shape letters: `B` batch, `T` items per chunk, `L` lookback, `A` look-ahead.
"""

import numpy as np
import numpy.typing as npt

from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Chunk, Tokens, window
from dst.runtime.execution.finite import Floats, pieces

Array = npt.NDArray[np.generic]

_UNSIGNED = {1: np.uint8, 4: np.uint32, 8: np.uint64}


class Intake:
    """The buffers of a step's input, made once.

    Attributes:
        raw: lookback, chunk and look-ahead as callers give them, L + T + A items on the time axis.
        feed: the same as the graph takes them; `raw` itself where nothing is normalised.
        vocabulary: how many ids there are; 0 for features.
        unsigned: the ids, flat and unsigned; None for features, or where every id is valid.
        floats: `feed` in pieces for `finite`; empty for tokens.
    """

    __slots__ = ("_mean", "_std", "feed", "floats", "raw", "unsigned", "vocabulary")

    def __init__(self, chunk: Chunk, t: int, batch: int = 1) -> None:
        self.raw: Array = np.zeros(sized(chunk.shape, window(chunk, t), batch), chunk.dtype)
        self.feed = self.raw
        self.vocabulary = 0
        self.unsigned: Array | None = None
        self.floats: list[Floats] = []
        self._mean: Array | None = None
        self._std: Array | None = None
        content = chunk.content
        if isinstance(content, Tokens):
            self.vocabulary = content.vocabulary
            if not (self.raw.itemsize == 1 and content.vocabulary == 256):
                # a negative id reads as a huge unsigned one: one comparison finds both
                self.unsigned = self.raw.reshape(-1).view(_UNSIGNED[self.raw.itemsize])
            return
        if content.normalisation is not None:
            self.feed = np.zeros_like(self.raw)
            row = sized(chunk.shape, 1)
            self._mean = np.asarray(content.normalisation.mean).astype(chunk.dtype).reshape(row)
            self._std = np.asarray(content.normalisation.std).astype(chunk.dtype).reshape(row)
        self.floats = pieces(self.feed)

    def normalise(self) -> None:
        """Bring `feed` up to date with `raw`."""
        if self._mean is not None and self._std is not None:
            np.subtract(self.raw, self._mean, out=self.feed)
            np.divide(self.feed, self._std, out=self.feed)
