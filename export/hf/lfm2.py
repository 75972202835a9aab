"""LFM2: short gated convolutions; its attention layers, if any, keep every past token.

Shape letters: B batch, T items, D width.
"""

from __future__ import annotations

from torch import Tensor

from dst.export.hf.parts import Foreign, Kept, Layer, Stack, continued_conv
from dst.export.model.layer import rms_norm


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
        u = rms_norm(x, self.mix_norm.weight, self.mix_norm.variance_epsilon)
        before, after, line = self.mix.in_proj(u).chunk(3, -1)
        mixed, past = continued_conv(before * line, state[0], self.mix.conv)
        x = x + self.mix.out_proj(after * mixed)
        w = rms_norm(x, self.feed_norm.weight, self.feed_norm.variance_epsilon)
        return x + self.feed(w), (past,)


def take_apart(model: Foreign) -> Stack:
    """Take a ``Lfm2ForCausalLM`` without attention layers apart."""
    net, norm = model.model, model.model.embedding_norm
    return Stack(
        net.embed_tokens,
        tuple(Lfm2Layer(layer) for layer in net.layers),
        lambda x: model.lm_head(rms_norm(x, norm.weight, norm.variance_epsilon)),
    )
