"""What `dst run` reads: the same items in every format."""

import csv
import io
import json
import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cli.numeric import even_ids, running_sums
from tests.cli.reads import MONO, TWO, model, put, read, wav, why
from tests.steps import chunk_of

from dst.cli.errors import WrongUseError
from dst.cli.inputs.block import Form, Found
from dst.cli.inputs.rows import item_blocks, read_items
from dst.runtime.bundle.manifest import Tokens

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
TABLES = st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=300)


@settings(max_examples=40, deadline=None)
@given(
    TABLES,
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_table_gives_the_same_items_in_every_format(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[tuple[float, float]],
    separator: str,
    swapped: bool,
    quoted: bool,
    newline: str,
) -> None:
    folder = tmp_path_factory.mktemp("t")
    want = np.array(table, np.float32)
    room = io.StringIO()
    quoting: Literal[0, 1] = 1 if quoted else 0  # csv.QUOTE_ALL, csv.QUOTE_MINIMAL
    writer = csv.writer(room, delimiter=separator, lineterminator=newline, quoting=quoting)
    writer.writerow(["right", "left"] if swapped else ["left", "right"])
    writer.writerows([(b, a) if swapped else (a, b) for a, b in table])
    objects = "".join(json.dumps({"right": b, "left": a}) + "\n" for a, b in table)
    arrays = "".join(json.dumps([a, b]) + "\n" for a, b in table)
    np.save(folder / "a.npy", want.astype(">f8"))
    np.savez(folder / "a.npz", x=want, other=want[:1])
    np.savez(folder / "one.npz", values=want)
    for path in (
        put(folder / "a.csv", room.getvalue()),
        put(folder / "bom.csv", b"\xef\xbb\xbf" + room.getvalue().encode()),
        put(folder / "no-ending", room.getvalue()),
        put(folder / "objects.jsonl", objects),
        put(folder / "arrays", arrays),
        folder / "a.npy",
        folder / "a.npz",
        folder / "one.npz",
        put(folder / "a.f32", want.astype("<f4").tobytes()),
        put(folder / "a.f64", want.astype("<f8").tobytes()),
    ):
        assert read(path).tolist() == want.tolist(), path.name


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=200),
    st.sampled_from([8, 16, 24, 32]),
)
def test_samples_become_minus_one_to_one(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[int], bits: int
) -> None:
    folder = tmp_path_factory.mktemp("s")
    values = [value >> (32 - bits) for value in drawn]
    stored = b"".join(
        bytes([v + 128]) if bits == 8 else v.to_bytes(bits // 8, "little", signed=True)
        for v in values
    )
    want = np.array(values, np.float64).astype(np.float32) / np.float32(2 ** (bits - 1))
    with wave.open(str(folder / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(bits // 8)
        file.setframerate(16000)
        file.writeframes(stored)
    name = "u8" if bits == 8 else f"s{bits}"
    assert read(folder / "a.wav", MONO)[:, 0] == pytest.approx(want, abs=1e-7)
    assert read(wav(folder / "b.wav", stored, bits), MONO)[:, 0] == pytest.approx(want, abs=1e-7)
    raw = read(put(folder / "a.raw", stored), MONO, format=name)
    assert raw[:, 0] == pytest.approx(want, abs=1e-7)


def test_float_wavs_and_channels(tmp_path: Path) -> None:
    want = np.random.default_rng(0).normal(size=(50, 2))
    for bits in (32, 64):
        data = want.astype(f"<f{bits // 8}").tobytes()
        path = wav(tmp_path / "a.wav", data, bits, code=3, channels=2)
        assert read(path) == pytest.approx(want, abs=1e-6)


def test_a_wav_from_a_pipe_has_no_length(tmp_path: Path) -> None:
    data = np.arange(100, dtype="<i2").tobytes()
    whole = wav(tmp_path / "a.wav", data, 16).read_bytes()
    at = whole.index(b"data") + 4
    for size in (0, 0x7FFFF000, 0xFFFFFFFF):
        path = put(tmp_path / "p.wav", whole[:at] + struct.pack("<I", size) + whole[at + 4 :])
        assert len(read(path, MONO)) == 100


@pytest.mark.parametrize("name", ["time", "Timestamp", "date"])
def test_a_time_column_is_left_out_and_named(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / "a.csv", f'{name},right,left\n"2026-01-01 10:00",2,1\n10:01,4,3\n')
    for chunk in (TWO, model(["right", "left"])):
        found = Found()
        want = [[1, 2], [3, 4]] if chunk is TWO else [[2, 1], [4, 3]]
        assert read(path, chunk, found).tolist() == want
        assert found.left_out == (name,)
    kept = list(read_items(str(path), TWO, Form(time=name), Found()))
    assert kept[0].times == ["2026-01-01 10:00", "10:01"]
    assert "but not `when`" in why(path, time="when")


def test_columns_are_chosen(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "a,b,c,d\n1,2,3,4\n")
    found = Found()
    assert read(path, TWO, found, columns=("d", "a")).tolist() == [[4, 1]]
    assert found.left_out == ("b", "c")
    assert "names 3" in why(path, columns=("a", "b", "c"))
    assert "but not `e`" in why(path, columns=("a", "e"))
    assert "no columns" in why(put(path, "1,2\n"), columns=("a", "b"))
    lines = put(tmp_path / "a.jsonl", '{"a": 1, "b": 2}\n{"b": 4, "a": 3, "z": "x"}\n')
    assert read(lines, columns=("b", "a")).tolist() == [[2, 1], [4, 3]]


def test_a_first_line_of_counted_names_is_told(tmp_path: Path) -> None:
    """As pandas writes where columns have no names."""
    found = Found()
    assert len(read(put(tmp_path / "a.csv", "0,1\n5,6\n"), TWO, found)) == 2
    assert "line 1 reads 0,1" in found.notes[0]


def test_ids_are_checked_by_line(dst: Dst, tmp_path: Path) -> None:
    ids = chunk_of(Tokens(vocabulary=10, tokenizer="none"), (1, 4))
    for name, text in (("a.csv", "3\n9\n0\n"), ("a.jsonl", "3\n[9]\n0\n")):
        assert read(put(tmp_path / name, text), ids).tolist() == [3, 9, 0]
        for bad in ("10", "-1", "1.5"):
            said = why(put(tmp_path / name, f"3\n{bad}\n"), ids)
            assert f"line 2: {bad} is no token id of this model (0 .. 9)" in said
    np.save(tmp_path / "a.npy", np.array([3, 9, 0], np.uint16))
    assert read(tmp_path / "a.npy", ids).tolist() == [3, 9, 0]
    assert read(put(tmp_path / "a.u8", bytes([3, 9, 0])), ids, format="u8").tolist() == [3, 9, 0]
    done = dst("run", even_ids(tmp_path / "ids"), put(tmp_path / "b.csv", "3\n3\n4\n"), "--top", 1)
    assert done.code == 0
    assert "by bits" in done.out


def test_a_run_is_refused_before_anything_is_written(dst: Dst, tmp_path: Path) -> None:
    bundle = running_sums(tmp_path / "sums")
    good, bad = put(tmp_path / "good.csv", "1,2\n"), put(tmp_path / "bad.csv", "1,2\n1,x\n")
    more = ("--state", tmp_path / "state", "--json", tmp_path / "json")
    assert dst("run", bundle, good, *more).code == 0
    before = (tmp_path / "state").read_bytes(), (tmp_path / "json").read_bytes()
    done = dst("run", bundle, bad, *more)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert before == ((tmp_path / "state").read_bytes(), (tmp_path / "json").read_bytes())


def test_what_was_read_stands_in_the_json(dst: Dst, tmp_path: Path) -> None:
    bundle = running_sums(tmp_path / "sums")
    path = put(tmp_path / "a.csv", "time,left,right\n1,1,2\n2,,2\n")
    told = dst("run", bundle, path, "--json", "-", "--gap", "hold").json
    assert (told["format"], told["gap"], told["gaps"]) == ("csv", "hold", 1)
    assert told["left_out"] == ["time"]


def test_standard_input_is_read_in_any_format(process: Dst, tmp_path: Path) -> None:
    bundle = running_sums(tmp_path / "sums")
    rows = np.arange(20, dtype=np.float32).reshape(-1, 2)
    np.save(tmp_path / "a.npy", rows)
    for data, more in (
        (rows.tobytes(), ("--format", "f32")),
        ((tmp_path / "a.npy").read_bytes(), ()),
        ("\n".join(f"{a},{b}" for a, b in rows.tolist()).encode(), ()),
        ("\n".join(json.dumps(row) for row in rows.tolist()).encode(), ()),
    ):
        done = process("run", bundle, "-", "--json", "-", *more, stdin=data)
        assert (done.code, done.json["items"]) == (0, 10), done.err
    refused = process("run", bundle, "-", stdin=rows.tobytes())
    assert refused.code == 2
    assert "--format f32" in refused.err


def test_utf16_text_is_hinted_at(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    path = put(tmp_path / "a.log", "one\r\n".encode("utf-16"))
    done = dst("run", shelf / "text", path)
    assert (done.code, "UTF-16" in done.err, "iconv" in done.err) == (0, True, True)
    assert "UTF-16" in dst("run", shelf / "text", path, "--json", "-").json["notes"][0]
    put(path, "one\r\n")
    assert "UTF-16" not in dst("run", shelf / "text", path).err


def test_every_item_of_a_block_border_is_read(tmp_path: Path) -> None:
    """Lines and samples are cut anywhere by the blocks that are read."""
    rows = np.random.default_rng(0).normal(size=(3000, 2)).astype(np.float32)
    path = put(tmp_path / "a.csv", "".join(f"{a!r},{b!r}\n" for a, b in rows.tolist()))
    assert np.array_equal(np.concatenate(list(item_blocks(str(path), TWO))), rows)
    raw = put(tmp_path / "a.f32", rows.tobytes())
    assert np.array_equal(np.concatenate(list(item_blocks(str(raw), TWO))), rows)


def test_a_command_without_options_for_files_names_none(tmp_path: Path) -> None:
    """`dst report` and `dst export --data` cannot hold a gap: what they say must be possible."""
    path = put(tmp_path / "a.csv", "left,right\n1,2\n3,\n")
    with pytest.raises(WrongUseError, match=r"mended copy.*\[n, 2\]") as refused:
        list(item_blocks(str(path), TWO))
    assert "line 3" in str(refused.value)
    assert "dst run" not in str(refused.value)
    assert "--gap" in why(path)
