"""Lines judged by their stream's habits: scores, probabilities, pieces, saves and kills."""

from pathlib import Path

import numpy as np
import pytest

from dst.runtime import (
    JudgedLine,
    LineMonitor,
    LineScorer,
    Session,
    SessionError,
    StateError,
    Stream,
)
from dst.runtime.monitor.monitor import LONGEST, lines_of, save_lines
from dst.runtime.monitor.scorer import ALL, _known, _learn, _tables
from dst.runtime.state.file import previous_of

TEXT = b"".join(b"job %d of worker-%d took %d ms\n" % (i, i % 3, 7 * i % 50) for i in range(40))


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.open("text")


# The scorer


def test_a_line_is_strange_only_beside_its_own_kind() -> None:
    scorer, source = LineScorer(), np.random.default_rng(0)
    dear, cheap = b"key 1f8a90 ab77\n", b"ready: 5 of 9\n"
    for _ in range(300):
        of_dear = scorer.judge(dear, source.uniform(3, 5, len(dear)))
        of_cheap = scorer.judge(cheap, source.uniform(0, 0.2, len(cheap)))
    bits = np.full(len(cheap), 0.1)
    bits[7] = 6.0  # far below what the dear line costs in all
    strange = scorer.judge(cheap, bits)
    assert strange.bits < of_dear.bits
    assert strange.score > max(of_dear.score, of_cheap.score) + 1
    assert strange.probability < 0.01
    assert strange.usual_bits == pytest.approx(0.1 * len(cheap), rel=0.1)


def test_a_token_that_never_comes_there_is_told_from_one_that_does() -> None:
    scorer, source = LineScorer(), np.random.default_rng(0)
    for i in range(400):  # the first word costs much in every second line, always the same one
        dear = i % 2 == 0
        line = b"alpha done\n" if dear else b"omega done\n"
        bits = source.uniform(0, 0.1, len(line))
        bits[0] += 6.0 if dear else 0.0
        usual = scorer.judge(line, bits)
    bits = np.full(len(b"omega done\n"), 0.05)
    bits[0] = 6.0
    assert scorer.judge(b"omega done\n", bits).score > usual.score + 3


def test_probabilities_are_rates() -> None:
    scorer, source = LineScorer(), np.random.default_rng(0)
    found = []
    for i in range(6000):
        line = b"step %d of %d\n" % (i % 7, i % 11)
        found.append(scorer.judge(line, source.exponential(1.0, len(line))).probability)
    chances = np.array(found[1000:])
    for level in (0.5, 0.1, 0.02, 0.004):  # few alarms too many; in so thin a tail, some too few
        assert 0.3 * level <= np.mean(chances <= level) <= 1.3 * level


def test_means_and_spreads_are_those_of_the_values() -> None:
    table, values = _tables()["kinds"], np.random.default_rng(0).normal(5, 2, 900)
    for value in values.tolist():
        _learn(table, 12345, value)
    expected = 900, values.mean(), values.var()
    assert _known(table, 12345) == pytest.approx(expected)
    _learn(table, 12345 + len(table) - 1, 1.0)  # another one that wants the same bucket
    assert _known(table, 12345) == (0, 0, 0)
    assert _known(table, ALL) == (0, 0, 0)


def test_a_scorer_goes_on_from_its_arrays_and_holds_no_more_after_many_lines() -> None:
    one, source = LineScorer(), np.random.default_rng(0)
    size = sum(array.nbytes for array in one.arrays().values())
    for number in range(200):
        line = b"line %d says %x\n" % (number, number**5)
        one.judge(line, source.exponential(size=len(line)))
    other = LineScorer()
    other.restore(one.arrays())
    assert sum(array.nbytes for array in one.arrays().values()) == size
    for number in range(50):
        line = b"line %d says %x\n" % (number, number**5)
        bits = source.exponential(size=len(line))
        assert one.judge(line, bits) == other.judge(line, bits)


def test_what_does_not_fit_is_refused() -> None:
    scorer = LineScorer()
    with pytest.raises(ValueError, match=r"bits \[3\] do not fit a line of 5 bytes"):
        scorer.judge(b"abcd\n", np.zeros(3))
    arrays = scorer.arrays()
    with pytest.raises(ValueError, match=r"kinds: expected .* came nothing"):
        scorer.restore({name: array for name, array in arrays.items() if name != "kinds"})
    with pytest.raises(ValueError, match=r"counts: expected \[512\], came \[3\]"):
        scorer.restore(arrays | {"counts": np.zeros(3)})


def test_odd_lines_are_judged() -> None:
    scorer = LineScorer()
    for line in (b"\n", b"", b"\0\xff\n", b"x" * 9000, b"\r\n", b"_" * 30):
        found = scorer.judge(line, np.full(len(line), 2.0))
        assert 0 < found.probability <= 1
        assert np.isfinite([found.bits, found.usual_bits, found.score]).all()


# The monitor


def close(left: list[JudgedLine], right: list[JudgedLine]) -> None:
    """The same lines; how they are cut into chunks moves bits by rounding alone."""
    assert [(one.number, one.text) for one in left] == [(one.number, one.text) for one in right]
    for one, other in zip(left, right, strict=True):
        assert one.score.bits == pytest.approx(other.score.bits, abs=0.01)


def test_lines_may_come_in_any_pieces(session: Session) -> None:
    whole = LineMonitor(session.stream()).read(TEXT)
    assert [one.text for one in whole] == TEXT.splitlines()
    monitor, found, at = LineMonitor(session.stream()), list[JudgedLine](), 0
    for size in (1, 0, 3, 90, 700, 7, 10_000):
        found += monitor.read(TEXT[at : at + size])
        at += size
    close(found, whole)


def test_the_first_byte_costs_eight_bits_and_bits_are_those_of_the_model(session: Session) -> None:
    (line,) = LineMonitor(session.stream()).read(b"ab\n")
    stream = session.stream()
    outputs = [stream.step(np.array([[byte]]))["logits"][0, 0].astype(float) for byte in b"ab"]
    bits = 8.0
    for logits, byte in zip(outputs, b"b\n", strict=True):
        shares = np.exp(logits - logits.max())
        bits -= np.log2(shares[byte] / shares.sum())
    assert line.score.bits == pytest.approx(bits, abs=1e-3)


def test_it_goes_on_in_the_middle_of_a_line(session: Session, tmp_path: Path) -> None:
    cut = TEXT.index(b"took 35") + 3
    one = LineMonitor(session.stream())
    first = one.read(TEXT[:cut])
    one.save(tmp_path / "s")
    other = LineMonitor.load(session, tmp_path / "s")
    rest = one.read(TEXT[cut:])
    assert other.read(TEXT[cut:]) == rest
    assert [line.text for line in first + rest] == TEXT.splitlines()
    assert rest[0].number == len(first) + 1


def arrays_of(monitor: LineMonitor) -> dict[str, np.ndarray]:
    """What a monitor that stands at the end of a line saves."""
    return {
        **monitor.scorer.arrays(),
        "guess": np.zeros((1, 256), np.float32),
        "text": np.zeros(0, np.uint8),
        "bits": np.zeros(0),
        "line": np.array([1.0, 0, 0]),
    }


def test_a_kill_between_the_two_files_loses_nothing(session: Session, tmp_path: Path) -> None:
    monitor = LineMonitor(session.stream())
    monitor.read(TEXT[:300])
    monitor.save(tmp_path / "s")
    expected = LineMonitor.load(session, tmp_path / "s").read(TEXT[300:])
    monitor.read(TEXT[300:500])
    for more in (b"a\n", b"b\n"):  # killed twice there: the first time must not cost the copy
        save_lines(tmp_path / "s", monitor.stream.snapshot(), arrays_of(monitor))
        monitor.read(more)
    assert LineMonitor.load(session, tmp_path / "s").read(TEXT[300:]) == expected


def test_lines_of_another_moment_are_not_taken(session: Session, tmp_path: Path) -> None:
    monitor = LineMonitor(session.stream())
    monitor.read(TEXT[:300])
    monitor.save(tmp_path / "s")
    lines = lines_of(tmp_path / "s")
    damaged = bytearray(lines.read_bytes())
    damaged[-5] ^= 1
    lines.write_bytes(damaged)
    with pytest.raises(StateError, match="nor its previous copy") as caught:
        LineMonitor.load(session, tmp_path / "s")
    assert caught.value.code == "lines-missing"
    lines.unlink()
    with pytest.raises(StateError, match="nor its previous copy"):
        LineMonitor.load(session, tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("counts", -np.ones(512)),
        ("counts", np.full(512, np.nan)),
        ("places", np.zeros((3, 4))),
        ("line", np.array([1.0, 0])),
        ("line", np.array([1e300, 0, 0])),
        ("bits", np.zeros(4)),
        ("text", np.zeros(0)),
        ("guess", np.zeros(5, np.float32)),
        ("kinds", None),
        ("more", np.zeros(1)),
    ],
)
def test_arrays_that_no_monitor_writes_are_not_taken(
    session: Session, tmp_path: Path, name: str, value: np.ndarray | None
) -> None:
    monitor = LineMonitor(session.stream())
    monitor.read(TEXT[:300])
    monitor.save(tmp_path / "s")
    arrays = {**arrays_of(monitor), name: value}
    save_lines(
        tmp_path / "s",
        monitor.stream.snapshot(),
        {key: array for key, array in arrays.items() if array is not None},
    )
    previous_of(lines_of(tmp_path / "s")).unlink(missing_ok=True)
    with pytest.raises(StateError) as caught:
        LineMonitor.load(session, tmp_path / "s")
    assert caught.value.code == "lines-missing"


def test_lines_of_another_stream_are_not_taken(session: Session, tmp_path: Path) -> None:
    for name, text in (("one", b"alpha\n" * 20), ("two", b"omega\n" * 20)):
        monitor = LineMonitor(session.stream())
        monitor.read(text)
        monitor.save(tmp_path / name)
    lines_of(tmp_path / "two").replace(lines_of(tmp_path / "one"))
    with pytest.raises(StateError, match="nor its previous copy"):
        LineMonitor.load(session, tmp_path / "one")


def test_a_failed_read_has_read_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, other = LineMonitor(session.stream()), LineMonitor(session.stream())
    monitor.read(TEXT[:100])
    other.read(TEXT[:100])
    flush = Stream.flush

    def failing(stream: Stream) -> None:
        flush(stream)
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Stream, "flush", failing)
        with pytest.raises(MemoryError):
            monitor.read(TEXT[100:400])
    assert monitor.read(TEXT[100:400]) == other.read(TEXT[100:400])


def test_what_waits_in_a_stream_foretells_the_next_byte(session: Session) -> None:
    stream = session.stream()
    stream.advance(TEXT[:70])  # six wait
    found = LineMonitor(stream).read(TEXT[70:200])
    whole = LineMonitor(session.stream()).read(TEXT[:200])
    assert found[-1].text == whole[-1].text
    assert found[-1].score.bits == pytest.approx(whole[-1].score.bits, abs=0.01)


def test_text_that_is_no_bytes_is_refused(session: Session) -> None:
    with pytest.raises(TypeError, match="text is a str, expected bytes"):
        LineMonitor(session.stream()).read("a\n")  # type: ignore[arg-type]


def test_few_lines_tell_no_small_probability() -> None:
    scorer = LineScorer()
    for number in range(1, 30):
        found = scorer.judge(b"abc\n", np.full(4, 0.1 if number != 20 else 50.0))
        assert found.probability >= 0.2 / number


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0, 1e80])
def test_bits_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="bits must lie in"):
        LineScorer().judge(b"ab", np.array([1.0, bad]))


def test_a_save_that_cannot_be_written_keeps_what_was_there(
    session: Session, tmp_path: Path
) -> None:
    monitor = LineMonitor(session.stream())
    with pytest.raises(StateError) as caught:
        monitor.save(tmp_path / "none" / "s")
    assert caught.value.code == "state-unwritable"


def test_a_line_without_end_is_judged_by_its_first_bytes(session: Session) -> None:
    monitor = LineMonitor(session.stream())
    assert monitor.read(b"x" * (LONGEST + 500)) == []
    (line,) = monitor.read(b"yz\n")
    assert line.text == b"x" * LONGEST


def test_a_model_of_other_items_is_refused(sensor: Session) -> None:
    with pytest.raises(SessionError, match="reads and predicts bytes") as caught:
        LineMonitor(sensor.stream())
    assert caught.value.code == "no-bytes"


def test_a_stream_in_mid_life_is_taken_as_it_is(session: Session) -> None:
    stream: Stream = session.stream()
    stream.advance(TEXT[:64])
    assert [line.text for line in LineMonitor(stream).read(b"a\nb\n")] == [b"a", b"b"]
