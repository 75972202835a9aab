"""One DST-GD layer: gated-delta memory and window attention side by side, then a feed-forward part.

Shape letters: B batch, T items, D width, H memories, K/V their key/value width, A attention heads,
d their width, W window, P = H(2K+V) channels of the memories' q, k and v.

    u = RMSNorm(x);  p = silu(causal_dwconv4([conv; W_qkv u]))
    y = x + W_o [ RMSNorm_head(memory(p)) * silu(W_z u) ; window_attention(u) ]
    x' = y + W_2( silu(W_1a n) * W_1b n ),  n = RMSNorm(y)
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dst.export.model.attention import Frame
from dst.export.model.config import Config

TAPS = 4
"""Items the causal convolution sees; its state holds the last ``TAPS - 1``."""
EPS = 1e-6
RECALL_EPS = 1e-3
"""Floor of a recalled value's mean square: where a memory recalls next to nothing, its norm would
otherwise blow rounding errors up to full size."""
LENGTH_EPS = 1e-4
"""Floor of a key's or query's squared length, for the same reason."""


class LayerState(NamedTuple):
    """What a layer carries from chunk to chunk, all float32."""

    S: Tensor  # (B, H, K, V), the matrix memories
    conv: Tensor  # (B, P, 3), inputs of the convolution
    Kc: Tensor  # (B, A, W, d), keys after norm, before RoPE
    Vc: Tensor  # (B, A, W, d)


def causal_conv(x: Tensor, past: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution with silu, as shifted products.

    Args:
        x: ``[B, T, P]``.
        past: Last inputs before the chunk, ``[B, P, TAPS-1]``.
        weight: ``[P, TAPS]``, oldest tap first.

    Returns:
        ``[B, T, P]`` and the next ``past``.
    """
    items = x.shape[1]
    line = torch.cat([past.transpose(1, 2), x], 1)  # (B, 3+T, P)
    mixed = line[:, :items] * weight[:, 0]
    for tap in range(1, TAPS):
        mixed = mixed + line[:, tap : tap + items] * weight[:, tap]
    return F.silu(mixed), line[:, items:].transpose(1, 2)


class Forms(NamedTuple):
    """How the parts of a layer are calculated: plainly, or with operators of one runtime."""

    convolve: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """``causal_conv``, or another form of it."""
    delta_rule: Callable[..., tuple[Tensor, Tensor]]
    """``dst.export.model.recurrence.delta_rule``, or another form of it."""
    attend: Callable[[Tensor, Tensor, Tensor, Frame], Tensor]
    """``dst.export.model.attention.window_attention``, or another form of it."""


def rms_norm(x: Tensor, weight: Tensor, eps: float = EPS) -> Tensor:
    """``weight x / rms(x)`` over the last axis (Zhang and Sennrich 2019)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


class Layer(nn.Module):
    """Gated-delta memory in parallel with window attention, then a gated feed-forward layer."""

    unit: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        self.mix_norm = nn.Parameter(torch.ones(c.width))
        self.split = [c.memory_channels, c.heads * c.value, 3 * c.local_channels]
        self.mix_in = linear(c.width, sum(self.split))  # W_qkv, W_z and the local q, k, v
        self.gates = linear(c.width, 2 * c.heads)  # W_a, W_b
        self.conv = nn.Parameter(torch.randn(c.memory_channels, TAPS) * TAPS**-0.5)
        self.A_log = nn.Parameter(torch.empty(c.heads).uniform_(1.0, 16.0).log())
        dt = torch.empty(c.heads).uniform_(math.log(1e-3), math.log(0.1)).exp()
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))  # softplus^-1(dt)
        self.register_buffer("unit", torch.full((c.key,), c.key**-0.5), persistent=False)
        self.head_norm = nn.Parameter(torch.ones(c.value))
        self.q_norm = nn.Parameter(torch.ones(c.attention_width))
        self.k_norm = nn.Parameter(torch.ones(c.attention_width))
        residual = (2 * c.layers) ** -0.5
        self.mix_out = linear(c.heads * c.value + c.local_channels, c.width, residual)  # W_o
        self.feed_norm = nn.Parameter(torch.ones(c.width))
        self.feed_in = linear(c.width, 2 * c.hidden)  # W_1a, W_1b
        self.feed_out = linear(c.hidden, c.width, residual)  # W_2

    def forward(
        self, x: Tensor, state: LayerState, frame: Frame, forms: Forms
    ) -> tuple[Tensor, LayerState]:
        """Transform a chunk ``x [B, T, D]``."""
        u = rms_norm(x, self.mix_norm)
        qkv, z, local = self.mix_in(u).split(self.split, -1)
        recalled, memory, conv = self._memory(u, qkv, state, forms)
        seen, Kc, Vc = self._local(local, state, frame, forms)
        gated = recalled * F.silu(z)
        y = x + self.mix_out(torch.cat([gated, seen], -1))
        a, b = self.feed_in(rms_norm(y, self.feed_norm)).chunk(2, -1)
        return y + self.feed_out(F.silu(a) * b), LayerState(memory, conv, Kc, Vc)

    def _memory(
        self, u: Tensor, qkv: Tensor, state: LayerState, forms: Forms
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Write the chunk into the matrix memories and read it out: ``[B, T, H V]``."""
        c = self.config
        p, conv = forms.convolve(qkv, state.conv, self.conv)  # (B, T, P)
        qk, v = p.split([2 * c.heads * c.key, c.heads * c.value], -1)
        qk = qk.unflatten(-1, (2 * c.heads, c.key))
        # x / |x| is the norm with weight 1/sqrt(K): one operator for queries and keys
        q, k = rms_norm(qk, self.unit, LENGTH_EPS / c.key).chunk(2, 2)  # (B, T, H, K)
        a, b = self.gates(u).chunk(2, -1)  # (B, T, H)
        g = -self.A_log.exp() * F.softplus(a + self.dt_bias)
        if c.alpha_max < 1.0:
            g = g.clamp(max=math.log(c.alpha_max))
        b = c.beta_max * torch.sigmoid(b)
        o, S = forms.delta_rule(q, k, v.unflatten(-1, (c.heads, c.value)), g, b, state.S)
        return rms_norm(o, self.head_norm, RECALL_EPS).flatten(2), S, conv

    def _local(
        self, qkv: Tensor, state: LayerState, frame: Frame, forms: Forms
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend to the window: ``[B, T, A d]``."""
        c = self.config
        items = qkv.shape[1]
        heads = qkv.unflatten(-1, (3 * c.attention_heads, c.attention_width))
        q, k, v = heads.transpose(1, 2).chunk(3, 1)  # (B, A, T, d)
        keys = torch.cat([state.Kc, rms_norm(k, self.k_norm)], 2)  # (B, A, W+T, d)
        values = torch.cat([state.Vc, v], 2)
        seen = forms.attend(rms_norm(q, self.q_norm), keys, values, frame)
        return seen.transpose(1, 2).flatten(2), keys[:, :, items:], values[:, :, items:]


def linear(inputs: int, outputs: int, scale: float = 1.0) -> nn.Linear:
    """A bias-free linear map whose outputs have variance ``scale^2`` for unit inputs."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=scale * inputs**-0.5)
    return layer
