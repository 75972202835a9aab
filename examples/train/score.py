"""Score the text model on what was held out, beside compressors: bits per byte.

    python examples/train/score.py text text-int8

Every bundle reads each kind of text once, from its zero state, by the runtime, and predicts each
byte from those before it; the first byte counts 8 bits. `--chunk-reset` throws the state away after
every chunk of 32 bytes: what the model knows without a memory. `xz, primed` compresses the learned
and the held-out modules of Python together and counts what the second adds.
"""

import argparse
import bz2
import json
import lzma
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from corpus import packages, split

from dst.runtime import Session

CHUNK, PIECE = 32, 256
Numbers = npt.NDArray[np.generic]


def packed(text: bytes) -> int:
    """Bytes of xz -9e with a dictionary that holds everything."""
    wide = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]
    return len(lzma.compress(text, format=lzma.FORMAT_XZ, filters=wide))


def compressors(text: bytes) -> dict[str, float]:
    """Bits per byte of general compressors."""
    sizes = {
        "gzip -9": len(zlib.compress(text, 9)),
        "bzip2 -9": len(bz2.compress(text, 9)),
        "xz -9e": packed(text),
    }
    return {name: 8 * size / len(text) for name, size in sizes.items()}


def bits_per_byte(session: Session, text: bytes, carry: bool = True) -> float:
    """Read a text through a bundle and average its surprise.

    Args:
        session: open on a bundle whose tokens are bytes.
        text: at least two bytes.
        carry: False: begin every chunk of 32 bytes from the zero state.
    """
    stream = session.stream()
    items = np.frombuffer(text, np.uint8).astype(np.int64)
    size = PIECE if carry else CHUNK
    nats = 8 * math.log(2)
    for start in range(0, len(items) - 1, size):
        if not carry:
            stream.reset()
        piece = items[start : start + size]
        outputs = stream.advance(piece)["logits"], stream.flush()["logits"]
        nats += surprise(np.concatenate(outputs, 1)[0], items[start + 1 : start + 1 + size])
    return nats / math.log(2) / len(items)


def surprise(logits: Numbers, following: Numbers) -> float:
    """Nats of the bytes `following [n]` under `logits [n or n + 1, 256]`, summed."""
    rows = logits[: len(following)].astype(np.float64)
    top = rows.max(-1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(rows - top).sum(-1))
    return float((total - rows[np.arange(len(following)), following]).sum())


def main() -> None:
    """Parse the command line, score and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", nargs="*", default=["text"])
    parser.add_argument("--work", type=Path, default=Path("runs/corpus"), help="packages, kept")
    parser.add_argument("--chunk-reset", action="store_true", help="also without a memory")
    parser.add_argument("--bytes", type=int, default=1_100_000, help="of each kind, at most")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    given = parser.parse_args()
    learned, python = split()
    kinds = {"Python": python, **packages(given.work)[1]}
    scores: dict[str, dict[str, float]] = {}
    for kind, texts in kinds.items():
        text = b"".join(texts.values())[: max(given.bytes, 2)]
        scores[kind] = compressors(text)
        if kind == "Python":
            known = b"".join(learned.values())
            scores[kind]["xz -9e, primed"] = 8 * (packed(known + text) - packed(known)) / len(text)
        for name in given.bundles:
            session = Session.open(name)
            if given.chunk_reset:
                lost = bits_per_byte(session, text, carry=False)
                scores[kind][f"{name}, state thrown away every {CHUNK} bytes"] = lost
            scores[kind][name] = bits_per_byte(session, text)
        print(f"{kind}: {len(texts)} files, {len(text):,} bytes", flush=True)
        for name, score in scores[kind].items():
            print(f"  {score:7.4f}  {name}", flush=True)
    if given.json:
        rounded = {k: {n: round(s, 4) for n, s in v.items()} for k, v in scores.items()}
        given.json.write_text(json.dumps(rounded, indent=1) + "\n")


if __name__ == "__main__":
    main()
