"""The held-out megabyte in, bits per byte out: the trained model beside what it must beat.

    python examples/train/score.py --dst runs/text/checkpoint.pt --lstm runs/lstm/checkpoint.pt

Every model reads the megabyte once, from its zero state, and predicts each byte from those
before it; the first byte counts 8 bits. ``--chunk-reset`` throws the state away after every chunk
of 32 bytes: what the model knows without a memory. ``xz primed`` compresses the training text
and the held-out text together and counts what the second adds.
"""

from __future__ import annotations

import argparse
import bz2
import json
import lzma
import math
import zlib
from pathlib import Path

import torch
from corpus import split
from text import build
from torch import Tensor
from torch.nn import functional as F

CHUNK, PIECE = 32, 256


def packed(text: bytes) -> int:
    """Bytes of xz -9e with a dictionary that holds everything."""
    wide = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 26}]
    return len(lzma.compress(text, format=lzma.FORMAT_XZ, filters=wide))


def compressors(training: bytes, text: bytes) -> dict[str, float]:
    """Bits per byte of general compressors."""
    sizes = {
        "gzip -9": len(zlib.compress(text, 9)),
        "bzip2 -9": len(bz2.compress(text, 9)),
        "xz -9e": packed(text),
        "xz -9e primed": packed(training + text) - packed(training),
    }
    return {name: 8 * size / len(text) for name, size in sizes.items()}


def bits_per_byte(bundle: str, text: bytes, carry: bool = True) -> float:
    """Read a text through a bundle by the runtime and average its surprise."""
    stream = Session.open(bundle).stream()
    items = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
    bits = 8.0
    for start in range(0, len(items) - 1, CHUNK if not carry else PIECE):
        if not carry:
            stream.reset()
        piece = items[start : start + (CHUNK if not carry else PIECE)][None]
        parts = [stream.advance(piece)["logits"], stream.flush()["logits"]]
        logits = np.concatenate(parts, 1)[0]
        bits += surprise(logits, items[start + 1 : start + 1 + piece.shape[1]])
    return bits / len(items)


def surprise(logits: Tensor, following: Tensor) -> Tensor:
    """Bits of ``following [n]`` under ``logits [n or n+1, 256]``, summed."""
    nats = F.cross_entropy(logits[: len(following)].double(), following, reduction="sum")
    return nats / math.log(2)


def main() -> None:
    """Parse the command line, score and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dst", type=Path, help="checkpoint of the model")
    parser.add_argument("--lstm", type=Path, help="checkpoint of the LSTM")
    parser.add_argument("--chunk-reset", action="store_true", help="also without a memory")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    training, held_out = (b"".join(part.values()) for part in split())
    scores = compressors(training, held_out)
    if args.lstm:
        scores["LSTM"] = bits_per_byte("lstm", args.lstm, held_out)
    if args.dst:
        if args.chunk_reset:
            scores["DST, state reset every 32 bytes"] = bits_per_byte(
                "dst", args.dst, held_out, carry=False
            )
        scores["DST"] = bits_per_byte("dst", args.dst, held_out)
    for name, score in scores.items():
        print(f"{score:7.4f}  {name}")
    if args.json:
        rounded = {name: round(score, 4) for name, score in scores.items()}
        args.json.write_text(
            json.dumps({"bytes": len(held_out), "bits_per_byte": rounded}, indent=2)
        )


if __name__ == "__main__":
    main()
