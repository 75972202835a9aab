"""Hold a step against transformers, which reads the same tokens at once and keeps no state.

Shape letters: B batch, T items, V vocabulary, W window.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dst.export.certify import DECILE_RATIO_BOUND, decile_ratio
from dst.export.errors import CertificateError
from dst.export.hf.parts import Foreign
from dst.runtime.bundle.manifest import Certificate, Curve
from dst.runtime.golden import relative_error

Forward = Callable[[Tensor, dict[str, Tensor]], tuple[dict[str, Tensor], dict[str, Tensor]]]

BOUND = 1e-4
"""Largest error of the logits at any step: transformers orders its sums in another way."""
CURVE_POINTS = 40


def whole_run(model: Foreign, ids: Tensor) -> Tensor:
    """Logits ``[1, n, V]`` of tokens ``[1, n]`` that transformers reads in one call."""
    if hasattr(getattr(model, "model", None), "_update_causal_mask"):
        model.model._update_causal_mask = _window_mask(model.config.attention_window_size)
    with torch.no_grad(), quiet():
        logits: Tensor = model(ids, use_cache=False).logits
    return logits


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back the progress of transformers, and what it says of kernels for other machines."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _window_mask(window: int) -> Callable[..., Tensor]:
    """The mask of RecurrentGemma: transformers 4 forgets the window where it keeps no cache."""

    def mask(attention_mask: object, x: Tensor, place: Tensor) -> Tensor:
        behind = place[:, None] - place
        hidden = (behind < 0) | (behind >= window)
        return hidden.to(x.dtype)[None, None] * torch.finfo(x.dtype).min

    return mask


def certify_whole(
    forward: Forward,
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
    errors = []
    with torch.no_grad():
        for start in range(0, len(ids), t):
            outputs, state = forward(line[:, start : start + t], state)
            part = expected[:, start : start + t]
            errors.append(relative_error(outputs["logits"].numpy(), part))
    worst, ratio = max(errors), decile_ratio(errors, BOUND)
    if not (worst <= BOUND and ratio <= DECILE_RATIO_BOUND):
        raise CertificateError(
            f"transformers-vs-torch-t{t}: expected errors of at most {BOUND:g} and a last tenth of "
            f"at most {DECILE_RATIO_BOUND:g} x the first over {len(ids)} tokens; came: logits "
            f"{worst:.2g} of their rms in step {int(np.argmax(errors))}, ratio {ratio:.3g}; "
            "nothing was written",
            code="hf-differs",
        )
    ends = np.unique(np.linspace(1, len(errors), min(CURVE_POINTS, len(errors))).astype(int))
    curve = tuple(
        float(f"{max(errors[a:b]):.2g}") for a, b in zip((0, *ends[:-1]), ends, strict=True)
    )
    return Certificate(
        name=f"transformers-vs-torch-t{t}",
        steps=len(errors),
        items_per_step=t,
        data=about,
        bound=BOUND,
        decile_ratio_bound=DECILE_RATIO_BOUND,
        passed=True,
        curve=Curve(steps=tuple(int(end) for end in ends), tensors={"logits": curve}),
        worst=worst,
        worst_state=0.0,
        worst_state_of_peak=0.0,
        decile_ratio=ratio,
    )
