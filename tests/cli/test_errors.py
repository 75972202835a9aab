"""Wrong use and broken input: one line on stderr that names the cause, and exit code 2."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dst.runtime.install import install_line

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command


def refused(done: object, *words: str) -> None:
    """Check that a call ended with 2 and said these words in one line on stderr."""
    code, out, err = (getattr(done, name) for name in ("code", "out", "err"))
    assert code == 2
    assert out == ""
    assert err.startswith("dst: ")
    assert err.count("\n") == 1
    assert [word for word in words if word not in err] == []


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_bytes(b"some text\n" * 10)
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dance",), ["dance", "dst --help"]),
        (("run", "text", "--loud"), ["--loud", "dst run --help"]),
        (("run",), ["BUNDLE"]),
        (("run", "no-such-model", "-"), ["no-such-model", "shipped"]),
        (("show", "no-such-model"), ["no-such-model"]),
        (("run", "text", "-", "--per", "word"), ["word", "line"]),
        (("run", "text", "no-such-file"), ["no-such-file", "No such file"]),
        (("run", "text", "."), ["directory"]),
        (("generate", "text", "--prompt", "a", "--prompt-file", "b"), ["--prompt-file"]),
        (("generate", "text", "--prompt-file", "no-such-file"), ["no-such-file"]),
        (("show", "--json", "no/such/folder/x.json"), ["no/such/folder"]),
        (("demo", "--bundle", "no-such-model"), ["no-such-model"]),
        (("generate", "text", "--prompt", "a", "--items", "0"), ["--items", "1"]),
        (("run", "text", "-", "--state", "no/such/s"), ["--state no/such/s", "no directory"]),
        (("generate", "text", "--prompt", "a", "--state", "no/such/s"), ["--state no/such/s"]),
        (("export", "--size", "tiny", "--out", "no/such/b"), ["--out no/such/b"]),
        (("run", "no-such-model", "--threads", "1025"), ["--threads", "1024"]),
        (("demo", "--bundle", "no-such-model", "--threads", "9" * 20), ["--threads", "1024"]),
        (("export", "--size", "tiny", "--out", "b", "--seed=-1"), ["--seed", "0"]),
        (("export", "--size", "tiny", "--out", "b", "--seed", "9" * 23), ["18446744073709551615"]),
    ],
)
def test_wrong_arguments(dst: Dst, arguments: tuple[str, ...], words: list[str]) -> None:
    refused(dst(*arguments), *words)


def test_a_process_tells_no_traceback(process: Dst, shelf: Path) -> None:
    refused(process("run", shelf / "text", "no-such-file"), "no-such-file")


@pytest.mark.parametrize("cut", [True, False])
def test_truncated_and_altered_bundles(
    dst: Dst, shelf: Path, tmp_path: Path, text: Path, cut: bool
) -> None:
    bundle = shutil.copytree(shelf / "text", tmp_path / "broken")
    data = (bundle / "step.onnx").read_bytes()
    flipped = data[:99] + bytes([data[99] ^ 1]) + data[100:]
    (bundle / "step.onnx").write_bytes(data[:-1] if cut else flipped)
    for call in (("run", bundle, text), ("verify", bundle), ("show", bundle)):
        refused(dst(*call), "broken", "step.onnx")


def test_state_of_another_model_stays_as_it_is(
    dst: Dst, shelf: Path, tmp_path: Path, text: Path
) -> None:
    state = tmp_path / "state"
    assert dst("run", shelf / "text", text, "--state", state).code == 0
    before = state.read_bytes()
    refused(dst("run", shelf / "twin", text, "--state", state), "model")
    refused(dst("generate", shelf / "twin", "--prompt", "a", "--state", state), "model")
    assert state.read_bytes() == before
    state.write_bytes(before[:-1])
    refused(dst("run", shelf / "text", text, "--state", state), "checksum")


def test_empty_input(dst: Dst, process: Dst, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    state = tmp_path / "state"
    refused(dst("run", shelf / "text", tmp_path / "empty", "--state", state), "empty")
    refused(process("run", shelf / "text", "-"), "empty")
    assert not state.exists()


def test_features_that_cannot_be_read(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    rows = np.zeros((9, 2), np.float32)
    rows[4, 1] = np.nan
    np.save(tmp_path / "nan.npy", rows)
    np.save(tmp_path / "wide.npy", np.zeros((4, 3), np.float32))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    (tmp_path / "odd.f32").write_bytes(b"12345")
    (tmp_path / "words.csv").write_text("1,2\nx,y\n")
    (tmp_path / "wide.csv").write_text("1,2\n1,2,3\n")
    (tmp_path / "broken.csv").write_text("1,x\n4,5\n")
    (tmp_path / "gap.csv").write_text(",\n4,5\n")
    (tmp_path / "spaces.csv").write_text("1 2\n")
    (tmp_path / "names.csv").write_text("left,right\n\n")
    (tmp_path / "endless.csv").write_bytes(b"1,2\n3,4\n" + b"9" * (1 << 21) + b"\n")
    (tmp_path / "not.npy").write_bytes(b"12345")
    (tmp_path / "none.npy").touch()
    np.save(tmp_path / "one.npy", np.float32(1))
    np.save(tmp_path / "huge.npy", np.full((3, 2), 1e39))
    (tmp_path / "huge.csv").write_text("1,2\n3,1e39\n")
    np.savez(tmp_path / "many.npz", rows)
    (tmp_path / "many.npz").rename(tmp_path / "zip.npy")
    for name, *words in (
        ("nan.npy", "item 5", "NaN"),
        ("wide.npy", "[4, 3]", "[n, 2]"),
        ("words.npy", "words.npy"),
        ("odd.f32", "5 bytes"),
        ("words.csv", "line 2"),
        ("wide.csv", "line 2", "3 values"),
        ("broken.csv", "line 1, column 2 is not a number: 'x'"),
        ("gap.csv", "line 1 has no number in column 1"),
        ("spaces.csv", "line 1, column 1", "'1 2'", "comma, semicolon or tab"),
        ("names.csv", "line 1", "'left,right'", "none follows", "2 per item"),
        ("endless.csv", "line 3 is longer than 1 MiB"),
        ("not.npy", "not.npy"),
        ("none.npy", "none.npy: is empty, expected a .npy file"),
        ("one.npy", "float32 []", "[n, 2]"),
        ("zip.npy", "zip.npy: is an .npz", "--format npz"),
        ("huge.npy", "item 1", "too large for float32"),
        ("huge.csv", "line 2", "too large for float32"),
    ):
        refused(dst("run", shelf / "sensor", tmp_path / name), *words)


@pytest.mark.skipif(
    sys.platform == "win32" or getattr(os, "geteuid", lambda: 0)() == 0,
    reason="may write anywhere",
)
def test_a_folder_that_cannot_be_written_to(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    state = tmp_path / "locked" / "state"
    refused(dst("run", shelf / "text", "-", "--state", state), "cannot be written to")


def test_options_that_do_not_fit(dst: Dst, shelf: Path, tmp_path: Path, text: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 2), np.float32))
    run = ("run", shelf / "text", text)
    refused(dst(*run, "--save-every", 10), "--state")
    refused(dst(*run, "--per", "line", "--json", "-"), "--per line", "--json -")
    refused(dst(*run, "--chunk", 3), "T = 3", "[1, 2, 4, 8, 32]")
    refused(dst("run", shelf / "sensor", tmp_path / "a.npy", "--per", "line"), "--per line")
    refused(dst("generate", shelf / "sensor", "--prompt", "a"), "text")
    refused(dst("generate", shelf / "text"), "prompt")
    refused(dst("demo", "--bundle", shelf / "sensor"), "bytes")
    refused(dst("verify", shelf / "text", "--graph", "fused"), "fused", "portable")
    refused(dst("run", shelf / "refuse", text), "whole chunks of 8")


@pytest.mark.skipif(sys.platform == "win32", reason="no modes, and links only for some")
def test_the_json_file_is_made_whole_or_not_at_all(
    dst: Dst, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = tmp_path / "held"
    refused(dst("show", "no-such-model", "--json", held), "no-such-model")
    assert not held.exists()
    refused(dst("show", shelf / "text", "--json", tmp_path), "--json", "directory")
    (tmp_path / "link").symlink_to(held)
    assert dst("show", shelf / "text", "--json", tmp_path / "link").code == 0
    assert (tmp_path / "link").is_symlink()
    held.chmod(0o600)
    assert dst("show", shelf / "text", "--json", held).code == 0
    assert held.stat().st_mode & 0o777 == 0o600
    before = held.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    done = dst("show", shelf / "sensor", "--json", held)
    assert (done.code, done.err) == (2, f"dst: {held}: No space left on device\n")
    assert held.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["held", "link"]


@pytest.mark.skipif(sys.platform != "linux", reason="names must be UTF-8")
def test_the_name_of_a_file_may_be_no_utf8(
    dst: Dst, shelf: Path, tmp_path: Path, text: Path
) -> None:
    state = os.fsdecode(os.fsencode(tmp_path) + b"/s\xff")
    done = dst("run", shelf / "text", text, "--state", state, "--json", "-")
    assert done.code == 0
    assert done.json["state"] == f"{tmp_path}/s\\xff"


@pytest.mark.skipif(sys.platform == "win32", reason="links only for some")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("show bundle --json bundle/manifest.json", ["--json bundle/manifest.json", "BUNDLE"]),
        ("show bundle --json bundle/new.json", ["--json bundle/new.json", "BUNDLE"]),
        ("show bundle --memory --json bundle/new.json", ["--json", "BUNDLE"]),
        ("show bundle --provider cpu --json bundle/new.json", ["--json", "BUNDLE"]),
        ("show bundle --json folder/new.json", ["--json", "BUNDLE"]),
        ("verify bundle --json bundle/step.onnx", ["--json", "BUNDLE"]),
        ("demo --bundle bundle --json bundle/new.json", ["--json", "--bundle"]),
        ("run bundle t.txt --json t.txt", ["--json t.txt", "FILE"]),
        ("run bundle t.txt --json linked.txt", ["--json linked.txt", "FILE"]),
        ("run bundle t.txt --state t.txt", ["--state t.txt", "FILE"]),
        ("run bundle t.txt --state bundle/s", ["--state bundle/s", "BUNDLE"]),
        ("run bundle t.txt --state new --json new", ["--json new", "--state"]),
        ("run bundle t.txt --state s --json s.previous", ["--json s.previous", "--state"]),
        ("run bundle s.previous --state s", ["s.previous", "--state", "FILE"]),
        ("generate bundle --prompt-file t.txt --json t.txt", ["--json t.txt", "--prompt-file"]),
        ("generate bundle --prompt a --state s --json s", ["--json s", "--state"]),
    ],
)
def test_nothing_that_is_read_is_overwritten(
    dst: Dst,
    shelf: Path,
    tmp_path: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shelf / "text", "bundle")
    os.symlink("bundle", "folder")
    text.rename("t.txt")
    os.link("t.txt", "linked.txt")
    for _ in range(2):
        assert dst("run", "bundle", "t.txt", "--state", "s").code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refused(dst(*line.split()), *words)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.skipif(sys.platform == "win32", reason="no /dev/null")
def test_devices_may_serve_twice_and_a_state_may_be_its_own_copy(
    dst: Dst, shelf: Path, tmp_path: Path, text: Path
) -> None:
    state = tmp_path / "s"
    assert dst("run", shelf / "text", text, "--state", state).code == 0
    os.link(state, tmp_path / "s.previous")  # as a crash between two renames leaves it
    assert dst("run", shelf / "text", text, "--state", state).code == 0
    done = dst("generate", shelf / "text", "--prompt-file", "/dev/null", "--json", "/dev/null")
    assert "prompt" in done.err
    assert "--json" not in done.err


def test_a_file_that_is_no_checkpoint(dst: Dst, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    export = ("export", "--size", "tiny", "--out", tmp_path / "b", "--checkpoint")
    for name, held in (("path.pt", {"model": {}, "path": Path("x")}), ("bare.pt", {"a": 1})):
        torch.save(held, tmp_path / name)
        refused(dst(*export, tmp_path / name), name, "expected", "under 'model'")
    (tmp_path / "t.txt").write_text("weights_only=False, to please torch\n")
    done = dst(*export, tmp_path / "t.txt")
    refused(done, "t.txt: is no checkpoint; expected", "torch.save", "under 'model'")
    assert "weights_only" not in done.err


def test_export_without_torch_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nfrom dst.cli.app import call\n"
        "sys.exit(call(['export', '--size', 'tiny', '--out', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "b")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert install_line("export") in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "b").exists()
