"""`dst soak` and `dst show --memory`: what they tell, and how they end."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dst.cli.data import chunks_to_repeat
from dst.evaluate import soak as module
from dst.evaluate.soak import GROWTH_LIMIT, Times
from dst.runtime import open_bundle

Dst = Callable[..., Any]


def test_help_names_the_verb_and_its_examples(dst: Dst) -> None:
    assert " soak " in dst("--help").out
    told = dst("soak", "--help").out
    assert "dst soak text --steps 10000" in told
    assert "--json" in told
    assert "dst show text --memory" in dst("show", "--help").out


@pytest.mark.parametrize("name", ["text", "sensor", "refuse"])
def test_a_soak_tells_memory_times_and_health(dst: Dst, shelf: Path, name: str) -> None:
    done = dst("soak", shelf / name, "--steps", 300, "--deadline-ms", "1e6", "--json", "-")
    assert (done.code, done.err) == (0, "")
    told = done.json
    assert told["passed"]
    assert (told["steps"], told["steps_asked"], told["t"]) == (300, 300, 8)
    assert told["interrupted"] is False
    memory, times, health = told["memory"], told["times"], told["health"]
    assert memory["flat"]
    assert not memory["judged_by_slope"]
    assert memory["measured_steps"] == 270
    assert memory["slope"]["low"] <= memory["slope"]["mean"] <= memory["slope"]["high"]
    assert 0 < times["p50_us"] <= times["p95_us"] <= times["p99_us"] <= times["max_us"]
    assert times["mean_us"] <= times["max_us"]
    assert told["deadline_misses"] == 0
    assert health["healthy"]
    assert health["looks"] == 301
    assert [t["finite"] for t in health["tensors"]] == [True]
    assert health["tensors"][0]["rms"] > 0


def test_the_report_is_for_readers_too(dst: Dst, shelf: Path) -> None:
    done = dst("soak", shelf / "text", "--steps", 100, "--t", 2, "--deadline-ms", "1e-6")
    words = ["100, T = 2", "✓", "grew by", "too short to judge", "p99", "100 steps over 1e-06 ms"]
    assert [word for word in [*words, "finite at 101 looks"] if word not in done.out] == []


def test_many_steps_are_looked_at_so_many_times(
    dst: Dst, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, steps = 50, 101
    monkeypatch.setattr(module, "SAMPLES", samples)
    told = dst("soak", shelf / "single", "--steps", steps, "--json", "-").json
    assert told["steps"] == steps
    assert told["health"]["looks"] == samples + 1  # at every second step, and before the first
    assert told["deadline_misses"] is None


def test_memory_that_grows_ends_with_one(
    dst: Dst, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter(range(100 << 20, 1 << 40, 16 << 10))
    monkeypatch.setattr(module, "rss_bytes", lambda: next(seen))
    done = dst("soak", shelf / "text", "--steps", 200, "--json", "-")
    told = done.json
    assert done.code == 1
    assert not told["passed"]
    assert not told["memory"]["flat"]
    assert told["memory"]["growth_bytes"] == 180 * (16 << 10) > GROWTH_LIMIT
    assert told["memory"]["slope"]["mean"] == 16 << 10
    assert told["health"]["healthy"]


def test_a_signal_ends_early_with_what_was_done(
    dst: Dst, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def interrupt() -> int:
        nonlocal looks
        looks += 1
        if looks == 50:
            signal.raise_signal(signal.SIGINT)
        return 100 << 20

    monkeypatch.setattr(module, "rss_bytes", interrupt)
    done = dst("soak", shelf / "text", "--steps", 1000, "--json", "-")
    told = done.json
    assert done.code == 130
    assert told["interrupted"]
    assert (told["steps"], told["steps_asked"]) == (49, 1000)
    assert told["passed"]


@pytest.mark.parametrize("steps", [0, 3])
def test_a_soak_that_is_stopped_within_the_warm_up_judges_no_memory(
    dst: Dst, shelf: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """The state is looked at where the run ends, although no sample of memory is due there."""
    add, taken, asked = Times.add, 0, 0

    def counted(times: Times, time_ns: int) -> None:
        nonlocal taken
        add(times, time_ns)
        taken += 1
        if taken % steps == 0:
            signal.raise_signal(signal.SIGINT)

    def at_once() -> int:
        nonlocal asked
        asked += 1
        if steps == 0 and asked % 2:  # at the start of a soak, and not at its end
            signal.raise_signal(signal.SIGINT)
        return 100 << 20

    monkeypatch.setattr(module, "SAMPLES", 10)
    monkeypatch.setattr(Times, "add", counted)
    monkeypatch.setattr(module, "rss_bytes", at_once)
    done = dst("soak", shelf / "text", "--steps", 1000, "--json", "-")
    told = done.json
    assert done.code == 130
    assert (told["steps"], told["interrupted"]) == (steps, True)
    assert (told["passed"], told["memory"]["flat"]) == (None, None)
    health = told["health"]
    assert health["looks"] == (2 if steps else 1)
    assert (health["tensors"][0]["rms"] > 0) == (steps > 0)
    assert "not judged" in dst("soak", shelf / "text", "--steps", 1000).out


def test_a_model_that_overflows_ends_with_one(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    huge = np.full((64, 2), 3e38, np.float32)
    np.save(tmp_path / "huge.npy", huge)
    done = dst("soak", shelf / "sensor", "--steps", 9, "--data", tmp_path / "huge.npy")
    assert done.code == 1
    assert "✗ output `mean` holds a NaN or an infinity" in " ".join(done.out.split())
    assert "(step 1)" in done.out
    assert "0 of 9" in done.out


def test_wrong_use_is_one_line(dst: Dst, shelf: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.zeros((3, 2), np.float32))
    for arguments, words in (
        (("soak", shelf / "sensor", "--steps", 5, "--data", tmp_path / "few.npy"), "3 items"),
        (("soak", shelf / "text", "--steps", 5, "--t", 3), "T = 3"),
        (("soak", shelf / "text", "--steps", 0), "--steps"),
        (("soak", shelf / "text", "--steps", 5, "--deadline-ms", "nan"), "--deadline-ms"),
        (("soak", shelf / "text", "--steps", 5, "--deadline-ms", "inf"), "--deadline-ms"),
        (("soak", shelf / "text"), "--steps"),
        (("show", shelf / "text", "--slots", 2), "--memory"),
        (("show", shelf / "text", "--memory", "--measure", "--slots", 10**12), "this machine has"),
        (("show", "--memory"), "needs a BUNDLE"),
    ):
        done = dst(*arguments)
        assert (done.code, done.out) == (2, "")
        assert words in done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize(("name", "t"), [("text", 1), ("text", 8), ("sensor", 4), ("sensor", 1)])
def test_chunks_are_laid_out_as_the_contract_says(shelf: Path, name: str, t: int) -> None:
    chunk = open_bundle(shelf / name).manifest.contract.chunk
    chunks = chunks_to_repeat(chunk, t, None)
    assert chunks.dtype == np.dtype(chunk.dtype)
    assert chunks.shape[1:3] == (1, t)
    assert len(chunks) * t == 1 << 16
    assert len(np.unique(chunks[:64])) > 8


def test_data_is_fed_in_its_order_wherever_the_axes_are(shelf: Path, tmp_path: Path) -> None:
    from msgspec.structs import replace

    rows = np.arange(30, dtype=np.float32).reshape(15, 2)
    np.save(tmp_path / "rows.npy", rows)
    chunk = open_bundle(shelf / "sensor").manifest.contract.chunk
    path = str(tmp_path / "rows.npy")
    plain = chunks_to_repeat(chunk, 4, path)
    assert plain.shape == (3, 1, 4, 2)
    assert plain.reshape(12, 2).tobytes() == rows[:12].tobytes()
    turned = replace(chunk, shape=(2, "T", "B"))
    assert chunks_to_repeat(turned, 4, path).tobytes() == plain.transpose(0, 3, 2, 1).tobytes()


def test_show_memory_adds_up(dst: Dst, shelf: Path) -> None:
    done = dst("show", shelf / "text", "--memory", "--slots", 64, "--json", "-")
    many = done.json
    assert many["slots"] == 64
    assert many["t"] == 8
    assert many["state_bytes"] == 64 * 2 * 64  # 8 floats, padded
    assert many["measured"] is None
    assert many["base_bytes"] > 10 << 20
    parts = ("base", "weights", "state", "guard", "waiting", "scratch")
    assert many["total_bytes"] == sum(many[f"{part}_bytes"] for part in parts)
    printed = dst("show", shelf / "text", "--memory").out
    assert [p for p in ("process", "weights", "guard", "predicted") if p not in printed] == []
    assert "measured " not in printed.replace("measured now", "")


def test_show_memory_measures_a_process(dst: Dst, shelf: Path) -> None:
    done = dst("show", shelf / "text", "--memory", "--slots", 3, "--measure", "--json", "-")
    measured = done.json["measured"]
    assert 0 < measured["base_bytes"] < measured["opened_bytes"] <= measured["running_bytes"]
    assert measured["peak_loading_bytes"] >= measured["opened_bytes"]
    broken = dst("show", shelf / "nothing", "--memory", "--measure")
    assert broken.code == 2
    assert "no such directory" in broken.err


@pytest.mark.soak
def test_ten_million_steps_in_flat_memory(process: Dst, shelf: Path, tmp_path: Path) -> None:
    """Takes long: ten million times a step of the smallest bundle there is."""
    target = tmp_path / "soak.json"
    done = process(
        "soak", shelf / "single", "--steps", 10_000_000, "--json", target, timeout_s=4 * 3600
    )
    sys.stdout.write(done.out)
    told = json.loads(target.read_text("utf-8"))
    assert done.code == 0, told
    assert told["steps"] == 10_000_000
    assert told["memory"]["judged_by_slope"]
    assert told["memory"]["slope"]["high"] <= 0.1
    assert told["memory"]["growth_bytes"] <= 1 << 20
    assert told["health"]["healthy"]
