"""Kill a process in mid-stream, and go on from the state that it saved.

Outputs and final state must equal those of a run that nothing interrupted, bit for bit. The process
is this module, run as `python -m dst.cli.demo.kill BUNDLE FILE STATE EVERY SAVES THREADS`.
"""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dst.cli.signals import sigterm_raised
from dst.runtime import Session, SessionError, Stream

SAVE_EVERY = 10_000  # bytes; no multiple of T, so that items wait in the saved state
SAVES = 2
_PIECE = 2048


def crash_and_resume(
    session: Session, data: bytes, told: Callable[[str], None]
) -> tuple[int, bool]:
    """Kill a child in mid-stream of more than 20,000 bytes, go on from what it saved, and compare.

    Returns:
        The bytes that the saved state had read when the child was killed, and whether outputs after
        it and the final state are those of the whole run.
    """
    with sigterm_raised(), tempfile.TemporaryDirectory(prefix="dst-demo-") as folder:
        file, state = Path(folder) / "input", Path(folder) / "state.safetensors"
        file.write_bytes(data)
        told("a child streams; it will be killed")
        _kill_child(session, file, state)
        resumed = Stream.load(session, state)
    start = resumed.items_consumed
    saved_at = start + resumed.pending
    told(f"killed; goes on from byte {saved_at:,}, and beside it a run without interruption")
    with ThreadPoolExecutor(1) as beside:
        whole = beside.submit(_digest, session.stream(), data, start)
        after = _digest(resumed, data[saved_at:], start)
        return saved_at, after == whole.result()


def _kill_child(session: Session, file: Path, state: Path) -> None:
    """Start the child, and kill it when it has saved twice and works on."""
    arguments = (session.bundle.root, file, state, SAVE_EVERY, SAVES, session.threads)
    with subprocess.Popen(
        [sys.executable, "-m", "dst.cli.demo.kill", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        try:
            lines = [child.stdout.readline() if child.stdout else b"" for _ in range(SAVES)]
        finally:
            child.kill()  # SIGKILL; on Windows TerminateProcess
        if not lines[-1]:
            said = (child.stderr.read() if child.stderr else b"").decode(errors="replace")
            raise SessionError(
                f"the child process ended by itself: {said.strip()[-300:]}", code="child-failed"
            )


def _digest(stream: Stream, data: bytes, start: int) -> str:
    """Read on to the end and hash the logits from item `start` on, and the final state."""
    digest = hashlib.sha256()
    at = stream.items_consumed
    pieces = [data[place : place + _PIECE] for place in range(0, len(data), _PIECE)]
    for piece in (*pieces, None):
        outputs = stream.flush() if piece is None else stream.advance(piece)
        rows = outputs["logits"][0]
        digest.update(rows[max(0, start - at) :].tobytes())
        at += len(rows)
    for name, value in sorted(stream.state.items()):
        digest.update(name.encode() + value.tobytes())
    return digest.hexdigest()


def main() -> None:
    """Stream the file, and save after every so many bytes, so many times."""
    bundle, file, state, every, saves, threads = sys.argv[1:]
    stream = Session.open(bundle, threads=int(threads)).stream()
    data = Path(file).read_bytes()
    for start in range(0, len(data), int(every)):
        piece = data[start : start + int(every)]
        stream.advance(piece)
        if start < int(every) * int(saves):
            stream.save(state)
            print(start + len(piece), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
