"""Laws of writing a bundle: all of it or nothing, and nothing else is ever replaced."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.raising import Fault, refused

from dst.runtime import open_bundle, write_bundle
from dst.runtime.bundle.encoding import canonical
from dst.runtime.bundle.manifest import Manifest
from dst.runtime.errors import BundleError, BundleExistsError, BundleNotFoundError

Parts = tuple[Manifest, dict[str, bytes | Path]]
replace = msgspec.structs.replace


@pytest.fixture
def copy(shelf: Path, tmp_path: Path) -> Path:
    """A bundle to write over."""
    return Path(shutil.copytree(shelf / "text", tmp_path / "demo"))


def _link(root: Path) -> None:
    (root / "step.onnx").rename(root.parent / "step.onnx")
    (root / "step.onnx").symlink_to(root.parent / "step.onnx")


def test_equal_parts_give_equal_bytes(text_parts: Parts, tmp_path: Path) -> None:
    for name in "ab":
        write_bundle(tmp_path / name, *text_parts)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_existing_target_is_left_alone(text_parts: Parts, tmp_path: Path) -> None:
    manifest, files = text_parts
    write_bundle(tmp_path / "b", manifest, files)
    other = replace(manifest, description="another")
    with pytest.raises(BundleExistsError):
        write_bundle(tmp_path / "b", other, files)
    assert open_bundle(tmp_path / "b").manifest.description != "another"
    write_bundle(tmp_path / "b", other, files, overwrite=True)
    assert open_bundle(tmp_path / "b").manifest.description == "another"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(BundleExistsError, match="not a bundle"):
        write_bundle(tmp_path / "mine", manifest, files, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "mine"]


def _only_named_manifest(root: Path) -> None:
    for path in root.iterdir():
        path.unlink()
    (root / "manifest.json").write_text('{"name": "my web app", "files": {}}')


def _other_format(root: Path) -> None:
    fields = json.loads((root / "manifest.json").read_bytes())
    (root / "manifest.json").write_bytes(canonical(fields | {"format": "other"}))


def _photos(root: Path) -> None:
    (root / "photos").mkdir()
    (root / "photos" / "cat.jpg").write_text("x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_only_named_manifest, "does not say that its format is 'dst-bundle'"),
        (_other_format, "does not say that its format is 'dst-bundle'"),
        (lambda r: (r / "manifest.json").write_text("{"), "does not say that its format"),
        (lambda r: (r / "manifest.json").unlink(), "has no manifest.json"),
        (lambda r: os.truncate(r / "manifest.json", (1 << 24) + 1), "more than 16777216 bytes"),
        (lambda r: (r / "thesis.txt").write_text("x"), "holds thesis.txt, which"),
        (_photos, "photos is a directory"),
        (_link, "step.onnx is a link"),
    ],
)
def test_overwriting_replaces_bundles_alone(
    copy: Path, text_parts: Parts, change: Callable[[Path], object], words: str
) -> None:
    change(copy)
    before = {p: p.is_file() and p.read_bytes() for p in sorted(copy.parent.rglob("*"))}
    with pytest.raises(BundleExistsError, match=f"not a bundle: .*{words}"):
        write_bundle(copy, *text_parts, overwrite=True)
    assert {p: p.is_file() and p.read_bytes() for p in sorted(copy.parent.rglob("*"))} == before


def test_a_link_or_a_file_is_not_overwritten(copy: Path, text_parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copy)
    (tmp_path / "file").write_text("x")
    for name, words in (("link", "it is a link"), ("file", "it is no directory")):
        with pytest.raises(BundleExistsError, match=words):
            write_bundle(tmp_path / name, *text_parts, overwrite=True)
    assert (tmp_path / "file").read_text() == "x"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: (r / "step.onnx").write_bytes(b"altered"),
        lambda r: os.truncate(r / "step.onnx", 100),
        lambda r: (r / "step.onnx").unlink(),
    ],
)
def test_a_damaged_bundle_is_replaced(
    copy: Path, text_parts: Parts, damage: Callable[[Path], object]
) -> None:
    damage(copy)
    sealed = write_bundle(copy, *text_parts, overwrite=True)
    assert open_bundle(copy).manifest == sealed


def test_a_bundle_of_another_version_is_replaced(copy: Path, text_parts: Parts) -> None:
    fields = json.loads((copy / "manifest.json").read_bytes())
    (copy / "manifest.json").write_bytes(canonical(fields | {"format_version": 1}))
    sealed = write_bundle(copy, *text_parts, overwrite=True)
    assert open_bundle(copy).manifest == sealed


def test_a_failed_write_leaves_nothing(text_parts: Parts, tmp_path: Path) -> None:
    manifest, files = text_parts
    write_bundle(tmp_path / "b", manifest, files)
    kept = open_bundle(tmp_path / "b").manifest
    broken = replace(manifest, contract=replace(manifest.contract, outputs=()))
    for bad_manifest, bad_files, error in (
        (broken, files, Fault(BundleError, "contract")),
        (
            manifest,
            {**files, "extra": tmp_path / "nowhere"},
            Fault(BundleError, "bundle-unwritable"),
        ),
        (manifest, {**files, "../extra": b""}, Fault(BundleError, "path-outside")),
        (replace(manifest, model_id="short"), files, Fault(BundleError, "manifest-invalid")),
        (
            replace(manifest, horizon=replace(manifest.horizon, half_life_items=float("nan"))),
            files,
            Fault(BundleError, "manifest-invalid"),
        ),
    ):
        for target in ("b", "c"):
            with refused(*error):
                write_bundle(tmp_path / target, bad_manifest, bad_files, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert open_bundle(tmp_path / "b").manifest == kept


def test_a_rename_that_fails_brings_the_old_bundle_back(
    text_parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, files = text_parts
    kept = write_bundle(tmp_path / "b", manifest, files)
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if source.name.endswith(".tmp"):
            raise PermissionError("not now")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(BundleError, match="not now"):
            write_bundle(tmp_path / "b", replace(manifest, name="x"), files, overwrite=True)
    assert open_bundle(tmp_path / "b").manifest == kept
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(("after", "stands"), [(".old", "first"), ("b", "second")])
def test_an_interrupt_between_the_renames_leaves_one_whole_bundle(
    text_parts: Parts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: str,
    stands: str,
) -> None:
    manifest, files = text_parts
    write_bundle(tmp_path / "b", replace(manifest, name="first"), files)
    rename = os.rename

    def interrupt(source: Path, target: Path) -> None:
        rename(source, target)
        if target.name.endswith(after) and not source.name.endswith(".old"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_bundle(tmp_path / "b", replace(manifest, name="second"), files, overwrite=True)
    assert open_bundle(tmp_path / "b").manifest.name == stands
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


KILLED = """
import os, signal, sys
from dst.runtime import open_bundle, write_bundle
rename = os.rename
def kill(source, target):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
os.rename = kill
bundle = open_bundle(sys.argv[1])
files = {name: bundle.root / name for name in bundle.manifest.files}
write_bundle(sys.argv[1], bundle.manifest, files, overwrite=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_kill_between_the_renames_is_told_and_can_be_undone(copy: Path) -> None:
    manifest = open_bundle(copy).manifest
    done = subprocess.run([sys.executable, "-c", KILLED, str(copy)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not copy.exists()
    with pytest.raises(BundleNotFoundError, match=r"kept as \.demo\..*\.old, rename it") as told:
        open_bundle(copy)
    kept = next(word.rstrip(",") for word in str(told.value).split() if word.endswith(".old,"))
    (copy.parent / kept).rename(copy)
    assert open_bundle(copy).manifest == manifest
