"""Read a budget as people write it, such as ``nats<0.005``."""

import math
import re
from dataclasses import replace

from dst.evaluate.quality import Budget
from dst.evaluate.quality.distance import divergence_for
from dst.quantize.errors import QuantizeError
from dst.runtime.bundle.manifest import Contract

_WRITTEN = re.compile(r"\s*(?P<unit>nats|error)\s*<\s*(?P<most>\S+)\s*")


def budget_for(text: str, contract: Contract) -> Budget:
    """Read ``nats<0.005``, loss added per item, or ``error<0.05``, relative error of the outputs.

    Args:
        text: The budget.
        contract: What it is for: only outputs that predict the next item have a loss in nats.

    Example:
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
    if unit == "nats":
        return replace(Budget(), nats_per_item=most)
    return replace(Budget(), relative_error=most)
