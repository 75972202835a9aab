"""The feed model: running statistics, a DST-GD network that reads them, quantiles, surprise, alert.

Shape letters: B batch, T items, D width, F value columns, Q quantile levels, E experts.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dst.export.feed.averages import asinh, shifted
from dst.export.feed.config import LEVELS, FeedConfig
from dst.export.feed.scoring import Alert, Surprise
from dst.export.feed.statistics import EXPERTS, FEATURES, Running, Statistics
from dst.export.model.layer import linear
from dst.export.model.network import Network, State
from dst.export.step import Step
from dst.runtime.bundle import manifest as m
from dst.runtime.monitor.calendar import TIME_INPUTS

E, Q = len(EXPERTS), len(LEVELS)
CALENDAR = 10
CHUNKS = (1, 8, 32)
"""The T of one step: a row as it comes, and faster ones to read a file."""
LONGEST = 1024
"""Items of a chunk in training, at most."""
STEEP = 2.0
"""How strongly experts that were less far off are preferred before anything is learned."""
START_STEPS = (0.9, 0.6, 0.55, 0.5, 0.65, 0.65, 0.5, 0.55, 0.6, 0.9)
"""Distances of neighbouring quantiles before training, in mean errors of the best forecasts."""


class FeedHead(nn.Module):
    """Embeds the features; turns the network's output into weights of experts and a shape."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.columns = columns
        self.embedding = linear(columns * (FEATURES + 1) + CALENDAR, width, 0.5)
        self.out = linear(width, columns * (E + Q + 1), 0.05)

    def encode(self, chunk: Tensor, seen: None = None) -> Tensor:
        """``[B, T, F (P + 1) + CALENDAR]`` -> ``[B, T, D]``."""
        return self.embedding(chunk)  # type: ignore[no-any-return]

    def decode(self, x: Tensor, seen: None = None) -> dict[str, Tensor]:
        """``[B, T, D]`` -> ``raw [B, T, F, E + Q + 1]``."""
        return {"raw": self.out(x).unflatten(-1, (self.columns, E + Q + 1))}


class Feed(Step):
    """A model of numeric streams; as it stands before training it mixes simple forecasts.

    A chunk is ``[B, T, F + 2]`` float32: the values, and what ``TIME_INPUTS`` says of their time.
    Outputs: ``quantiles [B, T, F, Q]`` of the next values, ``surprise [B, T, F]`` of these values
    in nats, under the quantiles that had been foreseen for them, and ``alert [B, T]``, the
    ``-log10`` of how often an item of an untroubled stream is judged as odd.

    Args:
        config: Sizes.
        knots: How raw scores become rates, see ``Alert``.
    """

    start_steps: Tensor
    levels: Tensor

    def __init__(
        self,
        config: FeedConfig | None = None,
        knots: Sequence[tuple[float, float]] = ((0.0, 0.0), (1.0, 1.0)),
    ) -> None:
        super().__init__()
        c = self.config = config or FeedConfig()
        columns = len(c.columns)
        self.running = Running(columns, max(c.max_chunk, LONGEST))
        self.surprise = Surprise(LEVELS)
        self.alert = Alert(knots, max(c.max_chunk, LONGEST))
        head = FeedHead(columns, c.width)
        self.core = Network(c.network(columns * (FEATURES + 1) + CALENDAR))
        self.core.head = head  # type: ignore[assignment]
        steps = torch.tensor(START_STEPS)
        self.register_buffer("start_steps", steps.expm1().log(), persistent=False)
        self.register_buffer("levels", torch.tensor(LEVELS), persistent=False)
        self._core_names = tuple(self.core.initial_state(1))
        self.contract = _contract(self)

    def fused(self) -> Feed:
        """The same step with ONNX Runtime's own operators."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.core = self.core.fused()
        other.core.answers = False
        return other

    def single(self) -> Feed:
        """The same step for T = 1, with ONNX Runtime's own operators."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.core = self.core.single()
        return other

    def initial_state(self, batch: int) -> State:
        """The state before the first item: zeros."""
        zeros = self.core.out_norm.new_zeros
        state = {name: zeros(batch, *shape) for name, shape in self.own_state().items()}
        return state | self.core.initial_state(batch)

    def own_state(self) -> dict[str, tuple[int, ...]]:
        """The shape of each state tensor outside of the network, without B."""
        columns = len(self.config.columns)
        own = self.running.initial() | self.alert.initial(columns)
        return own | {"clock": (3,), "plain": (columns, 2), "foreseen": (columns, Q)}

    def forward(
        self, chunk: Tensor, state: State, raw: bool = False
    ) -> tuple[dict[str, Tensor], State]:
        """Take one step; see the class. With ``raw`` the alert is a score, not yet a rate."""
        columns = len(self.config.columns)
        x = chunk[..., :columns]
        with torch.no_grad():
            times, clock = day_parts(chunk[..., columns:], state["clock"])
            known, after = self.running(x, times, state, self.core.forms.delta_rule)
            centre, width = _mixture(known, -STEEP * known.errors.log())
            plain = torch.stack([centre, width], -1)  # (B, T, F, 2)
            said = shifted(plain, state["plain"])
            missed = asinh((known.value - said[..., 0]) / (said[..., 1] + 1e-3 * known.scale))
            features = torch.cat([known.features, (missed * known.valid)[..., None]], -1)
            inputs = torch.cat([features.flatten(2), _calendar(times)], -1)
        layers = {name: state[name] for name in self._core_names}
        answers, core_after = self.core(inputs, layers)
        quantiles = self._quantiles(known, answers["raw"])  # (B, T, F, Q), relative to the origin
        foreseen = shifted(quantiles, state["foreseen"])
        above, below = self.surprise(known.value, foreseen, 0.01 * known.scale)
        surprise = (above + below) * known.valid
        score, alert_after = self.alert(known.value, surprise, known.scale, state)
        after = after | core_after | alert_after
        after |= {"clock": clock, "plain": plain[:, -1], "foreseen": quantiles[:, -1]}
        outputs = {
            "quantiles": quantiles + known.origin[..., None],
            "surprise": surprise,
            "alert": score if raw else self.alert.level(score),
        }
        if self.training:
            outputs["unit"] = known.errors.amin(-1) + 0.1 * known.scale
        return outputs, after

    def _quantiles(self, known: Statistics, raw: Tensor) -> Tensor:
        """Mix the experts by the network's weights, and set quantiles around the mixture."""
        weigh, shift, size, steps = raw.split([E, 1, 1, Q - 1], -1)
        centre, width = _mixture(known, weigh - STEEP * known.errors.log())
        width = (width * size.squeeze(-1).clamp(-5.0, 5.0).exp())[..., None]
        steps = F.softplus(steps + self.start_steps)  # (B, T, F, Q - 1)
        low, high = steps.split(Q // 2, -1)
        down = low.flip(-1).cumsum(-1).flip(-1)
        offsets = torch.cat([-down, torch.zeros_like(shift), high.cumsum(-1)], -1) + shift
        quantiles: Tensor = centre[..., None] + width * offsets
        return quantiles


def _mixture(known: Statistics, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mix the experts, and their errors geometrically, by ``logits [B, T, F, E]``."""
    weights = logits.softmax(-1)
    centre = (weights * known.experts).sum(-1)
    return centre, (weights * known.errors.log()).sum(-1).exp()


def day_parts(given: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Turn ``TIME_INPUTS [B, T, 2]`` into what the statistics read, ``[B, T, 3]``.

    These are the part of the day and of the week that has passed, weeks beginning on Monday, -1
    for an unknown day; and the seconds since the item before, 0 where unknown. ``before [B, 3]`` is
    the last item's time, and 1 where it is known.
    """
    days, seconds = given[..., :1], given[..., 1:]
    known = (days + 1.0).clamp(0.0, 1.0)
    line = torch.cat([days, seconds, known], -1)
    past = shifted(line, before)
    gap = (days - past[..., :1]) * 86400.0 + seconds - past[..., 1:2]
    day = seconds / 86400.0
    weekday = days + 3.0  # 1970-01-01 was a Thursday
    weekday = weekday - 7.0 * torch.floor(weekday / 7.0)
    parts = [known * (day + 1.0) - 1.0, (weekday + day) / 7.0]
    return torch.cat([*parts, torch.relu(gap) * known * past[..., 2:]], -1), line[:, -1]


def _calendar(times: Tensor) -> Tensor:
    """Turn ``times [B, T, 3]`` into waves of the day and the week, ``[B, T, CALENDAR]``."""
    known = (times[..., :1] + 1.0).clamp(0.0, 1.0)
    angle = 6.283185307179586 * torch.cat(
        [times[..., :1], 2.0 * times[..., :1], times[..., 1:2], 2.0 * times[..., 1:2]], -1
    )
    gap = torch.log1p(torch.relu(times[..., 2:])) * 0.1
    return torch.cat([angle.sin() * known, angle.cos() * known, known, gap], -1)


def _contract(feed: Feed) -> m.Contract:
    """Describe the step."""
    c = feed.config
    columns = len(c.columns)
    sizes = tuple(size for size in CHUNKS if size <= c.max_chunk)
    chunk = m.Chunk(
        input="chunk",
        dtype="float32",
        shape=("B", "T", columns + len(TIME_INPUTS)),
        nominal_t=sizes[-1],
        allowed_t=sizes,
        content=m.Features(names=(*c.columns, *TIME_INPUTS)),
        tail="exact",
    )
    outputs = (
        m.Output(
            name="quantiles",
            dtype="float32",
            shape=("B", "T", columns, Q),
            meaning="quantiles",
            levels=LEVELS,
        ),
        m.Output(name="surprise", dtype="float32", shape=("B", "T", columns)),
        m.Output(name="alert", dtype="float32", shape=("B", "T")),
    )
    state = tuple(
        m.State(input=n, output=f"next.{n}", dtype="float32", shape=("B", *shape))
        for n, shape in feed.own_state().items()
    )
    return m.Contract(chunk=chunk, outputs=outputs, state=state + feed.core.contract.state)
