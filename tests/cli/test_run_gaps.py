"""`dst run --gap`: a missing value is refused, held or left out, and always told."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cli.numeric import running_sums
from tests.cli.reads import TWO, put, read, why

from dst.cli.inputs.block import Found

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command

NAN = float("nan")
FULL = st.tuples(st.integers(-99, 99), st.integers(-99, 99))
CELLS = st.one_of(st.integers(-99, 99), st.sampled_from(["", "nan", "NaN", "NA", "n/a", "null"]))
HOLES = st.tuples(CELLS, CELLS)


def expected(rows: list[tuple[object, object]], rule: str) -> list[list[float]]:
    """What a rule makes of rows, one by one."""
    made: list[list[float]] = []
    for row in rows:
        values = [NAN if isinstance(cell, str) else float(str(cell)) for cell in row]
        if any(np.isnan(values)):
            if rule == "skip":
                continue
            values = [made[-1][i] if np.isnan(v) else v for i, v in enumerate(values)]
        made.append(values)
    return made


@settings(max_examples=60, deadline=None)
@given(FULL, st.lists(st.one_of(FULL, HOLES, st.just(("", ""))), max_size=40), st.booleans())
def test_gaps_are_held_or_left_out(
    tmp_path_factory: pytest.TempPathFactory,
    first: tuple[int, int],
    rest: list[tuple[object, object]],
    blank: bool,
) -> None:
    folder = tmp_path_factory.mktemp("g")
    rows: list[tuple[object, object]] = [first, *rest, first]
    lines = [
        "" if blank and row == ("", "") else ",".join(str(cell) for cell in row) for row in rows
    ]
    numbers = np.array([[NAN if isinstance(c, str) else float(str(c)) for c in r] for r in rows])
    objects = [
        {k: None if isinstance(c, str) else c for k, c in zip(("left", "right"), r, strict=True)}
        for r in rows
    ]
    np.save(folder / "a.npy", numbers)
    files = (
        put(folder / "a.csv", "\n".join(lines)),
        put(folder / "a.jsonl", "\n".join(map(json.dumps, objects))),
        put(folder / "a.f32", numbers.astype("<f4").tobytes()),
        folder / "a.npy",
    )
    holes = int(np.isnan(numbers).any(axis=1).sum())
    for path in files:
        for rule in ("hold", "skip"):
            found = Found()
            assert read(path, TWO, found, gap=rule).tolist() == expected(rows, rule), path.name
            assert found.gaps == holes
        if holes:
            assert "--gap hold" in why(path)
        else:
            assert len(read(path)) == len(rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2\n\n3,4\n", ("line 2", "blank")),
        ("\n1,2\n", ("line 1", "blank")),
        ("left,right\n\n3,4\n", ("line 2", "blank")),
        ("1,2\n  \r\n3,4\n", ("line 2", "blank")),
        ("1,2\nnan,4\n", ("line 2", "column 1", "'nan'")),
        ("1,2\n3,NA\n", ("line 2", "column 2", "'NA'")),
        ("left,right\n1,2\n3,\n", ("line 3", "column 2 (right)", "''")),
        ("1,2\n3\n", ("line 2", "1 value, 2 are expected")),
    ],
)
def test_a_gap_is_refused_with_line_and_cure(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    said = why(put(tmp_path / "a.csv", text))
    assert [word for word in (*words, "--gap hold", "--gap skip") if word not in said] == []


def test_blank_lines_at_the_end_mean_nothing(tmp_path: Path) -> None:
    for text in ("1,2\n3,4\n\n\n", "1,2\r\n3,4\r\n\r\n", "1,2\n3,4\n \n"):
        assert read(put(tmp_path / "a.csv", text)).tolist() == [[1, 2], [3, 4]]
    assert len(read(put(tmp_path / "a.jsonl", "[1, 2]\n\n\n"))) == 1


def test_nothing_before_a_gap_cannot_be_held(tmp_path: Path) -> None:
    said = why(put(tmp_path / "a.csv", "nan,1\n1,2\n"), gap="hold")
    assert ("line 1" in said, "--gap skip" in said) == (True, True)


def test_gaps_are_told_at_the_end(dst: Dst, tmp_path: Path) -> None:
    bundle = running_sums(tmp_path / "sums")
    path = put(tmp_path / "a.csv", "1,2\n\n3,4\nNA,1\n")
    held = dst("run", bundle, path, "--gap", "hold")
    assert "2 items with missing values, held" in held.out
    left = dst("run", bundle, path, "--gap", "skip", "--json", tmp_path / "json")
    assert "2 items with missing values, left out" in left.out
    told = json.loads((tmp_path / "json").read_text())
    assert (told["items"], told["gaps"], told["gap"]) == (2, 2, "skip")
    nothing = dst("run", bundle, put(path, "NA,1\n"), "--gap", "skip")
    assert (nothing.code, "1 with gaps" in nothing.err) == (2, True)
    assert "gaps" not in dst("run", bundle, put(path, "1,1\n")).out


def test_times_stay_with_their_items(dst: Dst, tmp_path: Path) -> None:
    bundle = running_sums(tmp_path / "sums", sizes=(1, 8))
    lines = [f"t{n},{'NA' if n % 5 == 2 else 1},1" for n in range(1, 4001)]
    path = put(tmp_path / "a.csv", "\n".join(["when,left,right", *lines]))
    more = ("--gap", "skip", "--time", "when", "--out", tmp_path / "o.csv", "--output", "y")
    assert dst("run", bundle, path, *more).code == 0
    rows = [line.split(",") for line in (tmp_path / "o.csv").read_text().splitlines()]
    assert rows[0] == ["item", "when", "y.0", "y.1"]
    kept = [f"t{n}" for n in range(1, 4001) if n % 5 != 2]
    assert [row[1] for row in rows[1:]] == kept
    assert [float(row[3]) for row in rows[1:]] == [float(n) for n in range(1, 3201)]
