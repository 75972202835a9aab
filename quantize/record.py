"""What became of each weight, as a public record: one line per weight or operator."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dst.quantize.errors import QuantizeError
from dst.quantize.recipe import Form


class WeightRecord(msgspec.Struct, frozen=True):
    """What became of one weight, or of one operator that holds weights.

    Attributes:
        graph: file of the first graph that holds it.
        node: the node that reads it.
        weight: the initializer, the first where an operator has several; empty for an operator
            whose weights were left as they are.
        role: its part in the recurrence (``dst.quantize.find_weights.Role``), or ``operator``.
        shape: (K, N) of a product, (V, D) of a table, of a recurrent operator what multiplies
            input and state; empty for an operator whose weights were left.
        form: how it is held now.
        reason: why it stays float32, or is only stored in 8 bits; empty where it has the recipe's
            own form.
        insisted: an override quantizes what every recipe leaves in float32.
        tied: it reads the numbers of a table.
        more: further initializers of the operator, held in the same form.
    """

    graph: str
    node: str
    weight: str
    role: str
    shape: tuple[int, ...]
    form: Form
    reason: str = ""
    insisted: bool = False
    tied: bool = False
    more: tuple[str, ...] = ()


class NothingQuantizedError(QuantizeError):
    """No weight of a bundle could be quantized; nothing was written.

    Attributes:
        records: what every weight is, with the reason why it stays so.
    """

    def __init__(self, message: str, records: Sequence[WeightRecord]) -> None:
        super().__init__(message, code="nothing-quantized")
        self.records = tuple(records)
