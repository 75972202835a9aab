"""Files that look right and are not what they seem: read as what they are, or refused."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from tests.cli.numeric import running_sums
from tests.cli.reads import MONO, TWO, put, read, why

from dst.cli.answers.forms import form_of
from dst.cli.answers.rows import Answers
from dst.cli.inputs.block import Found
from dst.cli.inputs.rows import item_blocks
from dst.runtime.bundle.manifest import Features, Output

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command

SAMPLES = np.array([0, 0.5, -0.5, -1])
S16 = (SAMPLES * 32768).astype("<i2").tobytes()
KSDATAFORMAT = b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"


def riff(
    fmt: bytes, data: bytes, *, size: int | None = None, whole: int | None = None, tail: bytes = b""
) -> bytes:
    """A WAV with these sizes in its header, right or wrong."""
    told = len(data) if size is None else size
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt
    body += b"data" + struct.pack("<I", told) + data + tail
    return b"RIFF" + struct.pack("<I", len(body) if whole is None else whole) + body


def fmt(bits: int, *, code: int = 1, frame: int | None = None, guid: bytes = b"") -> bytes:
    frame = bits // 8 if frame is None else frame
    head = struct.pack("<HHIIHH", code, 1, 16000, 16000 * frame, frame, bits)
    return head + (struct.pack("<HHI", 22, bits, 0) + guid if guid else b"")


def test_a_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    for size, whole in ((0, 36), (0, 0), (0, None), (0xFFFFFFFF, 0xFFFFFFFF)):
        path = put(tmp_path / "a.wav", riff(fmt(16), S16, size=size, whole=whole))
        assert read(path, MONO).ravel().tolist() == SAMPLES.tolist()


def test_parts_behind_an_empty_recording_are_no_sound(tmp_path: Path) -> None:
    tail = b"LIST\x04\x00\x00\x00abcd"
    path = put(tmp_path / "a.wav", riff(fmt(16), b"", tail=tail))
    assert not sum(len(block) for block in item_blocks(str(path), MONO))
    assert read(put(tmp_path / "b.wav", riff(fmt(16), S16, tail=tail)), MONO).size == 4


def test_samples_in_wider_boxes_are_refused(tmp_path: Path) -> None:
    """24 bits in 4 bytes: taken for packed ones, they would be noise."""
    data = b"".join(bytes([0, 0, byte, 0]) for byte in range(12))
    told = why(put(tmp_path / "a.wav", riff(fmt(24, frame=4), data)), MONO)
    assert "24 bits and 1 channel with 4 bytes per item, expected 3" in told


def test_an_extensible_wav_is_what_its_whole_code_says(tmp_path: Path) -> None:
    guid = struct.pack("<H", 1)
    path = put(tmp_path / "a.wav", riff(fmt(16, code=0xFFFE, guid=guid + KSDATAFORMAT), S16))
    assert read(path, MONO).ravel().tolist() == SAMPLES.tolist()
    path = put(tmp_path / "b.wav", riff(fmt(16, code=0xFFFE, guid=guid + bytes(14)), S16))
    assert "expected PCM or float" in why(path, MONO)


@pytest.mark.parametrize(
    ("start", "words"), [(b"RF64", "RF64"), (b"RIFX", "big-endian"), (b"FORM", "AIFF")]
)
def test_other_sound_files_are_named_under_any_name(
    tmp_path: Path, start: bytes, words: str
) -> None:
    told = why(put(tmp_path / "a.wav", start + bytes(60)), MONO)
    assert words in told
    assert "ffmpeg" in told


@pytest.mark.parametrize("name", ["a.npz", "a.xlsx"])
def test_a_zip_of_other_files_is_named(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as held:
        held.writestr("readme.txt", "hello")
    assert "zip file of other files (readme.txt)" in why(tmp_path / name)


def test_a_second_array_in_a_file_is_not_left_out(tmp_path: Path) -> None:
    room = io.BytesIO()
    np.save(room, np.ones((3, 2), np.float32))
    np.save(room, np.ones((2, 2), np.float32))
    path = put(tmp_path / "a.npy", room.getvalue())
    assert "144 bytes behind it" in why(path)
    assert read(put(path, room.getvalue()[:-144])).shape == (3, 2)


def test_the_first_object_may_have_gaps_too(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"left":1}\n{"left":3,"right":4}\n{"right":5}\n')
    assert "line 1 has no number for `right`" in why(path)
    assert read(path, gap="skip").tolist() == [[3, 4]]
    put(path, '{"left":1,"z":9}\n{"left":3,"right":4}\n{"right":5}\n')
    assert "not `right`, which this model reads" in why(path)
    assert "not `right`, which --columns names" in why(path, columns=("left", "right"))
    assert read(path, columns=("left", "right"), gap="skip").tolist() == [[3, 4]]


def test_a_time_that_has_to_be_a_feature_is_told(tmp_path: Path) -> None:
    found = Found()
    nameless = replace(TWO, content=Features(names=(), sample_rate_hz=None, normalisation=None))
    path = put(tmp_path / "a.csv", "time,value\n1,2\n")
    assert read(path, nameless, found).tolist() == [[1, 2]]
    assert "`time`; it is read as a feature" in found.notes[0]
    found = Found()
    assert read(put(path, "time,a,b\n1,2,3\n"), nameless, found).tolist() == [[2, 3]]
    (told,) = found.notes  # the time is left out; the others are matched by nothing but their order
    assert "in the order of the file: a, b;" in told
    found = Found()
    assert read(put(path, "right,left\n2,1\n"), TWO, found).tolist() == [[1, 2]]
    assert not found.notes


def test_line_ends_of_one_carriage_return_are_named(tmp_path: Path) -> None:
    for text in ("left,right\r1,2\r3,4\r", "left,right\r\n1,2\r\n3,4\r5,6\n"):
        assert "carriage return that no newline follows" in why(put(tmp_path / "a.csv", text), TWO)


def test_a_time_of_any_kind_goes_beside_the_answers(dst: Dst, tmp_path: Path) -> None:
    bundle = running_sums(tmp_path / "m")
    rows = [("\ud800", "?"), (None, ""), ({"a": 1}, '"{""a"": 1}"'), (7, "7"), (True, "true")]
    lines = [json.dumps({"time": time, "left": 1, "right": 2}) for time, _ in rows]
    path, out = put(tmp_path / "a.jsonl", "\n".join(lines)), tmp_path / "o.csv"
    more = ("--time", "time", "--out", out, "--output", "y")
    assert dst("run", bundle, path, *more).code == 0
    told = [line.removeprefix(f"{n},") for n, line in enumerate(out.read_text().splitlines())]
    for line, (_, want) in zip(told[1:], rows, strict=True):
        assert line.startswith(f"{want},")


def test_json_lines_stay_json_where_numbers_are_not_finite() -> None:
    """As masked logits are."""
    output = Output(name="y", dtype="float32", shape=("B", "T", 3), meaning="custom")
    rows = np.array([[1.5, -np.inf, np.nan], [np.inf, 0.1, 2]], np.float32)
    text = form_of(".jsonl", (output,), None, None).rows(
        Answers(first=1, count=2, items={"y": rows}, chunks={}, ends=()), None
    )
    back = np.array([json.loads(line)["y"] for line in text.splitlines()], np.float32)
    assert np.array_equal(back, rows, equal_nan=True)
