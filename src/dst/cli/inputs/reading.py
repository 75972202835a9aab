"""Read items as they arrive; give each its score and its answers, in constant memory.

Where the outputs of an item predict the next one, a reading holds the newest item back: it is
scored at once and stepped when another follows, or waits in the saved state for the next
reading, whose first item it then predicts. Cutting an input in two changes no score.

Each item is answered in the run in which it came. Items that wait in a saved state were answered
before the state was saved.

Where the tail rule is `pad` or `refuse`, the items of the last chunk are answered but not
stepped: they go on waiting, so that the next run cuts chunks at the same positions.

Shape letters: `T` items per chunk, `n` items of any number.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from dst.cli.answers.rows import Answers
from dst.cli.answers.scores import Floats, Measure, measure_for
from dst.cli.errors import WrongUseError
from dst.runtime import Session, Snapshot, Stream
from dst.runtime.bundle.layout import fixed, laid_out, rows_of
from dst.runtime.errors import SessionError
from dst.runtime.execution.chunking import join

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Scored:
    """What became known of some items."""

    items: Array  # `[n, ...]`: those scored, or where the model predicts none, those answered for
    scores: Floats | None  # `[n]`, None where the model predicts none
    number: int  # the number of the first of them, counted from 1 at the start of the stream
    answers: Answers | None = None  # of the model, and for which items; None where nobody asked

    @property
    def total(self) -> float:
        """The sum of the scores; 0 where there are none."""
        return 0.0 if self.scores is None else float(self.scores.sum())


class Reading:
    """A stream that reads on a fixed grid of `t` items, scores what it reads and answers for it."""

    def __init__(
        self, stream: Stream, t: int | None, measure: Measure | None, answering: bool = False
    ) -> None:
        """Take over a stream; items that wait in it count as scored and answered.

        Under the tail rule `refuse` a model answers only whole chunks. If part of a chunk waits,
        only its first item counts as scored; the others are scored and answered in this run.
        `t` is None for the nominal number of items per chunk.

        Raises:
            SessionError: `chunk-size`: the session does not run this T.
        """
        self._contract, self._sizes = stream.engine.contract, stream.engine.chunk_sizes
        self._chunk = self._contract.chunk
        self.t = self._chunk.nominal_t if t is None else t
        if self.t not in self._sizes:
            raise SessionError(
                f"T = {self.t}: this bundle runs T = {list(self._sizes)}", code="chunk-size"
            )
        self._stream, self._measure, self._answering = stream, measure, answering
        self._ahead = 0 if measure is None else 1  # items kept to predict the next from
        self._behind = self._chunk.lookahead  # items that a step wants behind its chunk
        before = stream.snapshot()
        self._held = before.pending  # items not stepped yet
        self._kept = len(self._held)  # of these, the items that a saved state holds
        part = self._part(self._kept)
        self._skip = 0 if part else max(0, self._kept - 1)  # scored, apart from the first
        self._told = 0 if part else self._kept  # answered for
        stream.restore(replace(before, pending=before.pending[:0]))

    @property
    def waiting(self) -> int:
        """Items that were read and are not in the state."""
        return len(self._held)

    @property
    def items(self) -> int:
        """Items in the state that `save` would write, those that wait included."""
        return self._stream.items_consumed + self._kept

    def read(self, items: Array) -> Iterator[Scored]:
        """Take items `[n, ...]` and step every chunk they fill; yields after each step."""
        if not len(items):
            return
        alone = not len(self._held)
        self._held = np.concatenate([self._held, items])
        if alone and self._measure is not None:
            self._kept = 1
            if self._measure.first is not None:  # nothing predicts the first item
                number = self._stream.items_consumed + 1
                yield Scored(items[:1], np.array([self._measure.first]), number)
        while len(self._held) >= self.t + max(self._ahead, self._behind):
            yield self._step(self.t)

    def settle(self) -> Iterator[Scored]:
        """Step all but what is held back, in smaller chunks, where the tail rule allows it.

        The grid starts anew here. Items held back are answered for as well.
        """
        if self._chunk.tail != "exact":
            return
        while (left := len(self._held) - self._ahead) > 0:
            fitting = [t for t in self._sizes if t <= min(left, self.t)]
            if not fitting:
                raise SessionError(
                    f"{left} items are left that no chunk of T = {list(self._sizes)} can hold",
                    code="chunk-size",
                )
            yield self._step(max(fitting))
        if self._answering and len(self._held) > self._told:
            yield self._answered(len(self._held))

    def end(self) -> Iterator[Scored]:
        """Answer for everything that came, by the contract's tail rule.

        Raises:
            PartialChunkError: a part of a chunk waits under the tail rule `refuse`.
        """
        yield from self.settle()
        if self._chunk.tail == "exact" or not len(self._held):
            return
        outputs, answers = self._foreseen(len(self._held))
        if self._measure is None:
            fresh = self._held[len(self._held) - answers.count :]
            yield Scored(fresh, None, answers.first, answers)
        else:
            last = len(self._held) - 1
            yield self._score(outputs, self._stream.items_consumed, last, answers)
            self._skip = last
        self.keep()

    def keep(self) -> None:
        """Let all items that came wait in the state that `save` writes, answered for or not."""
        self._kept = len(self._held)

    def catch_up(self) -> Iterator[Scored]:
        """Answer for the items that `save` would write; the next reading takes them as answered."""
        if self._answering and self._kept > self._told and not self._part(self._kept):
            yield self._answered(self._kept)

    def save(self, path: Path) -> None:
        """Save the stream and the items that wait: the newest scored, and those kept with it."""
        now = self._stream.snapshot()
        self._stream.restore(self.record())
        try:
            self._stream.save(path)
        finally:
            self._stream.restore(now)

    def record(self) -> Snapshot:
        """The state that `save` would write."""
        return replace(self._stream.snapshot(), pending=self._held[: self._kept].copy())

    def _part(self, count: int) -> bool:
        """Whether part of so many items has to wait, by the tail rule `refuse`."""
        return self._chunk.tail == "refuse" and bool(count and (self._behind or count % self.t))

    def _answered(self, count: int) -> Scored:
        """Answer for the first items held, and score nothing."""
        answers = self._foreseen(count)[1]
        return Scored(self._held[:0], None, answers.first, answers)

    def _foreseen(self, count: int) -> tuple[dict[str, Array], Answers]:
        """Answer for the first items held by the tail rule, and go back to where the stream stood.

        Returned are the outputs of these items, and the answers for those that had none yet.
        """
        before, base = self._stream.snapshot(), self._stream.items_consumed
        try:
            first, second = self._stream.advance(self._held[:count]), self._stream.flush()
        finally:
            self._stream.restore(before)
        outputs = join(self._contract, first, second)
        nominal = self._chunk.nominal_t
        ends = [*range(nominal, count + 1, nominal), *([count] if count % nominal else [])]
        answers = self._answers(outputs, base, count, ends, stacked=True)
        self._told = max(self._told, count)
        return outputs, answers

    def _step(self, t: int) -> Scored:
        """Step the first T held items; their outputs score the items one later."""
        chunk = laid_out(self._chunk, self._held[: t + self._behind])
        base = self._stream.items_consumed
        outputs = self._stream.step(chunk, copy=False)
        told = self._told
        answers = self._answers(outputs, base, t, [t]) if self._answering else None
        if self._measure is None:
            old = min(told, t)
            scored = Scored(self._held[old:t], None, base + old + 1, answers)
        else:
            scored = self._score(outputs, base, t, answers)
        self._held = self._held[t:]
        self._kept = max(self._ahead, self._kept - t)
        self._told = max(0, told - t)
        return scored

    def _answers(
        self,
        outputs: dict[str, Array],
        base: int,
        count: int,
        ends: list[int],
        stacked: bool = False,
    ) -> Answers:
        """Lay out the outputs for the `count` items after `base`, without those given before.

        `ends` says how many of these there were at the end of each chunk. The outputs are those of
        one step, or with `stacked` those of `Stream.advance`: outputs per chunk then have an axis
        for chunks in front.
        """
        told = min(self._told, count)
        items, chunks = {}, {}
        late = [place for place, end in enumerate(ends) if end > told]
        for o in self._contract.outputs:
            value = outputs[o.name]
            if o.time_axis is not None:
                items[o.name] = rows_of(o.shape, value)[told:count].copy()
            elif stacked:
                none = np.empty((0, *fixed(o.shape)), o.dtype)
                chunks[o.name] = np.concatenate(
                    [none, *(rows_of(o.shape, value[at]) for at in late)]
                )
            else:
                chunks[o.name] = rows_of(o.shape, value)[: len(late)].copy()
        numbers = tuple(base + ends[at] for at in late)
        return Answers(base + told + 1, count - told, items, chunks, numbers)

    def _score(
        self, outputs: dict[str, Array], base: int, t: int, answers: Answers | None
    ) -> Scored:
        """Score the items that the first T held ones predict; `base` items are in the state."""
        drop, self._skip = min(t, self._skip), max(0, self._skip - t)
        scores = None
        if self._measure is not None:
            scores = self._measure.score(outputs, self._held[1 : t + 1])[drop:]
        return Scored(self._held[1 + drop : t + 1], scores, base + drop + 2, answers)


def reading_of(
    session: Session,
    state: Path | None,
    t: int | None,
    answering: bool = False,
    inputs: Mapping[str, Array] | None = None,
) -> Reading:
    """Start a reading, or continue the one that was saved to `state`, if that file exists.

    A saved state brings the inputs of its stream.
    """
    if state is None or not state.exists():
        stream = session.stream(inputs=inputs)
    elif inputs:
        raise WrongUseError(
            f"--stream-input: {state} exists and brings the inputs of its stream; leave the option "
            "out, or give --state a new name"
        )
    else:
        stream = Stream.load(session, state)
    return Reading(stream, t, measure_for(session.contract), answering)
