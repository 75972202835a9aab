"""`dst run --top`: what surprised the model most, item by item."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.numeric import even_ids, next_quantiles, running_sums

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command


def test_items_of_a_gaussian_rank_by_nats(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    """The model expects the sum of all before; one item in zeros is far from it."""
    rows = np.zeros((60, 2), np.float32)
    rows[40] = [3, -4]
    np.save(tmp_path / "a.npy", rows)
    told = dst("run", shelf / "sensor", tmp_path / "a.npy", "--top", 3, "--json", "-").json
    assert told["unit"] == "nats"
    first = told["top"][0]
    assert (first["item"], first["values"], first["time"]) == (41, [3, -4], None)
    assert first["score"] == pytest.approx(25 / 2 + np.log(2 * np.pi), rel=1e-5)
    assert [x["score"] for x in told["top"]] == sorted(
        (x["score"] for x in told["top"]), reverse=True
    )
    shown = dst("run", shelf / "sensor", tmp_path / "a.npy", "--top", 3).out
    assert "most surprising items, by nats" in shown


def test_items_are_numbered_on_over_runs(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((13, 2), np.float32))
    lines = ["t,left,right", *(f"n{n},0,0" for n in range(6)), "odd,9,9"]
    (tmp_path / "b.csv").write_text("\n".join(lines))
    state = ("--state", tmp_path / "state")
    assert dst("run", shelf / "sensor", tmp_path / "a.npy", *state).code == 0
    more = (*state, "--top", 1, "--time", "t", "--json", "-")
    (top,) = dst("run", shelf / "sensor", tmp_path / "b.csv", *more).json["top"]
    assert (top["item"], top["time"]) == (20, "odd")


def test_items_of_quantiles_rank_by_their_loss(dst: Dst, tmp_path: Path) -> None:
    """The model expects the item before; levels 0.25 and 0.75 give half the miss, summed."""
    rows = np.array([[0, 0], [0, 0], [1, 0], [1, 2], [1, 2]], np.float32)
    np.save(tmp_path / "a.npy", rows)
    bundle = next_quantiles(tmp_path / "quantiles")
    told = dst("run", bundle, tmp_path / "a.npy", "--top", 2, "--json", "-").json
    assert [(x["item"], x["score"]) for x in told["top"]] == [(4, 1.0), (3, 0.5)]
    assert (told["unit"], told["total"], told["scored"]) == ("quantile loss", 1.5, 4)


def test_a_model_that_foresees_nothing_says_what_can_be_done(dst: Dst, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2\n")
    done = dst("run", running_sums(tmp_path / "sums"), tmp_path / "a.csv", "--top", 1)
    assert done.code == 2
    assert "y (custom), last (custom)" in done.err
    assert "--out" in done.err


def word_tokenizer() -> bytes:
    """A tokenizer.json of ten words; the last of them rings a terminal's bell."""
    library = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate([*"abcdefgh", "?", "\a"])}
    tokenizer = library.Tokenizer(library.models.WordLevel(words, "?"))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Split(" ", "removed")
    return bytes(tokenizer.to_str().encode())


def test_tokens_are_told_by_their_text(dst: Dst, tmp_path: Path) -> None:
    bundle = even_ids(tmp_path / "ids", tokenizer=word_tokenizer())
    (tmp_path / "a.txt").write_text("a a a b b \a")
    told = dst("run", bundle, tmp_path / "a.txt", "--top", 2, "--json", "-").json
    found = [(x["item"], x["values"], x["text"]) for x in told["top"]]
    assert found == [(4, [1], "b"), (6, [9], "\a")]
    lines = dst("run", bundle, tmp_path / "a.txt", "--top", 2).out.split("\n")
    assert any(line.split()[1:] == ["4", "1", "b"] for line in lines)
    assert any(line.split()[1:] == ["6", "9", "\\x07"] for line in lines)


def test_ids_without_a_tokenizer_have_no_text(dst: Dst, tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("3\n3\n4\n")
    told = dst("run", even_ids(tmp_path / "ids"), tmp_path / "ids.csv", "--top", 1, "--json", "-")
    assert told.json["top"][0]["text"] is None


@pytest.mark.parametrize(
    "text", ["Once upon a time\nthere was a king\n", "A king, a queen, a child\n", "Once\n"]
)
def test_text_for_a_model_without_a_tokenizer_says_what_is_missing(
    dst: Dst, tmp_path: Path, text: str
) -> None:
    bundle = even_ids(tmp_path / "ids")
    (tmp_path / "a.txt").write_text(text)
    done = dst("run", bundle, tmp_path / "a.txt")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert [w for w in ("tokenizer.json", "--from-hf", ".npy", "a.txt") if w not in done.err] == []
    assert "column" not in done.err
    (tmp_path / "a.csv").write_text(text)  # who calls it a CSV is told what is wrong with that
    assert "tokenizer" not in dst("run", bundle, tmp_path / "a.csv").err
    (tmp_path / "ids.txt").write_text("id\n3\nfour\n")
    assert "line 3" in dst("run", bundle, tmp_path / "ids.txt").err
