"""Compare the speed of two bundles that take turns on the clock."""

from pathlib import Path

import msgspec

from dst.evaluate import Spread, measure
from dst.quantize.autotune.trial import Trial
from dst.quantize.quantize import Progress
from dst.runtime import Bundle

LEAST_GAIN = 1.01
"""A clock that is asked often enough finds a thousandth somewhere; less than this is no gain,
and no loss."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Speed over full precision's at one T: the median of all rounds and its 95 % interval."""

    t: int
    ratio: Spread

    @property
    def faster(self) -> bool:
        """Whether it is surely faster: the whole interval is above ``LEAST_GAIN``."""
        return self.ratio.low > LEAST_GAIN

    @property
    def slower(self) -> bool:
        """Whether it is surely slower: full precision is faster by ``LEAST_GAIN`` for sure."""
        return self.ratio.high < 1.0 / LEAST_GAIN


def measure_speed(
    full: Bundle, candidate: Bundle, trial: Trial, progress: Progress
) -> tuple[Speed, ...]:
    """Run two bundles in turns at T = 1 and at the candidate's nominal T.

    Args:
        full: full precision.
        candidate: the other bundle.
        trial: rounds, length of a turn, threads.
        progress: told of the share done.

    Returns:
        The speed at each of these T that both run, rising.

    Raises:
        SessionError: a graph cannot be run here.
    """
    chunk = candidate.manifest.contract.chunk
    common = set(chunk.allowed_t) & set(full.manifest.contract.chunk.allowed_t)
    sizes = sorted({1, chunk.nominal_t} & common)
    paths: tuple[Path, ...] = (full.root, candidate.root)
    result = measure(
        paths,
        sizes,
        trial.rounds,
        threads=trial.threads,
        slot_ms=trial.slot_ms,
        starts=0,
        progress=progress,
    )
    right, found = (entry.cells for entry in result.bundles)
    return tuple(
        Speed(t=cell.t, ratio=cell.ratio)
        for base, cell in zip(right, found, strict=True)
        if cell.ratio is not None and base.ratio is not None
    )
