"""The bundle that comes with the package: proved on 10,000 steps, and as good as it is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dst.runtime import open_bundle

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command


def shown(process: Dst, result: Path, *arguments: str) -> dict[str, Any]:
    """Run the demo in a process of its own and return its JSON."""
    done = process("demo", *arguments, "--json", result, timeout_s=3600)
    assert (done.code, done.err) == (0, "")
    told: dict[str, Any] = json.loads(result.read_text())
    return told


def test_it_verifies(dst: Dst) -> None:
    done = dst("verify", "text", "--json", "-")
    assert done.code == 0
    checks = json.loads(done.out)["checks"]
    assert {check["graph"] for check in checks} == {
        graph.file for graph in open_bundle("text").manifest.graphs
    }


def test_its_certificates_cover_ten_thousand_steps() -> None:
    certificates = open_bundle("text").manifest.certificates
    assert certificates
    assert [c.name for c in certificates if c.steps < 9_900 or not c.passed] == []


def test_it_reads_better_than_compressors_and_survives(process: Dst, tmp_path: Path) -> None:
    result = shown(process, tmp_path / "result", "--bytes", "150000", "--threads", "1")
    assert result["bytes"] == 150_000
    assert result["resumed_equal"] is True
    assert result["resumed_at"] < 65_536
    assert result["rss_growth_mib"] <= 1
    assert result["bits_per_byte"] < min(1.9, result["xz_bits_per_byte"])


@pytest.mark.soak
def test_it_reads_the_held_out_megabyte(process: Dst, tmp_path: Path) -> None:
    result = shown(process, tmp_path / "result")
    assert result["bytes"] >= 1_000_000
    assert result["resumed_equal"] is True
    assert result["rss_growth_mib"] <= 1
    assert result["bits_per_byte"] <= 1.35
