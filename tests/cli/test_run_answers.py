"""`dst run --out`: what is written is what the runtime answers, whole or not at all."""

import csv
import io
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cli.numeric import even_ids, running_sums

from dst.cli.answers.file import AnswerFile
from dst.cli.inputs.reading import Reading
from dst.runtime import Session, Stream

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command
Start = Callable[..., Any]
Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

ROWS = np.random.default_rng(3).normal(size=(22, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    running_sums(root / "exact")
    running_sums(root / "pad", sizes=(4,), tail="pad")
    running_sums(root / "refuse", sizes=(4,), tail="refuse")
    running_sums(root / "single", sizes=(1,))
    even_ids(root / "ids")
    return root


def read(path: Path, name: str = "y") -> Array:
    """The answers in a file of any kind, `[n, 2]`."""
    if path.suffix == ".npy":
        return np.asarray(np.load(path))
    if path.suffix == ".csv":
        rows = list(csv.DictReader(path.read_text().splitlines()))
        return np.array([[row[f"{name}.0"], row[f"{name}.1"]] for row in rows], np.float32)
    held = [json.loads(line) for line in path.read_text().splitlines()]
    return np.array([row[name] for row in held if name in row], np.float32)


def save(path: Path, rows: Array) -> Path:
    np.save(path, rows)
    return path


@pytest.mark.parametrize("ending", ["npy", "csv", "jsonl"])
@pytest.mark.parametrize("model", ["exact", "single", "pad"])
def test_every_item_has_its_answer(
    dst: Dst, models: Path, tmp_path: Path, model: str, ending: str
) -> None:
    file, out = save(tmp_path / "in.npy", ROWS), tmp_path / f"out.{ending}"
    done = dst("run", models / model, file, "--out", out, "--output", "y", "--json", "-")
    assert done.code == 0, done.err
    assert (done.json["rows"], done.json["items"]) == (22, 22)
    assert read(out) == pytest.approx(np.cumsum(ROWS, axis=0), abs=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npy", out.name]


@pytest.mark.parametrize("ending", ["npy", "csv", "jsonl"])
@pytest.mark.parametrize("model", ["exact", "single", "pad", "refuse"])
@pytest.mark.parametrize("cut", [1, 4, 7, 8])
def test_the_answers_of_two_runs_are_those_of_one(
    dst: Dst, models: Path, tmp_path: Path, model: str, ending: str, cut: int
) -> None:
    rows = ROWS[:20]
    first, second = save(tmp_path / "a.npy", rows[:cut]), save(tmp_path / "b.npy", rows[cut:])
    out = tmp_path / f"out.{ending}"
    more = ("--state", tmp_path / "state", "--out", out, "--output", "y")
    part = model == "refuse" and cut % 4
    assert dst("run", models / model, first, *more).code == (2 if part else 0)
    if not part:
        assert len(read(out)) == cut
    assert dst("run", models / model, second, *more).code == 0
    assert read(out) == pytest.approx(np.cumsum(rows, axis=0), abs=1e-5)


def test_answers_per_chunk(dst: Dst, models: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "in.npy", ROWS[:10])
    sums = np.cumsum(ROWS[:10], axis=0)
    for ending in ("npy", "csv", "jsonl"):
        out = tmp_path / f"out.{ending}"
        done = dst("run", models / "pad", file, "--out", out, "--output", "last")
        assert done.code == 0, done.err
        assert read(out, "last") == pytest.approx(sums[[3, 7, 9]], abs=1e-5)
    ends = [row["item"] for row in csv.DictReader((tmp_path / "out.csv").read_text().splitlines())]
    assert ends == ["4", "8", "10"]


def test_json_lines_hold_items_and_chunks(dst: Dst, models: Path, tmp_path: Path) -> None:
    file, out = save(tmp_path / "in.npy", ROWS[:8]), tmp_path / "out.jsonl"
    assert dst("run", models / "pad", file, "--out", out).code == 0
    kinds = [next(iter(json.loads(line))) for line in out.read_text().splitlines()]
    assert kinds == [*["item"] * 4, "chunk_end", *["item"] * 4, "chunk_end"]
    both = dst("run", models / "pad", file, "--out", tmp_path / "out.csv")
    assert both.code == 2
    assert "--output" in both.err
    two = dst("run", models / "pad", file, "--out", tmp_path / "out.npy")
    assert "holds one output" in two.err
    assert not (tmp_path / "out.npy").exists()


def test_a_failure_leaves_the_file_as_it_was(dst: Dst, models: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("1,2\n" * 3000 + "1,oops\n")
    for ending in ("npy", "csv", "jsonl"):
        out = tmp_path / f"out.{ending}"
        out.write_text("what stood here")
        more = ("--out", out, "--output", "y")
        done = dst("run", models / "exact", tmp_path / "bad.csv", *more)
        assert done.code == 2
        assert "line 3001" in done.err
        assert out.read_text() == "what stood here"
        state = ("--state", tmp_path / "s", "--save-every", 10**6)
        assert dst("run", models / "exact", tmp_path / "bad.csv", *more, *state).code == 2
        assert out.read_text() == "what stood here"
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("ending", ["npy", "csv", "jsonl"])
def test_what_was_saved_on_the_way_stays(
    dst: Dst, models: Path, tmp_path: Path, ending: str
) -> None:
    rows = [f"{a},{b}" for a, b in ROWS.tolist()]
    (tmp_path / "bad.csv").write_text("\n".join([*rows * 100, "1,oops"]))
    out = tmp_path / f"out.{ending}"
    more = ("--state", tmp_path / "s", "--out", out, "--output", "y")
    done = dst("run", models / "exact", tmp_path / "bad.csv", "--save-every", 50, *more)
    assert done.code == 2
    kept = len(read(out))
    assert 0 < kept < 2200
    (tmp_path / "rest.csv").write_text("\n".join((rows * 100)[kept:]))
    told = dst("run", models / "exact", tmp_path / "rest.csv", *more, "--json", "-")
    assert told.json["state_items"] == 2200
    whole = np.cumsum(np.tile(ROWS, (100, 1)), axis=0, dtype=np.float64)
    assert read(out) == pytest.approx(whole, abs=1e-2)


def test_rows_beyond_the_state_are_cut_off(dst: Dst, models: Path, tmp_path: Path) -> None:
    """As a kill between two saves leaves them."""
    first, second = save(tmp_path / "a.npy", ROWS[:9]), save(tmp_path / "b.npy", ROWS[9:])
    for ending in ("csv", "jsonl"):
        out, state = tmp_path / f"o.{ending}", tmp_path / f"s{ending}"
        more = ("--state", state, "--out", out, "--output", "y")
        assert dst("run", models / "exact", first, *more).code == 0
        line = "10,5,5\n11,6," if ending == "csv" else '{"item": 10, "y": [5, 5]}\n{"it'
        out.write_text(out.read_text() + line)
        assert dst("run", models / "exact", second, *more).code == 0
        assert read(out) == pytest.approx(np.cumsum(ROWS, axis=0), abs=1e-5)


@pytest.mark.parametrize("more", [(), ("--state", "s", "--save-every", 1000)])
@pytest.mark.parametrize("ending", ["npy", "csv", "jsonl"])
def test_a_full_disk_is_named_and_nothing_is_left_on_it(
    dst: Dst,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    more: tuple[object, ...],
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.chdir(tmp_path)
    file, out = save(tmp_path / "in.npy", np.tile(ROWS, (400, 1))), tmp_path / f"o.{ending}"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        done = dst("run", models / "exact", file, "--out", out, "--output", "y", *more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.code == 2
    assert f"{out}: File too large" in done.err
    if not more:
        assert list(tmp_path.iterdir()) == [file]
        return
    state = Stream.load(Session.open(models / "exact"), tmp_path / "s")
    assert 0 < len(read(out)) == state.items_consumed
    assert not list(tmp_path.glob(".*"))


class KilledError(BaseException):
    """Ends a run as a kill does: nothing is cleaned up."""


@pytest.mark.parametrize("ending", ["npy", "csv", "jsonl"])
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("at_save", [1, 2, 3])
@pytest.mark.parametrize("late", [False, True])
def test_a_kill_around_a_save_doubles_no_answer(
    dst: Dst,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    saved: bool,
    at_save: int,
    late: bool,
) -> None:
    """The rows in the file are those of the state, whichever of the two came last."""
    items = np.tile(ROWS, (400, 1))  # three blocks of input, so two saves on the way
    out, state, before = tmp_path / f"o.{ending}", tmp_path / "s", 5 if late else 0
    more = ("--state", state, "--output", "y")
    if late:  # the stream is older than the file
        file = save(tmp_path / "first.npy", items[:before])
        assert dst("run", models / "exact", file, "--state", state).code == 0
    plain, count = Reading.save, itertools.count(1)

    def save_and_die(reading: Reading, path: Path) -> None:
        last = next(count) == at_save
        if last and not saved:
            raise KilledError
        plain(reading, path)
        if last:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Reading, "save", save_and_die)
        patch.setattr(AnswerFile, "abandon", lambda file: None)
        file = save(tmp_path / "in.npy", items[before:])
        with pytest.raises(KilledError):
            dst("run", models / "exact", file, *more, "--out", out, "--save-every", 4000)
    done = 0
    if state.exists():
        done = Stream.load(Session.open(models / "exact"), state).items_consumed
    rest = save(tmp_path / "rest.npy", items[done:])
    told = dst("run", models / "exact", rest, *more, "--out", out)
    assert told.code == (0 if done < len(items) else 2), told.err  # 2: nothing is left to read
    whole = np.cumsum(items, axis=0, dtype=np.float64)[before:]
    assert read(out) == pytest.approx(whole, abs=0.1)


def test_a_stream_does_not_go_on_in_another_file(dst: Dst, models: Path, tmp_path: Path) -> None:
    file, state = save(tmp_path / "in.npy", ROWS), tmp_path / "state"
    assert dst("run", models / "exact", file, "--state", state).code == 0
    before = state.read_bytes()
    for ending in ("npy", "csv", "jsonl"):
        out = tmp_path / f"o.{ending}"
        out.write_text("something else\n")
        done = dst("run", models / "exact", file, "--state", state, "--out", out, "--output", "y")
        assert done.code == 2
        assert "give a new name" in done.err
        assert (out.read_text(), state.read_bytes()) == ("something else\n", before)


def test_standard_output_takes_rows(dst: Dst, models: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "in.npy", ROWS)
    plain = dst("run", models / "exact", file, "--out", "-", "--output", "y")
    rows = list(csv.DictReader(io.StringIO(plain.out)))
    assert [row["item"] for row in rows] == [str(n) for n in range(1, 23)]
    lines = dst("run", models / "exact", file, "--out", "-.jsonl", "--output", "y").out
    assert [json.loads(line)["item"] for line in lines.splitlines()] == list(range(1, 23))
    assert "22 rows" in plain.err


def test_answers_come_while_the_pipe_stays_open(start: Start, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "pipe.jsonl"
    os.mkfifo(out)
    child = start("run", models / "exact", "-", "--out", out, "--output", "y")
    with open(out) as answers:
        for number in (1, 2, 3):
            child.stdin.write(b"1,2\n")
            child.stdin.flush()
            assert json.loads(answers.readline()) == {"item": number, "y": [number, 2 * number]}
        child.communicate(timeout=60)
    assert child.returncode == 0


def test_a_prediction_comes_while_the_pipe_stays_open(start: Start, shelf: Path) -> None:
    """Though the item that it is about is held back to score the next."""
    child = start("run", shelf / "sensor", "-", "--out", "-", "--output", "mean")
    assert child.stdout.readline() == b"item,mean.0,mean.1\n"
    for number in (1, 2):
        child.stdin.write(b"1,2\n")
        child.stdin.flush()
        assert child.stdout.readline().split(b",")[0] == b"%d" % number
    child.communicate(timeout=60)
    assert child.returncode == 0


def test_a_kill_loses_no_answer(dst: Dst, start: Start, shelf: Path, tmp_path: Path) -> None:
    """A prediction is written before the state that counts its item as answered."""
    out, state = tmp_path / "out.csv", tmp_path / "state"
    more = ("--state", state, "--out", out, "--output", "mean")
    child = start("run", shelf / "sensor", "-", *more, "--save-every", 3)
    for _ in range(20):
        child.stdin.write(b"1,2\n")
        child.stdin.flush()
        time.sleep(0.01)
    until = time.monotonic() + 60
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    (tmp_path / "rest.csv").write_text("1,2\n" * 5)
    done = dst("run", shelf / "sensor", tmp_path / "rest.csv", *more, "--json", "-")
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [int(row["item"]) for row in rows] == list(range(1, done.json["state_items"] + 1))


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_a_signal_completes_the_file(start: Start, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    child = start("run", models / "exact", "-", "--out", out, "--output", "y", "--per", "item")
    child.stdin.write(b"1,2\n3,4\n")
    child.stdin.flush()
    for _ in range(2):
        child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert b"Traceback" not in err
    assert read(out).tolist() == [[1, 2], [4, 6]]


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX pipes")
def test_a_reader_that_leaves_ends_the_run(start: Start, models: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("1,2\n" * 50_000)
    child = start("run", models / "exact", tmp_path / "in.csv", "--out", "-", "--output", "y")
    assert child.stdout.readline() == b"item,y.0,y.1\n"
    child.stdout.close()
    assert child.wait(60) == 141
    assert b"Traceback" not in child.stderr.read()


@pytest.mark.parametrize("ending", ["npy", "csv"])
def test_memory_stays_flat_while_answers_are_written(
    process: Dst, tmp_path: Path, ending: str
) -> None:
    bundle = running_sums(tmp_path / "sums", sizes=(1, 256))
    (tmp_path / "in.f32").write_bytes(np.ones((100_000, 2), "<f4").tobytes())
    more = ("--out", tmp_path / f"o.{ending}", "--output", "y", "--json", "-")
    done = process("run", bundle, tmp_path / "in.f32", *more)
    assert (done.code, done.json["rows"]) == (0, 100_000)
    assert done.json["rss_growth_bytes"] < 2**20


def test_files_are_kept_apart(dst: Dst, models: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "in.npy", ROWS)
    before = file.read_bytes()
    for more in (
        ("--out", file),
        ("--out", tmp_path / "s.npy", "--state", tmp_path / "s.npy"),
        ("--out", tmp_path / "s.npy", "--json", tmp_path / "s.npy"),
        ("--out", models / "exact" / "new.npy"),
        ("--out", tmp_path / "answers.txt"),
        ("--out", tmp_path / "no" / "where.npy"),
        ("--out", "-", "--json", "-"),
        ("--out", "-", "--per", "item"),
        ("--out", tmp_path / "a.npy", "--output", "nothing"),
    ):
        done = dst("run", models / "exact", file, "--output", "y", *more)
        assert (done.code, done.out) == (2, "")
        assert done.err.count("\n") == 1
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["in.npy"]


def test_rows_are_printed_for_a_reader(dst: Dst, models: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "in.npy", np.ones((5, 2), np.float32))
    out = dst("run", models / "exact", file, "--per", "item", "--output", "y").out
    assert [line.split() for line in out.splitlines()] == [[str(n)] * 3 for n in range(1, 6)]


def test_classes_name_the_likeliest(dst: Dst, models: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("3\n1\n")
    (tmp_path / "names").write_text("\n".join("abcdefghij"))
    share = float(np.exp(5) / (np.exp(5) + 9))
    for names in ("a,b,c,d,e,f,g,h,i,j", tmp_path / "names"):
        more = ("--classes", names)
        out = dst("run", models / "ids", tmp_path / "ids.csv", "--out", "-", *more).out
        rows = list(csv.DictReader(io.StringIO(out)))
        assert [row["class"] for row in rows] == ["d", "b"]
        assert [float(row["probability"]) for row in rows] == pytest.approx([share] * 2, rel=1e-5)
        assert float(rows[0]["logits.d"]) == 5
    printed = dst("run", models / "ids", tmp_path / "ids.csv", "--per", "item", *more).out
    assert [line.split()[1] for line in printed.splitlines()] == ["d", "b"]
    done = dst("run", models / "ids", tmp_path / "ids.csv", "--out", "-", "--classes", "none.txt")
    assert (done.code, done.out) == (2, "")
    assert "--classes none.txt: there is no such file" in done.err
    assert "with commas" in done.err
    for wrong in ("a,b", "a,a,c,d,e,f,g,h,i,j", "a,,c,d,e,f,g,h,i,j", "one"):
        done = dst("run", models / "ids", tmp_path / "ids.csv", "--out", "-", "--classes", wrong)
        assert (done.code, done.out) == (2, "")


def test_probabilities_are_taken_as_they_are(dst: Dst, models: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("0.25,0.75\n")
    more = ("--out", "-", "--output", "y", "--classes", "no,yes")
    row = next(
        csv.DictReader(io.StringIO(dst("run", models / "exact", tmp_path / "in.csv", *more).out))
    )
    assert (row["class"], float(row["probability"])) == ("yes", 0.75)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6),
        min_size=1,
        max_size=9,
    )
)
def test_numbers_survive_being_written(
    dst: Dst, models: Path, tmp_path: Path, values: list[float]
) -> None:
    """Text reads back as the same float32."""
    file = save(tmp_path / "in.npy", np.array([[v, 0] for v in values], np.float32))
    found = []
    for ending in ("npy", "csv", "jsonl"):
        out = tmp_path / f"out.{ending}"
        assert dst("run", models / "single", file, "--out", out, "--output", "y").code == 0
        found.append(read(out).tobytes())
    assert found[0] == found[1] == found[2]
