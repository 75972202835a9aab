"""The sizes of a DST-GD network: what a user chooses, what follows from it, and named presets."""

from dataclasses import dataclass, replace

ALPHA_MAX = 1.0 - 2.0**-16
"""Largest decay per item unless configured otherwise: a half-life of 45,426 items."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Items are token ids in ``[0, vocabulary)``; the head gives logits of the next item."""

    vocabulary: int = 256
    tied: bool = False
    """True where the head reuses the embedding matrix, behind a turn of its own (`[D, width]`)."""
    width: int | None = None
    """Width of the embedding's rows where it is tied and narrower than the network (a factored
    embedding, Lan et al. 2019); None: as wide as the network."""
    context_bits: int | None = None
    """Tables of what followed each context in this stream, of 2^bits slots each (`contexts.py`);
    for bytes only. None: no tables."""


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Items are float feature vectors; the head gives mean and log standard deviation."""

    features: tuple[str, ...]
    sample_rate_hz: float | None = None


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Items are float feature vectors; the head gives one value per level, in rising order."""

    features: tuple[str, ...]
    levels: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)
    sample_rate_hz: float | None = None


Items = Tokens | Gaussian | Quantiles


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes of a DST-GD network; shape letters as in the design.

    Raises:
        ValueError: a size is not positive, ``dh`` is odd (RoPE turns pairs), ``alpha_max`` is
            outside (0, 1], ``beta_max`` is neither 1 nor 2, a factored embedding does not fit, or
            context tables do not.
    """

    width: int  # D
    layers: int
    heads: int  # H, matrix memories per layer
    key: int  # K, width of a memory's key
    value: int  # V, width of a memory's value
    attention_heads: int  # Ha
    attention_width: int  # dh, width of one attention head
    window: int  # W, how many earlier items local attention sees
    hidden: int  # width of the feed-forward layer
    items: Items = Tokens()
    alpha_max: float = ALPHA_MAX
    beta_max: float = 2.0
    learned_start: bool = False  # the memories start from trained values instead of zeros
    max_chunk: int = 256  # largest T of one step; sizes the RoPE and mask tables
    nominal_chunk: int = 32  # T of a long input's steps, a power of two; max_chunk, if that is less

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "key", "value", "attention_heads", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"config: {name} must be at least 1, got {getattr(self, name)}")
        if self.nominal_chunk < 1 or self.nominal_chunk & (self.nominal_chunk - 1):
            raise ValueError(
                f"config: nominal_chunk must be a power of two, got {self.nominal_chunk}"
            )
        if self.attention_width < 2 or self.attention_width % 2:
            raise ValueError(f"config: attention_width must be even, got {self.attention_width}")
        if not 0.0 < self.alpha_max <= 1.0:
            raise ValueError(f"config: alpha_max must lie in (0, 1], got {self.alpha_max}")
        if isinstance(self.items, Tokens) and self.items.width is not None:
            rows = self.items.width
            if type(rows) is not int or not (self.items.tied and 1 <= rows <= self.width):
                raise ValueError(
                    f"config: items.width must be a whole number in [1, {self.width}] and items be "
                    f"tied, got {rows!r}, tied = {self.items.tied}"
                )
        if isinstance(self.items, Tokens) and self.items.context_bits is not None:
            bits = self.items.context_bits
            if not 4 <= bits <= 20 or self.items.vocabulary != 256 or self.max_chunk > 64:
                raise ValueError(
                    "config: context tables need bytes (a vocabulary of 256), max_chunk of at most "
                    f"64 and context_bits in [4, 20]; got {self.items.vocabulary}, "
                    f"{self.max_chunk}, {bits}"
                )
        if self.beta_max not in (1.0, 2.0):
            raise ValueError(f"config: beta_max must be 1 or 2, got {self.beta_max}")

    @property
    def memory_channels(self) -> int:
        """Channels of q, k and v of all memories together: ``H (2K + V)``."""
        return self.heads * (2 * self.key + self.value)

    @property
    def context_bits(self) -> int | None:
        """Slots of a context table as a power of two; None where there are no tables."""
        return self.items.context_bits if isinstance(self.items, Tokens) else None

    @property
    def local_channels(self) -> int:
        """Channels of the local attention's output: ``Ha dh``."""
        return self.attention_heads * self.attention_width


SIZES: dict[str, Config] = {
    # about 0.1M parameters: tests and first steps
    "tiny": Config(64, 2, 2, 16, 16, 2, 16, 16, 128, max_chunk=64),
    # Few wide layers and memories of 64 x 64: the most for its time (docs/speed.md).
    # about 2.9M: the shipped text model. It has no states to track, so its writes contract: after
    # runs of equal keys its float32 forms then differ least (docs/exactness.md).
    "small": Config(320, 2, 2, 64, 64, 4, 32, 64, 1024, beta_max=1.0),
    # about 23M
    "base": Config(768, 3, 6, 64, 64, 4, 64, 64, 2304),
    # about 129M, 90M of them outside the embedding
    "130m": Config(1024, 6, 12, 64, 64, 4, 64, 64, 3200, items=Tokens(50304, True, 768)),
}
"""Named sizes; ``sized`` changes what they read."""


def sized(name: str, items: Items | None = None) -> Config:
    """Look up a named size, reading ``items`` instead of its own if given.

    Raises:
        ValueError: no size has this name.
    """
    if name not in SIZES:
        raise ValueError(f"no size `{name}`; there are {', '.join(SIZES)}")
    return SIZES[name] if items is None else replace(SIZES[name], items=items)
