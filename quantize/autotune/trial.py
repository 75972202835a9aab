"""Say by what a candidate is measured, and for how long."""

from dataclasses import dataclass, field
from typing import Literal

from dst.evaluate.quality import Budget, Settings
from dst.quantize.quantize import Progress

Goal = Literal["speed", "size"]
"""What is wanted of those that hold.

- ``speed``: the fastest at the nominal T. Those whose interval reaches into the fastest one's count
  as equally fast.
- ``size``: the least weights; one that is as fast as full precision holds too.

Among equals the smaller wins, to a hundredth of full precision's bytes; then one that is causal
within a chunk; then the faster.
"""
HEADS = 8
HEAD_SHARE = 4
"""Each of the ``HEADS`` short streams reads one in so many of the items of the long one."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How a candidate is measured.

    The default, 20,000 items, is the shortest that tells whether an error surely grows. It does
    not prove a horizon: that takes 1,000,000 items (``dst report``).

    Attributes:
        budget: what may be lost.
        items: length of the long stream that quality is measured on; eight short streams of a
            quarter of it, from elsewhere in the data, even out how hard early positions are.
        rounds: how often candidate and full precision have their turn on the clock.
        slot_ms: how long a turn is, at about.
        threads: threads inside one operator.
        data: what the items are, for the reader.
        goal: what is wanted of a candidate.
    """

    budget: Budget = field(default_factory=Budget)
    items: int = 20_000
    rounds: int = 12
    slot_ms: float = 50.0
    threads: int = 1
    data: str = "not stated"
    goal: Goal = "speed"

    @property
    def settings(self) -> Settings:
        """How the report over these items is made."""
        return Settings(
            budget=self.budget,
            heads=HEADS,
            head_items=max(1, self.items // HEAD_SHARE),
            drift_items=0,
            threads=self.threads,
            data=self.data,
        )


USUAL = Trial()
"""The default trial."""


def part(progress: Progress | None, what: str, begin: float, end: float) -> Progress:
    """Give one piece of the work a progress of its own, from ``begin`` to ``end`` of the whole."""

    def told(step: str, share: float) -> None:
        if progress is not None:
            progress(f"{what}: {step}", begin + (end - begin) * min(max(share, 0.0), 1.0))

    return told
