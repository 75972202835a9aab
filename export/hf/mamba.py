"""Mamba, Falcon-Mamba and Mamba-2: selective state spaces.

Shape letters: B batch, T items, C channels, N state size; for Mamba-2 H heads, K state size,
V head width, G groups of B, C.

Mamba and Falcon-Mamba keep N values for each of C channels (Gu and Dao 2023). transformers drops
``h`` where a chunk of several items follows a carried state; here every item is a step from the
state before it:

    h_t = e^{dt_t A} h_{t-1} + dt_t x_t B_t        y_t = C_t h_t + D x_t

Mamba-2 keeps matrix memories with one decay per head, in chunk form (Dao and Gu 2024). ``B`` is a
key, ``dt x`` a value and ``C`` a query, so this is the gated rule:

    S_t = e^{dt_t A} S_{t-1} + B_t (dt_t x_t)^T        y_t = S_t^T C_t + D x_t
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dst.export.hf.parts import (
    Foreign,
    Kept,
    Layer,
    Stack,
    continued_conv,
    gated_attention,
    gated_rule,
    item_by_item,
    normed,
)


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
        u, gate = m.in_proj(normed(x, self.norm)).chunk(2, -1)  # (B, T, C)
        u, past = continued_conv(u, past, m.conv1d)
        u = m.act(u)
        sizes = [m.time_step_rank, m.ssm_state_size, m.ssm_state_size]
        dt, b, c = m.x_proj(u).split(sizes, -1)
        if self.inner_eps is not None:
            dt, b, c = (
                part * torch.rsqrt(part.square().mean(-1, keepdim=True) + self.inner_eps)
                for part in (dt, b, c)
            )
        dt = F.softplus(m.dt_proj(dt))
        decay = torch.exp(dt[:, :, None] * self.A)  # (B, T, N, C)
        written = (dt * u)[:, :, None] * b[..., None]
        states, h = item_by_item(decay, written, h)
        y = (c[:, :, None] @ states).squeeze(2)  # (B, T, C)
        return x + m.out_proj((y + u * m.D) * m.act(gate)), (past, h)


class Mamba2Layer(Layer):
    """A ``Mamba2Block`` of transformers."""

    def __init__(self, block: Foreign) -> None:
        super().__init__()
        self.norm, self.mixer = block.norm, block.mixer
        self.rule, self.operator = gated_rule, gated_attention
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
        projected = m.in_proj(normed(x, self.norm))
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

    def _per_head(self, x: Tensor) -> Tensor:
        m = self.mixer
        x = x.unflatten(-1, (m.n_groups, 1, m.ssm_state_size))
        shared = x.expand(-1, -1, -1, m.num_heads // m.n_groups, -1)
        return shared.flatten(2, 3)


def take_apart(model: Foreign) -> Stack:
    """Take a ``MambaForCausalLM``, ``FalconMambaForCausalLM`` or ``Mamba2ForCausalLM`` apart."""
    net = model.backbone
    layer = Mamba2Layer if model.config.model_type == "mamba2" else MambaLayer
    return Stack(
        net.embeddings,
        tuple(layer(block) for block in net.layers),
        lambda x: model.lm_head(normed(x, net.norm_f)),
    )
