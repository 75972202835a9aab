"""`dst train`: wrong tables are refused before any work; a table becomes a monitor that runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cli.conftest import Dst

from dst.runtime import open_bundle


def table(path: Path, rows: int) -> Path:
    """A CSV of two columns with habits of the day, every ten minutes."""
    random = np.random.default_rng(0)
    moments = np.datetime64("2026-01-05T00:00:00") + 600 * np.arange(rows)
    wave = np.sin(2 * np.pi * np.arange(rows) / 144)
    columns = [10 + 3 * wave, 500 - 40 * wave]
    cells = zip(moments, *(c + 0.3 * random.normal(size=rows) for c in columns), strict=True)
    lines = [f"{moment},{a:.5f},{b:.5f}" for moment, a, b in cells]
    path.write_text("\n".join(["when,heat,flow", *lines]) + "\n", "utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("1,2\n3,4\n", (), ["line 1", "names of the columns"]),
        ("time,a\n" + "2026-01-01,1\n" * 20, (), ["20 rows", "1000"]),
        ("time,a\n2026-01-01,1\n", ("--columns", "b"), ["`b`", "--columns"]),
        ("time,a\n2026-01-01,1\nnever,2\n", (), ["line 3", "'never' is no time"]),
        ("time,a\n2026-01-01,\n", (), ["line 2", "--gap"]),
        ("time,a\n2026-01-01,x7\n", (), ["line 2", "not a number"]),
    ],
)
def test_a_table_that_cannot_be_learned_is_refused(
    dst: Dst, tmp_path: Path, text: str, options: tuple[str, ...], words: list[str]
) -> None:
    (tmp_path / "t.csv").write_text(text, "utf-8")
    done = dst("train", str(tmp_path / "t.csv"), "--out", str(tmp_path / "m"), *options)
    assert done.code == 2
    assert [word for word in words if word not in done.err] == []
    assert not (tmp_path / "m").exists()


def test_what_stands_there_is_not_replaced_unasked(dst: Dst, tmp_path: Path) -> None:
    (tmp_path / "m-int8").mkdir()
    done = dst("train", str(table(tmp_path / "t.csv", 20)), "--out", str(tmp_path / "m"))
    assert done.code == 2
    assert "m-int8" in done.err
    assert "--overwrite" in done.err


@pytest.mark.train
def test_a_table_becomes_a_monitor(dst: Dst, tmp_path: Path) -> None:
    data, out = table(tmp_path / "t.csv", 2500), tmp_path / "m"
    told = tmp_path / "r.json"
    done = dst(
        "train",
        str(data),
        "--time",
        "when",
        "--out",
        str(out),
        "--minutes",
        "0.2",
        "--json",
        str(told),
    )
    assert done.code == 0, done.err
    result = json.loads(told.read_text("utf-8"))
    assert result["columns"] == ["heat", "flow"]
    assert result["times"] is True
    assert result["loss"] <= result["start_loss"]
    small = open_bundle(tmp_path / "m-int8").manifest
    assert small.model_id == open_bundle(out).manifest.model_id
    random = data.read_text("utf-8").splitlines()
    random[2001] = random[2001].split(",")[0] + ",90,500"
    (tmp_path / "odd.csv").write_text("\n".join(random) + "\n", "utf-8")
    for bundle in (out, tmp_path / "m-int8"):
        run = dst(
            "run", str(bundle), str(tmp_path / "odd.csv"), "--time", "when", "--alert", "1e-2"
        )
        assert run.code == 0
        assert 2001 in [int(line.split()[0]) for line in run.out.splitlines()]
