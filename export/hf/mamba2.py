"""Mamba-2: matrix memories with one decay per head, in chunk form.

Shape letters: B batch, T items, C channels, H heads, K state size, V head width, G groups of B, C.

    S_t = e^{dt_t A} S_{t-1} + B_t (dt_t x_t)^T        y_t = S_t^T C_t + D x_t

(Dao and Gu 2024). ``B`` is a key, ``dt x`` a value and ``C`` a query, so this is the gated rule.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from dst.export.hf.fused import gated_attention
from dst.export.hf.parts import Foreign, Kept, Layer, Stack, continued_conv, gated_rule
from dst.export.model.layer import rms_norm


class Mamba2Layer(Layer):
    """A ``Mamba2Block`` of transformers."""

    def __init__(self, block: Foreign) -> None:
        super().__init__()
        self.norm, self.mixer = block.norm, block.mixer
        self.rule = gated_rule
        m = self.mixer
        self.kept = (
            Kept("conv", "conv", (m.conv_kernel_size - 1, m.conv_dim)),
            Kept("ssm", "memory", (m.num_heads, m.ssm_state_size, m.head_dim)),
        )

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one chunk."""
        m = self.mixer
        past, memory = state
        inner, keys = m.intermediate_size, m.n_groups * m.ssm_state_size
        projected = m.in_proj(rms_norm(x, self.norm.weight, self.norm.variance_epsilon))
        gate, line, dt = projected.split([inner, m.conv_dim, m.num_heads], -1)
        line, past = continued_conv(line, past, m.conv1d)
        u, k, q = m.act(line).split([inner, keys, keys], -1)
        u = u.unflatten(-1, (m.num_heads, m.head_dim))  # (B, T, H, V)
        k, q = (self._per_head(part) for part in (k, q))  # (B, T, H, K)
        low, high = m.time_step_limit
        dt = F.softplus(dt + m.dt_bias)  # (B, T, H)
        if low > 0.0 or high != float("inf"):
            dt = dt.clamp(low, high)
        g = -torch.exp(m.A_log.float()) * dt
        y, memory = self.rule(q, k, u * dt[..., None], g, memory)
        y = (y + u * m.D[:, None]).flatten(2)
        # the norm of the installed transformers: version 5 norms each group for itself
        return x + m.out_proj(m.norm(y, gate)), (past, memory)

    def fused(self) -> Mamba2Layer:
        """The same layer, sharing its weights, with ``com.microsoft.LinearAttention``."""
        other = copy.copy(self)
        other.rule = gated_attention
        return other

    def _per_head(self, x: Tensor) -> Tensor:
        m = self.mixer
        x = x.unflatten(-1, (m.n_groups, 1, m.ssm_state_size))
        shared = x.expand(-1, -1, -1, m.num_heads // m.n_groups, -1)
        return shared.flatten(2, 3)


def take_apart(model: Foreign) -> Stack:
    """Take a ``Mamba2ForCausalLM`` apart."""
    net, norm = model.backbone, model.backbone.norm_f
    return Stack(
        net.embeddings,
        tuple(Mamba2Layer(block) for block in net.layers),
        lambda x: model.lm_head(rms_norm(x, norm.weight, norm.variance_epsilon)),
    )
