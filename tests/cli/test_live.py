"""`dst run` as a process: pipes that stay open, Ctrl-C, SIGTERM and SIGKILL."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dst.runtime import Session, StateStore, Stream

Dst = Callable[..., Any]  # the fixtures of conftest.py that call the command
Start = Callable[..., Any]

TEXT = b"".join(b"%06d some words that come by\n" % i for i in range(700))


def write(child: "subprocess.Popen[bytes]", data: bytes) -> None:
    assert child.stdin is not None
    child.stdin.write(data)
    child.stdin.flush()


def line(child: "subprocess.Popen[bytes]") -> str:
    """Wait for the next line of output; the fixture's kill ends the wait if none comes."""
    assert child.stdout is not None
    return child.stdout.readline().decode()


def items_in(bundle: Path, state: Path) -> int:
    """All items that a saved state has read, 0 where there is none yet."""
    if not state.exists():
        return 0
    stream = Stream.load(Session.open(bundle), state)
    return stream.items_consumed + stream.pending


def wait_for(bundle: Path, state: Path, items: int) -> int:
    """Wait until a saved state has read so many items, and return how many it has."""
    until = time.monotonic() + 60
    while (count := items_in(bundle, state)) < items:
        assert time.monotonic() < until, f"{state.name} has read {count} items of {items}"
        time.sleep(0.02)
    return count


def test_lines_come_out_while_the_pipe_stays_open(start: Start, shelf: Path) -> None:
    child = start("run", shelf / "text", "-", "--per", "line")
    for text in (b"first\n", b"second, longer than one chunk of eight\n", b"\n"):
        write(child, text)
        assert line(child)[19:] == text.decode()
    write(child, b"no newline yet")
    out, _ = child.communicate(b" and now\n", timeout=60)
    assert out.decode()[19:] == "no newline yet and now\n"
    assert child.returncode == 0


def test_a_pipe_gives_the_numbers_of_a_file(
    dst: Dst, process: Dst, shelf: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(TEXT)
    piped = process("run", shelf / "text", "-", "--json", "-", stdin=TEXT)
    filed = dst("run", shelf / "text", tmp_path / "in", "--json", "-")
    assert piped.json["total"] == pytest.approx(filed.json["total"], rel=1e-6)
    assert piped.json["items"] == filed.json["items"] == len(TEXT)


def test_two_runs_over_a_file_write_the_same_bytes(
    process: Dst, shelf: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(TEXT)
    for name in ("a", "b"):
        done = process("run", shelf / "text", tmp_path / "in", "--state", tmp_path / name)
        assert done.code == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_a_signal_saves_what_was_read(start: Start, shelf: Path, tmp_path: Path, sent: str) -> None:
    number = signal.Signals[sent]
    child = start("run", shelf / "text", "-", "--per", "line", "--state", tmp_path / "state")
    write(child, b"hello\nwor")
    assert line(child).split()[2] == "hello"
    time.sleep(0.3)  # `wor` has been read by then
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert b"Traceback" not in err
    assert out.split()[2:] == [b"wor"]
    stream = Stream.load(Session.open(shelf / "text"), tmp_path / "state")
    assert stream.items_consumed + stream.pending == len(b"hello\nwor")


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("bundle", ["pad", "refuse"])
def test_a_signal_saves_a_part_of_a_chunk(
    start: Start, shelf: Path, tmp_path: Path, bundle: str, sent: str
) -> None:
    number = signal.Signals[sent]
    state = tmp_path / "state"
    child = start("run", shelf / bundle, "-", "--per", "item", "--state", state)
    write(child, b"eight by" + b"five.")
    assert line(child).split()[1] == "e"
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert b"Traceback" not in err
    assert items_in(shelf / bundle, state) == 13


@pytest.mark.skipif(sys.platform == "win32", reason="pipes cannot be looked into")
def test_a_signal_drops_nothing_that_was_taken_from_the_pipe(
    start: Start, shelf: Path, tmp_path: Path
) -> None:
    theirs, ours = os.pipe()
    child = start(
        *("run", shelf / "text", "-", "--per", "line", "--state", tmp_path / "state"), stdin=theirs
    )
    written = os.write(ours, TEXT)
    assert line(child)  # it is in the midst of reading
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    os.set_blocking(theirs, False)
    left = len(os.read(theirs, 1 << 20)) if select.select([theirs], [], [], 0)[0] else 0
    os.close(theirs)
    os.close(ours)
    stream = Stream.load(Session.open(shelf / "text"), tmp_path / "state")
    assert stream.items_consumed + stream.pending == written - left


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_sigkill_loses_nothing_that_was_saved(
    dst: Dst, start: Start, shelf: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(TEXT)
    state = tmp_path / "state"
    child = start(
        *("run", shelf / "text", "-", "--state", state, "--save-every", 5000),
    )
    write(child, TEXT[:20_000])
    wait_for(shelf / "text", state, 10_000)
    child.kill()
    child.wait()
    read = items_in(shelf / "text", state)
    assert 10_000 <= read <= 20_000
    (tmp_path / "rest").write_bytes(TEXT[read:])
    (tmp_path / "head").write_bytes(TEXT[:read])
    whole = dst("run", shelf / "text", tmp_path / "in", "--json", "-").json["total"]
    head = dst("run", shelf / "text", tmp_path / "head", "--json", "-").json["total"]
    rest = dst("run", shelf / "text", tmp_path / "rest", "--state", state, "--json", "-").json[
        "total"
    ]
    assert head + rest == pytest.approx(whole, rel=1e-6)


def test_a_reader_that_leaves_is_no_error(start: Start, shelf: Path) -> None:
    child = start("run", shelf / "text", "-", "--per", "item")
    write(child, b"some")
    line(child)
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    _, err = child.communicate(b"more and more\n" * 3000, timeout=60)
    assert err == b""
    assert child.returncode == 141


def test_a_reader_of_generated_text_may_leave(start: Start, shelf: Path) -> None:
    child = start("generate", shelf / "text", "--prompt", "a", "--items", 200_000)
    assert child.stdout is not None
    assert len(child.stdout.read(5)) == 5
    child.stdout.close()
    child.stdout = None
    _, err = child.communicate(timeout=60)
    assert err == b""
    assert child.returncode == 141


def test_json_alone_on_standard_output(process: Dst, shelf: Path) -> None:
    done = process("run", shelf / "text", "-", "--top", "3", "--json", "-", stdin=b"a\nb\nc\n")
    assert done.code == 0
    assert json.loads(done.out)["items"] == 6
    assert done.err == ""


@pytest.mark.parametrize(
    "verb", [("show", "text"), ("verify", "text"), ("--help",), ("store", "list", "--help")]
)
def test_a_reader_that_has_gone_is_no_failed_check(shelf: Path, verb: tuple[str, ...]) -> None:
    theirs, ours = os.pipe()
    os.close(theirs)
    done = subprocess.run(
        [sys.executable, "-m", "dst", *verb],
        cwd=shelf,
        stdout=ours,
        stderr=subprocess.PIPE,
    )
    os.close(ours)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX shell")
@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--version >&-", 0, ""),
        ("show text >&-", 0, ""),
        ("run text /dev/null >&-", 2, "/dev/null: is empty"),
        ("run text <&-", 2, "-: is empty"),
        ("store wipe memory.db <&-", 2, "add --yes"),
        ("show nope 2>&-", 2, ""),
    ],
)
def test_standard_streams_may_be_closed(shelf: Path, line: str, code: int, said: str) -> None:
    StateStore(shelf / "memory.db").close()
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m dst {line}', sys.executable],
        cwd=shelf,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.count("\n") == bool(said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("verb", "named"),
    [
        (("show", "text"), "standard output"),
        (("show", "text", "--json", "-"), "standard output"),
        (("run", "text", "in", "--per", "item"), "standard output"),
        (("show", "text", "--json", "/dev/full"), "/dev/full"),
    ],
)
def test_a_full_disk_is_told_with_the_name_of_the_file(
    shelf: Path, verb: tuple[str, ...], named: str
) -> None:
    (shelf / "in").write_bytes(TEXT)
    with open("/dev/full" if named == "standard output" else os.devnull, "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dst", *verb],
            cwd=shelf,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        )
    assert done.stderr == f"dst: {named}: No space left on device\n"
    assert done.returncode == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
@pytest.mark.parametrize("package", ["typer", "onnxruntime"])
def test_ctrl_c_ends_the_imports_without_a_word(package: str) -> None:
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # it may be ignored here
        "class Finder:\n"
        "    def find_spec(name, path, target=None):\n"
        f"        if name == {package!r}:\n"
        "            try:\n"
        "                os.kill(os.getpid(), signal.SIGINT)\n"
        "            except KeyboardInterrupt:\n"
        "                raise ImportError('as onnxruntime has it') from None\n"
        "sys.meta_path.insert(0, Finder)\n"
        "from dst.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "show"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_sigterm_leaves_nothing_of_the_crash_in_the_demo(shelf: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom dst.cli.demo import kill as crash\n"
        "crash.SAVES = 99  # more than there will be: it waits for them\n"
        "from dst.cli.app import call\nsys.exit(call(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, "demo", "--bundle", str(shelf / "text"), "--bytes", "99"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as demo:
        wait_until(lambda: bool(list(tmp_path.glob("*/state.safetensors"))))
        children = psutil.Process(demo.pid).children()
        demo.send_signal(signal.SIGTERM)
        _, err = demo.communicate(timeout=60)
    assert (demo.returncode, err) == (143, b"")
    assert len(children) == 1
    assert [child for child in children if child.is_running()] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no POSIX signals")
def test_sigterm_ends_the_process_that_is_measured(shelf: Path, tmp_path: Path) -> None:
    busy = tmp_path / "busy"
    busy.write_text('#!/bin/sh\necho $$ > "$0.pid.new"\nmv "$0.pid.new" "$0.pid"\nexec sleep 600\n')
    busy.chmod(0o755)
    code = (
        "import sys\nfrom dst.cli import footprint\n"
        "sys.executable = sys.argv.pop(1)\n"
        "from dst.cli.app import call\nsys.exit(call(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, busy, "show", shelf / "text", "--memory", "--measure"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as show:
        wait_until((tmp_path / "busy.pid").exists)
        measured = int((tmp_path / "busy.pid").read_text())
        show.send_signal(signal.SIGTERM)
        _, err = show.communicate(timeout=60)
    assert (show.returncode, err) == (143, b"")
    assert not psutil.pid_exists(measured)
