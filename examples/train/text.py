"""Train the text model to predict the next byte of Python, prose, markup, JSON and other code.

    python examples/train/text.py --out runs/text
    python examples/train/text.py --out runs/text --export text    # the bundle

Two phases, as in `trainer.py`: first every segment starts from the zero state at a random place;
then eight streams run through all the text and carry their states, reset with 3 % probability.
Python is read three times in every pass through the other texts.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from corpus import packages, split
from lstm import LSTM
from restore import restore
from torch import nn
from trainer import Batch, Task, cross_entropy, options, plan_of, shorten, train, trained

from dst.export import export_bundle
from dst.export.model import Network, sized
from dst.export.model.config import Config

STREAMS, SEGMENT = 8, 512
RESET_PROBABILITY = 0.03


def text_task(
    texts: Sequence[bytes], config: Config | None = None, start: str | None = None
) -> Task:
    """The task of predicting the next byte of these texts.

    Args:
        texts: whole documents; they are read in another order in every epoch.
        config: sizes of the network; None: an LSTM of as many parameters as the named size `small`.
        start: a bundle of these sizes whose weights are trained further; None: random weights.
    """

    def build() -> nn.Module:
        if config is None:
            return LSTM()
        network = Network(config)
        if start is not None:
            restore(network, start)
        return network

    def batches(seed: int, carried: bool) -> Iterator[Batch]:
        random = torch.Generator().manual_seed(seed)
        rows = torch.arange(STREAMS)
        segments = consecutive(texts, random) if carried else scattered(texts, random)
        for segment in segments:
            fresh = torch.ones(STREAMS, dtype=torch.bool)
            if carried:
                fresh = torch.rand(STREAMS, generator=random) < RESET_PROBABILITY
            yield Batch(segment[:, :-1], segment[:, 1:], rows, fresh)

    return Task(build, batches, STREAMS, cross_entropy)


def scattered(texts: Sequence[bytes], random: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield `[STREAMS, SEGMENT + 1]` bytes from random places, endlessly."""
    text = torch.frombuffer(bytearray(b"".join(texts)), dtype=torch.uint8)
    while True:
        starts = torch.randint(len(text) - SEGMENT - 1, (STREAMS,), generator=random)
        yield torch.stack([text[s : s + SEGMENT + 1] for s in starts.tolist()]).long()


def consecutive(texts: Sequence[bytes], random: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield consecutive `[STREAMS, SEGMENT + 1]` segments; documents are shuffled every epoch."""
    while True:
        order = torch.randperm(len(texts), generator=random).tolist()
        text = torch.frombuffer(bytearray(b"".join(texts[i] for i in order)), dtype=torch.uint8)
        length = len(text) // STREAMS
        lines = text[: length * STREAMS].view(STREAMS, length)
        for start in range(0, length - SEGMENT - 1, SEGMENT):
            yield lines[:, start : start + SEGMENT + 1].long()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options(parser, steps=12_000, zero_state=600, decay=0.5)
    parser.add_argument("--model", choices=["small", "lstm"], default="small")
    parser.add_argument(
        "--start", help="a bundle whose weights are trained further, or with --export written anew"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/corpus"), help="packages, kept")
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="train nothing, write the bundle"
    )
    given = parser.parse_args()
    texts = [*split()[0].values()] * 3
    for kind in packages(given.work)[0].values():
        texts += kind.values()
    config = sized("small") if given.model == "small" else None
    task = text_task(texts, config, given.start)
    if given.export is None:
        train(task, plan_of(given))
        return
    torch.set_num_threads(given.threads)
    model = task.build() if given.start is not None else trained(task, given.out)
    export_bundle(
        shorten(model.eval()),
        given.export,
        data=np.frombuffer(b"".join(split()[1].values()), np.uint8),
        about_data="modules of Python's standard library, not trained on",
        description="a byte-level language model of Python, prose, markup, JSON and other code",
        license="Apache-2.0",
        certify_steps=10_000,
        overwrite=True,
        tell=print,
    )


if __name__ == "__main__":
    main()
