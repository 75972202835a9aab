"""What `dst run` reads: the same items in every format, and every malformed file by its kind."""

import csv
import io
import json
import struct
import wave
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.command.numeric import even_ids, running_sums
from tests.steps import chunk_of

from dst.command.errors import WrongUseError
from dst.command.formats.block import Form, Found
from dst.command.formats.which import FORMATS
from dst.command.rows import item_blocks, read_items
from dst.runtime.manifest import Chunk, Features, Tokens

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command
Rows = npt.NDArray[np.float32]


def model(names: Iterable[str] = ("left", "right"), rate_hz: float | None = None) -> Chunk:
    names = tuple(names)
    content = Features(names=names, sample_rate_hz=rate_hz, normalisation=None)
    return chunk_of(content, (1, 4), len(names))


TWO, MONO = model(), model(["x"])


def read(path: Path, chunk: Chunk = TWO, found: Found | None = None, **said: Any) -> Rows:
    """All items of a file, `[n, ...]`."""
    blocks = [i.values for i in read_items(str(path), chunk, Form(**said), found or Found())]
    return np.concatenate(blocks).astype(np.float32)


def put(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def why(path: Path, chunk: Chunk = TWO, **said: Any) -> str:
    """The message that refuses a file; one line that names the file."""
    with pytest.raises(WrongUseError) as refused:
        read(path, chunk, **said)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def wav(
    path: Path, data: bytes, bits: int, *, code: int = 1, rate: int = 16000, channels: int = 1
) -> Path:
    """Write a WAV file by hand, with a part before the data that readers pass over."""
    frame = channels * bits // 8
    head = struct.pack("<HHIIHH", code, channels, rate, rate * frame, frame, bits)
    parts = b"fmt " + struct.pack("<I", len(head)) + head + b"LIST\x03\x00\x00\x00abc\x00"
    parts += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WAVE" + parts)
    return path


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


def test_wavs_that_do_not_fit(tmp_path: Path) -> None:
    data = bytes(3200)
    mono = model(["x"], 8000.0)
    rate = why(wav(tmp_path / "a.wav", data, 16), mono)
    assert "16000 samples per second, this model reads 8000" in rate
    assert f"ffmpeg -i {tmp_path / 'a.wav'} -ar 8000 -ac 1 out.wav" in rate
    assert len(read(wav(tmp_path / "a.wav", data, 16, rate=8000), mono)) == 1600
    assert "2 channels" in why(wav(tmp_path / "b.wav", data, 16, channels=2), MONO)
    assert "A-law" in why(wav(tmp_path / "c.wav", data, 8, code=6), MONO)
    assert "12 bits" in why(wav(tmp_path / "c.wav", data, 12), MONO)
    whole = (tmp_path / "b.wav").read_bytes()
    assert "cut off" in why(
        put(tmp_path / "d.wav", wav(tmp_path / "e.wav", data, 16).read_bytes()[:-7]), MONO
    )
    assert "broken WAV" in why(put(tmp_path / "f.wav", whole[:30]), MONO)
    nofmt = b"RIFF\x00\x00\x00\x00WAVEdata\x04\x00\x00\x00abcd"
    assert "no `fmt ` part" in why(put(tmp_path / "g.wav", nofmt), MONO)


def test_what_a_file_is_shows_in_its_first_bytes(tmp_path: Path) -> None:
    sound = wav(tmp_path / "a.wav", bytes(64), 16).read_bytes()
    np.savez(tmp_path / "a.npz", x=np.ones((3, 1)))
    np.save(tmp_path / "a.npy", np.ones((3, 1)))
    for start, name, kind in (
        (sound, "WAV", "wav"),
        ((tmp_path / "a.npz").read_bytes(), "npz", "npz"),
        ((tmp_path / "a.npy").read_bytes(), "npy", "npy"),
    ):
        for ending in (".csv", ".jsonl", ".raw", ".f32", ".pcm"):
            said = why(put(tmp_path / f"b{ending}", start), MONO)
            assert name in said
            assert f"--format {kind}" in said
        for said_format in ("f32", "s16", "csv"):
            assert name in why(tmp_path / "b.csv", MONO, format=said_format)
        assert len(read(tmp_path / "b.csv", MONO, format=kind)) in (32, 3)
        assert len(read(put(tmp_path / "nothing-told", start), MONO)) in (32, 3)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"fLaC\x00\x00", "FLAC"),
        (b"OggS\x00", "Ogg"),
        (b"ID3\x04", "MP3"),
        (b"\xff\xfe1\x00,\x002\x00", "UTF-16"),
        (b"\xfe\xff\x001", "UTF-16"),
        (b"1\x00,\x002\x00\n\x00", "binary"),
        (bytes(range(64)), "binary"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, start: bytes, words: str) -> None:
    for name in ("a.csv", "a.jsonl", "a"):
        assert words in why(put(tmp_path / name, start * 9))


@pytest.mark.parametrize("ending", [".raw", ".pcm", ".bin"])
def test_raw_samples_are_never_guessed(tmp_path: Path, ending: str) -> None:
    path = put(tmp_path / f"a{ending}", np.zeros(8, "<i2").tobytes())
    said = why(path)
    assert "--format s16 or f32" in said
    assert "little-endian" in said
    assert len(read(path, format="s16")) == 4
    assert "of an item" in why(put(path, bytes(9)), format="s16")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2\n1,2,3\n", ("line 2", "3 values", "reads 2")),
        ("1,2\n1,x\n", ("line 2, column 2", "'x'")),
        ("left,right\n1,2\n3,x\n", ("line 3, column 2 (right)", "'x'")),
        ("1,2\n1_000,2\n", ("line 2", "'1_000'", "write 1000")),
        ("1,2\ninf,2\n", ("line 2, column 1", "'inf'")),
        ("1,2\n1,-Infinity\n", ("line 2, column 2", "'-Infinity'")),
        ("1,2\n0x10,2\n", ("line 2", "'0x10'")),
        ("1,2\n1e999,2\n", ("line 2", "too large")),
        ("1,2\n1e39,2\n", ("line 2", "too large for float32")),
        ("1,2\n\uff11,2\n", ("line 2", "column 1")),
        ("1;2\n1,5;2\n", ("line 2", "decimal comma", "1.5")),
        ("1,5,2,5\n", ("line 1", "4 values", "decimal comma")),
        ("1 2\n", ("line 1", "comma, semicolon or tab")),
        ('1,2\n"1,2\n', ("line 2", "cells")),
        (b"1,2\n\xff,2\n", ("line 2", "UTF-8")),
        ("left,right\n", ("line 1", "none follows")),
        ("left,wrong\n1,2\n", ("`right`", "wrong", "--columns")),
        ("left,right,more\n1,2,3\n", ("more", "--columns left,right")),
        ("left,right,left\n1,2,3\n", ("`left` twice",)),
        ('{"left": 1}\n', ("JSON", "--format jsonl")),
        ("# left,right\n1,2\n", ("# left",)),
        ("1_000,0x10\n1,2\n", ("line 1", "'1_000'")),
        ("inf,inf\n1,2\n", ("line 1", "'inf'")),
    ],
)
def test_a_broken_csv_is_refused_by_line(
    tmp_path: Path, text: str | bytes, words: tuple[str, ...]
) -> None:
    said = why(put(tmp_path / "a.csv", text))
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]\n[1]x\n", ("line 2", "not JSON")),
        ("[1, 2, 3]\n", ("line 1", "3 values")),
        ("[1, true]\n", ("line 1", "value 2", "true")),
        ('[1, "2"]\n', ("line 1", "value 2")),
        ("[1, Infinity]\n", ("line 1", "infinity")),
        ("[1, 1e999]\n", ("line 1", "infinity")),
        ("[" * 100_000, ("line 1",)),
        ('{"left": 1, "left": 2}\n', ("line 1", "twice")),
        ('{"left": 1, "wrong": 2}\n', ("`right`", "--columns")),
        ('{"left": 1, "right": 2}\n{"left": 1, "right": 2, "new": 3}\n', ("line 2", "'new'")),
        ('{"left": 1, "right": {}}\n', ("line 1", "`right`")),
        ('{"left": 1, "right": 2}\n[1, 2]\n', ("line 2", "no object")),
        ('"text"\n', ("line 1", "value 1")),
    ],
)
def test_broken_json_lines_are_refused_by_line(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    said = why(put(tmp_path / "a.jsonl", text))
    assert [word for word in words if word not in said] == []


def test_broken_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones((2, 2)), b=np.ones((2, 2)))
    assert "a, b" in why(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=np.ones((2, 3)))
    assert "[2, 3]" in why(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    assert "no .npz file of numbers" in why(tmp_path / "a.npz")
    put(tmp_path / "b.npz", (tmp_path / "a.npz").read_bytes()[:80])
    assert "no .npz" in why(tmp_path / "b.npz")
    np.save(tmp_path / "a.npy", np.array([[1, np.inf]]))
    assert "item 1 holds an infinity" in why(tmp_path / "a.npy")


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


SEEDS = (
    b"left,right\n1,2\n3,4\n",
    b'"left";"right"\r\n1;2\r\n',
    b'{"left": 1, "right": 2}\n[1, 2]\n',
    b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x02\x00\x80>\x00\x00\x00\xfa\x00\x00"
    b"\x04\x00\x10\x00data\x08\x00\x00\x00\x01\x00\x02\x00\x03\x00\x04\x00",
    b"\x93NUMPY\x01\x00\x16\x00{'descr': '<f4', 'fort",
    b"PK\x03\x04" + bytes(40),
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 120), st.binary(max_size=4)), max_size=5),
    st.sampled_from([None, *FORMATS]),
    st.sampled_from(["refuse", "hold", "skip"]),
    st.sampled_from(["a", "a.csv", "a.jsonl", "a.wav", "a.npy", "a.npz", "a.raw"]),
)
def test_no_bytes_end_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory,
    seed: bytes,
    edits: list[tuple[int, bytes]],
    said: str | None,
    gap: Any,
    name: str,
) -> None:
    """Whatever comes, items that are finite or one line that says what is wrong."""
    data = bytearray(seed)
    for place, piece in edits:
        data[place : place + 1] = piece
    path = put(tmp_path_factory.mktemp("f") / name, bytes(data))
    form = Form(format=said, gap=gap)
    refused = ""
    try:
        blocks = [items.values for items in read_items(str(path), TWO, form, Found())]
    except WrongUseError as error:
        refused, blocks = str(error), []
    assert "\n" not in refused
    assert all(np.isfinite(block).all() and block.shape[1:] == (2,) for block in blocks)
