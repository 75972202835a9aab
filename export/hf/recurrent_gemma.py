"""RecurrentGemma: gated linear recurrences, and attention to a window of the last W tokens.

Shape letters: B batch, T items, D width, A heads, G key heads, d head width, W window.

    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) i_t x_t        the first item of a stream is not damped

(De et al. 2024, Griffin). Keys are kept before their rotation, which depends on places within the
window alone, so that a stream has no end.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dst.export.hf.parts import Foreign, Kept, Layer, Stack, continued_conv, item_by_item
from dst.export.hf.xlstm import soft_cap
from dst.export.model.attention import MASKED, rotate


class GemmaLayer(Layer):
    """A ``RecurrentGemmaDecoderLayer`` around one of the two mixers."""

    def __init__(self, layer: Foreign, window: int) -> None:
        super().__init__()
        block = layer.temporal_block
        recurrent = hasattr(block, "rg_lru")
        self.mix = Recurrence(block) if recurrent else WindowAttention(block, window)
        self.mix_norm = layer.temporal_pre_norm
        self.feed_norm, self.feed = layer.channel_pre_norm, layer.mlp_block
        self.kept = self.mix.kept

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one chunk."""
        mixed, state = self.mix(self.mix_norm(x), state)
        x = x + mixed
        return x + self.feed(self.feed_norm(x)), state


class Recurrence(Layer):
    """A ``RecurrentGemmaRecurrentBlock``."""

    def __init__(self, block: Foreign) -> None:
        super().__init__()
        self.block = block
        channels, taps = block.lru_width, block.conv1d_width
        self.kept = (
            Kept("conv", "conv", (taps - 1, channels)),
            Kept("h", "memory", (channels,)),
            Kept("begun", "counter", (1,)),
        )

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one chunk, item by item in the recurrence alone."""
        b, unit = self.block, self.block.rg_lru
        past, h, begun = state
        side = b.act_fn(b.linear_y(x))
        u, past = continued_conv(b.linear_x(x), past, b.conv_1d)
        read = self._gate(u, unit.input_gate_weight, unit.input_gate_bias)
        forget = self._gate(u, unit.recurrent_gate_weight, unit.recurrent_gate_bias)
        log = -8.0 * forget * F.softplus(unit.recurrent_param)
        a, damped = torch.exp(log), torch.sqrt(1.0 - torch.exp(2.0 * log))
        # 1 before the first item of a stream has been read, else the damping
        first = 1.0 + begun[:, None] * (damped[:, :1] - 1.0)
        written = u * read * torch.cat([first, damped[:, 1:]], 1)
        states, h = item_by_item(a, written, h)
        return b.linear_out(states * side), (past, h, torch.ones_like(begun))

    def _gate(self, u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Multiply each head's channels by its own matrix."""
        per_head = u.unflatten(-1, (weight.shape[0], 1, -1))  # (B, T, A, 1, D/A)
        return torch.sigmoid((per_head @ weight).squeeze(-2) + bias).flatten(-2)


class WindowAttention(Layer):
    """RecurrentGemma's attention, to the last W tokens, the present one included."""

    rate: Tensor

    def __init__(self, attention: Foreign, window: int) -> None:
        super().__init__()
        a = self.attention = attention
        self.register_buffer("rate", a.rotary_emb.inv_freq.detach().float(), persistent=False)
        cache = (a.num_key_value_heads, window - 1, a.head_dim)
        self.window, self.groups = window, a.num_attention_heads // a.num_key_value_heads
        self.kept = (
            Kept("K", "window", cache),
            Kept("V", "window", cache),
            Kept("ok", "window", (window - 1,)),
        )

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one chunk."""
        a, items = self.attention, x.shape[1]
        keys, values, ok = state
        q, k, v = (
            p(x).unflatten(-1, (-1, a.head_dim)).transpose(1, 2)
            for p in (a.q_proj, a.k_proj, a.v_proj)
        )
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)  # (B, G, W-1+T, d)
        ok = torch.cat([ok, torch.ones_like(x[:, :, 0])], 1)
        place = torch.arange(self.window - 1 + items)
        angle = place[:, None] * self.rate
        behind = place[self.window - 1 :, None] - place  # how far a key lies behind a query
        hidden = ((behind < 0) | (behind >= self.window)).to(x.dtype)
        bias = (hidden + (1.0 - ok)[:, None]) * MASKED  # (B, T, W-1+T)
        turned_q = self._turned(q, angle[self.window - 1 :]).unflatten(1, (-1, self.groups))
        turned_k = self._turned(keys, angle)[:, :, None]
        scores = turned_q @ turned_k.transpose(-1, -2) * a.head_dim**-0.5
        seen = (scores + bias[:, None, None]).softmax(-1) @ values[:, :, None]
        seen = seen.flatten(1, 2).transpose(1, 2).flatten(2)  # (B, T, A d)
        return a.o_proj(seen), (keys[:, :, items:], values[:, :, items:], ok[:, items:])

    def _turned(self, x: Tensor, angle: Tensor) -> Tensor:
        width = 2 * self.rate.shape[0]  # the rest of a head is not rotated
        turned = rotate(x[..., :width], angle.cos(), angle.sin())
        return torch.cat([turned, x[..., width:]], -1) if width < x.shape[-1] else turned


def take_apart(model: Foreign) -> Stack:
    """Take a ``RecurrentGemmaForCausalLM`` apart."""
    net, config = model.model, model.config
    scale = net.normalizer.float()
    return Stack(
        lambda ids: net.embed_tokens(ids) * scale,
        tuple(GemmaLayer(layer, config.attention_window_size) for layer in net.layers),
        lambda x: soft_cap(model.lm_head(net.final_norm(x)), config.logits_soft_cap),
    )
