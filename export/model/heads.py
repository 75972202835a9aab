"""Embed items as vectors, and predict the distribution of the next item from a vector.

Shape letters: B batch, T items, D width, F features, Q quantile levels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dst.export.model.config import Gaussian, Quantiles, Tokens
from dst.export.model.contexts import Seen
from dst.export.model.layer import linear
from dst.export.model.votes import Votes


class Categorical(nn.Module):
    """Token ids in; logits of the next token out."""

    def __init__(self, items: Tokens, width: int) -> None:
        super().__init__()
        self.tied = items.tied
        rows = items.width or width
        self.embedding = nn.Embedding(items.vocabulary, rows)
        self.widen = linear(rows, width) if rows != width else None
        nn.init.normal_(self.embedding.weight, std=rows**-0.5 if items.tied else 1.0)
        # A tied head turns x first: else the item just read, which fills much of x, would stand out
        # among the logits by sqrt(D), and so would the rounding error of its logit.
        self.out = linear(width, rows if items.tied else items.vocabulary)
        if items.tied:
            nn.init.orthogonal_(self.out.weight)
        self.votes = None if items.context_bits is None else Votes(width)

    def encode(self, chunk: Tensor, seen: Seen | None = None) -> Tensor:
        """``[B, T]`` int64 -> ``[B, T, D]``, of mean square 1 before training."""
        x = F.embedding(chunk, self.embedding.weight)
        x = x * x.shape[-1] ** 0.5 if self.tied else x
        x = x if self.widen is None else self.widen(x)
        return x if self.votes is None or seen is None else x + self.votes.encode(seen)

    def decode(self, x: Tensor, seen: Seen | None = None) -> dict[str, Tensor]:
        """``[B, T, D]`` -> ``logits [B, T, vocabulary]``."""
        logits = self.out(x)
        if self.tied:
            logits = F.linear(logits, self.embedding.weight)
        if self.votes is not None and seen is not None:
            logits = self.votes.add(logits, x, seen)
        return {"logits": logits}

    def loss(self, outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """Mean cross entropy in nats per item against ``target [B, T]``."""
        return F.cross_entropy(outputs["logits"].flatten(0, 1), target.flatten())


class GaussianHead(nn.Module):
    """Feature vectors in; mean and log standard deviation of the next vector out."""

    def __init__(self, items: Gaussian, width: int) -> None:
        super().__init__()
        features = len(items.features)
        self.embedding = linear(features, width)
        self.mean, self.log_std = linear(width, features), linear(width, features, 0.1)

    def encode(self, chunk: Tensor, seen: Seen | None = None) -> Tensor:
        """``[B, T, F]`` float32 -> ``[B, T, D]``."""
        return F.linear(chunk, self.embedding.weight)

    def decode(self, x: Tensor, seen: Seen | None = None) -> dict[str, Tensor]:
        """``[B, T, D]`` -> ``mean`` and ``log_std``, each ``[B, T, F]``."""
        return {"mean": self.mean(x), "log_std": self.log_std(x)}

    def loss(self, outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """Mean negative log likelihood in nats per feature against ``target [B, T, F]``."""
        scaled = (target - outputs["mean"]) * (-outputs["log_std"]).exp()
        half_log_tau = 0.9189385332046727  # ln(2 pi) / 2
        return (0.5 * scaled.square() + outputs["log_std"] + half_log_tau).mean()


class QuantileHead(nn.Module):
    """Feature vectors in; rising quantiles of each feature of the next vector out."""

    levels: Tensor

    def __init__(self, items: Quantiles, width: int) -> None:
        super().__init__()
        self.shape = (len(items.features), len(items.levels))
        self.register_buffer("levels", torch.tensor(items.levels), persistent=False)
        self.register_buffer("sum_up", torch.ones(2 * (self.shape[1],)).triu(), persistent=False)
        self.embedding = linear(self.shape[0], width)
        self.out = linear(width, self.shape[0] * self.shape[1])

    sum_up: Tensor

    def encode(self, chunk: Tensor, seen: Seen | None = None) -> Tensor:
        """``[B, T, F]`` float32 -> ``[B, T, D]``."""
        return F.linear(chunk, self.embedding.weight)

    def decode(self, x: Tensor, seen: Seen | None = None) -> dict[str, Tensor]:
        """``[B, T, D]`` -> ``quantiles [B, T, F, Q]``: a lowest value plus steps above 0."""
        raw = self.out(x).unflatten(-1, self.shape)
        steps = torch.cat([raw[..., :1], F.softplus(raw[..., 1:])], -1)
        return {"quantiles": steps @ self.sum_up}

    def loss(self, outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """Mean pinball loss (Koenker and Bassett 1978) against ``target [B, T, F]``."""
        short = target[..., None] - outputs["quantiles"]
        return torch.maximum(self.levels * short, (self.levels - 1.0) * short).mean()


Head = Categorical | GaussianHead | QuantileHead


def head_for(items: Tokens | Gaussian | Quantiles, width: int) -> Head:
    """Build the head that reads and predicts ``items``."""
    match items:
        case Tokens():
            return Categorical(items, width)
        case Gaussian():
            return GaussianHead(items, width)
        case Quantiles():
            return QuantileHead(items, width)
