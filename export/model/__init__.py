"""The DST-GD network. Read in this order: config, recurrence, attention, layer, heads, network."""

from dst.export.model.checkpoint import load_checkpoint
from dst.export.model.config import SIZES, Config, Gaussian, Quantiles, Tokens, sized
from dst.export.model.network import Network, State

__all__ = [
    "SIZES",
    "Config",
    "Gaussian",
    "Network",
    "Quantiles",
    "State",
    "Tokens",
    "load_checkpoint",
    "sized",
]
