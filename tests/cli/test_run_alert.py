"""`dst run log FILE --alert RATE`: odd lines of a log, a state that goes on, and wrong use."""

import gzip
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dst.cli.app import call
from dst.runtime import LineMonitor, Session
from dst.runtime.monitor.monitor import lines_of

ODD = b"2026-03-01 10:07:41 worker-3 ERROR disk /dev/sdb1 is full, 0 bytes left\n"


def service_log(lines: int, seed: int = 0) -> list[bytes]:
    """A plain service that takes jobs and finishes them."""
    draw, found = random.Random(seed), []
    for i in range(lines):
        clock = b"2026-03-01 %02d:%02d:%02d" % (10 + i // 3600, i // 60 % 60, i % 60)
        worker = draw.randrange(4)
        if draw.random() < 0.5:
            line = b"%s worker-%d took job %d from queue %s\n"
            found.append(line % (clock, worker, 4000 + i, draw.choice([b"mail", b"print"])))
        else:
            line = b"%s worker-%d finished job %d in %d ms\n"
            found.append(line % (clock, worker, 3990 + i, draw.randrange(20, 90)))
    return found


def alerted(text: str) -> list[int]:
    """The numbers of the lines that were printed."""
    return [int(line.split()[0]) for line in text.splitlines() if "  p " in line]


def test_the_one_odd_line_is_alerted_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = service_log(900)
    lines.insert(700, ODD)
    log = tmp_path / "server.log"
    log.write_bytes(b"".join(lines))
    assert call(["run", "log", str(log), "--alert", "1e-3", "--json", str(tmp_path / "j")]) == 0
    out = capsys.readouterr().out
    numbers = alerted(out)
    assert 701 in numbers
    assert len(numbers) <= 6  # the one, and what was odd while little was known
    assert "disk /dev/sdb1 is full" in out
    result = json.loads((tmp_path / "j").read_bytes())
    assert result["alerts"] == len(numbers)
    assert [alert["line"] for alert in result["alert_lines"]] == numbers
    assert result["per_item"] < 1.5


def test_a_real_log_is_learned_and_its_planted_line_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What Python itself tells of its imports: a program that the model has never seen."""
    imports = "import asyncio, email, http.server, json, logging.config, unittest, xml.dom.minidom"
    done = subprocess.run(
        [sys.executable, "-v", "-c", imports], capture_output=True, check=True, timeout=120
    )
    lines = done.stderr.splitlines(keepends=True)
    odd = len(lines) * 3 // 4
    lines.insert(odd, b"# kernel: Out of memory: Killed process 4711 (python)\n")
    text = b"".join(lines)
    log = tmp_path / "imports.log"
    log.write_bytes(text)
    result = tmp_path / "j"
    # its probability is 0.0095 to 0.0098 by what else the run tells: few lines say little
    arguments = ["run", "log", str(log), "--alert", "0.02", "--top", "20", "--json", str(result)]
    assert call(arguments) == 0
    found, told = alerted(capsys.readouterr().out), json.loads(result.read_bytes())
    assert odd + 1 in found
    assert odd + 1 in [line["line"] for line in told["top"]]
    assert len(found) <= 0.02 * len(lines)
    assert told["per_item"] < 8 * len(gzip.compress(text, 9)) / len(text)


def test_what_is_usual_goes_on_with_the_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = service_log(500)
    lines.insert(450, ODD)
    text = b"".join(lines)
    cut = text.index(b"worker", 20_000) + 3  # in the middle of a line
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    whole.write_bytes(text)
    first.write_bytes(text[:cut])
    second.write_bytes(text[cut:])
    assert call(["run", "log", str(whole), "--alert", "0.01"]) == 0
    expected = alerted(capsys.readouterr().out)
    assert 451 in expected
    found = []
    for part in (first, second):
        arguments = ["run", "log", str(part), "--alert", "0.01", "--state", str(tmp_path / "s")]
        assert call(arguments) == 0
        found += alerted(capsys.readouterr().out)
    assert found == expected
    monitor = LineMonitor.load(Session.open("log"), tmp_path / "s")
    (line,) = monitor.read(lines[-1])
    assert line.number == 502


def test_a_state_without_its_lines_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, state = tmp_path / "server.log", tmp_path / "s"
    log.write_bytes(b"".join(service_log(30)))
    arguments = ["run", "log", str(log), "--alert", "0.01", "--state", str(state)]
    assert call(arguments) == 0
    assert "learned anew" not in capsys.readouterr().err
    lines_of(state).unlink()
    assert call(arguments) == 0
    assert "what is usual here is learned anew" in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_kill_at_any_moment_leaves_a_state_with_its_lines(tmp_path: Path) -> None:
    state, text = tmp_path / "s", b"".join(service_log(600))
    command = [sys.executable, "-m", "dst", "run", "log", "-", "--alert", "0.01"]
    session = Session.open("log")
    for delay in (0.0, 0.004, 0.02):
        with subprocess.Popen(
            [*command, "--state", str(state), "--save-every", "1000"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as child:
            before = state.stat().st_mtime_ns if state.exists() else 0
            assert child.stdin is not None
            child.stdin.write(text)
            child.stdin.flush()
            while child.poll() is None:
                if state.exists() and state.stat().st_mtime_ns != before:
                    break
                time.sleep(0.001)
            assert child.poll() is None  # it reads, and waits for more
            time.sleep(delay)
            child.kill()
        LineMonitor.load(session, state)  # raises where the lines do not belong to it


def test_the_lines_beside_a_state_are_not_the_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "s.lines"
    log.write_bytes(b"".join(service_log(30)))
    before = log.read_bytes()
    assert call(["run", "log", str(log), "--alert", "0.01", "--state", str(tmp_path / "s")]) == 2
    assert "s.lines" in capsys.readouterr().err
    assert log.read_bytes() == before


def test_top_ranks_by_habit_where_alerts_are_asked_for(tmp_path: Path) -> None:
    lines = service_log(600)
    lines.insert(500, ODD)
    log = tmp_path / "server.log"
    log.write_bytes(b"".join(lines))
    result = tmp_path / "j"
    arguments = ["run", "log", str(log), "--alert", "0.01", "--top", "3", "--json", str(result)]
    assert call(arguments) == 0
    told = json.loads(result.read_bytes())
    assert 501 in [line["line"] for line in told["top"]]


@pytest.mark.parametrize("rate", ["0", "1", "-1", "2"])
def test_a_rate_that_is_none_is_refused(
    rate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(b"a\n")
    assert call(["run", "log", str(log), "--alert", rate]) == 2
    assert "expected a share of false alerts" in " ".join(capsys.readouterr().err.split())
