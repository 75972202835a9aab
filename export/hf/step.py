"""A language model of transformers as one step of a recurrence, held against transformers.

transformers reads the same tokens at once and keeps no state.

Shape letters: B batch, T items, V vocabulary, W window.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dst.export.checks.branch import quiet
from dst.export.curves import DECILE_RATIO_BOUND, Distances
from dst.export.errors import CertificateError
from dst.export.hf.parts import Foreign, Kept, Stack
from dst.export.step import Step
from dst.runtime.bundle import manifest as m
from dst.runtime.bundle.manifest import Certificate
from dst.runtime.bundle.validation import TOKENIZER_FILE

BOUND = 1e-4
"""Largest error of the logits at any step: transformers orders its sums in another way."""


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
            found.append(_certify_whole(self, start, self.model, ids, about=about, t=t))
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


# --- held against transformers --------------------------------------------------------------------


def whole_run(model: Foreign, ids: Tensor) -> Tensor:
    """Logits ``[1, n, V]`` of tokens ``[1, n]`` that transformers reads in one call."""
    if hasattr(getattr(model, "model", None), "_update_causal_mask"):
        model.model._update_causal_mask = _window_mask(model.config.attention_window_size)
    with torch.no_grad(), quiet():
        logits: Tensor = model(ids, use_cache=False).logits
    return logits


def _window_mask(window: int) -> Callable[..., Tensor]:
    """The mask of RecurrentGemma: transformers 4 forgets the window where it keeps no cache."""

    def mask(attention_mask: object, x: Tensor, place: Tensor) -> Tensor:
        behind = place[:, None] - place
        hidden = (behind < 0) | (behind >= window)
        return hidden.to(x.dtype)[None, None] * torch.finfo(x.dtype).min

    return mask


def _certify_whole(
    forward: LanguageStep,
    state: dict[str, Tensor],
    model: Foreign,
    ids: npt.NDArray[np.int64],
    *,
    about: str,
    t: int,
) -> Certificate:
    """Run a step over tokens in chunks of ``t``, and hold each against the whole run.

    Args:
        forward: The step.
        state: Its initial state, B = 1.
        model: The model of transformers.
        ids: Tokens ``[n]``; n is a multiple of ``t``.
        about: What they are, for the manifest.
        t: Tokens per step.

    Raises:
        CertificateError: an error exceeds ``BOUND``, or grows beyond ``DECILE_RATIO_BOUND``.
    """
    line = torch.from_numpy(ids)[None]
    expected = whole_run(model, line).numpy()
    errors = Distances(["logits"], [])
    with torch.no_grad():
        for start in range(0, len(ids), t):
            outputs, state = forward(line[:, start : start + t], state)
            part = expected[:, start : start + t]
            errors.add_output("logits", outputs["logits"].numpy(), part)
    found = errors.certificate(f"transformers-vs-torch-t{t}", about, t=t, bound=BOUND)
    if not found.passed:
        raise CertificateError(
            f"{found.name}: expected errors of at most {BOUND:g} and a last tenth of at most "
            f"{DECILE_RATIO_BOUND:g} x the first over {len(ids)} tokens; came: logits "
            f"{found.worst:.2g} of their rms in step {int(np.argmax(errors.outputs['logits']))}, "
            f"ratio {found.decile_ratio:.3g}; nothing was written",
            code="hf-differs",
        )
    return found
