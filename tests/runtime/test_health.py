"""Health of a state: what a look tells, what the policies enforce, and that NaN is never saved."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from tests.raising import Fault, refused

from dst.runtime import Session, Snapshot, Stream
from dst.runtime.errors import NonFiniteError, StateError
from dst.runtime.health import Health, HealthWarning, Limits
from dst.runtime.trend import POINTS_PER_DECADE, Track, rms_of

BLOWS_UP = np.full((1, 1), 200.0, np.float32)  # exp(200) is infinite in float32
ONE = np.ones((1, 1), np.float32)
HALF = np.full((1, 1), 0.5, np.float32)


@pytest.fixture
def gain(shelf: Path) -> Session:
    """State `c` sums the input, state `g` multiplies by its exp and shows in no output."""
    return Session.open(shelf / "gain", check_state_every=1_000_000, chunk_sizes=[1])


def test_a_look_tells_finite_rms_and_peak_of_every_float_tensor(text: Session) -> None:
    stream = text.stream()
    stream.step(np.arange(8)[None])
    report = Health(stream).look()
    h = stream.state["h"].astype(np.float64)
    assert report.items == 8
    assert report.healthy
    [found] = report.tensors  # `n` counts in integers
    assert (found.name, found.finite, found.growth_per_decade) == ("h", True, None)
    assert found.rms == pytest.approx(math.sqrt(float(np.mean(h * h))), rel=1e-6)
    assert found.peak == pytest.approx(float(np.abs(h).max()), rel=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1.0, 1e25, 3e38])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_rms_is_right_where_squares_leave_the_dtype(kind: str, size: float) -> None:
    size = min(max(size, 1e-4), 6e4) if kind == "float16" else size
    value = (np.array([0.25, -1.0, 0.5, 0.0]) * size).astype(kind)
    wide = value.astype(np.float64)
    exact = math.sqrt(float(np.mean(np.square(wide / size)))) * size
    assert rms_of(value, float(np.abs(wide).max())) == pytest.approx(exact, rel=2e-3)


def test_tick_looks_when_it_is_time_and_not_before(text: Session) -> None:
    stream = text.stream()
    health = Health(stream, every_items=20)
    looked = []
    for _ in range(10):
        stream.step(np.zeros((1, 8), np.int64))
        if health.tick() is not None:
            looked.append(stream.items_consumed)
    assert looked == [24, 48, 72]
    assert health.tick() is None
    stream.reset()
    report = health.tick()  # the stream went back
    assert report is not None
    assert report.items == 0
    assert report is health.report


def test_warn_tells_each_cause_once_until_it_is_well_again(gain: Session) -> None:
    stream = gain.stream()
    health = Health(stream, policy="warn", limits=Limits(peak=2.5))
    stream.step(ONE)
    stream.step(ONE)
    with pytest.warns(HealthWarning, match=r"state `g`: max\|x\| is 7.39, the limit is 2.5, at"):
        report = health.look()
    assert [cause[:9] for cause in report.causes] == ["state `g`"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not health.look().healthy
    stream.step(ONE)
    with pytest.warns(HealthWarning, match="state `c`") as told:
        health.look()
    assert len(told) == 1  # of `g` it was told before
    assert stream.items_consumed == 3
    stream.reset()
    assert health.look().healthy
    for _ in range(2):
        stream.step(ONE)
    with pytest.warns(HealthWarning, match="state `g`"):
        health.look()


def test_rollback_goes_to_the_last_healthy_look(gain: Session) -> None:
    stream = gain.stream()
    health = Health(stream, policy="rollback", limits=Limits(peak=100.0))
    for _ in range(3):
        stream.step(HALF)
    good = stream.state
    assert health.look().healthy
    stream.step(BLOWS_UP)
    assert np.isinf(stream.state["g"]).all()
    report = health.look()
    assert not report.healthy
    assert report.rolled_back_to == stream.items_consumed == 3
    assert [t.finite for t in report.tensors] == [True, False]
    assert {n: v.tobytes() for n, v in stream.state.items()} == {
        n: v.tobytes() for n, v in good.items()
    }
    assert health.look().healthy


def test_rollback_with_nothing_to_go_back_to_says_so(gain: Session) -> None:
    stream = gain.stream()
    stream.step(ONE)
    stream.step(BLOWS_UP)
    with refused(StateError, "state-unhealthy", match="no healthy state to go back to"):
        Health(stream, policy="rollback")


def test_refuse_to_save_raises_until_the_state_is_well(gain: Session, tmp_path: Path) -> None:
    path = tmp_path / "state"
    stream = gain.stream()
    health = Health(stream, policy="refuse_to_save", limits=Limits(peak=100.0))
    stream.step(HALF)
    health.save(path)
    before = path.read_bytes()
    for _ in range(3):
        stream.step(np.full((1, 1), 4.0, np.float32))
    assert health.report.healthy  # nobody has looked
    with refused(
        StateError, "state-unhealthy", match=r"state `g`: max\|x\| is .*load that"
    ) as caught:
        health.save(path)
    assert isinstance(caught.value, StateError)
    with refused(StateError, "state-unhealthy"):
        health.saved()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    stream.reset()
    health.save(path)
    assert Stream.load(gain, path).items_consumed == 0


def test_rollback_saves_the_healthy_state(gain: Session, tmp_path: Path) -> None:
    stream = gain.stream()
    health = Health(stream, policy="rollback")
    stream.step(HALF)
    health.look()
    stream.step(BLOWS_UP)
    health.save(tmp_path / "state")
    assert Stream.load(gain, tmp_path / "state").items_consumed == 1


def make_sick(stream: Stream, sick: Snapshot) -> None:
    """Put a state in force that `restore` would refuse, as an unchecked step may leave it."""
    stream._core._arenas[stream._core.mark.side].write(sick.block)
    stream._core.mark = stream._core.mark._replace(unchecked=1)


@pytest.mark.parametrize("policy", ["warn", "refuse_to_save", None])
def test_a_state_that_is_not_finite_is_never_written(
    gain: Session, tmp_path: Path, policy: str | None
) -> None:
    stream = gain.stream()
    stream.step(ONE)
    stream.save(tmp_path / "state")
    before = (tmp_path / "state").read_bytes()
    stream.step(BLOWS_UP)
    writer: Stream | Health = stream
    expected = Fault(NonFiniteError, "state-not-finite")
    if policy == "warn":
        with pytest.warns(HealthWarning, match="state `g` holds a NaN or an infinity"):
            writer = Health(stream, policy="warn")
    elif policy == "refuse_to_save":
        writer = Health(stream, policy="refuse_to_save")
        expected = Fault(StateError, "state-unhealthy")
    sick = stream.snapshot()
    with refused(*expected):
        writer.save(tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == before
    make_sick(stream, sick)
    with refused(*expected):
        writer.saved()
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def track(rms_at: "dict[int, float]") -> float | None:
    followed = Track()
    for items, rms in rms_at.items():
        found = followed.look("x", np.full(4, rms, np.float32), items)
    return found.growth_per_decade


def test_growth_is_the_exponent_whatever_the_scale() -> None:
    items = [round(10 ** (i / 10)) for i in range(20, 61)]
    assert track({n: 3.0 for n in items}) == pytest.approx(1, rel=1e-6)
    assert track({n: 1e-3 * n for n in items}) == pytest.approx(10, rel=1e-3)
    assert track({n: 7 * n**0.5 for n in items}) == pytest.approx(10**0.5, rel=1e-3)
    assert track({n: 7 / n for n in items}) == pytest.approx(0.1, rel=1e-3)


def test_growth_forgets_the_beginning_and_outliers() -> None:
    items = [round(10 ** (i / 10)) for i in range(0, 61)]
    filling = {n: min(1.0, n / 1000) for n in items}  # full after a thousand items
    assert track(filling) == pytest.approx(1, rel=1e-6)
    items = [round(10 ** (i / 10)) for i in range(30, 61)]
    outlier = {n: 50.0 if i in (12, 25) else 1.0 for i, n in enumerate(items)}
    assert track(outlier) == pytest.approx(1, rel=1e-6)


def test_growth_needs_some_looks() -> None:
    assert track({10**i: float(i) for i in range(1, 9)}) is None
    assert track({n: 1.0 for n in range(1000, 1100)}) is None


def test_history_is_bounded_however_often_one_looks() -> None:
    followed = Track()
    value = np.ones(2, np.float32)
    for items in range(1, 3_000):
        followed.look("x", value, items)
    assert len(followed._points) <= POINTS_PER_DECADE * math.log10(3_000) + 1
    followed.forget_after(100)
    assert len(followed._points) <= POINTS_PER_DECADE * 2 + 1


def test_growth_beyond_the_limit_is_a_cause(gain: Session) -> None:
    stream = gain.stream()
    health = Health(stream, every_items=1, policy="refuse_to_save", limits=Limits(None, 3.0))
    reports = []
    tiny = np.full((1, 1), 1e-3, np.float32)
    for _ in range(200):  # `c` grows in step with the items, `g` hardly
        stream.step(tiny)
        reports.append(health.tick())
    assert health.report.causes
    assert all("state `c`: rms grew" in cause for cause in health.report.causes)
    assert "limit 3" in health.report.causes[0]
    with refused(StateError, "state-unhealthy", match="rms grew"):
        health.save("never written")


def test_wrong_use_is_refused(text: Session) -> None:
    stream = text.stream()
    with pytest.raises(ValueError, match="every_items is 0"):
        Health(stream, every_items=0)
    with pytest.raises(ValueError, match="policy is 'panic'"):
        Health(stream, policy="panic")  # type: ignore[arg-type]


def test_watching_changes_nothing(text: Session) -> None:
    random = np.random.default_rng(0)
    chunks = random.integers(0, 256, (50, 1, 8))
    plain, watched = text.stream(), text.stream()
    health = Health(watched, every_items=1, policy="rollback", limits=Limits(peak=1e30))
    for chunk in chunks:
        expected = plain.step(chunk)["logits"]
        assert watched.step(chunk)["logits"].tobytes() == expected.tobytes()
        health.tick()
    assert watched.state["h"].tobytes() == plain.state["h"].tobytes()
