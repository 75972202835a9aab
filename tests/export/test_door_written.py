"""Laws of what a module may be written with: torch's exporter lacks some, and a bundle has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import parametrizations

from dst.export import ExportError, export_bundle
from dst.runtime import Session

CHUNK = torch.randn(1, 8, 5, generator=torch.Generator().manual_seed(0))


def held(module: nn.Module, state: Any, path: Path) -> None:
    """Export a module and compare 40 carried steps at each T with torch."""
    export_bundle(module, path, chunk=CHUNK, state=state, t=(1, 8), certify_steps=10, portable_t=())
    session = Session.open(path)
    for t in (1, 8):
        stream, carried = session.stream(), state
        items = torch.randn(40, 1, t, 5, generator=torch.Generator().manual_seed(t))
        for chunk in items:
            with torch.no_grad():
                expected, carried = module.eval()(chunk, carried)
            (found,) = stream.step(chunk.numpy()).values()
            np.testing.assert_allclose(found.astype(np.float64), expected.numpy(), atol=1e-5)


class Attends(nn.Module):
    """Attention of one head, without an axis for it, over the last four items and the chunk."""

    def __init__(self, masked: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Linear(5, 15)
        self.masked = masked

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        q, k, v = self.qkv(x).chunk(3, -1)
        k, v = torch.cat([state[0], k], 1), torch.cat([state[1], v], 1)
        at, of = torch.arange(x.shape[1])[:, None], torch.arange(k.shape[1])
        mask = (of > at) & (of <= at + 4)
        if self.masked == "rows":
            mask = mask.expand(len(x), -1, -1)
        return scaled_dot_product_attention(q, k, v, mask), (k[:, -4:], v[:, -4:])


@pytest.mark.parametrize("masked", ["all alike", "rows"])
def test_attention_needs_no_axis_of_heads(masked: str, tmp_path: Path) -> None:
    held(Attends(masked), (torch.zeros(1, 4, 5), torch.zeros(1, 4, 5)), tmp_path / "m")


class Gate(nn.Module):
    """Lets items through between a high and a low mark; whether it is open is carried."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> Any:
        level, is_open = state
        answers = []
        for item in x.unbind(1):
            level = 0.9 * level + 0.1 * item.mean(1)
            is_open = torch.where(is_open, level > -0.05, level > 0.05)
            answers.append(item * is_open[:, None].to(item.dtype))
        return torch.stack(answers, 1), (level, is_open)


def test_a_choice_may_be_between_booleans(tmp_path: Path) -> None:
    held(Gate(), (torch.zeros(1), torch.zeros(1, dtype=torch.bool)), tmp_path / "m")


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    class Inverts(nn.Module):
        def forward(self, x: Tensor, p: Tensor) -> Any:
            answer = x + p.mean((1, 2))[:, None, None]
            return answer, torch.linalg.inv(p + x.mean((1, 2))[:, None, None] * torch.eye(3))

    with pytest.raises(ExportError, match="cannot write `linalg_inv_ex` in ONNX"):
        export_bundle(
            Inverts(),
            tmp_path / "m",
            chunk=CHUNK,
            state=torch.eye(3)[None] * 3,
            t=(8,),
            time_axis=1,
        )


def test_complex_numbers_inside_are_refused_with_the_cure(tmp_path: Path) -> None:
    class Turns(nn.Module):
        def forward(self, x: Tensor, h: Tensor) -> Any:
            turned = torch.view_as_complex(h) * torch.exp(torch.complex(x[:, 0], x[:, 1]))
            return x + h.mean((1, 2))[:, None, None], torch.view_as_real(turned) * 0.5

    state = torch.ones(1, 5, 2)
    with pytest.raises(ExportError, match="real and imaginary parts as two real tensors"):
        export_bundle(Turns(), tmp_path / "m", chunk=CHUNK, state=state, t=(8,), time_axis=1)


def test_a_module_that_torch_jit_made_is_refused_with_the_cure(tmp_path: Path) -> None:
    scripted = torch.jit.script(nn.GRU(5, 6, batch_first=True))
    with pytest.raises(ExportError, match="give the module that it was made of"):
        export_bundle(scripted, tmp_path / "m", chunk=CHUNK)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("weight", torch.nn.utils.weight_norm),
        ("weight_hh_l0", torch.nn.utils.weight_norm),
        ("weight", parametrizations.orthogonal),
        ("weight_hh_l0", parametrizations.spectral_norm),
    ],
)
def test_weights_that_a_module_calculates_are_taken_as_they_are(
    name: str, how: Callable[..., nn.Module], tmp_path: Path
) -> None:
    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: Tensor, h: Tensor) -> Any:
            y, h = self.rnn(x, h)
            return self.head(y), h

    module = Headed()
    part = module.head if name == "weight" else module.rnn
    how(part, name)
    with torch.no_grad():
        for weight in part.parameters():
            weight.mul_(1.1)
    held(module, torch.zeros(1, 1, 6), tmp_path / "m")


def test_what_wraps_a_module_for_speed_is_taken_off(tmp_path: Path) -> None:
    compiled: Any = torch.compile(nn.GRU(5, 6, batch_first=True), backend="eager")
    module: nn.Module = nn.DataParallel(compiled)
    held(module, torch.zeros(1, 1, 6), tmp_path / "m")


class Pieces(nn.Module):
    """A recurrent layer that is called for each item, as ``split`` cuts the chunk."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(5, 4, batch_first=True)

    def forward(self, x: Tensor, h: Tensor) -> Any:
        answers = []
        for item in x.split(1, 1):
            y, h = self.gru(item, 0.9 * h)
            answers.append(y)
        return torch.cat(answers, 1), h


def test_a_layer_that_is_called_for_each_piece_of_a_chunk_exports(tmp_path: Path) -> None:
    held(Pieces(), torch.zeros(1, 1, 4), tmp_path / "b")
