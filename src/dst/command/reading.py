"""Reading: items as they arrive go in, each item with its score comes out, in constant memory.

The outputs of an item predict the next one. So a reading holds the newest item back: it is
scored at once and stepped when another follows, or waits in the saved state for the next
reading, whose first item it then predicts. Cutting an input in two changes no score.

Where the tail rule is `pad` or `refuse`, the items of the last chunk are answered for but not
stepped: they wait with the newest, so that the grid of the next reading is the same.

Shape letters: `T` items per chunk, `n` items of any number.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dst.command.measure import Floats, Measure, measure_for
from dst.runtime import Session, Stream
from dst.runtime.errors import ChunkSizeError
from dst.runtime.plan import by_item
from dst.runtime.state import sized

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Scored:
    """A run of items `[n, ...]` and their scores `[n]`, None where the model predicts none."""

    items: Array
    scores: Floats | None


class Reading:
    """A stream that reads on a fixed grid of T and scores what it reads."""

    __slots__ = ("_contract", "_held", "_kept", "_measure", "_sizes", "_skip", "_stream", "_t")

    def __init__(self, stream: Stream, t: int | None, measure: Measure | None) -> None:
        """Take over a stream; items that wait in it count as scored.

        Under the tail rule `refuse`, which answers for whole chunks only, just the first of a
        part of a chunk does: the rest is scored now.

        Args:
            stream: fresh or loaded.
            t: items per chunk, None for the nominal number.
            measure: how items are scored.

        Raises:
            ChunkSizeError: the session does not run this T.
        """
        engine = stream.engine
        self._contract = engine.contract
        self._sizes = engine.chunk_sizes
        self._t = self._contract.chunk.nominal_t if t is None else t
        if self._t not in self._sizes:
            raise ChunkSizeError(f"T = {self._t}: this bundle runs T = {list(self._sizes)}")
        self._stream = stream
        self._measure = measure
        before = stream.snapshot()
        self._held = before.pending  # items not stepped yet; all but the newest move on soon
        self._kept = len(self._held)  # of these, the items that a saved state holds
        part = self._contract.chunk.tail == "refuse" and self._kept % self._t
        self._skip = 0 if part else max(0, self._kept - 1)  # scored, apart from the first
        stream.restore(replace(before, pending=before.pending[:0]))

    @property
    def t(self) -> int:
        """Items per chunk."""
        return self._t

    @property
    def items(self) -> int:
        """Items in the state that `save` would write, those that wait included."""
        return self._stream.items_consumed + self._kept

    def read(self, items: Array) -> Iterator[Scored]:
        """Take items `[n, ...]` and step every chunk they fill; yields after each step.

        Raises:
            StepError: the items do not fit, or a step failed; the reading stands before it.
        """
        if not len(items):
            return
        alone = not len(self._held)
        self._held = np.concatenate([self._held, items])
        if alone:
            self._kept = 1
            yield from self._unforeseen()
        while len(self._held) > self._t:
            yield self._step(self._t)

    def settle(self) -> Iterator[Scored]:
        """Step all but the newest item, in smaller chunks, where the tail rule allows it.

        The grid starts anew here.

        Raises:
            ChunkSizeError: no chunk of this session is small enough.
            StepError: a step failed.
        """
        if self._contract.chunk.tail != "exact":
            return
        while (left := len(self._held) - 1) > 0:
            fitting = [t for t in self._sizes if t <= min(left, self._t)]
            if not fitting:
                raise ChunkSizeError(
                    f"{left} items are left that no chunk of T = {list(self._sizes)} can hold"
                )
            yield self._step(max(fitting))

    def end(self) -> Iterator[Scored]:
        """Answer for everything that came, by the contract's tail rule.

        Raises:
            PartialChunkError: a part of a chunk waits under the tail rule `refuse`.
            StepError: a step failed.
        """
        yield from self.settle()
        if self._contract.chunk.tail == "exact" or not len(self._held):
            return
        before = self._stream.snapshot()
        try:
            first, second = self._stream.advance(self._held), self._stream.flush()
        finally:
            self._stream.restore(before)
        last = len(self._held) - 1
        joined = {
            o.name: np.concatenate([first[o.name], second[o.name]], axis=o.time_axis)
            for o in self._contract.outputs
            if o.time_axis is not None
        }
        scored = self._score(joined, self._held, last)
        self._skip = last
        self.keep()
        yield scored

    def keep(self) -> None:
        """Let all items that came wait in the state that `save` writes, answered for or not."""
        self._kept = len(self._held)

    def save(self, path: Path) -> None:
        """Save the stream and the items that wait: the newest scored, and those kept with it.

        Raises:
            StateError: the state cannot be written.
            NonFiniteStateError: the state holds a NaN or an infinity.
        """
        now = self._stream.snapshot()
        self._stream.restore(replace(now, pending=self._held[: self._kept].copy()))
        try:
            self._stream.save(path)
        finally:
            self._stream.restore(now)

    def _unforeseen(self) -> Iterator[Scored]:
        """Answer for the first item, which nothing predicts."""
        if self._measure is not None and self._measure.first is not None:
            yield Scored(self._held[:1], np.array([self._measure.first]))

    def _step(self, t: int) -> Scored:
        """Step the first T held items; their outputs score the items one later."""
        chunk = np.empty(sized(self._contract.chunk.shape, t), self._contract.chunk.dtype)
        by_item(self._contract, chunk)[:] = self._held[:t]
        outputs = self._stream.step(chunk, copy=False)
        scored = self._score(outputs, self._held, t)
        self._held = self._held[t:]
        self._kept = max(1, self._kept - t)
        return scored

    def _score(self, outputs: dict[str, Array], held: Array, t: int) -> Scored:
        drop, self._skip = min(t, self._skip), max(0, self._skip - t)
        scores = None
        if self._measure is not None:
            scores = self._measure.score(outputs, held[1 : t + 1])[drop:]
        return Scored(held[1 + drop : t + 1], scores)


def reading_of(session: Session, state: Path | None, t: int | None) -> Reading:
    """Start a reading, or continue the one that was saved to `state`, if that file exists.

    Raises:
        StateError: the state cannot be used here.
        ChunkSizeError: the session does not run this T.
    """
    known = state is not None and state.exists()
    stream = Stream.load(session, state) if state is not None and known else session.stream()
    return Reading(stream, t, measure_for(session.contract))
