"""`dst run`: inputs of every kind go in; the numbers do not depend on how they came."""

import json
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dst.cli.inputs.reading import reading_of
from dst.cli.inputs.source import Source
from dst.runtime import Session, Stream, surprise_bits

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command

TEXT = b"".join(b"line %d: %s\n" % (i, bytes([97 + i % 26]) * (i % 40)) for i in range(90))


def expected_bits(bundle: Path, data: bytes) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Bits of each byte, from one whole pass through the runtime; 8 for the first."""
    stream = Session.open(bundle).stream()
    first, rest = stream.advance(data)["logits"][0], stream.flush()["logits"][0]
    logits = np.concatenate([first, rest])
    ids = np.frombuffer(data, np.uint8).astype(np.int64)
    return np.concatenate([[8.0], surprise_bits(logits[:-1], ids[1:])])


def numbers(out: str) -> list[tuple[float, float, str]]:
    rows = [line.split(None, 2) for line in out.splitlines()]
    return [(float(bits), float(rate), "".join(rest)) for bits, rate, *rest in rows]


@pytest.mark.parametrize("bundle", ["text", "single", "pad"])
def test_total_is_the_runtimes(dst: Dst, shelf: Path, tmp_path: Path, bundle: str) -> None:
    (tmp_path / "in").write_bytes(TEXT)
    done = dst("run", shelf / bundle, tmp_path / "in", "--json", "-")
    assert done.code == 0
    result = json.loads(done.out)
    assert result["items"] == result["scored"] == len(TEXT)
    assert result["total"] == pytest.approx(expected_bits(shelf / bundle, TEXT).sum(), rel=1e-6)
    assert result["per_item"] == pytest.approx(result["total"] / len(TEXT))


def test_first_byte_costs_eight_bits(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"a")
    result = json.loads(dst("run", shelf / "text", tmp_path / "in", "--json", "-").out)
    assert (result["items"], result["total"]) == (1, 8.0)


def test_lines_carry_their_bits(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"one\ntwo\x1b[31m\n\xff end")
    done = dst("run", shelf / "text", tmp_path / "in", "--per", "line")
    bits = expected_bits(shelf / "text", b"one\ntwo\x1b[31m\n\xff end")
    want = [bits[:4].sum(), bits[4:13].sum(), bits[13:].sum()]
    found = numbers(done.out)
    assert [b for b, _, _ in found] == pytest.approx(want, abs=0.051)
    assert [r for _, r, _ in found] == pytest.approx(
        [w / n for w, n in zip(want, (4, 9, 5), strict=True)], abs=0.00051
    )
    assert [t for _, _, t in found] == ["one", r"two\x1b[31m", r"\xff end"]
    assert "surprise" in done.err


def test_items_carry_their_bits(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"ab\n" * 9)
    done = dst("run", shelf / "text", tmp_path / "in", "--per", "item")
    found = [line.split(None, 1) for line in done.out.splitlines()]
    assert [float(bits) for bits, _ in found] == pytest.approx(
        expected_bits(shelf / "text", b"ab\n" * 9), abs=0.00051
    )
    assert [shown for _, shown in found] == ["a", "b", r"\n"] * 9


def test_top_lines_are_those_of_most_bits_per_byte(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(TEXT)
    lines = numbers(dst("run", shelf / "text", tmp_path / "in", "--per", "line").out)
    best = sorted(lines, key=lambda line: line[1], reverse=True)[:4]
    assert best != sorted(lines, reverse=True)[:4]
    result = json.loads(dst("run", shelf / "text", tmp_path / "in", "--top", 4, "--json", "-").out)
    rates = [x["bits_per_byte"] for x in result["top"]]
    assert rates == sorted(rates, reverse=True)
    assert rates == pytest.approx([rate for _, rate, _ in best], abs=0.00051)
    assert [x["bits"] / x["bytes"] for x in result["top"]] == pytest.approx(rates)
    assert {x["text"] for x in result["top"]} == {t for _, _, t in best}
    shown = dst("run", shelf / "text", tmp_path / "in", "--top", 4)
    assert "by bits per byte" in shown.out


WHOLE = TEXT[: len(TEXT) // 8 * 8]  # what a model that refuses a part of a chunk can read
CUTS = [1, 7, 8, 9, 1024, TEXT.index(b"\n", 700) + 1]


@pytest.mark.parametrize(
    ("bundle", "cut"),
    [(bundle, cut) for bundle in ("text", "single", "pad") for cut in CUTS]
    + [("refuse", 8), ("refuse", 1024)],
)
def test_two_runs_are_one(dst: Dst, shelf: Path, tmp_path: Path, bundle: str, cut: int) -> None:
    text = WHOLE if bundle == "refuse" else TEXT
    for name, data in (("a", text[:cut]), ("b", text[cut:]), ("whole", text)):
        (tmp_path / name).write_bytes(data)
    state = tmp_path / "state"
    whole, first, second = (
        dst("run", shelf / bundle, tmp_path / name, "--json", tmp_path / f"{name}.json", *more)
        for name, more in (
            ("whole", ("--per", "line")),
            ("a", ("--per", "line", "--state", state)),
            ("b", ("--per", "line", "--state", state)),
        )
    )
    total = {n: json.loads((tmp_path / f"{n}.json").read_text()) for n in ("a", "b", "whole")}
    assert total["a"]["items"] + total["b"]["items"] == total["whole"]["items"]
    assert total["b"]["state_items"] == len(text)
    assert total["a"]["total"] + total["b"]["total"] == pytest.approx(
        total["whole"]["total"], rel=1e-6
    )
    if TEXT[cut - 1 : cut] == b"\n":
        found, want = numbers(first.out + second.out), numbers(whole.out)
        assert [t for _, _, t in found] == [t for _, _, t in want]
        assert [b for b, _, _ in found] == pytest.approx([b for b, _, _ in want], abs=0.11)


@pytest.mark.parametrize("cut", [3, 8, 12, 1021])
def test_a_refused_part_of_a_chunk_is_saved_first(
    dst: Dst, shelf: Path, tmp_path: Path, cut: int
) -> None:
    (tmp_path / "a").write_bytes(WHOLE[:cut])
    (tmp_path / "b").write_bytes(WHOLE[cut:])
    ask = ("--state", tmp_path / "state", "--json", "-")
    first = dst("run", shelf / "refuse", tmp_path / "a", *ask)
    assert first.code == (2 if cut % 8 else 0)
    assert (f"they wait in {tmp_path / 'state'}" in first.err) == bool(cut % 8)
    assert items_in(shelf / "refuse", tmp_path / "state") == cut
    second = json.loads(dst("run", shelf / "refuse", tmp_path / "b", *ask).out)
    assert (second["items"], second["state_items"]) == (len(WHOLE) - cut, len(WHOLE))
    # The first run scores what its whole chunks predict, the second all that follows.
    scored = 1 + cut // 8 * 8 if cut % 8 else cut
    bits = expected_bits(shelf / "refuse", WHOLE)
    assert second["total"] == pytest.approx(bits[scored:].sum(), rel=1e-6)


def items_in(bundle: Path, state: Path) -> int:
    """All items that a saved state has read, those that wait included."""
    stream = Stream.load(Session.open(bundle), state)
    return stream.items_consumed + stream.pending


@pytest.mark.parametrize("bundle", ["text", "pad", "refuse"])
def test_items_that_wait_in_a_state_are_counted_once(
    dst: Dst, shelf: Path, tmp_path: Path, bundle: str
) -> None:
    state = tmp_path / "state"
    stream = Session.open(shelf / bundle).stream()
    stream.advance(b"eight by" + b"five.")
    stream.save(state)
    before = state.read_bytes()
    (tmp_path / "empty").touch()
    nothing = dst("run", shelf / bundle, tmp_path / "empty", "--state", state)
    assert (nothing.code, nothing.out) == (2, "")
    assert "is empty" in nothing.err
    assert state.read_bytes() == before
    (tmp_path / "in").write_bytes(b"abc")
    done = json.loads(
        dst("run", shelf / bundle, tmp_path / "in", "--state", state, "--json", "-").out
    )
    assert (done["items"], done["state_items"]) == (3, 16)
    assert items_in(shelf / bundle, state) == 16


@pytest.mark.parametrize("bundle", ["text", "pad", "refuse"])
def test_a_save_never_shortens(shelf: Path, tmp_path: Path, bundle: str) -> None:
    session = Session.open(shelf / bundle)
    stream = session.stream()
    stream.advance(b"eight by" + b"five.")
    stream.save(tmp_path / "a")
    reading = reading_of(session, tmp_path / "a", None)
    kept = []
    for data in (b"", b"a", b"bcdefghijk"):
        assert all(s.scores is None or len(s.scores) for s in reading.read(ids(data)))
        reading.save(tmp_path / "b")
        kept.append(items_in(shelf / bundle, tmp_path / "b"))
        assert kept[-1] == reading.items
    assert kept[0] == 13
    assert kept == sorted(kept)


def ids(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.frombuffer(data, np.uint8).astype(np.int64)


def test_the_state_is_named_where_it_was_saved(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"some bytes")
    plain = dst("run", shelf / "text", tmp_path / "in")
    kept = dst("run", shelf / "text", tmp_path / "in", "--state", tmp_path / "[b]")
    assert "saved to" not in plain.out
    assert "saved to" in kept.out
    assert "[b]" in kept.out.replace("\n", "")


def test_an_input_is_closed_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(TEXT)
    file = Source.open(str(tmp_path / "in"))
    theirs, ours = os.pipe()
    os.write(ours, b"some")
    os.close(ours)
    pipe = Source(FileIO(theirs), None)
    assert b"".join(file.blocks()) == TEXT
    assert b"".join(pipe.blocks()) == b"some"
    assert (file.file.closed, pipe.file.closed) == (True, True)


def test_saving_on_the_way_changes_nothing(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(TEXT)
    plain = dst("run", shelf / "text", tmp_path / "in", "--state", tmp_path / "a", "--json", "-")
    often = dst(
        *("run", shelf / "text", tmp_path / "in", "--state", tmp_path / "b", "--json", "-"),
        *("--save-every", 100),
    )
    assert json.loads(plain.out)["total"] == json.loads(often.out)["total"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "b.previous").is_file()
    assert not (tmp_path / "a.previous").exists()


def test_other_chunks_agree(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(TEXT)
    totals = [
        json.loads(dst("run", shelf / "text", tmp_path / "in", "--chunk", t, "--json", "-").out)
        for t in (1, 8, 32)
    ]
    assert [x["total"] for x in totals] == pytest.approx([totals[1]["total"]] * 3, rel=1e-6)


def gaussian_nats(rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    """What the sensor model costs: it predicts the sum of all before, with deviation 1."""
    predicted = np.cumsum(rows, axis=0)[:-1]
    return float((0.5 * (rows[1:] - predicted) ** 2 + 0.5 * np.log(2 * np.pi)).sum())


ROWS = np.array([[1.0, 2.0], [3.0, 5.0]])


@pytest.mark.parametrize("kind", ["rows.csv", "rows.npy", "rows.f32"])
def test_features_are_scored_in_nats(dst: Dst, shelf: Path, tmp_path: Path, kind: str) -> None:
    rows = np.random.default_rng(0).normal(size=(50, 2)).round(3).astype(np.float32)
    file = tmp_path / kind
    if kind == "rows.npy":
        np.save(file, rows)
    elif kind == "rows.f32":
        file.write_bytes(rows.tobytes())
    else:
        body = "\n".join(f"{a},{b}" for a, b in rows.tolist())
        file.write_text("left,right\n" + body)
    result = json.loads(dst("run", shelf / "sensor", file, "--json", "-").out)
    assert (result["items"], result["scored"], result["unit"]) == (50, 49, "nats")
    assert result["total"] == pytest.approx(gaussian_nats(rows.astype(np.float64)), rel=1e-5)


def test_the_first_row_of_a_csv_counts(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    for number, start in enumerate((b"", b"\xef\xbb\xbf", b"\xef\xbb\xbfleft,right\r\n")):
        file = tmp_path / f"{number}.csv"
        file.write_bytes(start + b"1,2\r\n3,5\r\n")
        told = dst("run", shelf / "sensor", file, "--json", "-").json
        assert (told["items"], told["total"]) == (2, pytest.approx(gaussian_nats(ROWS)))


def test_features_cut_in_two(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(30, 2)).astype(np.float32)
    np.save(tmp_path / "a.npy", rows[:13])
    np.save(tmp_path / "b.npy", rows[13:])
    parts = [
        json.loads(
            dst(
                *("run", shelf / "sensor", tmp_path / f"{n}.npy", "--state", tmp_path / "s"),
                *("--json", "-"),
            ).out
        )
        for n in ("a", "b")
    ]
    assert sum(p["scored"] for p in parts) == 29
    assert sum(p["total"] for p in parts) == pytest.approx(
        gaussian_nats(rows.astype(np.float64)), rel=1e-5
    )


def test_progress_is_told_without_a_terminal(
    dst: Dst, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dst.cli.output.PLAIN_EVERY_S", 0.0)
    monkeypatch.setattr("dst.cli.footprint._SAMPLE_S", 0.0)
    (tmp_path / "in").write_bytes(TEXT)
    done = dst("run", shelf / "text", tmp_path / "in")
    assert "bits/item" in done.err
    assert "100%" in done.err
    assert dst("run", shelf / "text", tmp_path / "in", "--per", "line").err.count("bits/item") > 0


@pytest.mark.parametrize("place", [".", "", "/"])
def test_a_state_that_is_a_directory_is_refused(dst: Dst, tmp_path: Path, place: str) -> None:
    (tmp_path / "a.txt").write_text("abc")
    done = dst("run", "text", tmp_path / "a.txt", "--state", place)
    assert (done.code, done.out) == (2, "")
    assert "is a directory" in done.err
