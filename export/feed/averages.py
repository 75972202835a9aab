"""Exponential averages of a chunk as matrix products, so that a chunk of any size gives the same.

Shape letters: B batch, T items, C channels, N time constants.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Averages(nn.Module):
    """Exponential averages with several time constants.

        y_t = (1 - a) y_{t-1} + a x_t,   a = 1 / tau

    Args:
        taus: Time constants in items, N of them, each above 1.
        max_chunk: The largest T.
    """

    rate: Tensor
    share: Tensor
    place: Tensor

    def __init__(self, taus: Sequence[float], max_chunk: int) -> None:
        super().__init__()
        share = 1.0 / torch.tensor(taus, dtype=torch.float64)
        rate = -torch.log1p(-share)
        self.register_buffer("rate", rate.float()[:, None, None], persistent=False)  # (N, 1, 1)
        self.register_buffer("share", share.float()[:, None, None], persistent=False)
        place = torch.arange(max_chunk, dtype=torch.float32)
        self.register_buffer("place", place, persistent=False)

    def forward(self, x: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Average a chunk ``x [B, T, C]`` on from ``before [B, N, C]``.

        Returns:
            The average after each item, ``[B, N, T, C]``, and after the last, ``[B, N, C]``.
        """
        place = self.place[: x.shape[1]]
        distance = place[:, None] - place[None]  # (T, T)
        earlier = (distance + 1.0).clamp(0.0, 1.0)  # 1 where the second item is not later
        weights = self.share * earlier * (-self.rate * torch.relu(distance)).exp()  # (N, T, T)
        kept = (-self.rate * (place + 1.0)[:, None]).exp()  # (N, T, 1)
        averages = weights @ x[:, None] + kept * before[:, :, None]
        return averages, averages[:, :, -1]


def shifted(x: Tensor, before: Tensor) -> Tensor:
    """Put ``before [B, ...]`` in front of ``x [B, T, ...]`` and drop its last item."""
    return torch.cat([before[:, None], x], 1)[:, : x.shape[1]]


def asinh(x: Tensor) -> Tensor:
    """Return ``asinh(x)`` of large negative numbers too, where ONNX opset 18 gives -inf."""
    up, down = torch.relu(x).clamp(max=1e9), torch.relu(-x).clamp(max=1e9)
    return (up + (up * up + 1.0).sqrt()).log() - (down + (down * down + 1.0).sqrt()).log()
