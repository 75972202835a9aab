"""The long life of the text model, cut short: what is read and written, and what is said of it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "train"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "evaluate" / "text"))
import long
from corpus import split

from dst.runtime import Session


@pytest.fixture(scope="module")
def session() -> Session:
    return Session.open("text")


def test_probes_are_read_on_a_fork_at_each_mark(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long, "MARKS", (2_000, 5_000, 9_000))
    text = b"".join(split()[1].values())
    rows = long.read(session, text[:6_000], [text[10_000:14_000]])
    assert [row["bytes"] for row in rows] == [2_000, 5_000]
    assert all(0.5 < row["bits_per_byte"] < 2.5 for row in rows)
    stream = session.stream()
    before = stream.items_consumed
    assert long.bits_of(stream, text[10_000:14_000]) > 0.5
    assert stream.items_consumed == before


def test_a_collapse_shows(session: Session) -> None:
    sound = b"".join(split()[1].values())[:20_000]
    stuck = b"return None\n" * 2_000
    said = [long.portrait(session, part, bytearray(part), len(part)) for part in (sound, stuck)]
    for name in ("bits_per_byte", "xz_bits_per_byte", "new_sequences"):
        assert said[0][name] > 3 * said[1][name]
    assert said[0]["commonest_line"] < 0.2 < said[1]["commonest_line"]


def test_the_model_writes_and_every_tenth_is_described(session: Session, tmp_path: Path) -> None:
    written, rows = long.write(session, 400, 0.8)
    assert len(written) == 400
    assert [row["bytes"] for row in rows] == [*range(40, 401, 40)]
    long.draw([{"bytes": 10, "bits_per_byte": 1.0}], rows, tmp_path / "long.png")
    assert (tmp_path / "long.png").stat().st_size > 5_000
