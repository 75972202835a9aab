"""The interface of a torch step: it maps ``(chunk, state)`` to ``(outputs, next state)``.

Derive from ``Step``, or give a module the same three members::

    class Counter(Step):
        def __init__(self):
            super().__init__()
            self.contract = Contract(...)      # names, shapes and dtypes, see dst.runtime

        def initial_state(self, batch):
            return {"sum": torch.zeros(batch, 4)}

        def forward(self, chunk, state):       # chunk (B, T, 4)
            total = state["sum"][:, None] + chunk.cumsum(1)
            return {"total": total}, {"sum": total[:, -1]}
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Certificate, Contract, window

ANSWERS = "answers"
"""What a graph calls the input that says which items are answered for."""
TORCH_DTYPES = {
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "int8": torch.int8,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


class Step(nn.Module):
    """A torch module whose call is one step of a recurrence.

    The result of a call must depend on the chunk and the state alone. State tensors are named
    by the contract's ``state[i].input``; outputs by ``outputs[i].name``.
    """

    contract: Contract
    any_batch: bool = True
    """Whether several streams can be stepped together."""
    answers: bool = False
    """Whether ``forward`` takes a third argument: the items to answer for, int64 ``[A]``. Outputs
    per item then have A in the place of T. Only for what ``fused`` returns."""
    example: Tensor | None = None
    """Values that random items are drawn from; normal numbers where there are none."""
    notes: Sequence[str] = ()
    """What was found out about it, in sentences."""

    @property
    def half_life_items(self) -> float | None:
        """Items after which the memory has faded to a half at most; None where it need not fade."""
        return None

    @abstractmethod
    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """The state before the first item, each tensor with the contract's shape and dtype."""

    @abstractmethod
    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Take one step; see the class."""

    def fused(self) -> Step:
        """The same step written with ONNX Runtime's own operators, where it has a faster one."""
        return self

    def single(self) -> Step | None:
        """The same step for single items (T = 1), where that has a faster form than ``fused``."""
        return None

    def files(self) -> Mapping[str, bytes]:
        """Further files of the bundle, name to content: a tokenizer, for example."""
        return {}

    def own_certificates(
        self, data: npt.NDArray[np.generic], about: str, steps: int
    ) -> tuple[Certificate, ...]:
        """Hold the step against another program that runs the same model, where there is one.

        Args:
            data: Real items, ``[n]`` or ``[n, F]``; read again from the start when used up.
            about: What the data is, for the manifest.
            steps: Carried steps to run, at least.

        Raises:
            CertificateError: they differ too much.
        """
        return ()


def example_chunk(contract: Contract, batch: int, t: int) -> Tensor:
    """A chunk of zeros as the graph sees it: ``lookback + t + lookahead`` items along time."""
    chunk = contract.chunk
    return torch.zeros(sized(chunk.shape, window(chunk, t), batch), dtype=TORCH_DTYPES[chunk.dtype])
