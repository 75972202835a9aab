"""The two proofs of `dst demo`: a process that is killed, and the precisions side by side.

A process is killed in mid-stream, and its stream goes on here from the state that it saved. Outputs
and final state must equal those of a run that nothing interrupted, bit for bit. The process is this
module, run as `python -m dst.cli.demo BUNDLE FILE STATE EVERY SAVES THREADS`.

Precisions read the same blocks in turns, so that whatever else the machine does falls on all alike;
a ratio of speeds is taken within a block. Shape letters: `n` bytes.
"""

import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from dst.cli.answers.scores import measure_for
from dst.cli.errors import WrongUseError
from dst.cli.inputs.reading import Reading
from dst.cli.signals import sigterm_raised
from dst.runtime import Session, SessionError, Stream, open_bundle
from dst.runtime.bundle.reader import shipped

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
        [sys.executable, "-m", "dst.cli.demo", *map(str, arguments)],
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


_BLOCK = 2048
_UNTIMED = 1  # blocks at the start, which open graphs and warm them


class PrecisionResult(msgspec.Struct, frozen=True):
    """One precision over the text; `speed_ratio` is the median over blocks, to the first one's."""

    bundle: str
    precision: str
    recipe: str | None
    weights_bytes: int
    bits_per_byte: float
    bytes_per_second: float
    speed_ratio: float


def siblings(session: Session) -> list[Path]:
    """Find the shipped bundles of the same model in other precisions, largest first."""
    ours = session.bundle.manifest
    found = [(path, open_bundle(path, verify="size").manifest) for path in shipped().values()]
    alike = [(p, m) for p, m in found if m.model_id == ours.model_id]
    others = [(p, m) for p, m in alike if m.precision != ours.precision]
    return [p for p, _ in sorted(others, key=lambda other: -other[1].weights_bytes)]


def side_by_side(
    first: Session, others: list[Path], data: bytes, told: Callable[[int], None]
) -> list[PrecisionResult]:
    """Read the text in every precision, at the nominal T, block by block in turns.

    The first 2,048 bytes are not timed. `told` is called with the bytes read so far, all precisions
    together.
    """
    blocks = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
    measure = measure_for(first.contract)
    if len(blocks) <= _UNTIMED or measure is None:
        raise WrongUseError(
            f"expected a model that predicts bytes and more than {_UNTIMED * _BLOCK} of them, "
            f"{len(data)} came"
        )
    sessions = [first, *(Session.open(path, threads=first.threads) for path in others)]
    readings = [Reading(session.stream(), None, measure) for session in sessions]
    bits = [0.0] * len(sessions)
    seconds: list[list[float]] = [[] for _ in sessions]
    for number, block in enumerate(blocks):
        for turn in range(len(sessions)):
            who = (number + turn) % len(sessions)
            began = time.perf_counter()
            items = np.frombuffer(block, np.uint8).astype(np.int64)
            bits[who] += sum(scored.total for scored in readings[who].read(items))
            seconds[who].append(time.perf_counter() - began)
            told((number * len(sessions) + turn + 1) * _BLOCK)
    for who, reading in enumerate(readings):
        bits[who] += sum(scored.total for scored in reading.end())
    timed = len(b"".join(blocks[_UNTIMED:]))
    results = []
    for session, total, times in zip(sessions, bits, seconds, strict=True):
        manifest = session.bundle.manifest
        pairs = zip(seconds[0][_UNTIMED:], times[_UNTIMED:], strict=True)
        results.append(
            PrecisionResult(
                bundle=session.bundle.root.name,
                precision=manifest.precision,
                recipe=manifest.recipe,
                weights_bytes=manifest.weights_bytes,
                bits_per_byte=total / len(data),
                bytes_per_second=timed / sum(times[_UNTIMED:]),
                speed_ratio=statistics.median(full / own for full, own in pairs),
            )
        )
    return results


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
