"""Files that are no ONNX models are told by what they are."""

import zipfile
from pathlib import Path

import onnx
import pytest
from tests.adopting import ONE, adopt, folded

from dst.export import AdoptError, Answers, adopt_bundle


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"\x18\0\0\0ORTM" + bytes(40), "ONNX Runtime's own format"),
        (b"\x20\0\0\0TFL3" + bytes(40), "TensorFlow Lite"),
        (b"\x0a\x1d\x0a\x01x\x12\x0bPlaceholder" + bytes(20), "TensorFlow graph"),
        (b"\x08\x01\x12\xdc\x01\x0a\x10\x0a\x05serve" + bytes(40), "TensorFlow graph"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x10\0\0\0\0\0\0\0" + b'{"a":{}}        ', "safetensors"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GGUF\x03", "GGUF"),
        (b"\x93NUMPY\x01", "NumPy array"),
        (b"\x1f\x8b\x08", "gzip"),
        (b'{"a": 1}', "a JSON file"),
        (b"no model at all", "a text file"),
        (b"PK\x05\x06" + bytes(18), "zip archive"),
    ],
)
def test_other_files_are_told_by_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(AdoptError, match="is no ONNX model but") as caught:
        adopt(tmp_path, content, Answers())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_archives_and_folders_are_told_by_what_they_hold(tmp_path: Path) -> None:
    for names, words in (
        (["m/data.pkl", "m/version"], "a PyTorch file"),
        (["a/model.onnx"], "a/model.onnx"),
        (["a.npy", "b.npy"], "NumPy arrays"),
        (["readme"], "without an .onnx file"),
    ):
        with zipfile.ZipFile(tmp_path / "b.onnx", "w") as archive:
            for name in names:
                archive.writestr(name, "content")
        with pytest.raises(AdoptError) as caught:
            adopt_bundle(tmp_path / "b.onnx", tmp_path / "b", Answers(), name="b")
        assert words in str(caught.value)
    (tmp_path / "model.onnx").write_bytes(folded(True))
    with pytest.raises(AdoptError, match=r"a folder; name one file in it: b\.onnx, model\.onnx"):
        adopt_bundle(tmp_path, tmp_path / "b", Answers(), name="b")
    adopt(tmp_path, folded(True), ONE)
    with pytest.raises(AdoptError, match="a bundle already"):
        adopt_bundle(tmp_path / "b", tmp_path / "c", Answers(), name="b")


def test_a_model_that_is_cut_short_says_so(tmp_path: Path) -> None:
    model = folded(True)
    with pytest.raises(AdoptError, match="damaged or cut short"):
        adopt(tmp_path, model[: len(model) - 7], ONE)


def test_weights_that_do_not_lie_beside_it_are_named(tmp_path: Path) -> None:
    onnx.save(
        onnx.load_from_string(folded(True)),
        str(tmp_path / "m.onnx"),
        save_as_external_data=True,
        location="m.data",
        size_threshold=64,
    )
    (tmp_path / "m.data").unlink()
    with pytest.raises(AdoptError, match=r"its weights lie in another file.*m\.data"):
        adopt_bundle(tmp_path / "m.onnx", tmp_path / "b", ONE, name="b")
