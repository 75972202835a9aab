"""`dst show --provider` and `dst verify --time`: what they print, what JSON they write."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from dst.runtime.execution.providers import PLACES, Place

Dst = Callable[..., Any]  # the fixture of conftest.py that calls the command


def test_show_tells_what_runs_where(dst: Dst, shelf: Path) -> None:
    done = dst("show", shelf / "text", "--provider", "cpu", "--json", "-")
    (graph,) = json.loads(done.out)["graphs"]
    assert (graph["graph"], graph["refused"], graph["recorded"]) == ("step.onnx", None, True)
    assert [(p["provider"], p["nodes"] > 0) for p in graph["parts"]] == [("cpu", True)]
    printed = dst("show", shelf / "text", "--provider", "cpu").out
    assert [word for word in ("step.onnx", "portable", "cpu", "nodes") if word not in printed] == []


@pytest.mark.skipif(
    "AzureExecutionProvider" not in ort.get_available_providers(),
    reason="this onnxruntime has no provider that takes nothing",
)
def test_show_tells_what_strict_would_refuse(
    dst: Dst, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLACES, "coreml", Place("AzureExecutionProvider", "cpu", False, "nothing"))
    done = dst("show", shelf / "text", "--provider", "coreml")
    assert done.code == 0
    assert "strict refuses step.onnx: 'coreml' took only 0.0% of the nodes" in done.out
    refused = dst("verify", shelf / "text", "--provider", "coreml")
    assert refused.code == 2
    assert "'coreml' took only 0.0%" in refused.err


def test_verify_times_the_provider_against_the_cpu_when_asked(dst: Dst, shelf: Path) -> None:
    done = dst("verify", shelf / "text", "--time", "--json", "-")
    told = json.loads(done.out)
    assert told["passed"]
    assert {t["graph"] for t in told["times"]} == {c["graph"] for c in told["checks"]}
    assert all(t["ratio"] > 0 for t in told["times"])
    assert json.loads(dst("verify", shelf / "text", "--json", "-").out)["times"] == []


def test_a_provider_needs_a_bundle(dst: Dst, shelf: Path) -> None:
    assert dst("show", "--provider", "cpu").code == 2
    assert dst("show", shelf / "text", "--provider", "cpu", "--memory").code == 2


@pytest.mark.parametrize(
    "provider", [n for n, p in PLACES.items() if p.execution not in ort.get_available_providers()]
)
def test_an_absent_provider_is_one_line_and_code_2(dst: Dst, shelf: Path, provider: str) -> None:
    done = dst("verify", shelf / "text", "--provider", provider)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "docs/providers.md" in done.err
