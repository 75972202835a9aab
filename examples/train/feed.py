"""Train the shipped feed model on endlessly many made-up streams.

    python examples/train/feed.py --out runs/feed
    python examples/train/feed.py --out runs/feed --check      # the loss on unseen streams
    python examples/train/feed.py --out runs/feed --export src/dst/shipped/feed

The model must learn a stream's habits in its state, so it never sees a stream twice: hundreds are
kept at a time, each step draws its rows from them at random, and after a random life a stream is
replaced by a new one, with a fresh state. `--check` compares the pinball loss on unseen streams
with that of the untrained model, which mixes simple forecasts by how far off they lately were.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from feeds.parts import log_uniform
from feeds.streams import Items, stream
from torch import Tensor
from trainer import Batch, State, Task, options, plan_of, train, trained

from dst.export import export_bundle
from dst.export.feed.calibrate import knots_of
from dst.export.feed.network import Feed
from dst.export.feed.train import pinball

UNSEEN = 10**9
"""Seeds from here on are never trained on."""
BEGIN = 100
"""Items of a stream that no rate is learned from: little is known yet."""
CERTIFIED = 1
"""Which stream the certificates run on."""
BOUND = 1e-3
"""Largest error of an output, against its rms, that a certificate accepts: the surprise of a value
in a narrow distribution multiplies the rounding of float32, and so does the first item that counts
for an alert."""


@dataclass(frozen=True, slots=True)
class Streams:
    """What is read: N streams that are kept, B rows of T items a step, items of a life."""

    count: int = 384
    rows: int = 12
    segment: int = 256
    short: int = 600
    long: int = 15_000


class Pool:
    """Streams that live for a while and are replaced."""

    def __init__(self, streams: Streams, seed: int) -> None:
        self.streams, self.random = streams, np.random.default_rng(seed)
        self.items: list[Items] = [np.zeros((0, 3), np.float32)] * streams.count
        self.place = [0] * streams.count
        self.born = [0] * streams.count

    def row(self, which: int) -> tuple[Items, bool]:
        """Return the next `segment + 1` items of a stream, and whether they are its first."""
        size, fresh = self.streams.segment, False
        if self.place[which] + size + 1 > len(self.items[which]):
            fresh, low = True, self.streams.short
            life = log_uniform(self.random, low, self.streams.long)
            if not self.born[which]:  # else all streams would end at about the same step
                life = low + (life - low) * self.random.random()
            seed = int(self.random.integers(UNSEEN))
            self.items[which] = stream(np.random.default_rng(seed), int(life))
            self.place[which] = 0
            self.born[which] += 1
        at = self.place[which]
        self.place[which] = at + size
        return self.items[which][at : at + size + 1], fresh


def feed_task(streams: Streams) -> Task:
    """The task of foreseeing the next value of streams that were never seen before."""

    def batches(seed: int, carried: bool) -> Iterator[Batch]:
        pool = Pool(streams, seed + (1 << 20 if carried else 0))
        while True:
            chosen = pool.random.choice(streams.count, streams.rows, replace=False)
            rows = [pool.row(int(which)) for which in chosen]
            segment = torch.from_numpy(np.stack([items for items, _ in rows]))
            fresh = torch.tensor([first or not carried for _, first in rows])
            inputs, targets = segment[:, :-1], segment[:, 1:, :1]
            yield Batch(inputs, targets, torch.from_numpy(chosen), fresh)

    return Task(Feed, batches, streams.count, pinball)


def losses(model: Feed, seeds: range, n: int) -> Tensor:
    """Return the pinball loss of each item of unseen streams, `[streams, n - 1]`."""
    made = np.stack([stream(np.random.default_rng(UNSEEN + seed), n) for seed in seeds])
    items = torch.from_numpy(made)
    state: State = model.initial_state(len(items))
    found = []
    model.train()
    with torch.no_grad():
        for start in range(0, n - 1, 256):
            piece = items[:, start : start + 257]
            outputs, state = model(piece[:, :-1], state)
            found.append(pinball(outputs, piece[:, 1:, :1]))
    return torch.cat(found, 1)


def check(model: Feed, streams: int, n: int) -> list[str]:
    """Return the lines of a table: the loss by position, beside that of the untrained model."""
    ours, plain = (losses(m, range(streams), n) for m in (model, Feed()))
    rows, low = ["            items  model   untrained   median of the ratio"], 0
    for high in (64, 256, 1024, n - 1):
        a, b = ours[:, low:high].mean(1), plain[:, low:high].mean(1)
        ratio = (a / b.clamp(min=1e-9)).median()
        rows.append(f"{low:>8}-{high:>8}  {a.median():.4f}  {b.median():.4f}  {ratio:.4f}")
        low = high
    return rows


def scores(model: Feed, seeds: range, n: int) -> Items:
    """Return the raw scores of untroubled unseen streams, without the first items of each."""
    random = [np.random.default_rng(2 * UNSEEN + seed) for seed in seeds]
    items = torch.from_numpy(np.stack([stream(draw, n, trouble=False) for draw in random]))
    state, found = model.initial_state(len(items)), []
    model.eval()
    with torch.no_grad():
        for start in range(0, n, 256):
            answers, state = model(items[:, start : start + 256], state, raw=True)
            found.append(answers["alert"])
    return torch.cat(found, 1)[:, BEGIN:].flatten().numpy()


def export(model: Feed, target: Path, seeds: range, n: int, steps: int = 50) -> None:
    """Calibrate the alerts on untroubled streams, and write the bundle."""
    knots = knots_of(scores(model, seeds, n))
    print("raw score -> -log10 of its rate:", *(f"{a:.3f} {b:g}" for a, b in knots), sep="\n  ")
    calibrated = Feed(model.config, knots)
    calibrated.load_state_dict(model.state_dict())
    export_bundle(
        calibrated,
        target,
        data=stream(np.random.default_rng(UNSEEN - CERTIFIED), 4096, trouble=False),
        about_data="a made-up stream that was never trained on (examples/train/feeds)",
        name="feed",
        description="Quantiles of the next value of any numeric stream, surprise, alerts.",
        license="Apache-2.0",
        certify_steps=steps,
        portable_t=(),
        bound=BOUND,
        overwrite=True,
        tell=print,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options(parser, steps=6000, zero_state=200, decay=0.5)
    parser.add_argument("--check", action="store_true", help="train nothing, print the loss")
    parser.add_argument("--streams", type=int, default=256, help="that --check reads")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the bundle of --out")
    given = parser.parse_args()
    task = feed_task(Streams())
    if given.check:
        torch.set_num_threads(given.threads)
        model = trained(task, given.out)
        assert isinstance(model, Feed)
        print(*check(model, given.streams, 4097), sep="\n")
    elif given.export:
        torch.set_num_threads(given.threads)
        model = trained(task, given.out)
        assert isinstance(model, Feed)
        export(model, given.export, range(given.streams), 3072)
    else:
        train(task, plan_of(given))


if __name__ == "__main__":
    main()
