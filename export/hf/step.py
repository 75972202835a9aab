"""A language model of transformers as one step of a recurrence, held against transformers.

transformers reads the same tokens at once and keeps no state.

Shape letters: B batch, T items, V vocabulary, W window.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dst.export.checks.branch import quiet
from dst.export.curves import DECILE_RATIO_BOUND, Distances
from dst.export.errors import CertificateError
from dst.export.hf.parts import Foreign, Stack
from dst.export.step import Step
from dst.runtime.bundle import manifest as m
from dst.runtime.bundle.manifest import Certificate
from dst.runtime.bundle.validation import TOKENIZER_FILE

BOUND = 1e-4
"""Largest error of the logits at any step: transformers orders its sums in another way."""


class LanguageStep(Step):
    """Token ids and a state to logits and the next state, with the weights of ``model``.

    The step is held against that model of transformers, and does not use its forward. ``family`` is
    its ``model_type``; ``notes`` tell how it was read, a sentence each.
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
        sizes = tuple(sorted(set(t)))
        self.contract = m.Contract(
            chunk=m.Chunk(
                input="tokens",
                dtype="int64",
                shape=("B", "T"),
                nominal_t=sizes[-1],
                allowed_t=sizes,
                content=m.Tokens(
                    vocabulary=vocabulary, tokenizer="none" if tokenizer is None else "tokenizers"
                ),
                tail="exact" if sizes[0] == 1 else "refuse",
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
                for i, layer in enumerate(self.kept)
                for kept in layer
            ),
        )

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
        """Take one step: ids ``[B, T]`` int64 to ``{"logits": [B, T, V]}`` and the next state."""
        x = self.stack.embed(chunk)
        following: dict[str, Tensor] = {}
        for i, (layer, parts) in enumerate(zip(self.layers, self.kept, strict=True)):
            names = [f"{part.name}.{i}" for part in parts]
            x, after = layer(x, tuple(state[name] for name in names))
            following |= dict(zip(names, after, strict=True))
        return {"logits": self.stack.head(x)}, following

    def fused(self) -> LanguageStep:
        """The same step, sharing its weights, with ONNX Runtime's own operators; or itself."""
        if all(layer.operator is None for layer in self.stack.layers):
            return self
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.layers = nn.ModuleList(layer.fused() for layer in self.stack.layers)
        return other

    def own_certificates(
        self, data: npt.NDArray[np.generic], about: str, steps: int
    ) -> tuple[Certificate, ...]:
        """Hold the step against transformers, for each T over at least ``steps`` tokens."""
        found = []
        for t in self.contract.chunk.allowed_t:
            ids = torch.from_numpy(np.resize(data, -(-steps // t) * t).astype(np.int64))[None]
            expected = whole_run(self.model, ids).numpy()
            errors, state = Distances(["logits"], []), self.initial_state(1)
            with torch.no_grad():
                for start in range(0, ids.shape[1], t):
                    outputs, state = self(ids[:, start : start + t], state)
                    part = expected[:, start : start + t]
                    errors.add_output("logits", outputs["logits"].numpy(), part)
            one = errors.certificate(f"transformers-vs-torch-t{t}", about, t=t, bound=BOUND)
            if not one.passed:
                raise CertificateError(
                    f"{one.name}: expected errors of at most {BOUND:g} and a last tenth of at most "
                    f"{DECILE_RATIO_BOUND:g} x the first over {ids.shape[1]} tokens; came: logits "
                    f"{one.worst:.2g} of their rms in step "
                    f"{int(np.argmax(errors.outputs['logits']))}, ratio {one.decile_ratio:.3g}; "
                    "nothing was written",
                    code="hf-differs",
                )
            found.append(one)
        return tuple(found)

    def files(self) -> Mapping[str, bytes]:
        """The tokenizer, where there is one."""
        return {} if self.tokenizer is None else {TOKENIZER_FILE: self.tokenizer}


def whole_run(model: Foreign, ids: Tensor) -> Tensor:
    """Logits ``[1, n, V]`` of tokens ``[1, n]`` that transformers reads in one call."""
    inner = getattr(model, "model", None)
    if inner is not None and hasattr(inner, "_update_causal_mask"):
        inner._update_causal_mask = partial(_window_mask, model.config.attention_window_size)
    with torch.no_grad(), quiet():
        logits: Tensor = model(ids, use_cache=False).logits
    return logits


def _window_mask(window: int, attention_mask: object, x: Tensor, place: Tensor) -> Tensor:
    """The mask of RecurrentGemma: transformers 4 forgets the window where it keeps no cache."""
    behind = place[:, None] - place
    hidden = (behind < 0) | (behind >= window)
    return hidden.to(x.dtype)[None, None] * torch.finfo(x.dtype).min
