"""Read the cases of a task as a device would, and count right answers.

DST and LSTM networks are read from their exported bundles by `dst.runtime`. The attention networks
have no bundle and are read in torch, with the window or the cache that they have.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tasks import UNASKED, Case, Ids
from torch import nn
from trainer import Recurrent

from dst.export import export_bundle
from dst.export.model import Network
from dst.quantize import quantize_bundle
from dst.runtime import Session

RESET_EVERY = 32
FULL_ATTENTION_ITEMS = 16_384
"""Full attention is not asked to read more: each item costs more than the one before."""
BOUND = 1e-3
"""Error that a certificate accepts. A state that is turned at every item (`beta_max` = 2) adds up
rounding errors; what is judged here is the likeliest answer."""


class Reader(Protocol):
    """Reads a row of items."""

    limit: float
    """It reads at most so many items from the initial state."""

    def begin(self) -> None:
        """Go to the initial state."""
        ...

    def answer(self, tokens: Ids) -> Ids:
        """Read items, and give the likeliest answer at each."""
        ...


class Bundle:
    """Reads by the runtime.

    Args:
        path: of the bundle.
        forgetful: go to the initial state before every chunk of 32 items.
    """

    limit = float("inf")

    def __init__(self, path: Path, *, forgetful: bool = False) -> None:
        self.stream = Session.open(path).stream()
        self.forgetful = forgetful

    def begin(self) -> None:
        self.stream.reset()

    def answer(self, tokens: Ids) -> Ids:
        size = RESET_EVERY if self.forgetful else 1 << 14
        found = []
        for begin in range(0, len(tokens), size):
            if self.forgetful:
                self.stream.reset()
            read = self.stream.advance(tokens[begin : begin + size])["logits"]
            rest = self.stream.flush()["logits"]
            found += [read[0].argmax(-1), rest[0].argmax(-1)]
        return np.concatenate(found)


class Torch:
    """Reads in torch.

    Args:
        module: what is trained.
        limit: items that it may read from the initial state.
    """

    def __init__(self, module: nn.Module, limit: float) -> None:
        self.module, self.limit = module.eval(), limit
        self.step_of: Recurrent = module  # type: ignore[assignment]
        self.begin()

    def begin(self) -> None:
        self.state = self.step_of.initial_state(1)

    @torch.no_grad()
    def answer(self, tokens: Ids) -> Ids:
        found = []
        for chunk in torch.from_numpy(tokens).split(256):
            outputs, self.state = self.step_of(chunk[None], self.state)
            found.append(outputs["logits"][0].argmax(-1).numpy())
        return np.concatenate(found)


@dataclass(slots=True)
class Count:
    """How many answers of one place were asked for, and how many were right."""

    where: dict[str, float]
    right: int = 0
    asked: int = 0


def judge(reader: Reader, cases: Iterable[Case]) -> list[Count]:
    """Count right answers by place, in the order of the cases; what is beyond the limit is left."""
    found: dict[tuple[float, ...], Count] = {}
    read = 0
    for case in cases:
        if case.fresh:
            reader.begin()
            read = 0
        read += len(case.tokens)
        if read > reader.limit:
            continue
        asked = case.targets != UNASKED
        right = (reader.answer(case.tokens) == case.targets)[asked]
        count = found.setdefault(tuple(case.where.values()), Count(dict(case.where)))
        count.asked += 1 if case.whole else int(asked.sum())
        count.right += int(right.all()) if case.whole else int(right.sum())
    return list(found.values())


def readers(name: str, module: nn.Module, data: Ids, folder: Path) -> Iterator[tuple[str, Reader]]:
    """Yield each form in which a contestant is judged: its name and the reader.

    Args:
        name: of the contestant.
        module: trained.
        data: items that the exported graphs are proved on.
        folder: where bundles are written.
    """
    if name in ("window", "full"):
        yield name, Torch(module, FULL_ATTENTION_ITEMS if name == "full" else float("inf"))
        return
    whole = folder / "float32"
    if not isinstance(module, Network):
        export_bundle(
            module,
            whole,
            chunk=torch.from_numpy(data[None, :RESET_EVERY]),
            state=module.initial_state(1),  # type: ignore[operator]
            t=(1, RESET_EVERY),
            data=data,
            certify_steps=200,
            bound=BOUND,
            overwrite=True,
        )
        yield name, Bundle(whole)
        return
    export_bundle(
        module,
        whole,
        data=data,
        certify_steps=200,
        bound=BOUND,
        portable_t=(),  # the portable graphs are for other runtimes than the one that judges
        overwrite=True,
    )
    yield name, Bundle(whole)
    quantize_bundle(whole, folder / "int8", "int8-rows", overwrite=True)
    yield f"{name}-int8", Bundle(folder / "int8")
    if name == "dst":
        yield f"{name}-reset", Bundle(whole, forgetful=True)
