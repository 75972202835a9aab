"""Step many streams of one session together, in one call of the graph.

Shape letters: `B` batch, `T` items per chunk, `N` slots, `n` items of any number.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import index
from typing import NoReturn, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt

from dst.runtime.errors import DstError, SessionError, StepError
from dst.runtime.execution.checkpoint import put_saved, to_finite_record
from dst.runtime.execution.chunking import ChunkPlan, chosen, overtaking, plan_chunks, plan_tail
from dst.runtime.execution.engine import Engine
from dst.runtime.execution.inputs import NO_INPUTS, GivenInputs, Items, check_chunk, check_items
from dst.runtime.execution.providers import PLACES
from dst.runtime.execution.recurrence import Position
from dst.runtime.pool.rounds import OneChunk, OneRead, Rounds, Work
from dst.runtime.pool.slots import Slot
from dst.runtime.state.record import Saved

Array = npt.NDArray[np.generic]
Outputs = dict[str, Array]
Given = TypeVar("Given")


class StreamPool:
    """N streams over the batch axis of one session: what is ready steps in one call of the graph.

    Slots are numbered 0 .. N - 1, and each is a stream as `Session.stream` gives one: a slot
    that is not named in a call is not touched by it. What a slot answers does not depend on the
    others, bit for bit; it is what a stream alone answers, bit for bit or, where the kernels take
    another way for a single item, within the bound of the certificates (docs/pool.md).

    A slot fails alone, for a reason that the same method of `Stream` names. If it does, it is as
    it was before the call, the others go on, and at the end `SlotError` says what failed and
    carries what the others answered. Whatever else is raised, an interrupt say, or `StepError`
    (`no-such-slot`) for a number that no slot has, leaves every slot as it was.

    Threads may share a pool: their calls take turns. One call with many slots is what is fast.

    Examples:
        >>> from dst.runtime import Session
        >>> pool = StreamPool(Session.open("text", chunk_sizes=[1, 32]), slots=3)
        >>> outputs = pool.advance({0: b"one stream, " * 3, 2: b"and another one " * 3})
        >>> sorted(outputs), pool.items_consumed(2), pool.pending(2)
        ([0, 2], 32, 16)
        >>> saved = pool.swap_out(2)  # for a store
        >>> pool.swap_in(1, saved)
    """

    def __init__(
        self, session: Engine, slots: int, *, inputs: Mapping[str, Array] | None = None
    ) -> None:
        """Make a pool with every slot at the initial state.

        Args:
            session: whose graphs run any number of streams at once.
            slots: N, 2 or more.
            inputs: what the model takes once per stream, for every slot, as for `Session.stream`.
                Without them a slot waits for its own: `reset(slot, inputs=...)` or `swap_in`.

        Raises:
            SessionError: `no-batches`: a graph of the session has a fixed batch size, a stream
                input has no batch axis, or the provider wants the state in the memory of a device.
            SessionError: `inputs` are not those that the model takes, or `slots` is less than 2.
        """
        if slots < 2:
            raise SessionError(
                f"slots is {slots}, expected 2 or more; session.stream() makes one stream",
                code="argument",
            )
        if (device := PLACES[session.provider].device) != "cpu":
            raise SessionError(
                f"{session.bundle.label}: a pool holds its states in host memory, and "
                f"{session.provider!r} wants them on {device}; use session.stream() there",
                code="no-batches",
            )
        for t in session.chunk_sizes:
            graph = session.graph_for(t)
            if graph.batch:
                raise SessionError(
                    f"{session.bundle.label}: {graph.file} runs T = {t} for B = "
                    f"{list(graph.batch)} only, a pool needs any B; open the session with another "
                    "lowering or without this T in chunk_sizes, or use session.stream()",
                    code="no-batches",
                )
        for wanted in session.contract.stream_inputs:
            if "B" not in wanted.shape:
                raise SessionError(
                    f"{session.bundle.label}: stream input `{wanted.input}` is {wanted.dtype} "
                    f"{list(wanted.shape)} without a batch axis: one call of the graph takes one "
                    "value of it, and a pool steps many streams in one call; use session.stream(), "
                    "or export it with a batch axis",
                    code="no-batches",
                )
        self._engine = session
        self._chunk = session.contract.chunk
        given = NO_INPUTS if inputs is None else GivenInputs.of(session.contract, inputs)
        self._rounds = Rounds(session, slots, given)
        self._slots = self._rounds.slots
        self._sizes: dict[tuple[int, ...], int] = {}
        self._lock = threading.Lock()
        self._before: dict[int, Position] = {}  # where the last call found the slots that it moved

    # --- feeding

    def step(self, chunks: Mapping[int, Array]) -> dict[int, Outputs]:
        """Step some slots on one chunk each; chunks of different T may come together.

        Args:
            chunks: slot -> chunk in the contract's dtype and shape with B = 1.

        Returns:
            Slot -> output name -> array in the contract's shape with B = 1.
        """
        _check_mapping("step", "chunk", chunks)
        return self._call(chunks, self._one_chunk)

    def advance(
        self,
        items: Mapping[int, Items],
        *,
        last: bool = False,
        outputs: Sequence[str] | None = None,
        flush: Iterable[int] = (),
    ) -> dict[int, Outputs]:
        """Let some slots read any number of items each, in chunks of the nominal T.

        Args:
            items: slot -> `[n, ...]` as for `Stream.advance`; n may differ.
            last: answer for the last item that each slot steps only. The graph still calculates
                the others.
            outputs: names of the outputs to return; None for all.
            flush: those of these slots whose input ends here, as by `flush`, in the same call.

        Returns:
            Slot -> outputs as from `Stream.advance`.
        """
        _check_mapping("advance", "items", items)
        contract, sizes, ending = self._engine.contract, self._engine.chunk_sizes, {*flush}
        chunk = self._chunk
        wanted = contract.outputs if outputs is None else chosen(contract, outputs)
        # items that are one chunk, and nothing else: the usual case where each item is answered
        whole = () if chunk.lookahead else (chunk.nominal_t,)
        ends = sizes if whole and chunk.tail == "exact" else whole

        def plan(slot: Slot, given: Items) -> ChunkPlan | OneChunk:
            fresh = check_items(chunk, given)
            ending_here = slot.number in ending
            count = len(fresh)
            if (
                count <= chunk.nominal_t
                and count in (ends if ending_here else whole)
                and not slot.position.waiting
            ):
                return OneRead(fresh, wanted, last)
            if ending_here:
                return plan_tail(slot, contract, sizes, last, outputs, fresh)
            return plan_chunks(slot, contract, fresh, last, outputs)

        return self._call(items, plan)

    def flush(
        self, slots: Iterable[int], *, last: bool = False, outputs: Sequence[str] | None = None
    ) -> dict[int, Outputs]:
        """End the input of some slots, by the contract's tail rule, as `Stream.flush` does.

        Returns:
            Slot -> outputs as from `Stream.flush`.
        """
        contract, sizes = self._engine.contract, self._engine.chunk_sizes
        return self._call(
            dict.fromkeys(slots), lambda slot, _: plan_tail(slot, contract, sizes, last, outputs)
        )

    def undo(self, slots: Iterable[int]) -> None:
        """Put some slots back to where the last `step`, `advance` or `flush` found them.

        Only the last call can be undone, once per slot, and not after the slot was swapped or
        reset.

        Raises:
            StepError: `nothing-to-undo`: that call did not move one of these slots; all are as
                they were.

        Examples:
            >>> from dst.runtime import Session
            >>> pool = StreamPool(Session.open("text", chunk_sizes=[32]), slots=2)
            >>> outputs = pool.advance({0: bytes(32), 1: bytes(32)})
            >>> pool.undo([1])
            >>> pool.items_consumed(0), pool.items_consumed(1)
            (32, 0)
        """
        with self._lock:
            cores = {slot: self._slot(slot) for slot in slots}
            for slot in cores:
                if slot not in self._before:
                    raise StepError(
                        f"slot {slot} was not moved by the pool's last call, or was swapped or "
                        "reset since; undo() takes back the last call only",
                        code="nothing-to-undo",
                    )
            for slot, core in cores.items():
                core.undo(self._before.pop(slot))

    def warm_up(self, chunk_sizes: Iterable[int]) -> None:
        """Make and prove the buffers of every batch size for these T now, not when first needed.

        Where the model takes inputs once per stream, some slot must have been given its own.

        Raises:
            SessionError: `no-batches`, `chunk-size`: as a call that needs them would raise.
        """
        with self._lock:
            given = [slot.position.given for slot in self._slots if slot.position.given.arrays]
            self._rounds.warm_up(chunk_sizes, given or [NO_INPUTS])

    # --- slots

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled."""
        raise SessionError(
            "a pool cannot be copied or pickled; make another one with StreamPool(session, slots) "
            "and move streams by new.swap_in(slot, old.swap_out(slot))",
            code="not-copyable",
        )

    def __len__(self) -> int:
        """How many slots there are."""
        return len(self._slots)

    def items_consumed(self, slot: int) -> int:
        """Return how many items are in the state of a slot; those that wait are not among them."""
        with self._lock:
            return self._slot(slot).position.items

    def pending(self, slot: int) -> int:
        """Return how many items of a slot wait for their chunk to fill."""
        with self._lock:
            return self._slot(slot).position.waiting

    def reset(self, slot: int, *, inputs: Mapping[str, Array] | None = None) -> None:
        """Start a slot anew: initial state, nothing pending, nothing sampled.

        It is given `inputs` for good, as for `Session.stream`; None keeps what it has.

        Raises:
            SessionError: `inputs` are not those that the model takes.
        """
        with self._lock:
            core = self._slot(slot)
            self._before.pop(slot, None)
            core.reset(None if inputs is None else GivenInputs.of(self._engine.contract, inputs))

    def swap_out(self, slot: int) -> Saved:
        """Return all that a slot is, for a store, a file or `Session.stream`; it stays as it is.

        Raises:
            NonFiniteError: `state-not-finite`: its state holds a NaN or an infinity.
            SessionError: the model takes inputs once per stream, and it was given none.
        """
        with self._lock:
            core = self._slot(slot)
            self._need_inputs(core)
            self._before.pop(slot, None)
            return to_finite_record(self._engine, core)

    def swap_in(self, slot: int, saved: Saved, *, allow_precision: bool = False) -> None:
        """Let a slot go on where a saved stream stood; what it held before is dropped.

        `saved` comes from `swap_out`, `Stream.saved` or a store. With `allow_precision` it may be
        a state that another precision of the model has made.

        Raises:
            StateCorruptError: `saved` does not fit the contract.
            StateMismatchError: `other-model`, `other-state-layout`, `other-precision`: it belongs
                to another bundle.
        """
        with self._lock:
            core = self._slot(slot)
            self._before.pop(slot, None)
            put_saved(self._engine, core, saved, allow_precision, "saved state")

    # --- inside

    def _slot(self, number: int) -> Slot:
        place = number  # asking for a protocol is slow
        if type(number) is not int:
            place = index(number) if isinstance(number, SupportsIndex) else -1
        if not 0 <= place < len(self._slots):
            raise StepError(
                f"slot {number!r}: this pool has slots 0 .. {len(self._slots) - 1}",
                code="no-such-slot",
            )
        return self._slots[place]

    def _need_inputs(self, slot: Slot) -> None:
        if self._engine.contract.stream_inputs and not slot.position.given.arrays:
            names = ", ".join(f"`{g.input}`" for g in self._engine.contract.stream_inputs)
            raise SessionError(
                f"slot {slot.number} was not given its stream inputs ({names}); start it with "
                f"pool.reset({slot.number}, inputs={{...}}), or swap a saved stream in",
                code="stream-input-missing",
            )

    def _call(
        self, given: Mapping[int, Given], plan: Callable[[Slot, Given], ChunkPlan | OneChunk]
    ) -> dict[int, Outputs]:
        """Plan the steps of each slot that is named, and take them together."""
        with self._lock:
            failed: dict[int, DstError] = {}
            works: list[Work] = []
            self._before = {}
            for slot, value in [(self._slot(number), value) for number, value in given.items()]:
                try:
                    self._need_inputs(slot)
                    work = Work(slot, slot.position, plan(slot, value))
                    for t in {*work.plan.sizes}:
                        self._engine.graph_for(t)
                    works.append(work)
                except DstError as error:
                    failed[slot.number] = error
            try:
                outputs = self._rounds.run(works, failed)
            finally:  # where anything but a slot failed, all of them are back already
                moved = [work for work in works if work.slot.number not in failed]
                self._before = {work.slot.number: work.before for work in moved}
            return outputs

    def _one_chunk(self, slot: Slot, chunk: Array) -> OneChunk:
        t = self._sizes.get(chunk.shape) if isinstance(chunk, np.ndarray) else None
        if t is None or chunk.dtype != self._chunk.dtype:
            t = check_chunk(self._chunk, chunk, self._engine.chunk_sizes)
            self._sizes[chunk.shape] = t
        if slot.position.waiting:
            raise overtaking(slot.position.waiting)
        return OneChunk(chunk, t)


def _check_mapping(call: str, what: str, given: object) -> None:
    if not isinstance(given, Mapping):
        raise StepError(
            f"{call}() of a pool was given a {type(given).__name__}, expected a dict: "
            f"pool.{call}({{slot: {what}}})",
            code="chunk-type",
        )
