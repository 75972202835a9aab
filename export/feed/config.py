"""The sizes of a feed model, its quantile levels, and the names of its inputs."""

from dataclasses import dataclass

from dst.export.model.config import Config, Gaussian

LEVELS = (0.002, 0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99, 0.998)
"""Quantile levels; the middle one is the median."""
TAUS = (2.0, 8.0, 32.0, 128.0, 512.0)
"""Time constants of the running averages, in items."""
DAY_BINS, WEEK_BINS, BINS = 96, 168, 192
"""Bins of a day (15 minutes) and of a week (1 hour), and the width that both are padded to."""
LAGS = 16
"""Earlier values that the linear predictors read."""


@dataclass(frozen=True, slots=True)
class FeedConfig:
    """Sizes of a feed model.

    Attributes:
        columns: Names of the value columns, F of them.
        width: D of the network inside.
        layers: Of the network.
        key: Key and value width of its memories.
        hidden: Width of its feed-forward layers.
        window: Items its attention sees.
        max_chunk: The largest T of one step.
    """

    columns: tuple[str, ...] = ("value",)
    width: int = 64
    layers: int = 1
    key: int = 64
    hidden: int = 128
    window: int = 32
    max_chunk: int = 32

    def network(self, features: int) -> Config:
        """Sizes of the DST-GD network that reads so many features."""
        names = tuple(f"f{i}" for i in range(features))
        return Config(
            width=self.width,
            layers=self.layers,
            heads=1,
            key=self.key,
            value=self.key,
            attention_heads=2,
            attention_width=32,
            window=self.window,
            hidden=self.hidden,
            items=Gaussian(names),
            beta_max=1.0,
            max_chunk=self.max_chunk,
        )
