"""Tell the format of an input by what the caller says, by its name and by its first bytes."""

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import PurePath
from typing import get_args

from dst.cli.inputs.block import Wanted
from dst.cli.options import Format

RAW = ("f32", "f64", "s16", "s24", "s32", "u8")
FORMATS: tuple[str, ...] = get_args(Format)
HEAD_BYTES = 16  # enough to know a format by

_SUFFIXES = {
    **{f".{name}": name for name in FORMATS if name != "u8"},
    ".tsv": "csv",
    ".ndjson": "jsonl",
    ".wave": "wav",
    ".f32le": "f32",
    ".s16le": "s16",
}
_SAMPLES = (".raw", ".pcm", ".bin", ".u8")
_AUDIO = "ffmpeg -i FILE out.wav makes a WAV of it"
_MAGIC = (
    (b"\x1f\x8b", "gzip", "unpack it, or: zcat FILE | dst run BUNDLE -"),
    (b"BZh", "bzip2", "unpack it, or: bzcat FILE | dst run BUNDLE -"),
    (b"\xfd7zXZ\x00", "xz", "unpack it, or: xzcat FILE | dst run BUNDLE -"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unpack it, or: zstdcat FILE | dst run BUNDLE -"),
    (b"fLaC", "a FLAC file", _AUDIO),
    (b"OggS", "an Ogg file", _AUDIO),
    (b"ID3", "an MP3 file", _AUDIO),
    (b"RIFX", "a big-endian WAV", _AUDIO),
    (b"RF64", "an RF64 WAV", _AUDIO),
    (b"FORM", "an AIFF file", _AUDIO),
    (b"PAR1", "a Parquet file", "write it as CSV or .npy"),
    (b"\x89HDF", "an HDF5 file", "write it as CSV or .npy"),
    (BOM_UTF16_LE, "UTF-16 text", "iconv -f UTF-16 -t UTF-8 FILE makes UTF-8 of it"),
    (BOM_UTF16_BE, "UTF-16 text", "iconv -f UTF-16 -t UTF-8 FILE makes UTF-8 of it"),
)
_NAMES = {"wav": "a WAV file", "npy": "a .npy file", "npz": "an .npz or other zip file"}


def format_of(wanted: Wanted, head: bytes) -> str:
    """Return the format of an input: one of `FORMATS`.

    What the caller says counts, unless the first bytes are those of another format. Then the
    name's ending counts, and where that says nothing, the first bytes: `head`.
    """
    said = wanted.form.format
    suffix = PurePath(wanted.path).suffix.lower() if wanted.path != "-" else ""
    named = said or _SUFFIXES.get(suffix)
    seen = _by_bytes(head)
    if seen is not None and named != seen:
        if named is None and suffix not in _SAMPLES:
            return seen
        why = f"--format {said} says" if said else "its name says"
        raise wanted.refuse(
            f"is {_NAMES[seen]} by its first bytes, and not what {why}", f"give --format {seen}"
        )
    if named in RAW:
        return str(named)
    if named in _NAMES:
        if not head:
            raise wanted.refuse(f"is empty, expected {_NAMES[str(named)]}")
        if seen is None:
            _check_magic(wanted, head)
            raise wanted.refuse(
                f"is not {_NAMES[str(named)]}: it begins with {head[:8]!r}",
                f"raw samples need --format {'|'.join(RAW)}",
            )
        return str(named)
    if suffix in _SAMPLES and said is None:
        raise wanted.refuse(
            f"{suffix} does not say what its samples are; rename it to .s16 or .f32, as it is",
            f"or give --format s16 or f32 (all: {', '.join(RAW)}; little-endian, interleaved)",
        )
    _check_magic(wanted, head)
    check_text(wanted, head)
    start = head.removeprefix(BOM_UTF8).lstrip()[:1]
    if named == "csv" and start == b"{":
        raise wanted.refuse("line 1 is JSON, not CSV", "give --format jsonl")
    return str(named or ("jsonl" if start in (b"{", b"[") and start else "csv"))


def check_text(wanted: Wanted, head: bytes) -> None:
    """Refuse bytes that no text begins with."""
    if any(byte < 32 and byte not in b"\t\n\r\f\v" for byte in head):
        raise wanted.refuse(
            f"is binary, not lines of text: {head[:8]!r}",
            f"raw samples need --format {'|'.join(RAW)} (little-endian), audio files "
            "ffmpeg -i FILE out.wav",
        )


def _check_magic(wanted: Wanted, head: bytes) -> None:
    for magic, what, cure in _MAGIC:
        if head.startswith(magic):
            raise wanted.refuse(f"is {what}, which is not read here; {cure}")


def _by_bytes(head: bytes) -> str | None:
    if head.startswith(b"RIFF") and head[8:12] in (b"WAVE", b""):
        return "wav"
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    return "npz" if head.startswith(b"PK\x03\x04") else None
