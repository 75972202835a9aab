"""Laws of failure in a pool: a slot fails alone, an interrupt undoes the whole call."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.raising import Fault
from tests.runtime.pool.conftest import Outputs, all_of, positive, same
from tests.steps import Array

from dst.runtime import Session
from dst.runtime.errors import DstError, NonFiniteError, SlotError, StepError
from dst.runtime.execution.recurrence import Position
from dst.runtime.execution.step import BoundStep
from dst.runtime.pool import StreamPool
from dst.runtime.pool.slots import Slot
from dst.runtime.state.record import pack

Result = TypeVar("Result")
POISON, HUGE = -1.0, 80.0  # the first gives a NaN output, eight of the second a state of infinity


# --- failing


def outcome(work: Callable[[], Result]) -> Result | DstError:
    """What a call returns, or the error that it raises."""
    try:
        return work()
    except DstError as error:
        return error


class _Both:
    """A pool and, as its judge, one stream per slot: every call is made on both."""

    def __init__(self, session: Session, slots: int) -> None:
        self.pool = StreamPool(session, slots)
        self.streams = [session.stream() for _ in range(slots)]

    def call(
        self, pooled: Callable[[], dict[int, Outputs]], alone: dict[int, Callable[[], Outputs]]
    ) -> set[Fault]:
        """Compare answers and errors slot by slot; return the kinds of errors that came."""
        failed: dict[int, DstError] = {}
        try:
            answers = pooled()
        except SlotError as error:
            failed, answers = error.failed, error.outputs
        assert answers.keys() | failed.keys() == alone.keys()
        assert not answers.keys() & failed.keys()
        for slot, work in alone.items():
            expected = outcome(work)
            if isinstance(expected, DstError):
                assert (type(failed[slot]), str(failed[slot])) == (type(expected), str(expected))
            else:
                same(answers[slot], expected)
        self.compare()
        return {Fault.of(error) for error in failed.values()}

    def advance(self, items: dict[int, Array]) -> set[Fault]:
        streams = self.streams
        return self.call(
            lambda: self.pool.advance(items),
            {slot: lambda s=slot, x=x: streams[s].advance(x) for slot, x in items.items()},  # type: ignore[misc]
        )

    def step(self, chunks: dict[int, Array]) -> set[Fault]:
        streams = self.streams
        return self.call(
            lambda: self.pool.step(chunks),
            {slot: lambda s=slot, x=x: streams[s].step(x) for slot, x in chunks.items()},  # type: ignore[misc]
        )

    def flush(self, slots: Sequence[int]) -> set[Fault]:
        return self.call(
            lambda: self.pool.flush(slots), {slot: self.streams[slot].flush for slot in slots}
        )

    def compare(self) -> None:
        """State, lookback, pending and counters of every slot, without checking the state."""
        for slot, stream in zip(self.pool._slots, self.streams, strict=True):
            now, state = stream.snapshot(), slot.tensors()
            assert state.keys() == now.state.keys()
            assert all(state[n].tobytes() == value.tobytes() for n, value in now.state.items())
            assert slot.lookback().tobytes() == now.lookback.tobytes()
            assert slot.pending().tobytes() == now.pending.tobytes()
            assert (slot.position.items, slot.position.sampler) == (now.items_consumed, now.sampler)


kinds = st.sampled_from(["fine", "fine", "fine", "poison", "huge"])
runs = st.dictionaries(st.integers(0, 4), st.tuples(st.integers(0, 40), kinds), max_size=5)
deeds = st.one_of(
    st.tuples(st.just("advance"), runs),
    st.tuples(st.just("step"), runs),
    st.tuples(st.just("flush"), runs),
    st.tuples(st.just("reset"), runs),
    st.tuples(st.just("swap"), runs),
)


def spoilt(count: int, kind: str, seed: int) -> npt.NDArray[np.float32]:
    items = positive(count, seed)
    if kind == "poison" and count:
        items[seed % count] = POISON
    if kind == "huge":
        items[count // 2 : count // 2 + 8] = HUGE
    return items


@pytest.mark.parametrize("every", [1, 2, 5])
@settings(max_examples=40, deadline=None)
@given(plan=st.lists(deeds, max_size=12))
def test_whatever_happens_a_slot_is_a_stream(
    batched: Path, every: int, plan: list[tuple[str, dict[int, tuple[int, str]]]]
) -> None:
    """Answers, errors, what is undone and what is put back: all of it as a stream's."""
    both = _Both(Session.open(batched / "gain", check_state_every=every, verify="size"), 5)
    for number, (deed, run) in enumerate(plan):
        items: dict[int, Array] = {
            s: spoilt(n, kind, 9 * number + s) for s, (n, kind) in run.items()
        }
        if deed == "advance":
            both.advance(items)
        elif deed == "step":
            both.step({s: spoilt(8, run[s][1], s)[None] for s in run})
        elif deed == "flush":
            both.flush(list(run))
        elif deed == "reset":
            for slot in run:
                both.pool.reset(slot)
                both.streams[slot].reset()
        else:
            for slot in run:
                swap(both, slot)
    both.compare()


def swap(both: _Both, slot: int) -> None:
    """Out and in again, or the same error on both sides."""
    saved = outcome(both.streams[slot].saved)
    if isinstance(saved, DstError):
        with pytest.raises(type(saved)) as caught:
            both.pool.swap_out(slot)
        assert str(caught.value) == str(saved)
        return
    assert pack(both.pool.swap_out(slot)) == pack(saved)
    both.pool.swap_in(slot, saved)
    both.streams[slot] = both.streams[slot].engine.stream(saved)  # type: ignore[attr-defined]


def test_a_nan_output_undoes_its_slot_and_no_other(batched: Path) -> None:
    both = _Both(Session.open(batched / "gain"), 5)
    both.advance({slot: positive(11 + slot) for slot in range(5)})
    items: dict[int, Array] = {slot: positive(60, slot) for slot in range(5)}
    items[3] = spoilt(60, "poison", 40)  # found in the sixth of seven steps
    before = all_of(both.pool)
    assert both.advance(items) == {Fault(NonFiniteError, "output-not-finite")}
    assert all_of(both.pool)[3] == before[3]
    assert both.pool.items_consumed(2) == 72


def test_a_bad_state_found_late_puts_its_slot_back_and_no_other(batched: Path) -> None:
    both = _Both(Session.open(batched / "gain", check_state_every=4), 4)
    for _ in range(5):
        both.step({slot: positive(8)[None] for slot in range(4)})
    both.step({0: positive(8)[None], 2: np.full((1, 8), HUGE, np.float32)})
    both.step({slot: positive(8)[None] for slot in range(3)})
    assert both.step({slot: positive(8)[None] for slot in range(3)}) == {
        Fault(NonFiniteError, "state-not-finite")
    }
    assert [both.pool.items_consumed(slot) for slot in range(4)] == [64, 56, 32, 40]


class _Instants:
    """Raises `KeyboardInterrupt` at the n-th instant between two deeds of a pool."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        deeds = ("begin", "ready", "protect", "cross", "commit", "settle", "leave", "append")
        for owner, name in ((BoundStep, "call"), *((Slot, deed) for deed in deeds)):
            monkeypatch.setattr(owner, name, self.after(getattr(owner, name)))

    def after(self, deed: Callable[..., Result]) -> Callable[..., Result]:
        def watched(*arguments: object) -> Result:
            result = deed(*arguments)
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return result

        return watched


@pytest.mark.parametrize("slots", [4, 5, 8])
def test_an_interrupt_at_any_instant_leaves_every_slot_as_it_was(batched: Path, slots: int) -> None:
    """4 slots of 8 go through the gathered batch, 4 of 4 and of 5 through the whole one."""
    both = _Both(Session.open(batched / "gain"), slots)
    both.advance({slot: positive(19 + 3 * slot) for slot in range(slots)})
    both.advance({slot: positive(16) for slot in range(0, slots, 2)})
    both.advance({1: positive(8)})  # now the slots lie on both sides
    items: dict[int, Array] = {s: positive(n) for s, n in enumerate((9, 50, 49, 20))}
    before = all_of(both.pool)
    for at in range(1, 1000):
        with pytest.MonkeyPatch.context() as patch:
            _Instants(patch).left = at
            try:
                answers = both.pool.advance(items)
                break
            except KeyboardInterrupt:
                pass
        assert all_of(both.pool) == before
    assert at > 30
    for slot, answer in answers.items():
        same(answer, both.streams[slot].advance(items[slot]))
    both.compare()


def test_an_interrupt_while_a_call_is_undone_changes_nothing(
    batched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = StreamPool(Session.open(batched / "gain"), 4)
    pool.advance({slot: positive(19 + slot) for slot in range(4)})
    before = all_of(pool)
    undo, run, tries, runs = Slot.undo, BoundStep.call, 0, 0

    def undone(slot: Slot, position: Position) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            raise KeyboardInterrupt
        undo(slot, position)

    def stopped(step: BoundStep, way: int) -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            raise MemoryError
        run(step, way)

    monkeypatch.setattr(Slot, "undo", undone)
    monkeypatch.setattr(BoundStep, "call", stopped)
    with pytest.raises(KeyboardInterrupt):
        pool.advance({slot: positive(30) for slot in range(4)})
    assert (tries, runs) == (6, 3)
    assert all_of(pool) == before


def test_what_onnxruntime_refuses_fails_the_slots_of_that_batch(
    batched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = _Both(Session.open(batched / "gain"), 4)
    both.step({slot: positive(8)[None] for slot in range(4)})
    both.step({slot: positive(8)[None] for slot in range(2)})
    before = all_of(both.pool)

    def refuses(binding: ort.IOBinding, options: ort.RunOptions | None) -> None:
        raise RuntimeError("out of memory")

    chunks = {0: positive(1)[None], 1: positive(8)[None], 2: positive(8)[None]}
    with monkeypatch.context() as patch:
        patch.setattr(both.pool._rounds.steps[2, 8], "_run", refuses)
        with pytest.raises(SlotError, match=r"step.onnx failed: out of memory") as caught:
            both.pool.step(chunks)
    assert {slot: type(e) for slot, e in caught.value.failed.items()} == {
        1: StepError,
        2: StepError,
    }
    same(caught.value.outputs[0], both.streams[0].step(chunks[0]))
    copied = copy.deepcopy(caught.value)
    assert str(copied) == str(caught.value)
    assert copied.outputs.keys() == {0}
    assert all_of(both.pool)[1:] == before[1:]
    both.compare()
