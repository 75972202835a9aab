"""xLSTM: matrix memories with exponential gates, in chunk form.

Shape letters: B batch, T items, H heads, K/V key and value width per head.

    m_t = max(f_t + m_{t-1}, i_t)
    C_t = e^{f_t + m_{t-1} - m_t} C_{t-1} + e^{i_t - m_t} k_t v_t^T
    h_t = C_t^T q_t / (max(|n_t^T q_t|, e^{-m_t}) + eps)        n_t as C_t, with 1 for v_t

(Beck et al. 2024, mLSTM). ``m`` keeps the exponents small; it is the largest sum of log gates that
leads from any item, or from the start, to item t, which a chunk finds at once.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dst.export.hf.parts import Foreign, Kept, Layer, Stack, decay_tables, in_blocks
from dst.export.model.attention import MASKED
from dst.export.model.layer import rms_norm


class XlstmLayer(Layer):
    """An ``xLSTMBlock`` of transformers."""

    def __init__(self, block: Foreign) -> None:
        super().__init__()
        self.norm, self.cell = block.norm_mlstm, block.mlstm_layer
        self.feed_norm, self.feed = block.norm_ffn, block.ffn
        c = self.cell.config
        self.heads, self.cap, self.eps = c.num_heads, c.gate_soft_cap, c.eps
        self.one_weight = c.weight_mode == "fused"
        key, value = self.cell.qk_dim // c.num_heads, self.cell.v_dim // c.num_heads
        self.kept = (
            Kept("C", "memory", (c.num_heads, key, value)),
            Kept("n", "memory", (c.num_heads, key)),
            Kept("m", "memory", (c.num_heads, 1)),
        )

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one chunk."""
        cell = self.cell
        q, k, v, out, i, f = self._projected(self.norm(x))
        q, k, v = (p.unflatten(-1, (self.heads, -1)) for p in (q, k, v))  # (B, T, H, K or V)
        i, f = (soft_cap(p, self.cap) for p in (i, f))  # (B, T, H)
        q, f = q * q.shape[-1] ** -0.5, F.logsigmoid(f)
        recalled, state = in_blocks(self._block, (q, k, v, i, f), state)
        normed = cell.multihead_norm(recalled).flatten(2)
        x = x + cell.out_proj(torch.sigmoid(out) * normed)
        return x + self.feed(self.feed_norm(x)), state

    def _projected(self, u: Tensor) -> tuple[Tensor, ...]:
        cell = self.cell
        if not self.one_weight:
            parts = (cell.q, cell.k, cell.v, cell.ogate_preact)
            return (*(p(u) for p in parts), cell.igate_preact(u), cell.fgate_preact(u))
        sizes = [cell.qk_dim, cell.qk_dim, cell.v_dim, cell.v_dim]
        return (*cell.qkv_opreact(u).split(sizes, -1), *cell.ifgate_preact(u).chunk(2, -1))

    def _block(
        self, parts: tuple[Tensor, ...], state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        q, k, v, i, f = (part.transpose(1, 2) for part in parts)
        memory, norm, top = state  # (B, H, K, V), (B, H, K), (B, H, 1)
        between, since, lower = decay_tables(f)
        log = between + i[..., None, :] + (1.0 - lower) * MASKED  # (B, H, C, C)
        carried = since + top[..., None]  # (B, H, C, 1)
        high = torch.maximum(log.amax(-1, keepdim=True), carried)
        weight, old = torch.exp(log - high), torch.exp(carried - high)
        scores = q @ k.transpose(-1, -2) * weight
        over = scores @ v + old * (q @ memory)
        under = scores.sum(-1, keepdim=True) + old * (q @ norm[..., None])
        h = over / (torch.maximum(under.abs(), torch.exp(-high)) + self.eps)
        written = k * weight[..., -1:, :].transpose(-1, -2)
        old = old[..., -1:, :]
        memory = old * memory + written.transpose(-1, -2) @ v
        return h.transpose(1, 2), (memory, old[..., 0] * norm + written.sum(-2), high[..., -1, :])


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """Bend values so that none exceeds ``cap``; None bends nothing."""
    return x if cap is None else cap * torch.tanh(x / cap)


def take_apart(model: Foreign) -> Stack:
    """Take an ``xLSTMForCausalLM`` apart."""
    net, cap = model.backbone, model.config.output_logit_soft_cap
    norm = net.out_norm
    return Stack(
        net.embeddings,
        tuple(XlstmLayer(block) for block in net.blocks),
        lambda x: soft_cap(model.lm_head(rms_norm(x, norm.weight, norm.eps)), cap),
    )
