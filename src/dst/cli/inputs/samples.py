"""Read .npy and .npz arrays, raw samples, and those in a PCM WAV file."""

import io
import os
import struct
from collections.abc import Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt

from dst.cli.errors import WrongUseError
from dst.cli.inputs.block import Block, Wanted, block_of
from dst.words import counted

_STORED = {"f32": "<f4", "f64": "<f8", "s16": "<i2", "s32": "<i4", "u8": "u1"}
_HALF = {"s16": 1 << 15, "s24": 1 << 23, "s32": 1 << 31, "u8": 1 << 7}
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_UNKNOWN_BYTES = 0x7FFF0000  # writers that do not know the length put this much, or more, or 0
_PCM_FAMILY = (
    b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71",
    b"\0\0\x21\x07\xd3\x11\x86\x44\xc8\xc1\xca\0\0\0",
)
"""What follows the code in an extensible header: Microsoft's, and that of ambisonic files."""
_CODES = {2: "ADPCM", 6: "A-law", 7: "mu-law", 17: "IMA ADPCM", 85: "MP3"}


def raw_blocks(wanted: Wanted, name: str, blocks: Iterator[bytes]) -> Iterator[Block]:
    """Yield raw little-endian samples of the kind `name`, the values of an item side by side.

    Integers become -1 .. 1 for a model of features, and stay what they are for one of ids.
    """
    frame = wanted.width * (3 if name == "s24" else np.dtype(_STORED[name]).itemsize)
    left, seen = b"", 0
    for block in blocks:
        left += block
        whole = len(left) // frame * frame
        values = samples(left[:whole], name, wanted.scaled).reshape(-1, wanted.width)
        left = left[whole:]
        yield block_of(values, seen)
        seen += len(values)
    if left:
        raise wanted.refuse(
            f"ends with {counted(len(left), 'byte')} of an item, expected whole items of "
            f"{wanted.width} {name}"
        )


def samples(data: bytes, name: str, scaled: bool) -> npt.NDArray[np.generic]:
    """Decode samples `[n]`; with `scaled`, integers become -1 .. 1."""
    values: npt.NDArray[np.generic]
    if name == "s24":
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
        values = (parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16) << 8 >> 8
    else:
        values = np.frombuffer(data, _STORED[name])
    if not scaled or name not in _HALF:
        return values
    half = _HALF[name]
    numbers = values.astype(np.float64) - (half if name == "u8" else 0)
    return numbers / half


def wav_blocks(wanted: Wanted, blocks: Iterator[bytes]) -> Iterator[Block]:
    """Yield the samples of a WAV file: PCM of 8, 16, 24 or 32 bits, or float of 32 or 64.

    One of another kind, that is cut off, or has another sample rate or number of channels than the
    model wants is refused with the command that converts it.
    """
    source = _Bytes(wanted, blocks)
    name, channels, rate_hz, size = _head(wanted, source)
    rate = wanted.rate_hz
    want = "" if rate is None else f"-ar {rate:.0f} "
    cure = f"convert it: ffmpeg -i {wanted.path} {want}-ac {wanted.width} out.wav"
    if rate is not None and rate_hz != rate:
        raise wanted.refuse(f"has {rate_hz} samples per second, this model reads {rate:g}; {cure}")
    if channels != wanted.width:
        raise wanted.refuse(
            f"has {counted(channels, 'channel')}, this model reads {wanted.width} per item; {cure}"
        )
    if rate is None:
        wanted.found.notes.append(
            f"{rate_hz} samples per second; the bundle does not say which rate it wants"
        )
    yield from raw_blocks(wanted, name, source.rest(size))


def _head(wanted: Wanted, source: "_Bytes") -> tuple[str, int, int, int | None]:
    """Return what the header of a WAV says: kind of sample, channels, rate, bytes of data."""
    start = source.take(12)
    if start[:4] != b"RIFF" or start[8:] != b"WAVE":
        raise wanted.refuse("is not a WAV file", "raw samples need --format s16 or f32")
    in_all = int.from_bytes(start[4:8], "little")
    told: bytes | None = None
    seen = 4  # bytes that the size of the whole counts: "WAVE", then the parts
    while True:
        name, size = source.take(4), int.from_bytes(source.take(4), "little")
        seen += 8 + size + size % 2
        if name == b"data":
            break
        if size > 1 << 20:
            raise wanted.refuse(f"is a broken WAV file: its part {name!r} has {size} bytes")
        part = source.take(size + size % 2)
        told = part if name == b"fmt " else told
    if told is None or len(told) < 16:
        raise wanted.refuse("is a broken WAV file: no `fmt ` part comes before its data")
    code, channels, rate, frame, bits = struct.unpack("<HHI4xHH", told[:16])
    if code == _EXTENSIBLE and told[26:40] in _PCM_FAMILY:
        code = int.from_bytes(told[24:26], "little")
    kinds = {
        **{(_PCM, b): ("u8" if b == 8 else f"s{b}") for b in (8, 16, 24, 32)},
        **{(_FLOAT, b): f"f{b}" for b in (32, 64)},
    }
    cure = f"convert it: ffmpeg -i {wanted.path} -c:a pcm_s16le out.wav"
    if (code, bits) not in kinds or not channels:
        raise wanted.refuse(
            f"is a WAV of {_CODES.get(code, f'code {code}')} with {bits} bits and {channels} "
            f"channels, expected PCM or float; {cure}"
        )
    if frame != channels * bits // 8:
        raise wanted.refuse(
            f"is a WAV of {bits} bits and {counted(channels, 'channel')} with {frame} bytes per "
            f"item, expected {channels * bits // 8}; {cure}"
        )
    # a writer that was ended, or writes into a pipe, leaves 0 or a very large size; where another
    # part follows, 0 is meant
    unknown = size >= _UNKNOWN_BYTES or not (size or _is_part(source.peek(8), in_all - seen))
    return kinds[code, bits], channels, rate, None if unknown else size


def _is_part(head: bytes, left: int) -> bool:
    """Whether these bytes begin another part of a WAV, one that fits into the bytes left."""
    name, size = head[:4], int.from_bytes(head[4:], "little")
    return len(head) == 8 and all(32 <= byte < 127 for byte in name) and 8 + size <= left


class _Bytes:
    """Bytes of an input, so many at a time."""

    def __init__(self, wanted: Wanted, blocks: Iterator[bytes]) -> None:
        self._wanted, self._blocks, self._held = wanted, blocks, b""

    def take(self, count: int) -> bytes:
        """Return the next bytes, waiting for them."""
        if len(self.peek(count)) < count:
            raise self._wanted.refuse("is a broken WAV file: it ends inside its header")
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def peek(self, count: int) -> bytes:
        """Return the next bytes, fewer where the input ends, and take none."""
        while len(self._held) < count and (block := next(self._blocks, None)) is not None:
            self._held += block
        return self._held[:count]

    def rest(self, size: int | None) -> Iterator[bytes]:
        """Yield the next `size` bytes as they come, or all that come."""
        left = size
        for block in chain([self._held], self._blocks):
            yield block[:left]
            left = None if left is None else max(0, left - len(block))
            if left == 0:
                return
        if left:
            raise self._wanted.refuse(
                f"is cut off: its header promises {size} bytes of samples, {left} are missing; "
                f"mend it: ffmpeg -i {self._wanted.path} out.wav"
            )


BLOCK_ITEMS = 4096

Array = npt.NDArray[np.generic]


def npy_blocks(wanted: Wanted, whole: bytes | None) -> Iterator[Block]:
    """Yield the rows of a .npy file, which is mapped, or of its bytes."""
    try:
        if whole is None:
            mapped = np.lib.format.open_memmap(wanted.path, mode="r")
            left = os.path.getsize(wanted.path) - mapped.offset - mapped.nbytes
            array: Array = mapped
        else:
            stream = io.BytesIO(whole)
            array = np.load(stream, allow_pickle=False)
            left = len(whole) - stream.tell()
    except OSError:
        raise
    except Exception as error:  # numpy lets through whatever its parsers meet
        raise wanted.refuse(f"is no .npy array of numbers: {first_line(error)}") from None
    if left:
        raise wanted.refuse(
            f"holds {array.dtype} {list(array.shape)} and {counted(left, 'byte')} behind it, "
            "expected one array; several belong in an .npz"
        )
    yield from _rows(wanted, array, "")


def npz_blocks(wanted: Wanted, whole: bytes | None) -> Iterator[Block]:
    """Yield the rows of the one array of an .npz file, or of the one named as the model's input."""
    try:
        with np.load(
            wanted.path if whole is None else io.BytesIO(whole), allow_pickle=False
        ) as held:
            names = held.files
            name = names[0] if len(names) == 1 else wanted.input
            if name not in names:
                raise wanted.refuse(
                    f"holds {len(names)} arrays ({', '.join(names[:12])}) and none is called "
                    f"`{wanted.input}` as this model's input is; save one array, or name it so"
                )
            array: Array = held[name]
            if not isinstance(array, np.ndarray):  # numpy hands out the bytes of any other file
                raise wanted.refuse(
                    f"is a zip file of other files ({', '.join(names[:12])}), expected the arrays "
                    "of an .npz; write them as CSV or .npy"
                )
    except (OSError, WrongUseError):
        raise
    except Exception as error:  # numpy and zipfile let through whatever their parsers meet
        raise wanted.refuse(f"is no .npz file of numbers: {first_line(error)}") from None
    yield from _rows(wanted, array, f"array `{name}` ")


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return (str(error).splitlines() or [""])[0].strip() or type(error).__name__


def _rows(wanted: Wanted, array: Array, what: str) -> Iterator[Block]:
    width = wanted.width
    if array.dtype.kind not in "fiu" or not array.ndim or array.size != len(array) * width:
        raise wanted.refuse(
            f"{what}holds {array.dtype} {list(array.shape)}, expected numbers [n, {width}]"
        )
    for at in range(0, len(array), BLOCK_ITEMS):
        if wanted.stop():
            return
        yield block_of(np.array(array[at : at + BLOCK_ITEMS]).reshape(-1, width), at)
