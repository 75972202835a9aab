"""The networks that are compared, all with as many parameters as the DST network, within 2 %.

Shape letters: B batch, T items, D width, A attention heads of width d, C cached items.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dst.export.model import Config, Network
from dst.export.model.attention import rotate
from dst.export.model.config import Tokens
from dst.export.model.layer import linear, rms_norm

State = dict[str, Tensor]
WIDTH, LAYERS, MEMORIES, KEY, WINDOW, HIDDEN = 64, 2, 2, 32, 16, 128
HEADS, HEAD = 4, 16
CACHE = 32
"""Items that the network with a window sees: their keys and values take as many bytes as the
state of the DST network, within 15 %."""
CONTEXT = 256
"""Items that full attention holds in training. Judged, it holds all."""
CHUNK = 64


def dst(vocabulary: int, tracks: bool, key: int = KEY, hidden: int = HIDDEN) -> Network:
    """The DST network: two memories of `key` x `key` in each layer, and a window of 16 items.

    Args:
        vocabulary: so many tokens.
        tracks: writes may turn what is held (`beta_max` = 2), not only replace it.
        key: K and V.
        hidden: of the feed-forward part.
    """
    return Network(
        Config(
            WIDTH, LAYERS, MEMORIES, key, key, 2, 16, WINDOW, hidden,
            items=Tokens(vocabulary), alpha_max=1.0, beta_max=2.0 if tracks else 1.0,
            max_chunk=CHUNK,
        )
    )  # fmt: skip


class LSTM(nn.Module):
    """Two layers of `torch.nn.LSTM` between an embedding and a linear head."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.cells = nn.LSTM(width, width, LAYERS, batch_first=True)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.width = width

    def initial_state(self, batch: int) -> State:
        """Zeros, batch first: `h` and `c`, each `[B, LAYERS, width]`."""
        zeros = self.head.weight.new_zeros(batch, LAYERS, self.width)
        return {"h": zeros, "c": zeros.clone()}

    def forward(self, chunk: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
        """Take one step over `chunk [B, T]`."""
        before = (state[n].transpose(0, 1).contiguous() for n in ("h", "c"))
        x, (h, c) = self.cells(self.embedding(chunk), tuple(before))
        return {"logits": self.head(x)}, {"h": h.transpose(0, 1), "c": c.transpose(0, 1)}


class Block(nn.Module):
    """Attention to what is cached and to the chunk, and the feed-forward part of a DST layer."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mix_norm, self.feed_norm = (nn.Parameter(torch.ones(WIDTH)) for _ in range(2))
        self.q_norm, self.k_norm = (nn.Parameter(torch.ones(HEAD)) for _ in range(2))
        self.mix_in = linear(WIDTH, 3 * HEADS * HEAD)
        self.mix_out = linear(HEADS * HEAD, WIDTH, (2 * LAYERS) ** -0.5)
        self.feed_in = linear(WIDTH, 2 * hidden)
        self.feed_out = linear(hidden, WIDTH, (2 * LAYERS) ** -0.5)

    def forward(
        self, x: Tensor, past: Tensor, cos: Tensor, sin: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Transform `x [B, T, D]`; `past [2, B, A, C, d]` are keys before RoPE, and values."""
        heads = self.mix_in(rms_norm(x, self.mix_norm)).unflatten(-1, (3 * HEADS, HEAD))
        q, k, v = heads.transpose(1, 2).chunk(3, 1)  # (B, A, T, d)
        past = torch.cat([past, torch.stack([rms_norm(k, self.k_norm), v])], 3)
        new = slice(past.shape[3] - x.shape[1], None)
        q = rotate(rms_norm(q, self.q_norm), cos[new], sin[new])
        seen = F.scaled_dot_product_attention(q, rotate(past[0], cos, sin), past[1], mask)
        y = x + self.mix_out(seen.transpose(1, 2).flatten(2))
        a, b = self.feed_in(rms_norm(y, self.feed_norm)).chunk(2, -1)
        return y + self.feed_out(F.silu(a) * b), past


class Attention(nn.Module):
    """A Transformer with RoPE that holds keys and values of the latest items.

    Args:
        vocabulary: so many tokens.
        hidden: of the feed-forward parts.
        held: items before the chunk whose keys and values are held.
        window: how many items before it an item sees; None: all that are held, and in evaluation
            mode nothing is dropped.
    """

    def __init__(self, vocabulary: int, hidden: int, held: int, window: int | None) -> None:
        super().__init__()
        self.held, self.window = held, window
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.layers = nn.ModuleList(Block(hidden) for _ in range(LAYERS))
        self.out_norm = nn.Parameter(torch.ones(WIDTH))
        self.head = linear(WIDTH, vocabulary)

    def initial_state(self, batch: int) -> State:
        """Nothing is held: `ok [B, C]` is 0 where nothing is."""
        held = self.held if self.training or self.window is not None else 0
        new = self.head.weight.new_zeros
        past = {f"past.{i}": new(batch, 2, HEADS, held, HEAD) for i in range(LAYERS)}
        return {**past, "ok": new(batch, held)}

    def forward(self, chunk: Tensor, state: State) -> tuple[dict[str, Tensor], State]:
        """Take one step over `chunk [B, T]`."""
        items = chunk.shape[1]
        ok = torch.cat([state["ok"], torch.ones_like(chunk, dtype=torch.float32)], 1)
        length = ok.shape[1]
        place = torch.arange(length)
        rate = 10_000.0 ** (-torch.arange(0, HEAD, 2, dtype=torch.float64) / HEAD)
        angle = torch.outer(place.double(), rate)
        back = place[-items:, None] - place  # (T, C+T): how far a key lies behind
        near = (back >= 0) & (back <= (length if self.window is None else self.window))
        mask = near & (ok[:, None, None] > 0)  # (B, 1, T, C+T)
        keep = self.held if self.training or self.window is not None else length
        x, following = self.embedding(chunk), {"ok": ok[:, max(0, length - keep) :]}
        for i, block in enumerate(self.layers):
            past = state[f"past.{i}"].transpose(0, 1)
            x, past = block(x, past, angle.cos().float(), angle.sin().float(), mask)
            following[f"past.{i}"] = past[:, :, :, max(0, length - keep) :].transpose(0, 1)
        return {"logits": self.head(rms_norm(x, self.out_norm))}, following


def parameters(module: nn.Module) -> int:
    """Count them."""
    return sum(parameter.numel() for parameter in module.parameters())


def as_large(make: Callable[[int], nn.Module], wanted: int) -> nn.Module:
    """Make the module whose number of parameters is nearest to the wanted one.

    Args:
        make: makes a larger module of a larger number.
        wanted: parameters.
    """

    def off(size: int) -> int:
        with torch.device("meta"):
            return parameters(make(size)) - wanted

    low, high = 1, 1024
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if off(middle) > 0 else (middle, high)
    return make(min(low, high, key=lambda size: abs(off(size))))


CONTESTANTS = ("dst", "dst-16", "dst-64", "lstm", "window", "full")
"""What is trained: the DST network with memories of 32 x 32, of 16 x 16 and of 64 x 64 with a
feed-forward part that makes up for it, and the baselines."""


def contestant(name: str, vocabulary: int, tracks: bool) -> nn.Module:
    """Make a network, untrained."""
    if name == "dst":
        return dst(vocabulary, tracks)
    with torch.device("meta"):
        wanted = parameters(dst(vocabulary, tracks))

    def make(size: int) -> nn.Module:
        if name.startswith("dst-"):
            return dst(vocabulary, tracks, int(name.removeprefix("dst-")), size)
        if name == "lstm":
            return LSTM(vocabulary, size)
        if name == "window":
            return Attention(vocabulary, size, CACHE, CACHE)
        return Attention(vocabulary, size, CONTEXT, None)

    return as_large(make, wanted)
