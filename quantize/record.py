"""Record what became of each weight, for people and for JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from dst.quantize.errors import QuantizeError
from dst.quantize.recipe import Form

_MADE_UP = re.compile(r"lifted_tensor|::")
"""In names that torch's exporters give to weights which they have put together."""


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
        forced: an override quantizes what every recipe leaves in float32.
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
    forced: bool = False
    tied: bool = False
    more: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What to show to people; also a pattern for an override.

        Returns:
            The names of its weights as the model has them; the node where an exporter made the
            names up, or where its weights were left.

        Example:
            >>> lstm = ("cell", (80, 256), "int8-stored")
            >>> WeightRecord("step.onnx", "LSTM_5", "lstm.weight_ih_l0", *lstm).label
            'lstm.weight_ih_l0'
            >>> WeightRecord("step.onnx", "LSTM_5", "step.module.lstm.lifted_tensor_0", *lstm).label
            'LSTM_5'
        """
        names = (self.weight, *self.more)
        made_up = not self.weight or any(_MADE_UP.search(name) for name in names)
        return self.node if made_up else " + ".join(names)


class NothingQuantizedError(QuantizeError):
    """No weight of a bundle could be quantized; nothing was written.

    Attributes:
        records: what every weight is, with the reason why it stays so.
    """

    def __init__(self, message: str, records: Sequence[WeightRecord]) -> None:
        super().__init__(message, code="nothing-quantized")
        self.records = tuple(records)
