"""How odd a value is under the quantiles that were foreseen, and how odd the last values were.

Shape letters: B batch, T items, F value columns, Q quantile levels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dst.export.feed.averages import Averages, shifted

LONG = 2048.0
"""Time constant of what is usual in a stream, in items."""
HOLD = 500.0
"""Time constant in which a peak fades that later values are compared with, in items."""
FAR = 60.0
"""Largest share of the distance from the long mean in the oddness, in nats."""
USUAL = 5.0
"""Added to the usual peak, so that a stream without peaks does not alert at small ones."""
CLEARLY = 4.0
WARM_UP = (0.0145, 0.005)
"""An oddness counts from the 30th item on, and fully from about the 40th."""
CAP = 30.0
"""Largest surprise of one item, in nats."""


class Surprise(nn.Module):
    """The surprise of a value: ``-ln(2 min(u, 1 - u))``, u its place in the foreseen distribution.

    Between quantiles the logarithm of the tail's probability is interpolated; beyond the last one
    it falls on at the rate between the last two, ever more slowly, as heavy tails do.

    Args:
        levels: Rising quantile levels, Q of them, an odd number with the median in the middle.
    """

    rise: Tensor

    def __init__(self, levels: Sequence[float]) -> None:
        super().__init__()
        self.middle = len(levels) // 2
        upper = levels[self.middle :]
        nats = torch.tensor([-math.log(2.0 * (1.0 - level)) for level in upper])
        self.register_buffer("rise", nats.diff(), persistent=False)  # (Q // 2)

    def forward(self, value: Tensor, quantiles: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        """Judge values ``[B, T, F]`` by ``quantiles [B, T, F, Q]``; steps are at least ``least``.

        Returns:
            The nats above the median, and those below it, both at least 0, ``[B, T, F]``.
        """
        upper = quantiles[..., self.middle :]
        lower = quantiles[..., : self.middle + 1].flip(-1)
        least = least[..., None]
        return (
            self._beyond(value[..., None] - upper, upper.diff(dim=-1) + least),
            self._beyond(lower - value[..., None], -lower.diff(dim=-1) + least),
        )

    def _beyond(self, over: Tensor, width: Tensor) -> Tensor:
        """Add up the knots that the value is ``over [..., Q // 2 + 1]``."""
        inside = (over[..., :-1] / width).clamp(0.0, 1.0) * self.rise
        beyond = torch.relu(over[..., -1] / width[..., -1])
        tail = 4.0 * torch.log1p(beyond / 4.0) * self.rise[-1]
        return (inside.sum(-1) + tail).clamp(max=CAP)


class Alert(nn.Module):
    """Tells from each item's oddness whether something new is wrong.

    The oddness of a value is its surprise plus ``z^2 / 2``, the Gaussian surprise of its distance
    from the long mean. An item counts as far as it stands out from the peaks before it, which fade
    slowly: so one event alerts once. The result is relative to how high peaks usually are in this
    stream, and is then turned into ``-log10`` of the rate of false alerts on the streams that the
    model was calibrated on: 4 means that of 10,000 items without trouble one comes as high.

    Args:
        knots: Pairs of a raw score and its ``-log10`` rate, both rising; the first is (0, 0).
        max_chunk: The largest T.
    """

    place: Tensor
    width: Tensor
    start: Tensor
    slope: Tensor

    def __init__(self, knots: Sequence[tuple[float, float]], max_chunk: int) -> None:
        super().__init__()
        self.averages = Averages((LONG,), max_chunk)
        place = torch.arange(max_chunk, dtype=torch.float32)
        self.register_buffer("place", place, persistent=False)
        self.rate = -math.log1p(-1.0 / HOLD)
        score, level = torch.tensor(knots, dtype=torch.float64).T
        self.register_buffer("start", score[:-1].float(), persistent=False)
        self.register_buffer("width", score.diff().float(), persistent=False)
        self.register_buffer("slope", (level.diff() / score.diff()).float(), persistent=False)

    def initial(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each state tensor, without B; all begin with zeros."""
        return {
            "long.level": (1, columns + 1),
            "long.spread": (1, columns),
            "long.peak": (1, 1),
            "peak": (1,),
        }

    def forward(
        self, value: Tensor, surprise: Tensor, scale: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Judge ``value``, ``surprise`` and ``scale``, each ``[B, T, F]``.

        Returns:
            The raw score, ``[B, T]``, at least 0, and the state after the chunk.
        """
        after: dict[str, Tensor] = {}
        levels, after["long.level"] = self.averages(
            torch.cat([value, torch.ones_like(value[..., :1])], -1), state["long.level"]
        )
        long, weight = levels[:, 0, :, :-1], levels[:, 0, :, -1:]  # (B, T, F), (B, T, 1)
        past = state["long.level"][:, 0]
        weight_past = past[:, -1:].clamp(min=1e-6)
        mean = shifted(long / weight, past[:, :-1] / weight_past)
        apart = value - mean
        squares, after["long.spread"] = self.averages(apart.square(), state["long.spread"])
        spread = shifted(squares[:, 0] / weight, state["long.spread"][:, 0] / weight_past)
        far = apart.square() / (spread + (0.01 * scale).square()).clamp(min=1e-30)
        warm = ((weight - WARM_UP[0]) / WARM_UP[1]).clamp(0.0, 1.0)
        odd = ((0.5 * far).clamp(max=FAR) + surprise).amax(-1) * warm[..., 0]  # (B, T)

        place = self.place[: odd.shape[1]]
        distance = place[:, None] - place[None]
        kept = (distance + 1.0).clamp(0.0, 1.0) * (-self.rate * torch.relu(distance)).exp()
        peak = (odd[:, None] * kept).amax(-1)  # (B, T): the highest so far in this chunk, faded
        peak = torch.maximum(peak, state["peak"] * (-self.rate * (place + 1.0)).exp())
        after["peak"] = peak[:, -1:]
        before = shifted(peak, state["peak"][:, 0])
        peaks, after["long.peak"] = self.averages(peak[..., None], state["long.peak"])
        usual = shifted(peaks[:, 0] / weight, state["long.peak"][:, 0] / weight_past)[..., 0]
        raised = torch.relu(torch.minimum(odd, CLEARLY * (odd - before)))
        return raised / (usual + USUAL), after

    def level(self, score: Tensor) -> Tensor:
        """Turn raw scores into ``-log10`` of the rate of false alerts."""
        steps = torch.minimum(torch.relu(score[..., None] - self.start), self.width)
        return (steps * self.slope).sum(-1)
