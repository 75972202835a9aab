"""`optimum-cli` is run as from a shell; it does what `dst` does, with the same exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dst.command.app import call
from dst.runtime import open_bundle


def optimum_cli(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the command that optimum installs, with this interpreter."""
    return subprocess.run(
        [sys.executable, "-m", "optimum.commands.optimum_cli", *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that `optimum-cli export dst` has made."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    words = ["--size", "tiny", "--seed", "1", "--certify-steps", "2", "--name", "tiny"]
    done = optimum_cli("export", "dst", *words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "torch-vs-fused" in done.stdout
    return out


def test_it_exports_as_dst_does(exported: Path) -> None:
    manifest = open_bundle(exported).manifest
    assert manifest.name == "tiny"
    assert [c.passed for c in manifest.certificates] == [True] * len(manifest.certificates) != []


def test_it_quantizes_as_dst_does(exported: Path, tmp_path: Path) -> None:
    words = ["quantize", str(exported), "--recipe", "int8-dynamic", "--with", "optimum"]
    done = optimum_cli("dst", *words, "--out", f"{tmp_path}/q", "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    manifest = open_bundle(tmp_path / "q").manifest
    assert told["bundle_id"] == manifest.bundle_id
    assert manifest.recipe == "int8-dynamic, non-causal"
    assert "ort_config.json" in manifest.files
    assert call([*words, "--out", f"{tmp_path}/ours"]) == 0
    assert open_bundle(tmp_path / "ours").manifest == manifest


def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    words = ["--recipe", "int8-rows", "--with", "optimum", "--out", f"{tmp_path}/q"]
    done = optimum_cli("dst", "quantize", "text", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("dst: recipe int8-rows: optimum has no int8-rows")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_commands_and_leads_to_those_of_dst() -> None:
    assert "dst" in optimum_cli("export", "--help").stdout.split()
    done = optimum_cli("dst", "quantize", "--help")
    assert done.returncode == 0
    assert "Usage: dst quantize [OPTIONS]" in done.stdout
