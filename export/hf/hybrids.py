"""LFM2 and Qwen3-Next: families whose attention layers, if any, keep every past token.

Such a model is refused; without them LFM2 is short gated convolutions, and Qwen3-Next gated delta
memories. Their rule is that of the DST network (``dst.export.model.recurrence``), with queries
divided by the root of K.

Shape letters: B batch, T items, H value heads, K/V key and value width per head, J key heads.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dst.export.hf.parts import Foreign, Kept, Layer, Stack, continued_conv, normed
from dst.export.model.operators import linear_attention
from dst.export.model.recurrence import delta_rule

LENGTH_EPS = 1e-6


class Lfm2Layer(Layer):
    """A convolution layer of ``Lfm2ForCausalLM``."""

    def __init__(self, layer: Foreign) -> None:
        super().__init__()
        self.mix_norm, self.mix = layer.operator_norm, layer.conv
        self.feed_norm, self.feed = layer.ffn_norm, layer.feed_forward
        conv = self.mix.conv
        self.kept = (Kept("conv", "conv", (conv.kernel_size[0] - 1, conv.in_channels)),)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one chunk."""
        u = normed(x, self.mix_norm)
        before, after, line = self.mix.in_proj(u).chunk(3, -1)
        mixed, past = continued_conv(before * line, state[0], self.mix.conv)
        x = x + self.mix.out_proj(after * mixed)
        return x + self.feed(normed(x, self.feed_norm)), (past,)


class Qwen3NextLayer(Layer):
    """A linear-attention layer of ``Qwen3NextForCausalLM``, with a dense feed-forward part."""

    def __init__(self, layer: Foreign) -> None:
        super().__init__()
        self.mix_norm, self.mix = layer.input_layernorm, layer.linear_attn
        self.feed_norm, self.feed = layer.post_attention_layernorm, layer.mlp
        self.rule, self.operator = delta_rule, linear_attention
        m = self.mix
        self.kept = (
            Kept("conv", "conv", (m.conv_kernel_size - 1, m.conv_dim)),
            Kept("S", "memory", (m.num_v_heads, m.head_k_dim, m.head_v_dim)),
        )

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one chunk."""
        m = self.mix
        past, memory = state
        u = self.mix_norm(x)
        q, k, v, z, b, a = m.fix_query_key_value_ordering(m.in_proj_qkvz(u), m.in_proj_ba(u))
        line = torch.cat([part.flatten(2) for part in (q, k, v)], -1)
        line, past = continued_conv(line, past, m.conv1d)
        q, k, v = F.silu(line).split([m.key_dim, m.key_dim, m.value_dim], -1)
        q, k = (self._unit(part) for part in (q, k))  # (B, T, H, K)
        v = v.unflatten(-1, (m.num_v_heads, m.head_v_dim))
        g = -m.A_log.float().exp() * F.softplus(a + m.dt_bias)  # (B, T, H)
        o, memory = self.rule(q * m.head_k_dim**-0.5, k, v, g, b.sigmoid(), memory)
        x = x + m.out_proj(m.norm(o, z).flatten(2))
        return x + self.feed(self.feed_norm(x)), (past, memory)

    def _unit(self, x: Tensor) -> Tensor:
        m = self.mix
        x = x.unflatten(-1, (m.num_k_heads, 1, m.head_k_dim))
        x = x * torch.rsqrt(x.square().sum(-1, keepdim=True) + LENGTH_EPS)
        return x.expand(-1, -1, -1, m.num_v_heads // m.num_k_heads, -1).flatten(2, 3)


def lfm2(model: Foreign) -> Stack:
    """Take a ``Lfm2ForCausalLM`` without attention layers apart."""
    net = model.model
    return Stack(
        net.embed_tokens,
        tuple(Lfm2Layer(layer) for layer in net.layers),
        lambda x: model.lm_head(normed(x, net.embedding_norm)),
    )


def qwen3_next(model: Foreign) -> Stack:
    """Take a ``Qwen3NextForCausalLM`` without attention layers apart."""
    net = model.model
    return Stack(
        net.embed_tokens,
        tuple(Qwen3NextLayer(layer) for layer in net.layers),
        lambda x: model.lm_head(net.norm(x)),
    )
