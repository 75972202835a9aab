"""What a pair of a faulty module and its mended twin is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

W = 8


def zeros(*shape: int) -> Tensor:
    """A state that starts from nothing."""
    return torch.zeros(*shape)


def features(*shape: int) -> Tensor:
    """An example chunk of random readings."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def ids(count: int, *shape: int) -> Tensor:
    """An example chunk of token ids."""
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(5))


SAME = object()


@dataclass(frozen=True)
class Pair:
    """A faulty module, its twin, and how both are exported."""

    kind: str
    faulty: Callable[[], nn.Module]
    mended: Callable[[], nn.Module]
    chunk: Tensor
    state: Any = None
    mended_state: Any = SAME
    t: Sequence[int] = (1, 8)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The faulty class, by which a test is called."""
        return getattr(self.faulty, "__name__", str(self.faulty))


H = zeros(1, 1, W)
