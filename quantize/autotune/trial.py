"""Say by what a candidate is measured, for how long, and what it may lose."""

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from dst.evaluate.quality import Budget, Settings
from dst.evaluate.quality.distance import divergence_for
from dst.quantize.errors import QuantizeError
from dst.quantize.quantize import Progress
from dst.runtime.bundle.manifest import Contract

Goal = Literal["speed", "size"]
"""What is wanted of those that hold.

- ``speed``: the fastest at the nominal T. Those whose interval reaches into the fastest one's count
  as equally fast.
- ``size``: the least weights; one that is as fast as full precision holds too.

Among equals the smaller wins, to a hundredth of full precision's bytes; then one that is causal
within a chunk; then the faster.
"""
_WRITTEN = re.compile(r"\s*(?P<unit>nats|error)\s*<\s*(?P<most>\S+)\s*")
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
    tell = progress or (lambda step, share: None)
    return lambda step, share: tell(
        f"{what}: {step}", begin + (end - begin) * min(max(share, 0.0), 1.0)
    )


def budget_for(text: str, contract: Contract) -> Budget:
    """Read ``nats<0.005``, loss added per item, or ``error<0.05``, relative error of the outputs.

    Only outputs that predict the next item have a loss in nats.

    Examples:
        ``budget_for("error<0.05", bundle.manifest.contract).relative_error`` is 0.05.

    Raises:
        QuantizeError: `budget`: it is something else, or not in the unit that the model's outputs
            have.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise QuantizeError(
            f"budget {text!r}: expected nats<X, loss added per item, or error<X, relative error "
            "of the outputs, e.g. nats<0.005",
            code="budget",
        )
    try:
        most = float(found["most"])
    except ValueError:
        most = math.nan
    if not 0 < most < math.inf:
        raise QuantizeError(
            f"budget {text!r}: expected a number above 0, e.g. {found['unit']}<0.01", code="budget"
        )
    unit = "nats" if divergence_for(contract).judges_loss else "error"
    if found["unit"] != unit:
        says = "predict the next item" if unit == "nats" else "predict no next item"
        raise QuantizeError(
            f"budget {text!r}: the outputs of this model {says}, so it is judged in "
            f"{unit}; write {unit}<X",
            code="budget",
        )
    return Budget(nats_per_item=most) if unit == "nats" else Budget(relative_error=most)
