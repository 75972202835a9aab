"""What `dst run` does not read: every malformed input by its kind, in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cli.reads import MONO, TWO, model, put, read, wav, why

from dst.cli.errors import WrongUseError
from dst.cli.inputs.block import Form, Found
from dst.cli.inputs.rows import read_items
from dst.cli.inputs.which import FORMATS

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command


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


def test_what_has_no_columns_has_none_to_choose(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    put(tmp_path / "a.f32", bytes(16))
    for name in ("a.npy", "a.f32"):
        assert "--time" in why(tmp_path / name, time="t")
        assert "--columns" in why(tmp_path / name, columns=("a", "b"))


def test_options_without_a_use_are_refused(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    text, rows = put(tmp_path / "a.txt", "some text"), put(tmp_path / "a.csv", "1,2\n")
    for option in ("--format=csv", "--time=t", "--columns=a", "--gap=skip"):
        done = dst("run", shelf / "text", text, option)
        assert (done.code, option.partition("=")[0] in done.err) == (2, True)
    for option in ("--output=mean", "--classes=a,b"):
        done = dst("run", shelf / "sensor", rows, option)
        assert (done.code, "needs --out" in done.err) == (2, True)


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
    said: Any,
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
