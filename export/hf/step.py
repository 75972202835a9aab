"""A language model of transformers as one step of a recurrence.

Shape letters: B batch, T items.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dst.export.hf.check import certify_whole
from dst.export.hf.parts import Kept, Stack
from dst.export.step import Step
from dst.runtime.bundle import manifest as m
from dst.runtime.bundle.manifest import Certificate
from dst.runtime.bundle.validation import TOKENIZER_FILE


class LanguageStep(Step):
    """Token ids and a state to logits and the next state, with the weights of ``model``.

    Attributes:
        model: The model of transformers. Its own forward is not used here: it is what the step is
            held against.
        family: Its ``model_type``.
        notes: What a person should know of how it was read, a sentence each.
    """

    def __init__(
        self,
        model: nn.Module,
        stack: Stack,
        *,
        family: str,
        vocabulary: int,
        t: Sequence[int],
        tokenizer: bytes | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.model, self.family, self.notes = model, family, tuple(notes)
        self.layers = nn.ModuleList(stack.layers)
        self.stack = stack
        self.tokenizer = tokenizer
        self.kept = [layer.kept for layer in stack.layers]
        self.contract = _contract(self.kept, vocabulary, sorted(set(t)), tokenizer is not None)

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """The state before the first item."""
        return {
            f"{part.name}.{i}": torch.full((batch, *part.shape), part.start)
            for i, parts in enumerate(self.kept)
            for part in parts
        }

    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Take one step.

        Args:
            chunk: Token ids, ``[B, T]`` int64.
            state: As ``initial_state`` gives it.

        Returns:
            ``{"logits": [B, T, vocabulary]}`` and the next state.
        """
        x = self.stack.embed(chunk)
        following: dict[str, Tensor] = {}
        for i, (layer, parts) in enumerate(zip(self.layers, self.kept, strict=True)):
            names = [f"{part.name}.{i}" for part in parts]
            x, after = layer(x, tuple(state[name] for name in names))
            following |= dict(zip(names, after, strict=True))
        return {"logits": self.stack.head(x)}, following

    def fused(self) -> LanguageStep:
        """The same step, sharing its weights, with ONNX Runtime's own operators; or itself."""
        layers = [layer.fused() for layer in self.stack.layers]
        if all(new is old for new, old in zip(layers, self.stack.layers, strict=True)):
            return self
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.layers = nn.ModuleList(layers)
        return other

    def own_certificates(
        self, data: npt.NDArray[np.generic], about: str, steps: int
    ) -> tuple[Certificate, ...]:
        """Hold the step against transformers, for each T over at least ``steps`` tokens."""
        found = []
        for t in self.contract.chunk.allowed_t:
            items = -(-steps // t) * t
            ids = np.resize(data, items).astype(np.int64)
            start = self.initial_state(1)
            found.append(certify_whole(self, start, self.model, ids, about=about, t=t))
        return tuple(found)

    def files(self) -> Mapping[str, bytes]:
        """The tokenizer, where there is one."""
        return {} if self.tokenizer is None else {TOKENIZER_FILE: self.tokenizer}


def _contract(
    layers: Sequence[Sequence[Kept]], vocabulary: int, t: Sequence[int], tokenizer: bool
) -> m.Contract:
    return m.Contract(
        chunk=m.Chunk(
            input="tokens",
            dtype="int64",
            shape=("B", "T"),
            nominal_t=t[-1],
            allowed_t=tuple(t),
            content=m.Tokens(
                vocabulary=vocabulary, tokenizer="tokenizers" if tokenizer else "none"
            ),
            tail="exact" if t[0] == 1 else "refuse",
        ),
        outputs=(
            m.Output(
                name="logits", dtype="float32", shape=("B", "T", vocabulary), meaning="logits"
            ),
        ),
        state=tuple(
            m.State(
                input=f"{kept.name}.{i}",
                output=f"next.{kept.name}.{i}",
                dtype="float32",
                shape=("B", *kept.shape),
                init=m.Zeros() if kept.start == 0.0 else m.Fill(value=kept.start),
                role=kept.role,
            )
            for i, layer in enumerate(layers)
            for kept in layer
        ),
    )
