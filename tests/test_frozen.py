"""A frozen app opens a shipped bundle by its name; where the data is not there, it says so."""

import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.test_layout import build, copy_sources

import dst

APP = """
from dst.runtime import Session
print(Session.open("text").stream().advance(b"hello world, " * 10)["logits"].shape)
"""


@pytest.mark.frozen
def test_a_frozen_app_opens_a_shipped_bundle(tmp_path: Path) -> None:
    """Installs the wheel and PyInstaller in an environment of its own; takes a minute."""
    wheel = build("wheel", copy_sources(tmp_path / "source"), tmp_path / "wheel")
    venv.create(tmp_path / "env", with_pip=True)
    programs = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    call([programs / "pip", "install", "-q", wheel, "pyinstaller"], tmp_path)
    (tmp_path / "app.py").write_text(APP)
    call([programs / "pyinstaller", "--noconfirm", "--onedir", "app.py"], tmp_path)
    frozen = tmp_path / "dist" / "app" / "app"
    assert call([frozen], tmp_path).stdout == "(1, 128, 256)\n"

    (bundles,) = frozen.parent.rglob("shipped")
    bundles.rename(tmp_path / "elsewhere")
    done = subprocess.run([frozen], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "--collect-data dst" in done.stderr


def call(command: Sequence[str | Path], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command that must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_package_in_a_zip_says_that_it_has_no_bundles(tmp_path: Path) -> None:
    package = Path(dst.__file__).parent
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        for folder in (package, package / "runtime"):
            for file in sorted(folder.rglob("*.py")):
                if folder == package and file.relative_to(package).parts[0] in (
                    "export",
                    "quantize",
                    "runtime",
                ):
                    continue
                archive.write(file, Path("dst") / file.relative_to(package))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import dst\n"
        "assert 'app.zip' in dst.__file__\n"
        "from dst.runtime import Session\n"
        "Session.open('text')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "app.zip"],
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "BundleNotFoundError" in last
    assert "imported from a zip file" in last
    assert "the path of a bundle" in last
