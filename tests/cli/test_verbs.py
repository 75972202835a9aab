"""The other verbs: what they print, what JSON they write, how they end."""

import importlib.util
import json
import mmap
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dst.cli import options
from dst.cli.footprint import WARM_ITEMS, Meter
from dst.runtime.execution import engine

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command

VERBS = ("demo", "export", "run", "generate", "show", "verify")


def test_help_names_every_verb_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom dst.cli.app import call\ncall(['--help'])\n"
        "print(sorted({'onnxruntime', 'torch', 'numpy', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")
    assert [verb for verb in VERBS if f" {verb} " not in done.stdout] == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_examples(dst: Dst, verb: str) -> None:
    done = dst(verb, "--help")
    assert done.code == 0
    assert f"\n dst {verb} " in done.out or f"dst {verb} " in done.out.partition("Usage")[2][40:]
    assert "--json" in done.out


def test_the_command_takes_as_many_threads_as_the_runtime() -> None:
    assert options.MAX_THREADS == engine.MAX_THREADS


def test_without_arguments_help(dst: Dst) -> None:
    assert dst().out == dst("--help").out


def test_show_tells_contract_state_memory(dst: Dst, shelf: Path) -> None:
    done = dst("show", shelf / "text", "--json", "-")
    shown = json.loads(done.out)
    assert shown["manifest"]["name"] == "text"
    assert shown["memory"]["weights_bytes"] == 16384
    assert sum(shown["memory"].values()) == 2 * shown["memory"]["total_bytes"]
    printed = dst("show", shelf / "text").out
    words = ["ids", "[B, T]", "exact", "[B, 8]", "float32", "memory", "16.0 KiB", "step.onnx"]
    assert [word for word in [*words, "7 items", "none"] if word not in printed] == []


def test_words_of_a_manifest_are_printed_as_they_are(
    dst: Dst, make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "no [/b] [x] :smile: [red]markup[/] \\"
    bundle = make(tmp_path / "[bold]", description=said + "\x1b[31m")
    monkeypatch.setattr("dst.runtime.shipped", lambda: {"[i]": bundle})
    for arguments in (("show", bundle), ("show",), ("demo", "--bundle", bundle, "--bytes", "70")):
        done = dst(*arguments)
        assert (done.code, done.err) == (0, "")
        assert said + r"\x1b[31m" in " ".join(done.out.split())
        assert ("[i]" if arguments == ("show",) else "[bold]") in done.out
    assert "[bold]" in dst("verify", bundle).out


def test_the_meter_sees_memory_that_stays() -> None:
    meter = Meter()
    meter.add(WARM_ITEMS)
    with mmap.mmap(-1, 32 << 20) as held:  # the allocator might have it already
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        meter.sample()
        assert 24 << 20 <= meter.growth_bytes < 64 << 20


def test_show_without_a_bundle_lists_the_shipped(dst: Dst) -> None:
    done = dst("show", "--json", "-")
    assert done.code == 0
    assert set(json.loads(done.out)) == {"shipped"}


def test_verify_passes_a_sound_bundle(dst: Dst, shelf: Path) -> None:
    done = dst("verify", shelf / "text", "--json", "-")
    assert done.code == 0
    (check,) = json.loads(done.out)["checks"]
    assert (check["graph"], check["t"], check["worst"]) == ("step.onnx", 8, 0.0)
    assert "✓ passed" in dst("verify", shelf / "text", "--graph", "step.onnx").out


def test_verify_fails_a_bundle_that_does_something_else(dst: Dst, shelf: Path) -> None:
    done = dst("verify", shelf / "wrong")
    assert done.code == 1
    assert "FAILED" in done.out


def test_same_seed_same_text(dst: Dst, shelf: Path) -> None:
    a, b, c = (
        json.loads(
            dst(
                *("generate", shelf / "text", "--prompt", "ab", "--items", 40),
                *("--seed", seed, "--json", "-"),
            ).out
        )
        for seed in (1, 1, 2)
    )
    assert a["text"] == b["text"] != c["text"]
    assert (a["items"], a["seed"], a["prompt"]) == (40, 1, "ab")


def test_generation_goes_on_from_a_state(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    begin = ("generate", shelf / "text", "--prompt", "ab", "--seed", 3, "--json", "-", "--items")
    whole = json.loads(dst(*begin, 40).out)["text"]
    first = json.loads(dst(*begin, 15, "--state", tmp_path / "s").out)["text"]
    second = dst(
        "generate", shelf / "text", "--items", 25, "--state", tmp_path / "s", "--json", "-"
    )
    assert first + json.loads(second.out)["text"] == whole


def test_generation_stops_after_a_text(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text("ab")
    ask = ("generate", shelf / "text", "--prompt-file", tmp_path / "prompt", "--seed", 1)
    text = json.loads(dst(*ask, "--items", 60, "--json", "-").out)["text"]
    stop = next(c for c in text[5:] if c.isascii() and c.isprintable())
    done = json.loads(dst(*ask, "--items", 60, "--stop", stop, "--json", "-").out)
    assert done["text"] == text[: text.index(stop) + 1]
    assert done["stopped"]


def test_generated_text_goes_to_a_pipe_as_it_is(
    start: Callable[..., Any], dst: Dst, shelf: Path
) -> None:
    ask = ("generate", shelf / "text", "--prompt", "a", "--items", "9", "--temperature", "0")
    text = json.loads(dst(*ask, "--json", "-").out)["text"]
    child = start(*ask)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, len(out), err) == (0, 9, b"")
    assert out.decode("utf-8", "replace") == text


def test_demo(process: Dst, shelf: Path, tmp_path: Path) -> None:
    done = process(
        *("demo", "--bundle", shelf / "text", "--bytes", "70000", "--json", tmp_path / "result")
    )
    assert (done.code, done.err) == (0, "")
    result = json.loads((tmp_path / "result").read_text())
    assert result["bytes"] == 70000
    assert result["resumed_equal"] is True
    assert result["resumed_at"] == 20_000  # the second save, and the child went on
    assert result["bits_per_byte"] > 4  # random weights
    assert result["xz_bits_per_byte"] < result["gzip_bits_per_byte"] < 4
    assert result["rss_growth_mib"] <= 1
    assert result["state_bytes"] == 64
    assert result["bytes_per_second"] > 0
    assert len(result["sample"]) > 240
    assert [found["precision"] for found in result["precisions"]] == ["float32"]
    assert "bit for bit" in done.out


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_export_writes_a_bundle_that_verifies(dst: Dst, tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    done = dst(
        *("export", "--size", "tiny", "--seed", 0, "--out", out),
        *("--json", "-"),
    )
    assert (done.code, done.err) == (0, "")
    written = json.loads(done.out)
    assert written["name"] == "tiny"
    assert all(c["passed"] for c in written["certificates"])
    assert dst("verify", out).code == 0
    again = dst("export", "--size", "tiny", "--out", out)
    assert again.code == 2
    assert "exists" in again.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "text-int8"),
        ("run", "text-int8", "TEXT"),
        ("generate", "text-int8", "--prompt", "a", "--items", "1"),
        ("soak", "text-int8", "--steps", "10"),
    ],
)
def test_a_bundle_goes_by_the_name_that_it_was_asked_for(
    dst: Dst, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """The manifest of every shipped bundle calls it `text`."""
    (tmp_path / "text").write_bytes(b"import os\n")
    given = [str(tmp_path / "text") if a == "TEXT" else a for a in arguments]
    assert dst(*given, "--json", tmp_path / "found").code == 0
    assert json.loads((tmp_path / "found").read_bytes())["bundle"] == "text-int8"
