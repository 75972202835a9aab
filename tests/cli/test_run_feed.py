"""`dst run feed`: times are read from a column, odd items are told, a stream goes on later."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import Dst
from tests.cli.numeric import running_sums

ROWS, ODD = 700, 600


def write(path: Path, first: int = 0, last: int = ROWS, text: str = "") -> Path:
    """A CSV of a value every ten minutes; that of row `ODD` is far off."""
    random = np.random.default_rng(0)
    values = 20 + 5 * np.sin(2 * np.pi * np.arange(ROWS) / 144) + 0.2 * random.normal(size=ROWS)
    values[ODD] += 40
    moments = np.datetime64("2026-01-05T00:00:00") + 600 * np.arange(ROWS)
    lines = [f"{str(m).replace('T', ' ')},{v:.6f}" for m, v in zip(moments, values, strict=True)]
    path.write_text("\n".join(["timestamp,cpu", *lines[first:last]]) + "\n" + text, "utf-8")
    return path


def test_an_odd_item_is_told_with_what_was_expected(dst: Dst, tmp_path: Path) -> None:
    data = write(tmp_path / "cpu.csv")
    done = dst("run", "feed", str(data), "--alert", "1e-3", "--json", str(tmp_path / "r.json"))
    assert done.code == 0
    lines = done.out.splitlines()
    (line,) = [line for line in lines if int(line.split()[0]) == ODD + 1]
    assert "2026-01-09 04:00:00" in line
    assert "expected" in line
    assert json.loads((tmp_path / "r.json").read_text("utf-8"))["alerts"] == len(lines)


def test_cutting_the_input_changes_nothing(dst: Dst, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    assert dst("run", "feed", str(write(tmp_path / "a.csv")), "--out", str(whole)).code == 0
    for first, last in ((0, 320), (320, ROWS)):
        data = write(tmp_path / f"{first}.csv", first, last)
        saved = ("--state", str(tmp_path / "s.state"))
        assert dst("run", "feed", str(data), "--out", str(parts), *saved).code == 0
    with whole.open() as one, parts.open() as other:
        assert list(csv.reader(one)) == list(csv.reader(other))


def test_a_time_that_is_none_is_refused_with_its_line(dst: Dst, tmp_path: Path) -> None:
    data = write(tmp_path / "cpu.csv", text="yesterday,3\n")
    done = dst("run", "feed", str(data), "--alert", "1e-3")
    assert done.code == 2
    assert f"line {ROWS + 2}" in done.err
    assert "'yesterday' is no time" in done.err


def test_a_stream_without_times_is_read(dst: Dst, tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("value\n" + "1\n2\n3\n" * 50, "utf-8")
    out = tmp_path / "out.csv"
    assert dst("run", "feed", str(tmp_path / "v.csv"), "--out", str(out)).code == 0
    assert len(out.read_text("utf-8").splitlines()) == 151


@pytest.mark.parametrize(
    ("bundle", "rate", "words"),
    [("sensor", "1e-3", ["--alert", "log", "feed"]), ("feed", "2", ["--alert 2", "1e-4"])],
)
def test_alerts_need_a_model_and_a_rate(
    dst: Dst, tmp_path: Path, bundle: str, rate: str, words: list[str]
) -> None:
    running_sums(tmp_path / "sensor")
    name = str(tmp_path / "sensor") if bundle == "sensor" else bundle
    done = dst("run", name, str(write(tmp_path / "cpu.csv")), "--alert", rate)
    assert done.code == 2
    assert [word for word in words if word not in done.err] == []


def test_a_second_column_must_be_chosen(dst: Dst, tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("time,a,b\n" + "2026-01-05,1,2\n" * 9, "utf-8")
    assert dst("run", "feed", str(tmp_path / "two.csv"), "--alert", "1e-3").code == 2
    chosen = dst("run", "feed", str(tmp_path / "two.csv"), "--alert", "1e-3", "--columns", "b")
    assert chosen.code == 0
