"""A module with the contract that was found for it, and how its tensors lie in the contract.

Shape letters: ``B`` batch, ``T`` items per chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dst.export.infer.module import Caller
from dst.export.infer.output_axes import OutputAxes
from dst.export.step import Step
from dst.runtime.bundle.manifest import Contract, Shape


@dataclass(frozen=True, slots=True)
class Place:
    """How a tensor of the module lies in the contract.

    Attributes:
        shape: The contract's shape.
        add_batch: The module knows no batch axis; the contract has one in front.
        time: Where the contract has a time axis that the module lacks; None otherwise.
    """

    shape: Shape
    add_batch: bool
    time: int | None

    @staticmethod
    def of(shape: Sequence[int], batch: int | None, time: int | None, cell: bool) -> Place:
        """Place a tensor of the module; a cell's has no time axis and gets one."""
        letters: list[int | str] = list(shape)
        if time is not None:
            letters[time] = "T"
        if batch is not None:
            letters[batch] = "B"
        else:
            letters.insert(0, "B")
        added = letters.index("B") + 1 if cell else None
        if added is not None:
            letters.insert(added, "T")
        return Place(tuple(letters), batch is None, added)

    def to_module(self, tensor: Tensor) -> Tensor:
        """Bring a tensor of the contract's shape to the module's."""
        if self.time is not None:
            tensor = tensor.squeeze(self.time)
        return tensor.squeeze(0) if self.add_batch else tensor

    def to_contract(self, tensor: Tensor) -> Tensor:
        """Bring a tensor of the module's shape to the contract's."""
        if self.add_batch:
            tensor = tensor.unsqueeze(0)
        return tensor.unsqueeze(self.time) if self.time is not None else tensor


class Inferred(Step):
    """A module with the contract that was found for it.

    Attributes:
        notes: What was found, in sentences.
        alone: Whether the caller said that there is no state: each chunk is judged alone.
    """

    alone = False

    def __init__(
        self,
        call: Caller,
        contract: Contract,
        chunk: Place,
        state: Sequence[Place],
        outputs: dict[str, tuple[Place, OutputAxes]],
        start: Sequence[Tensor],
        example: Tensor,
        any_batch: bool,
    ) -> None:
        super().__init__()
        self.module = call.module
        self.contract = contract
        self.any_batch = any_batch
        self.example = example
        self.notes: list[str] = []
        self._call, self._chunk, self._state, self._outputs = call, chunk, tuple(state), outputs
        self._start = tuple(start)

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """The example state, once for each row of a batch."""
        return {
            s.input: tensor.repeat_interleave(batch, s.batch_axis)
            for s, tensor in zip(self.contract.state, self._start, strict=True)
        }

    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Call the module in its own layout."""
        given = [
            place.to_module(state[s.input])
            for s, place in zip(self.contract.state, self._state, strict=True)
        ]
        outputs, after = self._call(self._chunk.to_module(chunk), given)
        found, back = {}, self.contract.chunk.lookback
        for name, (place, axes) in self._outputs.items():
            value = outputs[name]
            if axes.whole and axes.time is not None:
                size = value.shape[axes.time] - back - self.contract.chunk.lookahead
                value = value.narrow(axes.time, back, size)
            found[name] = place.to_contract(value)
        return found, {
            s.input: place.to_contract(tensor)
            for s, place, tensor in zip(self.contract.state, self._state, after, strict=True)
        }
