"""The bundles that come with the package: proved on 10,000 steps, and as good as it is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dst.runtime import Session, Stream, open_bundle

# shares of full precision's weights, in the file and in memory, where chunks read 4 bits as 8; nats
SMALLER = {"text-int8": (0.30, 0.30, 0.005), "text-int4": (0.20, 0.30, 0.02)}
Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command


def shown(process: Dst, result: Path, *arguments: str) -> dict[str, Any]:
    """Run the demo in a process of its own and return its JSON."""
    done = process("demo", *arguments, "--json", result, timeout_s=3600)
    told_slowly = ("a child streams", "killed; goes on")  # progress that has no share
    lines = [line for line in done.err.splitlines() if not line.startswith(told_slowly)]
    complaints = [line for line in lines if "%" not in line]  # the rest is progress
    assert (done.code, complaints) == (0, [])
    told: dict[str, Any] = json.loads(result.read_text())
    return told


@pytest.mark.parametrize("name", ["text", *SMALLER])
def test_it_verifies(name: str, dst: Dst) -> None:
    done = dst("verify", name, "--json", "-")
    assert done.code == 0
    checks = json.loads(done.out)["checks"]
    assert {check["graph"] for check in checks} == {
        graph.file for graph in open_bundle(name).manifest.graphs
    }


@pytest.mark.parametrize("name", SMALLER)
def test_smaller_ones_keep_their_promises_over_a_million_items(name: str) -> None:
    full, ours = open_bundle("text").manifest, open_bundle(name).manifest
    stored, share, nats = SMALLER[name]
    assert (ours.model_id, ours.state_hash) == (full.model_id, full.state_hash)
    assert ours.weights_bytes <= share * full.weights_bytes
    assert ours.files["weights.bin"].size <= stored * full.files["weights.bin"].size
    assert ours.quality is not None
    assert ours.quality.items >= 1_000_000
    gates = {gate.name: gate for gate in ours.quality.gates}
    assert [gate.name for gate in gates.values() if gate.verdict != "passed"] == []
    assert gates["loss"].value is not None
    assert gates["loss"].value <= nats


@pytest.mark.parametrize("name", SMALLER)
def test_a_memory_goes_on_in_a_smaller_one(name: str, tmp_path: Path) -> None:
    stream = Session.open("text").stream()
    stream.advance(b"def first():\n    return 1\n\n\ndef second():\n    ret")
    stream.save(tmp_path / "memory")
    smaller = Stream.load(Session.open(name), tmp_path / "memory", allow_precision=True)
    assert smaller.items_consumed == stream.items_consumed
    for part, held in stream.state.items():
        assert (smaller.state[part] == held).all()
    more = b"urn 2\n" * 10
    whole = (stream.pending + len(more)) // 32 * 32
    assert smaller.advance(more)["logits"].shape[1] == whole > 0


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
    first, *others = result["precisions"]
    assert (first["bundle"], first["speed_ratio"]) == ("text", 1.0)
    assert {other["bundle"] for other in others} == set(SMALLER)
    sizes = [open_bundle(other["bundle"]).manifest.weights_bytes for other in others]
    assert sizes == sorted(sizes, reverse=True)
    for other in others:
        assert 0 < other["bits_per_byte"] - first["bits_per_byte"] < 0.05
    odd = [line["planted"] for line in result["log"]["oddest"]]
    assert result["log"]["lines"] == 1803
    assert odd[:2] == [True, True]
    assert sum(odd) == 3  # all that were put in
    assert result["sensor"]["found"] >= 2  # of three stretches
    assert result["sensor"]["false"] <= 5  # of 5,040 values


@pytest.mark.soak
def test_it_reads_the_held_out_megabyte(process: Dst, tmp_path: Path) -> None:
    result = shown(process, tmp_path / "result", "--bytes", "2000000")  # all there is
    assert result["bytes"] >= 1_000_000
    assert result["resumed_equal"] is True
    assert result["rss_growth_mib"] <= 1
    assert result["bits_per_byte"] <= 1.35
