"""Tell by its first bytes what a file is that is no ONNX model, and say what to do with it."""

import zipfile
from pathlib import Path

_HEAD = 4096
"""How much of a file is looked at."""
_TORCH = (
    "a PyTorch file: load it in Python and export the module, with `dst export`, or with "
    "torch.onnx.export and its state as inputs and outputs"
)
_KERAS = "a Keras model: convert it with tf2onnx (python -m tf2onnx.convert)"
_AT_START = (
    (b"version https://git-lfs", "a Git LFS pointer, not the model itself: run `git lfs pull`"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"BZh", "a bzip2 file: unpack it first"),
    (b"\xfd7zXZ", "an xz file: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it and name the .onnx file inside"),
    (b"\x89HDF", f"an HDF5 file, mostly {_KERAS}"),
    (b"GGUF", "a GGUF file of llama.cpp: it holds weights and no graph; export the model itself"),
    (b"\x93NUMPY", "a NumPy array: it holds numbers and no graph"),
    (b"<?xml", "an XML file; for an OpenVINO model, take the ONNX file that it was made from"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program or a library"),
    (b"RIFF", "a sound file: give the model here, and the sound to `dst run`"),
)
_AT_FOUR = {
    b"ORTM": "a model in ONNX Runtime's own format (.ort), which cannot be turned back: give the "
    ".onnx file that it was made from",
    b"TFL3": "a TensorFlow Lite model: convert it with tf2onnx (python -m tf2onnx.convert "
    "--tflite FILE), or convert the model that it was made from",
}


def what_it_is(path: Path) -> str | None:
    """Say what a file is and what to do instead, None where its first bytes do not tell.

    Raises:
        OSError: it cannot be read.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "model.onnx"
        ...     _ = file.write_bytes(b"")
        ...     what_it_is(file)
        'an empty file'
    """
    if path.is_dir():
        return _folder(path)
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "an empty file"
    for start, kind in _AT_START:
        if head.startswith(start):
            return kind
    if head[4:8] in _AT_FOUR:
        return _AT_FOUR[head[4:8]]
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and b"." in head:
        return f"a Python pickle, mostly {_TORCH}"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it and name the .onnx file inside"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 1 << 30:
        return (
            "a safetensors file: it holds weights and no graph; export the model that they belong "
            "to, with `dst export`"
        )
    return _text(head) or _tensorflow(path, head)


def _folder(path: Path) -> str:
    if (path / "manifest.json").is_file():
        return "a bundle already: `dst show` tells what it holds"
    if (path / "saved_model.pb").is_file():
        return "a TensorFlow SavedModel: convert it with tf2onnx (python -m tf2onnx.convert)"
    found = sorted(file.name for file in path.glob("*.onnx"))
    if found:
        return f"a folder; name one file in it: {', '.join(found[:4])}"
    return "a folder without an .onnx file"


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return "a damaged zip archive"
    files = {name.rsplit("/", 1)[-1] for name in names}
    if files & {"data.pkl", "archive_format"}:
        return _TORCH
    if "config.json" in files and any(name.endswith(".h5") for name in files):
        return _KERAS
    models = [name for name in names if name.endswith(".onnx")]
    if models:
        return f"a zip archive: unpack it and name the file inside, {', '.join(models[:4])}"
    if names and all(name.endswith(".npy") for name in names):
        return "a file of NumPy arrays: it holds numbers and no graph"
    return "a zip archive without an .onnx file"


def _text(head: bytes) -> str | None:
    """Tell kinds of text, where no byte is outside of it."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head")):
        return "a web page, mostly what a server answers in place of a file: download it again"
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character may be cut at the end of what was read
            return None
        text = head[: error.start].decode()
    if any(ord(c) < 32 and c not in "\t\r\n\f" for c in text):
        return None
    return "a JSON file" if start.startswith((b"{", b"[")) else "a text file"


def _tensorflow(path: Path, head: bytes) -> str | None:
    """A frozen graph opens with a node, field 1; a SavedModel with its version and meta graphs."""
    marks = (b"Placeholder", b"NoOp", b"VarHandleOp", b"tensorflow", b"serve", b"\x12\x05Const")
    graph = head[:1] == b"\x0a" or head[:2] == b"\x08\x01"
    if path.suffix == ".pb" or (graph and any(mark in head for mark in marks)):
        return (
            "a TensorFlow graph: convert it with tf2onnx (python -m tf2onnx.convert), with its "
            "state as inputs and outputs"
        )
    return None
