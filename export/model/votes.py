"""Let context tables speak: what they hold enters the network, and votes for the next item.

Shape letters: B batch, T items, D width, C contexts, E width of a symbol's row.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dst.export.model.contexts import CONTEXTS, MOST, Seen
from dst.export.model.layer import linear

ROWS = 16
"""E, width of a symbol's row."""
STANDINGS = (MOST + 1) * 3
"""What is known of a context besides its symbols: the length of its run, and whether it was right
about the item just read."""


class Votes(nn.Module):
    """Embed what the tables hold, and mix their votes into the logits.

    The network gives each context a weight for each item: logistic mixing (Mahoney 2005), with
    votes of any sign.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        codes = CONTEXTS * STANDINGS
        self.symbols = nn.Embedding(256, ROWS)
        # how much either symbol of a context counts, and an offset, by context and standing
        self.standing = nn.Embedding(codes, 3 * ROWS)
        self.widen = linear(CONTEXTS * ROWS, width)
        self.weights = linear(width, 2 * CONTEXTS, 0.1)
        self.prior = nn.Embedding(codes, 2)
        nn.init.normal_(self.standing.weight, std=0.5)
        nn.init.zeros_(self.prior.weight)

    def encode(self, seen: Seen) -> Tensor:
        """``[B, T, D]``, to be added to the embedded items."""
        last, before, offset = F.embedding(_codes(seen), self.standing.weight).chunk(3, -1)
        x = F.embedding(seen.last, self.symbols.weight) * last + offset
        x = x + F.embedding(seen.before, self.symbols.weight) * before  # (B, T, C, E)
        return F.linear(x.flatten(2), self.widen.weight)

    def add(self, logits: Tensor, x: Tensor, seen: Seen) -> Tensor:
        """Add each context's votes to the logits of the two symbols that it holds.

        Args:
            logits: ``[B, T, 256]``.
            x: what the network made of each item, ``[B, T, D]``.
            seen: what the tables hold, ``[B, T, C]`` each.
        """
        prior = F.embedding(_codes(seen), self.prior.weight)  # (B, T, C, 2)
        voted = (seen.run > 0)[..., None]
        weights = self.weights(x).unflatten(-1, (CONTEXTS, 2)) + prior
        votes = (weights * voted).flatten(2)  # (B, T, 2C)
        symbols = torch.stack([seen.last, seen.before], -1).flatten(2)
        return logits.scatter_add(2, symbols, votes)


def _codes(seen: Seen) -> Tensor:
    """Number a context and its standing, ``[B, T, C]``."""
    return torch.arange(CONTEXTS) * STANDINGS + seen.run * 3 + seen.hit
