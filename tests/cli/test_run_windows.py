"""`dst run` on steps with look-ahead, with inputs per stream, and with several fixed axes."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.steps import Array
from tests.windows import drawn_items, right_answers, window_contract, write_window

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command


def near(found: npt.ArrayLike, right: npt.ArrayLike) -> None:
    ours, theirs = np.asarray(found, np.float64), np.asarray(right, np.float64)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 9, 14])
def test_look_ahead_is_waited_for(dst: Dst, tmp_path: Path, cut: int) -> None:
    """Every item has one answer; those that padding answered for early differ by what is ahead."""
    contract = window_contract(allowed_t=(4,), lookahead=2, tail="refuse")
    bundle = write_window(tmp_path / "b", contract)
    items = drawn_items(contract, 18)
    np.save(tmp_path / "1.npy", items[:cut])
    np.save(tmp_path / "2.npy", items[cut:])
    out = tmp_path / "o.npy"
    more = ("--out", out, "--output", "y", "--state", tmp_path / "s")
    for part in ("1", "2"):
        done = dst("run", bundle, tmp_path / f"{part}.npy", *more)
        assert (done.code, "look-ahead" in done.err) == (2, True)
    answers = np.load(out)
    right = right_answers(contract, items)
    assert len(answers) == len(right) == 16
    near(answers, right)


def test_padding_answers_for_the_last_items(dst: Dst, tmp_path: Path) -> None:
    contract = window_contract(allowed_t=(4,), lookahead=2, tail="pad")
    bundle = write_window(tmp_path / "b", contract)
    items = drawn_items(contract, 9)
    np.save(tmp_path / "a.npy", items)
    out = tmp_path / "o.npy"
    done = dst("run", bundle, tmp_path / "a.npy", "--out", out, "--output", "y", "--json", "-")
    assert (done.code, done.json["rows"], done.json["items"]) == (0, 9, 9)
    padded = np.concatenate([items, np.full((2, 2), 0.5, np.float32)])
    right = right_answers(contract, padded)
    near(np.load(out), right)
    peaks = dst("run", bundle, tmp_path / "a.npy", "--out", "-", "--output", "peak")
    ends = [int(row["item"]) for row in csv.DictReader(peaks.out.splitlines())]
    assert ends == [4, 8, 9]


def test_stream_inputs_are_given_once(dst: Dst, tmp_path: Path) -> None:
    contract = window_contract(given=True, offset=True)
    bundle = write_window(tmp_path / "b", contract)
    items = drawn_items(contract, 12)
    np.save(tmp_path / "1.npy", items[:5])
    np.save(tmp_path / "2.npy", items[5:])
    gain: Array = np.array([0.5, -2.0])  # float64, without the batch axis
    np.save(tmp_path / "gain.npy", gain)
    np.save(tmp_path / "offset.npy", np.array([3]))
    given = (
        *("--stream-input", f"gain={tmp_path / 'gain.npy'}"),
        *("--stream-input", f"offset={tmp_path / 'offset.npy'}"),
    )
    out, state = tmp_path / "o.npy", tmp_path / "s"
    more = ("--out", out, "--output", "y", "--state", state)
    assert dst("run", bundle, tmp_path / "1.npy", *given, *more).code == 0
    before = state.read_bytes()
    again = dst("run", bundle, tmp_path / "2.npy", *given, *more)
    assert (again.code, "brings the inputs" in again.err) == (2, True)
    assert state.read_bytes() == before
    assert dst("run", bundle, tmp_path / "2.npy", *more).code == 0
    right = right_answers(contract, items, gain, 3)
    near(np.load(out), right)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), ("gain", "missing")),
        (("gain",), ("expected NAME=FILE.npy",)),
        (("gain=g.npy", "gain=g.npy"), ("twice",)),
        (("gain=text",), ("no .npy array",)),
        (("gain=none.npy",), ("none.npy",)),
        (("gain=g.npy", "wrong=g.npy"), ("'wrong'", "not known")),
        (("gain=three.npy",), ("gain", "[3]")),
        (("gain=huge.npy",), ("do not fit float32",)),
    ],
)
def test_stream_inputs_that_do_not_fit(
    dst: Dst,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    contract = window_contract(given=True)
    bundle = write_window(tmp_path / "b", contract)
    np.save(tmp_path / "a.npy", drawn_items(contract, 4))
    np.save(tmp_path / "g.npy", np.ones(2))
    np.save(tmp_path / "three.npy", np.ones(3))
    np.save(tmp_path / "huge.npy", np.full(2, 1e300))
    (tmp_path / "text").write_text("1,2")
    monkeypatch.chdir(tmp_path)
    options = [word for name in given for word in ("--stream-input", name)]
    done = dst("run", bundle, "a.npy", *options, "--out", "o.npy", "--output", "y")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert [word for word in words if word not in done.err] == []
    assert not (tmp_path / "o.npy").exists()


@pytest.mark.parametrize("ending", ["npy", "csv", "jsonl"])
def test_rows_are_flat_in_c_order(dst: Dst, tmp_path: Path, ending: str) -> None:
    contract = window_contract(("B", 3, "T", 2))
    bundle = write_window(tmp_path / "b", contract)
    items = drawn_items(contract, 11)
    right = right_answers(contract, items)
    flat = items.reshape(11, 6)
    (tmp_path / "a.csv").write_text("\n".join(",".join(map(repr, r)) for r in flat.tolist()))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(item) for item in items.tolist()))
    np.save(tmp_path / "a.npy", items)
    out = tmp_path / f"o.{ending}"
    for name in ("a.csv", "a.jsonl", "a.npy"):
        assert dst("run", bundle, tmp_path / name, "--out", out, "--output", "y").code == 0
        if ending == "npy":
            found = np.load(out)
        elif ending == "csv":
            rows = list(csv.DictReader(out.read_text().splitlines()))
            assert list(rows[0])[1:] == [f"y.{a}.{b}" for a in range(3) for b in range(2)]
            found = np.array([list(row.values())[1:] for row in rows], np.float64)
        else:
            found = np.array([json.loads(line)["y"] for line in out.read_text().splitlines()])
        near(found.reshape(right.shape), right)
