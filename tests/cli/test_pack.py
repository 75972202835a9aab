"""`dst pack`: its exit codes, its JSON and what it prints."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.cli.conftest import Dst

from dst.runtime import open_bundle, write_bundle


def test_it_tells_what_it_wrote(dst: Dst, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = dst("pack", "text-int4", "--target", "android", "--out", out)
    assert done.code == 0
    assert "README.md has the steps" in done.out
    assert "step_t32.ort replays the golden run of T = 32" in done.out
    assert all(name in done.out for name in ("NNAPI", "Core ML MLProgram", "XNNPACK"))


def test_json_is_what_the_folder_holds(dst: Dst, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = dst("pack", "feed", "--target", "ios", "--out", out, "--json", "-")
    assert done.code == 0
    assert "NNAPI, Core ML and XNNPACK can take nothing of it" in done.err
    told: dict[str, object] = dict(done.json)
    assert told == {"path": str(out), **json.loads((out / "pack.json").read_bytes())}
    assert told["providers"] == []
    assert "can take nothing" in (out / "providers.txt").read_text("utf-8")


def test_a_graph_that_strays_is_exit_code_1(dst: Dst, tmp_path: Path) -> None:
    source = open_bundle("feed")
    files: dict[str, bytes | Path] = {n: source.root / n for n in source.manifest.files}
    strict = tuple(replace(graph, golden_tolerance=0.0) for graph in source.manifest.graphs)
    write_bundle(tmp_path / "strict", replace(source.manifest, graphs=strict), files)
    done = dst("pack", tmp_path / "strict", "--target", "desktop", "--out", tmp_path / "out")
    assert done.code == 1
    assert "✗" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing", "--target", "web", "--out", "out"), "no such directory"),
        (("feed", "--target", "watch", "--out", "out"), "'watch' is not one of"),
        (("feed", "--target", "web", "--out", "there"), "exists"),
        (("feed", "--target", "web", "--out", "a/b"), "there is no directory"),
        (("feed", "--target", "web"), "--out"),
    ],
)
def test_wrong_use_is_exit_code_2(
    dst: Dst, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    done = dst("pack", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "--overwrite" not in done.err  # which this verb has not
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert list((tmp_path / "there").iterdir()) == []
