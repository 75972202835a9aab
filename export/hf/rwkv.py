"""RWKV-4: a weighted mean of past values per channel, kept as numerator, denominator and maximum.

Shape letters: B batch, T items, D width, A attention width.

The sums are kept divided by ``e^top``, where ``top`` is the largest exponent so far. It starts at
-1e30: nothing has been read.
"""

import torch
from torch import Tensor, nn

from dst.export.hf.parts import Foreign, Kept, Layer, Stack, in_blocks
from dst.export.model.attention import MASKED

NOTHING_READ = -1e30
BLOCK = 16
"""Items per block: within it, every item is weighed against every other in each channel."""


class RwkvLayer(Layer):
    """A ``RwkvBlock`` of transformers, and the halving of what leaves it, if any."""

    decay: Tensor

    def __init__(self, block: Foreign, halve: bool) -> None:
        super().__init__()
        self.first = getattr(block, "pre_ln", nn.Identity())
        self.ln1, self.ln2 = block.ln1, block.ln2
        self.mix, self.feed, self.halve = block.attention, block.feed_forward, halve
        self.register_buffer("decay", -torch.exp(self.mix.time_decay.detach()), persistent=False)
        width, inner = self.ln1.normalized_shape[0], self.mix.attention_hidden_size
        self.kept = (
            Kept("mix", "conv", (1, width)),
            Kept("feed", "conv", (1, width)),
            Kept("numerator", "memory", (inner,)),
            Kept("denominator", "memory", (inner,)),
            Kept("top", "memory", (inner,), NOTHING_READ),
        )

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one chunk."""
        m, f = self.mix, self.feed
        past_mix, past_feed, *rest = state
        x = self.first(x)
        u = self.ln1(x)
        shifted = torch.cat([past_mix, u], 1)[:, : x.shape[1]]
        key = m.key(_between(u, shifted, m.time_mix_key))
        value = m.value(_between(u, shifted, m.time_mix_value))
        gate = torch.sigmoid(m.receptance(_between(u, shifted, m.time_mix_receptance)))
        means, sums = in_blocks(self._means, (key, value), tuple(rest), BLOCK)
        x = x + m.output(gate * means)
        w = self.ln2(x)
        shifted = torch.cat([past_feed, w], 1)[:, : x.shape[1]]
        hidden = torch.relu(f.key(_between(w, shifted, f.time_mix_key))).square()
        gate = torch.sigmoid(f.receptance(_between(w, shifted, f.time_mix_receptance)))
        x = x + gate * f.value(hidden)
        return x / 2 if self.halve else x, (u[:, -1:], w[:, -1:], *sums)

    def _means(
        self, parts: tuple[Tensor, ...], sums: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        key, value = parts  # (B, C, A)
        over, under, top = (part[:, None] for part in sums)  # (B, 1, A)
        size = key.shape[1]
        lower = torch.ones(size, size, dtype=key.dtype).tril()
        past = lower.tril(-1)
        age = past @ past  # how many items lie between two
        # exponents of each item (axis 2) as each item (axis 1) sees it
        log = key[:, None] + (age[..., None] * self.decay + (1.0 - past)[..., None] * MASKED)
        own = key + self.mix.time_first
        before = torch.arange(size, dtype=key.dtype)[:, None] * self.decay  # (C, A)
        start = top + before
        high = torch.maximum(torch.maximum(log.amax(2), own), start)
        weight = torch.exp(log - high[:, :, None])  # (B, C, C, A)
        now, old = torch.exp(own - high), torch.exp(start - high)
        means = ((weight * value[:, None]).sum(2) + now * value + old * over) / (
            weight.sum(2) + now + old * under
        )
        log = key + before.flip(0)
        start = top + size * self.decay
        top = torch.maximum(log.amax(1, keepdim=True), start)
        weight, old = torch.exp(log - top), torch.exp(start - top)
        over = (weight * value).sum(1, keepdim=True) + old * over
        under = weight.sum(1, keepdim=True) + old * under
        return means, (over[:, 0], under[:, 0], top[:, 0])


def _between(x: Tensor, shifted: Tensor, share: Tensor) -> Tensor:
    return x * share + shifted * (1 - share)


def take_apart(model: Foreign) -> Stack:
    """Take a ``RwkvForCausalLM`` apart.

    transformers divides some weights by powers of two when it first runs, and halves what leaves
    every sixth layer: that is done now, and kept.
    """
    net = model.rwkv.eval()
    net._rescale_layers()
    every = net.config.rescale_every
    layers = tuple(
        RwkvLayer(block, every > 0 and (i + 1) % every == 0) for i, block in enumerate(net.blocks)
    )
    return Stack(net.embeddings, layers, lambda x: model.head(net.ln_out(x)))
