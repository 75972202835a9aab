"""Running statistics of a stream: levels, scales, habits of day and week, simple forecasts.

Nothing here is learned. All of it is kept in a state of fixed size and has the unit of the values,
so that a model which reads the ratios works at any scale.

Shape letters: B batch, T items, F value columns, N time constants, E experts (simple forecasts).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dst.export.feed.averages import Averages, asinh, shifted
from dst.export.feed.config import BINS, DAY_BINS, LAGS, TAUS, WEEK_BINS

DeltaRule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
EXPERTS = (
    "last", "m2", "m8", "m32", "m128", "trend", "day_fast", "day_slow", "week",
    "day_now", "week_now", "linear_fast", "linear_slow",
)  # fmt: skip
"""What is forecast of the next value: the last one, averages, the last with its trend, the habit at
that time of the day (of the last day, and of several) and of the week, both also moved by how far
off they were just now, and linear predictions from the last values (NLMS)."""
E = len(EXPERTS)
HABIT_RATES = (1.0, 0.3, 0.7)
"""How much of a bin a day (of the week's bins: a week) writes over, as a rate."""
LINEAR_RATES = (0.1, 0.02)
"""Step sizes of the linear predictors (normalised least mean squares; Haykin, Adaptive Filter
Theory, ch. 6)."""
TINY, RELATIVE = 1e-12, 1e-6
"""Smallest scale there is: absolute, and relative to the value. It is a bound, never added: the
exporter drops what is added to numbers if it is below 1e-8."""
FAMILIAR = 0.02


class Statistics(NamedTuple):
    """What is known after each item; values are relative to the first value of the stream."""

    features: Tensor  # (B, T, F, P), free of scale
    experts: Tensor  # (B, T, F, E), forecasts of the next value
    errors: Tensor  # (B, T, F, E), how far off each has lately been, in mean absolute value
    scale: Tensor  # (B, T, F)
    value: Tensor  # (B, T, F)
    valid: Tensor  # (B, T, 1), 0 for the first item of a stream, else 1
    origin: Tensor  # (B, 1, F), the first value of the stream


FEATURES = 22 + 2 * E
"""P, the number of features of each column."""


class Running(nn.Module):
    """Computes ``Statistics`` chunk by chunk."""

    day: Tensor
    week: Tensor
    rates: Tensor
    per_bin: Tensor
    linear: Tensor

    def __init__(self, columns: int, max_chunk: int) -> None:
        super().__init__()
        self.columns = columns
        self.averages = Averages(TAUS, max_chunk)
        self.register_buffer("day", torch.arange(DAY_BINS).float(), persistent=False)
        self.register_buffer("week", torch.arange(WEEK_BINS).float(), persistent=False)
        self.register_buffer("rates", torch.tensor(HABIT_RATES), persistent=False)
        spans = torch.tensor([86400.0 / DAY_BINS] * 2 + [604800.0 / WEEK_BINS])
        self.register_buffer("per_bin", spans, persistent=False)  # seconds
        linear = torch.tensor(LINEAR_RATES * columns)
        self.register_buffer("linear", linear, persistent=False)  # (2 F)

    def initial(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each state tensor, without B; all begin with zeros."""
        f, n = self.columns, len(TAUS)
        return {
            "origin": (f + 1,),
            "ema.level": (n, 4 * f + 4),
            "ema.scale": (n, 3 * f),
            "ema.error": (n, f * E),
            "habit": (3, BINS, f + 1),
            "linear": (2 * f, LAGS, 1),
            "lags": (LAGS, f),
            "before": (f, E + 3),
        }

    def forward(
        self, x: Tensor, times: Tensor, state: dict[str, Tensor], delta_rule: DeltaRule
    ) -> tuple[Statistics, dict[str, Tensor]]:
        """Take values ``x [B, T, F]`` and their ``times [B, T, 3]``.

        These are the part of the day and of the week that has passed, the first -1 where it is not
        known, and the seconds since the item before, 0 where they are not known.
        """
        f = self.columns
        seen, first = state["origin"][:, None, :1], state["origin"][:, None, 1:]
        origin = seen * first + (1.0 - seen) * x[:, :1]  # (B, 1, F)
        ones = torch.ones_like(x[..., :1])
        valid = shifted(ones, state["origin"][:, :1])  # (B, T, 1)
        r = x - origin
        before = state["before"]  # (B, F, E + 3)
        change = r - shifted(r, before[..., E])  # (B, T, F)
        size = change.abs()
        gap = torch.relu(times[..., 2:])
        has_gap = (gap * 1e6).clamp(0.0, 1.0)

        channels = [r, change, size, r.abs(), ones, valid, has_gap, has_gap * torch.log1p(gap)]
        level, level_after = self.averages(torch.cat(channels, -1), state["ema.level"])
        weight = level[..., 4 * f : 4 * f + 1]  # (B, N, T, 1), grows from 0 to 1
        counted = level[..., 4 * f + 1 : 4 * f + 2].clamp(min=1e-6)
        m = level[..., :f] / weight  # (B, N, T, F)
        trend = level[..., f : 2 * f] / weight
        rough = level[..., 2 * f : 3 * f] / counted
        floor = RELATIVE * (x.abs() + level[:, 3, :, 3 * f : 4 * f])
        floor = floor.clamp(min=TINY)  # (B, T, F)
        gaps = level[:, 2, :, -2:-1].clamp(min=1e-6)
        step_s = torch.expm1(level[:, 2, :, -1:] / gaps)  # (B, T, 1)

        # Scales: an outlier counts no more than three times the mean that it has raised itself.
        apart = (r - m[:, 3]).abs()
        still = (-size / (0.05 * rough[:, 3] + floor)).exp()
        limited = torch.minimum(size, 3.0 * rough[:, 3])
        scales, scales_after = self.averages(
            torch.cat([limited, apart, still], -1), state["ema.scale"]
        )
        steps = scales[..., :f] / counted
        spread = scales[..., f : 2 * f] / counted
        scale = steps[:, 3] + 0.05 * spread[:, 4] + floor  # (B, T, F)

        habits, familiar, habit_after = self._habits(
            r, m[:, 3], spread[:, 4] + scale, times, step_s, state["habit"], delta_rule
        )
        linear, linear_state = self._linear(r, m[:, 3], scale, state, delta_rule)
        expected = shifted(habits, before[..., 6:9])  # what they had said of this item
        off = r[..., None] - expected
        experts = torch.cat(
            [
                r[..., None],
                m[:, :4].permute(0, 2, 3, 1),
                (r + trend[:, 1])[..., None],
                habits,
                habits[..., 1:] + off[..., 1:],
                linear,
            ],
            -1,
        )  # (B, T, F, E)
        said = shifted(experts, before[..., :E])
        miss = (r[..., None] - said).abs()
        # relative to the scale, so that a far outlier counts little
        miss = torch.minimum(miss, 10.0 * (scale + 0.2 * spread[:, 4])[..., None])
        errors, errors_after = self.averages(miss.flatten(2), state["ema.error"])
        counts = counted[:, 3]  # (B, T, 1)
        error = errors[:, 3].unflatten(-1, (f, E)) / counts[..., None]
        error = error + 0.01 * scale[..., None]
        quick = errors[:, 1].unflatten(-1, (f, E)) / counted[:, 1, :, :, None]

        unit = scale[..., None]
        parts = [
            asinh((r[:, None] - m).permute(0, 2, 3, 1) / unit),  # 5
            asinh(change / scale)[..., None],
            asinh(trend[:, 1:3].permute(0, 2, 3, 1) / unit),  # 2
            asinh((experts[..., 1:] - r[..., None]) / unit),  # E - 1
            _ratio(error, unit),  # E
            _ratio(quick.amin(-1, keepdim=True), unit),  # 1
            _ratio(rough[:, (0, 1, 2, 4)].permute(0, 2, 3, 1), unit),  # 4
            _ratio(spread[:, (1, 2, 3, 4)].permute(0, 2, 3, 1), unit),  # 4
            (scales[..., 2 * f :] / weight)[:, (1, 3)].permute(0, 2, 3, 1),  # 2
            familiar[..., 1:].unsqueeze(2).expand(-1, -1, f, -1),  # 2
            weight[:, (2, 4), :, 0].permute(0, 2, 1).unsqueeze(2).expand(-1, -1, f, -1),  # 2
        ]
        features = torch.cat(parts, -1)
        place = torch.cat([ones, origin.expand_as(x)], -1)[:, -1]
        kept = torch.cat([experts, r[..., None], m[:, 3, :, :, None], unit], -1)
        after = {
            "origin": place,
            "ema.level": level_after,
            "ema.scale": scales_after,
            "ema.error": errors_after,
            "habit": habit_after,
            "linear": linear_state[0],
            "lags": linear_state[1],
            "before": kept[:, -1],
        }
        return Statistics(features, experts, error, scale, r, valid, origin), after

    def _habits(
        self,
        r: Tensor,
        middle: Tensor,
        reach: Tensor,
        times: Tensor,
        step_s: Tensor,
        memory: Tensor,
        delta_rule: DeltaRule,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Write each value to the bins of its time; read the bins of the next item's time.

        Returns the habits ``[B, T, F, 3]``, how much is known of each ``[B, T, 3]``, and the
        memory after the chunk.
        """
        known = (times[..., :1] + 1.0).clamp(0.0, 1.0)  # (B, T, 1)
        day, week = times[..., :1], times[..., 1:2]
        here = self._keys(day, week) * known[..., None]
        ahead = self._keys(day + step_s / 86400.0, week + step_s / 604800.0) * known[..., None]
        value = middle + torch.minimum(torch.maximum(r - middle, -5.0 * reach), 5.0 * reach)
        value = torch.cat([value, torch.ones_like(value[..., :1])], -1)  # (B, T, F + 1)
        value = value[:, :, None].expand(-1, -1, 3, -1)
        strength = 1.0 - (-self.rates * (step_s / self.per_bin).clamp(1e-4, 2.0)).exp()  # (B, T, 3)
        recalled, after = delta_rule(
            ahead, here, value, torch.zeros_like(strength), strength, memory
        )  # (B, T, 3, F + 1)
        familiar = recalled[..., -1:].clamp(min=0.0)
        mixed = (recalled[..., :-1] + FAMILIAR * middle[:, :, None]) / (familiar + FAMILIAR)
        return mixed.transpose(2, 3), familiar[..., 0], after

    def _keys(self, day: Tensor, week: Tensor) -> Tensor:
        """Turn parts of day and week ``[B, T, 1]`` into keys ``[B, T, 3, BINS]`` of length 1."""
        keys = []
        for part, centres in ((day, self.day), (week, self.week)):
            bins = centres.shape[0]
            far = ((part - torch.floor(part)) * bins - centres).abs()
            key = torch.relu(1.0 - torch.minimum(far, bins - far))
            key = key * torch.rsqrt(key.square().sum(-1, keepdim=True) + 1e-6)
            keys.append(nn.functional.pad(key, (0, BINS - bins)))
        return torch.stack([keys[0], keys[0], keys[1]], 2)

    def _linear(
        self,
        r: Tensor,
        middle: Tensor,
        scale: Tensor,
        state: dict[str, Tensor],
        delta_rule: DeltaRule,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Predict the next value linearly from the last ``LAGS``, ``[B, T, F, 2]``.

        The coefficients are a delta memory whose keys are the last values themselves.
        """
        f, items = self.columns, r.shape[1]
        u = ((r - middle) / scale).clamp(-30.0, 30.0)
        line = torch.cat([state["lags"], u], 1)  # (B, LAGS + T, F)
        now, ago = self._windows(line, 1, items), self._windows(line, 0, items)
        length = (now.square().sum(-1, keepdim=True) + 0.1).sqrt()  # (B, T, F, 1)
        length_ago = (ago.square().sum(-1, keepdim=True) + 0.1).sqrt()
        before = state["before"]
        middle_ago = shifted(middle, before[..., E + 1])
        scale_ago = shifted(scale, before[..., E + 2]).clamp(min=TINY)
        want = ((r - middle_ago) / scale_ago).clamp(-30.0, 30.0)[..., None] / length_ago
        query, key = _twice(now / length), _twice(ago / length_ago)  # (B, T, 2F, LAGS)
        strength = self.linear.expand(r.shape[0], items, -1)
        foreseen, after = delta_rule(
            query,
            key,
            _twice(want),
            torch.zeros_like(query[..., 0]),
            strength,
            state["linear"],
        )
        foreseen = foreseen.unflatten(2, (f, 2)).squeeze(-1)  # (B, T, F, 2)
        predicted = middle[..., None] + scale[..., None] * length * foreseen
        return predicted, (after, line[:, items:])

    def _windows(self, line: Tensor, start: int, items: int) -> Tensor:
        """The ``LAGS`` values before each item; with start 1, up to itself: ``[B, T, F, LAGS]``."""
        return torch.stack([line[:, start + i : start + i + items] for i in range(LAGS)], -1)


def _twice(x: Tensor) -> Tensor:
    """``[B, T, F, X]`` -> ``[B, T, 2F, X]``, each column twice in a row."""
    return torch.stack([x, x], 3).flatten(2, 3)


def _ratio(value: Tensor, unit: Tensor) -> Tensor:
    """Return the logarithm of a ratio, in [-4, 4]."""
    return (value / unit + 1e-3).log().clamp(-4.0, 4.0)
