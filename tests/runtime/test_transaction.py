"""Laws of failure: whatever a call raises, the stream is as it was before the call."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from tests.raising import Fault, refused

from dst.runtime import Session, Stream
from dst.runtime.errors import DeadlineError, NonFiniteError, StepError
from dst.runtime.execution.recurrence import BadStateError, Position, Recurrence
from dst.runtime.execution.step import BoundStep

Array = npt.NDArray[np.generic]
SAMPLES = np.random.default_rng(3).uniform(0, 0.1, 80).astype(np.float32)
HUGE = np.full(8, 80.0, np.float32)  # exp of their sum overflows; the output does not show it


def everything(stream: Stream) -> tuple[object, ...]:
    now = stream.snapshot()
    arrays = (*now.state.values(), now.lookback, now.pending)
    return (*(a.tobytes() for a in arrays), now.items_consumed, now.sampler)


def gain(shelf: Path, check_state_every: int = 64) -> Stream:
    return Session.open(shelf / "gain", check_state_every=check_state_every).stream()


def with_nan(at: int) -> Array:
    items = SAMPLES.copy()
    items[at] = -1.0  # its square root is NaN
    return items


@pytest.mark.parametrize("at", [0, 10, 30, 76])
def test_a_nan_output_undoes_the_whole_advance(shelf: Path, at: int) -> None:
    stream, twin = gain(shelf), gain(shelf)
    for s in (stream, twin):
        s.advance(SAMPLES[:11])
    before = everything(stream)
    with refused(NonFiniteError, "output-not-finite", match="`y`"):
        stream.advance(with_nan(at))
    assert everything(stream) == before
    assert stream.advance(SAMPLES)["y"].tobytes() == twin.advance(SAMPLES)["y"].tobytes()


def test_a_nan_output_undoes_a_flush(shelf: Path) -> None:
    stream = gain(shelf)
    stream.advance(with_nan(79)[70:])  # the item that fails is among the two that wait
    before = everything(stream)
    with refused(NonFiniteError, "output-not-finite"):
        stream.flush()
    assert everything(stream) == before
    assert stream.pending == 2


def test_a_nan_output_undoes_a_step(shelf: Path) -> None:
    stream = gain(shelf)
    stream.step(SAMPLES[None, :8])
    before = everything(stream)
    with refused(NonFiniteError, "output-not-finite"):
        stream.step(with_nan(5)[None, :8])
    assert everything(stream) == before


class _Fails:
    """Stands in for a step's call into ONNX Runtime: the n-th call raises after the work."""

    def __init__(self, call: Callable[..., None], error: BaseException, at: int) -> None:
        self.call, self.error, self.left = call, error, at

    def __call__(self, binding: ort.IOBinding, options: ort.RunOptions | None) -> None:
        self.call(binding, options)
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.mark.parametrize("at", [1, 2, 3, 9])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_an_interrupt_undoes_the_whole_advance(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException
) -> None:
    stream, twin = gain(shelf), gain(shelf)
    for s in (stream, twin):
        s.advance(SAMPLES[:19])
    before = everything(stream)
    step = stream._core.step_for(8)
    with monkeypatch.context() as patch:
        patch.setattr(step, "_run", _Fails(step._run, error, at))
        with pytest.raises((KeyboardInterrupt, StepError)):
            stream.advance(SAMPLES)
    assert everything(stream) == before
    assert stream.advance(SAMPLES)["y"].tobytes() == twin.advance(SAMPLES)["y"].tobytes()


@pytest.mark.parametrize("at", [1, 2, 5])
def test_an_interrupt_undoes_the_lookback_too(
    sensor: Session, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    samples = np.random.default_rng(4).normal(size=(40, 2)).astype(np.float32)
    stream, twin = sensor.stream(), sensor.stream()
    for s in (stream, twin):
        s.advance(samples[:6])
    before = everything(stream)
    step = stream._core.step_for(4)
    with monkeypatch.context() as patch:
        patch.setattr(step, "_run", _Fails(step._run, KeyboardInterrupt(), at))
        with pytest.raises(KeyboardInterrupt):
            stream.advance(samples)
    assert everything(stream) == before
    assert stream.advance(samples)["y"].tobytes() == twin.advance(samples)["y"].tobytes()


def test_an_interrupt_after_the_commit_undoes_a_step(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = gain(shelf)
    stream.step(SAMPLES[None, :8])
    before = everything(stream)

    class Interrupts(dict[str, Array]):
        def items(self) -> None:  # type: ignore[override]
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stream._core.step_for(8), "views", Interrupts())
        with pytest.raises(KeyboardInterrupt):
            stream.step(SAMPLES[None, :8])
    assert everything(stream) == before


def test_a_deadline_leaves_the_stream_as_it_was(shelf: Path) -> None:
    stream = Session.open(shelf / "slow").stream()
    quick, endless = np.full((1, 8), 3, np.float32), np.full((1, 8), 1e9, np.float32)
    stream.step(quick, deadline_ms=60_000)
    before = everything(stream)
    with pytest.raises(DeadlineError, match="50 ms"):
        stream.step(endless, deadline_ms=50)
    assert everything(stream) == before
    stream.step(quick)
    assert stream.items_consumed == 16
    with pytest.raises(StepError, match="deadline_ms is 0"):
        stream.step(quick, deadline_ms=0)
    for endless_ms in (float("inf"), float("nan"), 1e12):
        with pytest.raises(StepError, match="None for none"):
            stream.step(quick, deadline_ms=endless_ms)
    with pytest.raises(DeadlineError, match="50"):
        stream.step(endless, deadline_ms=np.float32(50))  # type: ignore[arg-type]
    assert stream.items_consumed == 16


def test_an_interrupt_while_a_call_is_undone_changes_nothing(
    shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = gain(shelf)
    stream.advance(SAMPLES[:19])
    before = everything(stream)
    undo, tries = Recurrence.undo, 0

    def interrupted(core: Recurrence, position: Position) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            core._states[position.active].tensors()["c"][...] = 7  # half of it put back
            raise KeyboardInterrupt
        undo(core, position)

    monkeypatch.setattr(Recurrence, "undo", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.advance(with_nan(60))
    assert tries == 2
    assert everything(stream) == before


def test_a_bad_state_found_at_once_costs_nothing(shelf: Path) -> None:
    stream = gain(shelf, check_state_every=1)
    stream.advance(SAMPLES[:19])
    before = everything(stream)
    with refused(
        NonFiniteError, "state-not-finite", match=r"`g`.*at item 32; .*as it was.*item 16"
    ):
        stream.advance(np.concatenate([SAMPLES[:5], HUGE, SAMPLES[:8]]))
    assert everything(stream) == before
    with refused(NonFiniteError, "state-not-finite"):
        stream.advance(np.concatenate([SAMPLES, HUGE, SAMPLES]))
    assert everything(stream) == before


def test_a_bad_state_found_late_goes_back_to_the_last_good_one(shelf: Path) -> None:
    stream = gain(shelf, check_state_every=4)
    chunk = SAMPLES[None, :8]
    for _ in range(5):
        stream.step(chunk)  # checked after the fourth: good at item 32
    good = gain(shelf)
    for _ in range(4):
        good.step(chunk)
    stream.step(HUGE[None])  # the state is bad from here on, and nobody looks
    stream.step(chunk)
    with refused(
        NonFiniteError, "state-not-finite", match=r"found at item 64; .*snapshot at item 32"
    ):
        stream.step(chunk)
    assert everything(stream) == everything(good)
    stream.step(chunk)
    assert stream.items_consumed == 40


def test_a_call_that_checked_on_its_way_is_checked_at_its_end(shelf: Path) -> None:
    stream = gain(shelf, check_state_every=2)
    stream.step(SAMPLES[None, :8])
    before = everything(stream)
    with refused(NonFiniteError, "state-not-finite", match=r"item 32; .*as it was.*item 8"):
        stream.advance(np.concatenate([SAMPLES[:16], HUGE]))  # the check fell on item 16
    assert everything(stream) == before
    stream.advance(SAMPLES[:32])  # checked at 16 and 32, and at its end, 40
    good = everything(stream)
    stream.step(HUGE[None])
    with refused(NonFiniteError, "state-not-finite", match="snapshot at item 40"):
        stream.step(SAMPLES[None, :8])
    assert everything(stream) == good


def test_the_last_good_state_is_never_one_that_was_undone(shelf: Path) -> None:
    stream = gain(shelf, check_state_every=2)
    stream.step(SAMPLES[None, :8])
    before = everything(stream)
    with refused(NonFiniteError, "output-not-finite"):
        stream.advance(with_nan(70))  # eight steps, four checks passed, then undone
    assert everything(stream) == before
    stream._core._states[stream._core.position.active].write(
        np.full(stream._engine.layout.state_bytes, 255, np.uint8)  # all NaN
    )
    with refused(NonFiniteError, "state-not-finite", match="snapshot at item 0"):
        stream.save(shelf / "never.state")
    assert everything(stream) == everything(gain(shelf))
    assert not (shelf / "never.state").exists()


def test_a_step_made_in_mid_call_does_not_touch_the_state_to_undo(shelf: Path) -> None:
    stream = Session.open(shelf / "text").stream()
    stream.advance(b"0123456789ab")
    before = everything(stream)

    def refuse(outputs: object, sampler: object) -> tuple[int, None]:
        raise StepError("not this one")

    with pytest.raises(StepError, match="not this one"):
        stream.predict(np.arange(5), refuse)  # steps 8 once, then opens T = 1
    assert everything(stream) == before
    assert isinstance(stream._core.step_for(1), BoundStep)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (BadStateError("bad"), Fault(NonFiniteError, "state-not-finite")),
        (KeyboardInterrupt(), None),
    ],
)
@pytest.mark.parametrize("waiting", [0, 1, 4, 7])
def test_what_fails_after_the_token_was_chosen_undoes_the_items_that_wait(
    text: Session,
    monkeypatch: pytest.MonkeyPatch,
    waiting: int,
    error: BaseException,
    raised: Fault | None,
) -> None:
    data = b"0123456789abcdef"[: 8 + waiting]
    stream, twin = text.stream(), text.stream()
    for s in (stream, twin):
        s.advance(data)
    before = everything(stream)

    def fail(core: Recurrence) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Recurrence, "settle", fail)  # it runs when the chosen token waits already
        for _ in range(2):
            with refused(*raised) if raised else pytest.raises(KeyboardInterrupt):
                stream.predict(b"ghijklmnop", lambda outputs, sampler: (7, sampler))
            assert everything(stream) == before
    assert stream.advance(b"xyz" * 9)["logits"].tobytes() == (
        twin.advance(b"xyz" * 9)["logits"].tobytes()
    )
