"""Choose a token from logits, with random numbers that a saved state can go on with.

Shape letters: `V` vocabulary.
"""

import math

import msgspec
import numpy as np
import numpy.typing as npt

from dst.runtime.errors import StepError

_SEEDS = 1 << 64


class Sampler(msgspec.Struct, frozen=True):
    """A random source that is two numbers: draw `draws` of `seed` is always the same.

    Attributes:
        seed: 0 .. 2^64 - 1, the key of the Philox generator.
        draws: how many numbers have been drawn, the generator's counter.

    Examples:
        >>> number, after = Sampler.seeded(7).draw()
        >>> after
        Sampler(seed=7, draws=1)
        >>> Sampler.seeded(7).draw()[0] == number
        True
    """

    seed: int
    draws: int = 0

    @staticmethod
    def fresh() -> "Sampler":
        """Make a source with a seed from the operating system."""
        import secrets  # slow to import

        return Sampler(secrets.randbits(64))

    @staticmethod
    def seeded(seed: int) -> "Sampler":
        """Make a source at its first draw.

        Raises:
            StepError: `generate`: the seed is no integer, or does not lie in 0 .. 2^64 - 1.
        """
        if not isinstance(seed, int | np.integer) or not 0 <= seed < _SEEDS:
            raise StepError(
                f"seed is {seed!r}, expected an integer in 0 .. 2^64 - 1", code="generate"
            )
        return Sampler(int(seed))

    def draw(self) -> tuple[float, "Sampler"]:
        """Return a number in [0, 1) and the source after it."""
        counter = np.array([self.draws, 0, 0, 0], np.uint64)
        key = np.array([self.seed, 0], np.uint64)
        bits = int(np.random.Philox(counter=counter, key=key).random_raw())
        return (bits >> 11) * 2.0**-53, Sampler(self.seed, self.draws + 1)


class Choice(msgspec.Struct, frozen=True):
    """How a token is chosen from its logits, which `temperature` divides.

    Temperature 0 takes the most likely token and draws nothing. `top_k` keeps the k most likely
    tokens, 0 all; `top_p` the most likely that together reach this probability, 1 all.

    Raises:
        StepError: `generate`: a value outside its range.
    """

    temperature: float
    top_k: int
    top_p: float

    def __post_init__(self) -> None:
        for name, value, good, expected in (
            ("temperature", self.temperature, 0 <= self.temperature < math.inf, "0 or more"),
            ("top_k", self.top_k, self.top_k >= 0, "0 (all) or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "more than 0, at most 1"),
        ):
            if not good:
                raise StepError(f"{name} is {value}, expected {expected}", code="generate")

    def pick(self, logits: npt.NDArray[np.floating], sampler: Sampler) -> tuple[int, Sampler]:
        """Choose a token from logits `[V]`; equal inputs give equal tokens."""
        if self.temperature == 0:
            return int(np.argmax(logits)), sampler
        scores = logits.astype(np.float64)
        order = np.argsort(-scores, kind="stable")
        if self.top_k:
            order = order[: self.top_k]
        with np.errstate(over="ignore"):  # to -inf, whose share is 0
            shares = np.exp((scores[order] - scores[order[0]]) / self.temperature)
        reach = np.cumsum(shares)
        if self.top_p < 1:
            kept = int(np.searchsorted(reach, self.top_p * reach[-1])) + 1
            reach = reach[:kept]
        number, after = sampler.draw()
        place = int(np.searchsorted(reach, number * reach[-1], side="right"))
        return int(order[min(place, len(reach) - 1)]), after
