"""Train the log model on the logs of endlessly many made-up programs.

    python examples/train/log.py --out runs/log
    python examples/train/log.py --out runs/log --check       # the loss on unseen programs
    python examples/train/log.py --out runs/log --export log  # the bundle

The model must learn a program's habits in its state, so it gets no chance to learn them in its
weights: hundreds of streams are kept, each a program of its own (`logs/program.py`); every step
draws its rows from them at random; and after a random life a stream is renewed, which means a new
program and a fresh state. So cold starts are trained as well as long memories.

`--check` reads programs that no training sees, each from the cold state, and prints the bits per
byte by position, beside what gzip -9 and xz need for the same bytes alone. The model learns in its
state where its bits fall as the position rises.
"""

import argparse
import gzip
import lzma
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from logs.program import Program
from torch.nn import functional as F
from trainer import Batch, Recurrent, Task, cross_entropy, options, plan_of, train, trained

from dst.export import export_bundle
from dst.export.model import Network
from dst.export.model.config import Config, Tokens

UNSEEN = 10**9
"""Seeds from here on are never trained on."""
SIZE = Config(
    width=128,
    layers=2,
    heads=1,
    key=64,
    value=64,
    attention_heads=2,
    attention_width=32,
    window=32,
    hidden=256,
    items=Tokens(context_bits=14),
    beta_max=1.0,
    max_chunk=64,
    nominal_chunk=64,
)
Text = Callable[[int], bytes]
"""Gives the next bytes of a log."""


@dataclass(frozen=True, slots=True)
class Streams:
    """What is read.

    Attributes:
        count: N, streams that are kept.
        rows: B, drawn of them at each step.
        segment: T, bytes of each row.
        short, long: bytes of a stream's life; lives are spread evenly over the logarithm.
        real: logs that are mixed in.
        share: of streams that read one of these.
    """

    count: int = 320
    rows: int = 8
    segment: int = 512
    short: int = 4_000
    long: int = 300_000
    real: tuple[bytes, ...] = ()
    share: float = 0.1


class Pool:
    """Streams that live for a while and are renewed.

    Args:
        streams: how many, and how long they live.
        seed: of programs, lives and the order in which streams are drawn.
    """

    def __init__(self, streams: Streams, seed: int) -> None:
        self.streams, self.random = streams, random.Random(seed)
        self.texts: list[Text] = [bytes] * streams.count  # none yet
        self.left = [0] * streams.count  # bytes to live
        self.born = [0] * streams.count  # how often a stream was renewed
        self.last = [b""] * streams.count  # the byte that the next row begins with

    def _renewed(self) -> Text:
        draw, real = self.random, self.streams.real
        if real and draw.random() < self.streams.share:
            log = draw.choice(real)
            return _from(log, log.find(b"\n", draw.randrange(len(log))) + 1)
        return Program(draw.randrange(UNSEEN)).read

    def row(self, stream: int) -> tuple[bytes, bool]:
        """Return the next `segment + 1` bytes of a stream, and whether they are its first."""
        size, fresh = self.streams.segment, self.left[stream] <= 0
        if fresh:
            self.texts[stream] = self._renewed()
            low, high = math.log(self.streams.short), math.log(self.streams.long)
            self.left[stream] = int(math.exp(self.random.uniform(low, high)))
            if not self.born[stream]:  # else all streams would end at about the same step
                self.left[stream] = int(self.left[stream] * self.random.random()) + 1
            self.born[stream] += 1
            self.last[stream] = self.texts[stream](1)
        text = self.last[stream] + self.texts[stream](size)
        self.last[stream] = text[-1:]
        self.left[stream] -= size
        return text, fresh


def _from(log: bytes, start: int) -> Text:
    """Read a log from a place on, and again from its beginning when it ends."""
    place = start

    def read(size: int) -> bytes:
        nonlocal place
        text = log[place : place + size]
        while len(text) < size:
            text += log[: size - len(text)]
        place = (place + size) % len(log)
        return text

    return read


def log_task(streams: Streams, config: Config = SIZE) -> Task:
    """The task of predicting the next byte of logs of programs that were never seen before."""

    def batches(seed: int, carried: bool) -> Iterator[Batch]:
        pool = Pool(streams, seed + (1 << 20 if carried else 0))
        while True:
            chosen = pool.random.sample(range(streams.count), streams.rows)
            rows = [pool.row(stream) for stream in chosen]
            items = np.frombuffer(b"".join(text for text, _ in rows), np.uint8)
            segment = torch.from_numpy(items.reshape(streams.rows, -1).astype(np.int64))
            fresh = torch.tensor([first or not carried for _, first in rows])
            yield Batch(segment[:, :-1], segment[:, 1:], torch.tensor(chosen), fresh)

    return Task(lambda: Network(config), batches, streams.count, cross_entropy)


# The loss on programs that are never trained on


def by_position(model: Recurrent, texts: Sequence[bytes], segment: int = 512) -> torch.Tensor:
    """Return the bits of each byte but the first, `[len(texts), n - 1]`; all texts are as long."""
    items = torch.from_numpy(np.stack([np.frombuffer(text, np.uint8) for text in texts])).long()
    state, found = model.initial_state(len(texts)), []
    with torch.no_grad():
        for start in range(0, items.shape[1] - 1, segment):
            piece = items[:, start : start + segment + 1]
            outputs, state = model(piece[:, :-1], state)
            logits = outputs["logits"].transpose(1, 2)
            found.append(F.cross_entropy(logits, piece[:, 1:], reduction="none") / math.log(2))
    return torch.cat(found, 1)


def check(model: Recurrent, programs: int, size: int) -> list[str]:
    """Return the lines of a table: bits per byte of unseen programs by position."""
    texts = [Program(UNSEEN + number).read(size) for number in range(programs)]
    bits = by_position(model, texts)
    rows, low = [f"{'bytes':>17}  model"], 0
    high = 512
    while low < size:
        part = bits[:, low : min(high, size)]
        rows.append(f"{low:>8}-{min(high, size):>8}  {part.mean():.3f}")
        low, high = high, high * 2
    packed = [8 * len(gzip.compress(text, 9)) / size for text in texts]
    extreme = [
        8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / size for text in texts
    ]
    better = sum(bits.mean(1).numpy() < np.array(packed))
    rows.append(
        f"all {size} bytes: model {bits.mean():.3f}, gzip -9 {np.mean(packed):.3f}, "
        f"xz -9e {np.mean(extreme):.3f}; below gzip on {better} of {programs}"
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options(parser, steps=20_000, zero_state=500, decay=0.4)
    add = parser.add_argument
    add("--streams", type=int, default=320, help="streams that are kept (default 320)")
    add("--rows", type=int, default=8, help="rows of a step (default 8)")
    add("--segment", type=int, default=512, help="bytes of a row (default 512)")
    add("--real", type=Path, help="folder of real logs to mix in, such as runs/logs/real/learn")
    add("--share", type=float, default=0.1, help="of streams that read real logs (default 0.1)")
    add("--check", action="store_true", help="train nothing, print the loss on unseen programs")
    add("--export", type=Path, metavar="DIR", help="train nothing, write the bundle")
    add("--programs", type=int, default=16, help="that --check reads")
    add("--bytes", type=int, default=1 << 16, help="of each that --check reads")
    given = parser.parse_args()
    streams = Streams(given.streams, given.rows, given.segment)
    if given.real:
        logs = tuple(path.read_bytes() for path in sorted(given.real.glob("*.log")))
        streams = replace(streams, real=logs, share=given.share)
    task = log_task(streams)
    if given.export:
        text = b"".join(Program(UNSEEN + number).read(1 << 14) for number in range(8))
        export_bundle(
            trained(task, given.out),
            given.export,
            data=np.frombuffer(text, np.uint8),
            about_data="131,072 bytes of logs of eight made-up programs that were never trained on",
            description="Learns the habits of any program's log as it streams; predicts bytes.",
            license="Apache-2.0",
            bound=3e-5,  # logs repeat themselves: with many equal keys the forms round differently
            overwrite=True,
            tell=print,
        )
    elif given.check:
        torch.set_num_threads(given.threads)
        model = trained(task, given.out)
        assert isinstance(model, Network)
        print(*check(model, given.programs, given.bytes), sep="\n")
    else:
        train(task, plan_of(given))


if __name__ == "__main__":
    main()
