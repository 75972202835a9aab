"""A long life of the text model: ten million bytes read, and a million bytes written by itself.

    python examples/evaluate/text/long.py --out runs/long --json runs/long.json

**Reading.** One stream reads the held-out texts, then other text of this machine's Python (modules
of the standard library are left out: the model has learned them), until `--read` bytes. At each
mark the stream is forked and reads the same probes: pieces that come right after the mark would be
of another kind each time, and say nothing about the state's age. A probe counts from its second
kilobyte on, when its own beginning is known. A state that wears out needs more bits for it.

**Writing.** The model continues a prompt for `--write` bytes, a byte at a time, from its own
samples. Of each tenth: bits that the samples cost under the model, bytes after `xz`, the share of
sequences of 8 bytes that did not come before in that tenth, the commonest line's share of the
lines, seconds, and the resident memory. A collapse is an `xz` that falls to nothing, a line that
comes again and again, or bits that go to zero.
"""

import argparse
import json
import lzma
import math
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "train"))
from corpus import packages, split
from score import surprise

from dst.evaluate.drawing import COLOURS, dress, new_figure
from dst.evaluate.machine import environment
from dst.runtime import Session, Stream, generate

PIECE, PROBE, SKIPPED = 4096, 24_576, 1024
MARKS = (10_000, 100_000, 1_000_000, 2_000_000, 4_000_000, 7_000_000, 10_000_000)
PROMPT = b'"""Read a file of settings and check it."""\n\nimport os\n'
BINS = 10


def unseen(most: int, work: Path) -> tuple[bytes, list[bytes]]:
    """Return text to read, in which kinds take turns, and the probes, one of each kind."""
    kinds = {"Python": split()[1], **packages(work)[1]}
    whole = {kind: b"".join(texts.values()) for kind, texts in kinds.items()}
    probes = [text[:PROBE] for text in whole.values()]
    found: list[bytes] = []
    rest = {kind: text[PROBE:] for kind, text in whole.items()}
    others = [path for place in sys.path if "site-packages" in place
              for path in sorted(Path(place).rglob("*.py"))]  # fmt: skip
    while sum(map(len, found)) < most:
        for kind, text in [*rest.items()]:
            found.append(text[:200_000])
            rest[kind] = text[200_000:]
        if not any(rest.values()):
            if not others:
                raise SystemExit(f"only {sum(map(len, found)):,} bytes of unseen text are here")
            found.append(b"".join(path.read_bytes() for path in others[:50]))
            del others[:50]
    return b"".join(found)[:most], probes


def bits_of(stream: Stream, text: bytes) -> float:
    """Bits per byte of a probe but its beginning, on a fork of a stream in which nothing waits."""
    fork = stream.fork()
    items = np.frombuffer(text, np.uint8).astype(np.int64)
    outputs = [fork.advance(items)["logits"], fork.flush()["logits"]]
    logits = np.concatenate(outputs, 1)[0]
    nats = surprise(logits[SKIPPED:-1], items[SKIPPED + 1 :])
    return nats / math.log(2) / (len(items) - SKIPPED - 1)


def read(session: Session, text: bytes, probes: list[bytes]) -> list[dict[str, float]]:
    """Read a text, and the probes at each mark."""
    stream, rows, at = session.stream(), [], 0
    items = np.frombuffer(text, np.uint8).astype(np.int64)
    for mark in [mark for mark in MARKS if mark <= len(text)]:
        for start in range(at, mark, PIECE):
            stream.advance(items[start : min(mark, start + PIECE)], outputs=())
        stream.flush()
        at = mark
        bits = [bits_of(stream, probe) for probe in probes]
        rows.append({"bytes": mark, "bits_per_byte": round(sum(bits) / len(bits), 4)})
        print(f"read {mark:,} bytes: {rows[-1]['bits_per_byte']} bits per byte", flush=True)
    return rows


def resident_mib() -> float:
    """Resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(x.split()[1]) for x in lines if x.startswith("VmRSS")) / 1024, 1)


def write(session: Session, count: int, temperature: float) -> tuple[bytes, list[dict[str, Any]]]:
    """Let the model write, and say of each tenth what it is like."""
    stream, written, rows = session.stream(), bytearray(), []
    since, size = time.perf_counter(), count // BINS
    for token in generate(stream, PROMPT, count, temperature=temperature, seed=0):
        written.append(token)
        if len(written) % size == 0:
            part = bytes(written[-size:])
            spent, since = time.perf_counter() - since, time.perf_counter()
            rows.append({"bytes": len(written), **portrait(session, part, written, size),
                         "seconds": round(spent, 1), "resident_mib": resident_mib()})  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
            since = time.perf_counter()  # what the portrait took is not the writing's
    return bytes(written), rows


def portrait(session: Session, part: bytes, written: bytearray, size: int) -> dict[str, float]:
    """Describe a tenth of what was written."""
    before = bytes(written[-size - PIECE : -size]) or PROMPT
    fresh = session.stream()
    fresh.advance(np.frombuffer(before, np.uint8).astype(np.int64), outputs=())
    fresh.flush()
    sequences = [part[at : at + 8] for at in range(len(part) - 7)]
    lines = [line for line in part.splitlines() if line.strip()]
    commonest = Counter(lines).most_common(1)[0][1] if lines else len(part)
    return {
        "bits_per_byte": round(bits_of(fresh, part[:PROBE]), 4),
        "xz_bits_per_byte": round(8 * len(lzma.compress(part)) / len(part), 3),
        "new_sequences": round(len({*sequences}) / len(sequences), 4),
        "commonest_line": round(commonest / max(1, len(lines)), 4),
    }


def draw(read_rows: list[dict[str, float]], rows: list[dict[str, Any]], target: Path) -> None:
    """Draw both: what probes cost by the state's age, and what each tenth is like."""
    figure = new_figure(9.5, 3.6)
    left, right = figure.subplots(1, 2)
    left.plot([r["bytes"] for r in read_rows], [r["bits_per_byte"] for r in read_rows],
              "o-", color=COLOURS[0])  # fmt: skip
    left.set_xscale("log")
    left.set_ylim(0)
    dress(left, "Reading", "bytes read before", "bits per byte of the same probes")
    for number, name in enumerate(("bits_per_byte", "xz_bits_per_byte", "new_sequences")):
        right.plot([r["bytes"] for r in rows], [r[name] for r in rows],
                   "o-", color=COLOURS[number], label=name.replace("_", " "))  # fmt: skip
    right.set_ylim(0)
    right.legend()
    dress(right, "Writing", "bytes written", "of each tenth")
    figure.savefig(target)


def main() -> None:
    """Read, write, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", nargs="?", default="text")
    parser.add_argument("--read", type=int, default=10_000_000, help="bytes")
    parser.add_argument("--write", type=int, default=1_000_000, help="bytes")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--work", type=Path, default=Path("runs/corpus"), help="packages, kept")
    parser.add_argument("--out", type=Path, required=True, help="folder of the text and the plot")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    session = Session.open(given.bundle)
    text, probes = unseen(given.read, given.work)
    read_rows = read(session, text, probes)
    written, rows = write(session, given.write, given.temperature)
    (given.out / "written.txt").write_bytes(written)
    draw(read_rows, rows, given.out / "long.png")
    found = {"environment": environment(None, None), "read": read_rows, "written": rows}
    if given.json:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")


if __name__ == "__main__":
    main()
