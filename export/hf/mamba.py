"""Mamba and Falcon-Mamba: a selective state space of N values for each of C channels.

Shape letters: B batch, T items, C channels, N state size.

    h_t = e^{dt_t A} h_{t-1} + dt_t x_t B_t        y_t = C_t h_t + D x_t

(Gu and Dao 2023). transformers drops ``h`` where a chunk of several items follows a carried state;
here every item is a step from the state before it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dst.export.hf.parts import Foreign, Kept, Layer, Stack, continued_conv, item_by_item
from dst.export.model.layer import rms_norm


class MambaLayer(Layer):
    """A ``MambaBlock`` or ``FalconMambaBlock`` of transformers."""

    A: Tensor

    def __init__(self, block: Foreign) -> None:
        super().__init__()
        self.norm, self.mixer = block.norm, block.mixer
        m = self.mixer
        for name in ("b_c_rms", "dt_rms"):  # the exporter trips over them; only CUDA reads them
            m._buffers.pop(name, None)
        self.inner_eps: float | None = getattr(m, "rms_eps", None)  # Falcon-Mamba has it
        # (N, C): the channels, of which there are many, lie side by side in memory
        decay = -torch.exp(m.A_log.detach().float()).T.contiguous()
        self.register_buffer("A", decay, persistent=False)
        channels = m.intermediate_size
        self.kept = (
            Kept("conv", "conv", (m.conv_kernel_size - 1, channels)),
            Kept("ssm", "memory", (m.ssm_state_size, channels)),
        )

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one chunk, item by item in the recurrence alone."""
        m = self.mixer
        past, h = state
        u, gate = m.in_proj(rms_norm(x, self.norm.weight, self.norm.variance_epsilon)).chunk(
            2, -1
        )  # (B, T, C)
        u, past = continued_conv(u, past, m.conv1d)
        u = m.act(u)
        sizes = [m.time_step_rank, m.ssm_state_size, m.ssm_state_size]
        dt, b, c = m.x_proj(u).split(sizes, -1)
        if self.inner_eps is not None:
            dt, b, c = (self._unit(part) for part in (dt, b, c))
        dt = F.softplus(m.dt_proj(dt))
        decay = torch.exp(dt[:, :, None] * self.A)  # (B, T, N, C)
        written = (dt * u)[:, :, None] * b[..., None]
        states, h = item_by_item(decay, written, h)
        y = (c[:, :, None] @ states).squeeze(2)  # (B, T, C)
        return x + m.out_proj((y + u * m.D) * m.act(gate)), (past, h)

    def _unit(self, x: Tensor) -> Tensor:
        assert self.inner_eps is not None
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.inner_eps)


def take_apart(model: Foreign) -> Stack:
    """Take a ``MambaForCausalLM`` or ``FalconMambaForCausalLM`` apart."""
    net, norm = model.backbone, model.backbone.norm_f
    return Stack(
        net.embeddings,
        tuple(MambaLayer(block) for block in net.layers),
        lambda x: model.lm_head(rms_norm(x, norm.weight, norm.variance_epsilon)),
    )
