"""Step one stream on chunks or items, and save, copy or reset what it remembers.

Shape letters: `B` batch (1), `T` items per chunk, `n` items of any number.
"""

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dst.runtime.execution import chunking
from dst.runtime.execution.checkpoint import put_record, put_saved, to_finite_record, to_record
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.inputs import GivenInputs, Items, check_chunk, check_items
from dst.runtime.execution.recurrence import BadStateError, Recurrence
from dst.runtime.execution.step import BoundStep, deadline
from dst.runtime.forking import Forking
from dst.runtime.long_input import Cancel, advance_in_chunks
from dst.runtime.state.file import Place, read_record, write_record
from dst.runtime.state.record import Saved, Snapshot
from dst.runtime.state.sampler import Sampler

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]


class Stream(Forking):
    """One live recurrence. Make it with `Session.stream`; use it from one thread at a time.

    Every method is transactional: if it raises, whatever it raises, the stream is as it was
    before the call (`NonFiniteError` alone may put it further back, and says so).

    Examples:
        >>> from dst.runtime import Session
        >>> stream = Session.open("text").stream()
        >>> outputs = stream.advance(b"any number of bytes")  # whole chunks; the rest waits
        >>> rest = stream.flush()  # and now answers too
        >>> stream.items_consumed, stream.pending
        (19, 0)
        >>> before = stream.snapshot()
        >>> outputs = stream.advance(b"a guess that is taken back, and a bit more of it")
        >>> stream.restore(before)
        >>> stream.items_consumed
        19
    """

    __slots__ = ("_chunk", "_core", "_engine", "_steps")

    def __init__(self, engine: Engine, inputs: Mapping[str, Array] | None = None) -> None:
        given = GivenInputs.of(engine.contract, inputs)
        self._begin(engine)
        self._core.reset(given)

    def _begin(self, engine: Engine) -> None:
        self._engine = engine
        self._chunk = engine.contract.chunk
        self._core = Recurrence(engine)
        self._steps: dict[tuple[tuple[int, ...], bool], BoundStep] = {}

    # --- feeding

    def step(
        self,
        chunk: Array,
        *,
        copy: bool = True,
        deadline_ms: float | None = None,
        last: bool = False,
    ) -> Outputs:
        """Step on one chunk.

        Args:
            chunk: in the contract's dtype and shape with B = 1, T one of the session's sizes. For
                a model with look-ahead T + lookahead items: those behind the chunk come again at
                the beginning of the next one (`advance` sees to that by itself).
            copy: give copies; False gives read-only views, valid until the next step.
            deadline_ms: give up after so many milliseconds. It is looked at between the
                operators of the graph, so one long operator is not interrupted.
            last: answer for the last item only; many graphs then save the work of the others.

        Returns:
            Output name -> array in the contract's shape with B = 1.

        Raises:
            StepError: `chunk-type`, `chunk-shape`: the chunk does not fit the contract.
            StepError, NonFiniteError: `token-out-of-range`, `input-not-finite`: an item that cannot
                be read.
            StepError: `items-pending`: items wait from `advance`, which this chunk would overtake.
            DeadlineError: the deadline passed.
            NonFiniteError: `output-not-finite`, `state-not-finite`: the step gave a NaN or an
                infinity.

        Examples:
            >>> from dst.runtime import Session
            >>> stream = Session.open("text").stream()
            >>> stream.step(np.array([[72, 105, 33, 10]]))["logits"].shape
            (1, 4, 256)
        """
        core = self._core
        step = self._steps.get((chunk.shape, last)) if type(chunk) is np.ndarray else None
        if step is None or chunk.dtype != step.dtype:
            step = self._step_for(chunk, last)
        if core.position.waiting:
            raise chunking.overtaking(core.position.waiting)
        before = core.begin()
        try:
            step.row.fresh[...] = chunk
            if deadline_ms is None:
                core.step_once(step)
            else:
                with deadline(deadline_ms) as options:
                    core.step_once(step, options)
            if copy:
                return {name: value.copy() for name, value in step.views.items()}
            return dict(step.views)
        except BadStateError as bad:
            raise core.recover(before, bad) from None
        except BaseException:
            core.position = before  # one step: nothing that it began with was written to
            raise

    def advance(
        self, items: Items, *, last: bool = False, outputs: Sequence[str] | None = None
    ) -> Outputs:
        """Read any number of items, stepping each time a chunk of the nominal T is full.

        A chunk is full when its look-ahead is there too. The items left over wait for the next
        call. How the input is cut between calls changes nothing, bit for bit. If the call fails,
        it has read nothing.

        Args:
            items: `[n, ...]` in the contract's dtype: time first, then the chunk's other axes in
                their order, without a batch axis; or bytes, where the tokenizer is `bytes`.
            last: answer for the last item that is stepped only, as for `step`.
            outputs: names of the outputs to return; None for all.

        Returns:
            Output name -> array in the contract's shape with B = 1, joined along the time axis
            (length 0 where no chunk filled). Outputs per chunk are stacked on a new first axis.

        Raises:
            StepError: `chunk-type`, `chunk-shape`: the items do not fit the contract.
            StepError, NonFiniteError: `token-out-of-range`, `input-not-finite`: an item that cannot
                be read.
            StepError: `no-such-output`: the model has no output of that name.
            SessionError: `chunk-size`: the session does not run the nominal T.
            NonFiniteError: `output-not-finite`, `state-not-finite`: a step gave a NaN or an
                infinity.
        """
        fresh = check_items(self._chunk, items)
        core, engine = self._core, self._engine
        return chunking.in_one_call(core, lambda: chunking.read(core, engine, fresh, last, outputs))

    def iter_advance(
        self,
        items: Items,
        *,
        last: bool = False,
        outputs: Sequence[str] | None = None,
        deadline_ms: float | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[Outputs]:
        """Read a long input chunk by chunk, and give the outputs of each chunk as it is done.

        It takes the memory of one chunk, however long the input is. Each chunk is a call of its
        own: when an error is raised, the stream has read all chunks before it, and
        `items_consumed + pending` tells how far it is. A loop may be left at any time.

        Args:
            items: as for `advance`, by which each chunk is checked when its turn comes.
            last: answer for the last item of each chunk only.
            outputs: names of the outputs to return; None for all.
            deadline_ms: stop before the first chunk that begins later than this, in milliseconds
                from the first one.
            cancel: is asked before each chunk by `is_set()`, as a `threading.Event` has it.

        Yields:
            As `advance`, for one chunk. The items that fill no chunk wait for the next call.

        Raises:
            DeadlineError: the time was up.
            StepError: `cancelled`: `cancel` was set.
            StepError, SessionError, NonFiniteError: as `advance`.

        Examples:
            >>> from dst.runtime import Session
            >>> stream = Session.open("text").stream()
            >>> long_input = b"sixteen letters." * 100
            >>> sum(part["logits"].shape[1] for part in stream.iter_advance(long_input))
            1600
        """

        def advance(part: Items) -> Outputs:
            return self.advance(part, last=last, outputs=outputs)

        return advance_in_chunks(self, items, deadline_ms, cancel, advance)

    def flush(self, *, last: bool = False, outputs: Sequence[str] | None = None) -> Outputs:
        """End the input here, by the contract's tail rule, and answer for the items that wait.

        `exact` steps them with the largest chunks that fit, and the next chunk begins here; `pad`
        answers for all of them as if padding followed, and leaves state and items as they were
        (with look-ahead that may take several steps); `refuse` takes no partial chunk. `last` and
        `outputs` are as for `advance`.

        Returns:
            As `advance`.

        Raises:
            PartialChunkError: items wait under the tail rule `refuse`.
            SessionError: `chunk-size`: the session does not run a T that is needed.
            NonFiniteError: `output-not-finite`, `state-not-finite`: a step gave a NaN or an
                infinity.
        """
        core, engine = self._core, self._engine
        return chunking.in_one_call(core, lambda: chunking.read_tail(core, engine, last, outputs))

    # --- state

    @property
    def items_consumed(self) -> int:
        """Items in the state; those that wait are not among them."""
        return self._core.position.items

    @property
    def pending(self) -> int:
        """How many items wait for their chunk to fill."""
        return self._core.position.waiting

    @property
    def sampler(self) -> Sampler | None:
        """The random source of `generate`: seed and draws; None before the first use."""
        return self._core.position.sampler

    @property
    def engine(self) -> Engine:
        """The session this stream runs in."""
        return self._engine

    @property
    def state(self) -> Outputs:
        """A copy of the state: state input name -> array in the contract's shape, B = 1."""
        return dict(to_record(self._engine, self._core).state)

    @property
    def inputs(self) -> dict[str, Array]:
        """What the stream was given when it started: input name -> read-only array, B = 1."""
        return dict(self._core.position.given.arrays)

    def reset(self) -> None:
        """Start anew: initial state, nothing pending, nothing sampled, with the same inputs."""
        self._core.reset()

    def snapshot(self) -> Snapshot:
        """Return a copy of everything the stream is."""
        return to_record(self._engine, self._core)

    def restore(self, snapshot: Snapshot) -> None:
        """Become what a snapshot of this bundle holds.

        Raises:
            StateMismatchError: `other-model`, `other-state-layout`, `other-precision`: it is of
                another bundle.
            StateCorruptError: of a bundle with other items or inputs, another lookback among them.
            NonFiniteError: `state-not-finite`: it holds a NaN or an infinity.
        """
        put_record(self._engine, self._core, snapshot, "snapshot")

    def fork(self) -> "Stream":
        """Return a second stream that stands where this one does and goes its own way.

        `copy.copy` and `copy.deepcopy` do the same: a stream never shares its buffers.

        Examples:
            >>> from dst.runtime import Session
            >>> stream = Session.open("text").stream()
            >>> other = stream.fork()
            >>> outputs = other.advance(bytes(64))
            >>> stream.items_consumed, other.items_consumed
            (0, 64)
        """
        other = Stream._blank(self._engine)
        given = self._core.position.given
        put_record(self._engine, other._core, self.snapshot(), "snapshot", given=given)
        return other

    def saved(self) -> Saved:
        """Return everything the stream is as a record for a file, a store or `to_bytes`.

        Raises:
            NonFiniteError: `state-not-finite`: the state holds a NaN or an infinity.
        """
        return to_finite_record(self._engine, self._core)

    def save(self, path: Place, *, durable: bool = True) -> None:
        """Write everything the stream is to one file, in one rename.

        The file that stood there is kept as `<name>.previous`. Only one process may save to
        a path at a time.

        Args:
            path: the file; or a binary file that is open for writing, such as `io.BytesIO()`,
                which gets the same bytes from where it stands. There is no rename and no sync
                then, and an error may leave a part of a state behind, which `load` refuses.
            durable: wait until the disk has it. Without, a save survives a kill of the process,
                but not surely a loss of power.

        Raises:
            NonFiniteError: `state-not-finite`: the state holds a NaN or an infinity; nothing was
                written.
            StateError: the disk refused, and the file that stood there still does; or the open
                file is closed, of text or not for writing.

        Examples:
            >>> import io
            >>> from dst.runtime import Session
            >>> session, file = Session.open("text"), io.BytesIO()
            >>> session.stream().save(file)
            >>> start = file.seek(0)
            >>> Stream.load(session, file).items_consumed
            0
        """
        write_record(path, to_finite_record(self._engine, self._core, copy=False), durable)

    @staticmethod
    def load(session: Engine, path: Place, allow_precision: bool = False) -> "Stream":
        """Make a stream from a saved state; it goes on bit for bit where that one stood.

        Args:
            session: a session of the same model.
            path: what `save` wrote; or a binary file that is open for reading, which is read to
                its end from where it stands.
            allow_precision: take a state that another precision of the model has made.

        Raises:
            StateNotFoundError, StateCorruptError, StateMismatchError, StateError: `state-version`:
                the file cannot be used.
            StateMismatchError: `other-model`, `other-state-layout`, `other-precision`: it belongs
                to another bundle.
        """
        stream = Stream._blank(session)
        saved = read_record(path, stream._core.room())
        where = f"state {path}" if isinstance(path, str | os.PathLike) else "state"
        put_saved(session, stream._core, saved, allow_precision, where)
        return stream

    @staticmethod
    def resume(
        session: Engine, saved: Saved, allow_precision: bool = False, where: str = "saved state"
    ) -> "Stream":
        """Make a stream from a record of `saved`; it goes on bit for bit where that one stood.

        Args:
            session: a session of the same model.
            saved: what `saved` returned, or a file or a store gave back.
            allow_precision: take a state that another precision of the model has made.
            where: what error messages call the record.

        Raises:
            StateCorruptError: it does not fit the contract, or holds a NaN or an infinity.
            StateMismatchError: `other-model`, `other-state-layout`, `other-precision`: it belongs
                to another bundle.
        """
        stream = Stream._blank(session)
        put_saved(session, stream._core, saved, allow_precision, where)
        return stream

    # --- inside

    @staticmethod
    def _blank(engine: Engine) -> "Stream":
        """A stream without a state, for `put_saved`."""
        stream = Stream.__new__(Stream)
        stream._begin(engine)
        return stream

    def predict(self, items: Items, choose: chunking.Choose) -> int:
        """Read items, flush, choose a token by the last answers and let it wait, as one call.

        This is the step of `dst.runtime.generation`. Between two calls the chosen token waits
        and is not in the state: whatever is saved then goes on to the same text.

        Args:
            items: as for `advance`.
            choose: takes outputs and random source, returns a token and the next source.

        Raises:
            StepError: as `advance`, or what `choose` raises.
        """
        fresh = check_items(self._chunk, items)
        core, engine = self._core, self._engine
        return chunking.in_one_call(core, lambda: chunking.read_token(core, engine, fresh, choose))

    def _step_for(self, chunk: Array, last: bool) -> BoundStep:
        """The step for a chunk whose shape is new, or which does not fit."""
        t = check_chunk(self._chunk, chunk, self._engine.chunk_sizes)
        step = self._core.step_for(t, last)
        self._steps[step.shape, last] = step
        return step
