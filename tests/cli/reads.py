"""Write inputs and read them as `dst run` does, for its tests."""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.steps import chunk_of

from dst.cli.errors import WrongUseError
from dst.cli.inputs.block import Form, Found
from dst.cli.inputs.rows import read_items
from dst.runtime.bundle.manifest import Chunk, Features

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
