"""Spell the contract of a module whose axes are known, and make a step of the two.

Shape letters: ``B`` batch, ``T`` items per chunk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dst.export.errors import ExportError
from dst.export.infer.axes import Axes, Known, Prober
from dst.export.infer.call import spelled
from dst.export.infer.module import Caller, called, state_names
from dst.export.infer.output_axes import OutputAxes
from dst.export.step import TORCH_DTYPES, Step
from dst.runtime.bundle.manifest import (
    Chunk,
    Contract,
    DType,
    Features,
    Fill,
    Output,
    Shape,
    State,
    Stored,
    Tokens,
    Zeros,
)
from dst.runtime.bundle.validation import check_contract

DTYPE_NAMES: dict[torch.dtype, DType] = {kind: name for name, kind in TORCH_DTYPES.items()}  # type: ignore[misc]
_WINDOWS = re.compile(r"(^|[._])(cached?|keys?|k|values?|v|past|window|buffer|ring)([._]|$)")


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


def assembled(
    probe: Prober, axes: Axes, found: dict[str, OutputAxes], vocabulary: int | None, known: Known
) -> Inferred:
    """Spell the contract and make the step."""
    call, example = probe.call, probe.chunk
    assert call.state is not None
    cell, sizes = axes.time is None, known.sizes
    names = _unlike(state_names(call.module, call.state), {call.chunk_name})
    notes: list[str] = []
    base, _ = call(example, probe.state)
    lone = [n for n, axis in zip(names, axes.state, strict=True) if axis is None]
    lone += [n for n, output in found.items() if output.batch is None]
    any_batch = axes.any_batch and not lone
    if not any_batch:
        what = f"`{lone[0]}` has no batch axis" if axes.any_batch else "the module takes B = 1 only"
        notes.append(f"one stream at a time: {what}")
    chunk_place = Place.of(example.shape, axes.batch, axes.time, cell)
    state_places = [
        Place.of(tensor.shape, axis, None, False)
        for tensor, axis in zip(probe.state, axes.state, strict=True)
    ]
    start = [
        place.to_contract(_first_row(name, tensor, axis))
        for name, tensor, axis, place in zip(
            names, probe.state, axes.state, state_places, strict=True
        )
    ]
    output_places = {
        name: (Place.of(base[name].shape, output.batch, output.time, cell), output)
        for name, output in found.items()
    }
    exact = 1 in sizes and known.causal and not known.lookahead
    tail = known.tail or ("exact" if exact else "refuse")
    if vocabulary is not None and len(chunk_place.shape) != 2:
        raise ExportError(
            f"the chunk is {spelled(example)}; token ids have a batch and a time axis alone: take "
            "whole numbers as float32 features and cast them in the module (`x.long()`)"
        )
    for name, _ in known.meanings:
        if name not in found:
            raise ExportError(
                f"there is no output `{name}`; {called(call.module)} gives: {', '.join(found)}"
            )
    contract = Contract(
        chunk=Chunk(
            input=call.chunk_name,
            dtype=DTYPE_NAMES[example.dtype],
            shape=chunk_place.shape,
            nominal_t=sizes[-1],
            allowed_t=sizes,
            content=Features(names=known.features, sample_rate_hz=known.sample_rate_hz)
            if vocabulary is None
            else Tokens(vocabulary=vocabulary, tokenizer=known.tokenizer),
            lookback=known.lookback,
            lookback_fill=known.lookback_fill if known.lookback else None,
            tail=tail,
            pad_value=known.pad_value if tail == "pad" else None,
            lookahead=known.lookahead,
            causal=known.causal,
        ),
        outputs=tuple(
            _output(name, base[name], place, vocabulary, known)
            for name, (place, _) in output_places.items()
        ),
        state=tuple(
            State(
                input=name,
                output=f"next.{name}",
                dtype=DTYPE_NAMES[tensor.dtype],
                shape=place.shape,
                init=_init(name, tensor),
                role=_role(name, tensor),
            )
            for name, tensor, place in zip(names, start, state_places, strict=True)
        ),
    )
    check_contract(contract)
    step = Inferred(
        call, contract, chunk_place, state_places, output_places, start, example, any_batch
    )
    step.notes = [*_described(contract), *notes]
    call.named = False
    return step.eval()


def _first_row(name: str, tensor: Tensor, axis: int | None) -> Tensor:
    """The start of one stream, from the example's rows, which must agree."""
    if axis is None:
        return tensor
    row = tensor.narrow(axis, 0, 1)
    if not torch.equal(row.expand_as(tensor), tensor):
        raise ExportError(
            f"state `{name}`: the rows of the example differ; the example is where every stream "
            "starts: give the same in each row, or a batch of one"
        )
    return row.contiguous()


def _unlike(names: Sequence[str], used: set[str]) -> list[str]:
    return [f"state.{name}" if name in used else name for name in names]


def _init(name: str, start: Tensor) -> Zeros | Fill | Stored:
    """Say what a state starts from in the shortest way that gives the same values."""
    if not start.isfinite().all():
        raise ExportError(
            f"state `{name}` starts at a NaN or an infinity; give a finite value, such as -1e30 "
            "for minus infinity"
        )
    first = start.flatten()[0]
    if not bool((start == first).all()) or float(first) != first.item():
        return Stored(tensor=name)
    return Fill(value=float(first)) if first.item() else Zeros()


def _role(name: str, tensor: Tensor) -> Literal["memory", "window", "conv", "counter"]:
    """Guess what a state is from its dtype and name; people and quantizers look at it."""
    if not tensor.is_floating_point():
        return "counter"
    if "conv" in name.lower():
        return "conv"
    return "window" if _WINDOWS.search(name.lower()) else "memory"


def _output(name: str, value: Tensor, place: Place, vocabulary: int | None, known: Known) -> Output:
    meaning = dict(known.meanings).get(name)
    if meaning is None:
        scores = vocabulary is not None and place.shape[-1] == vocabulary and "T" in place.shape
        shares = bool((value >= 0).all()) and value.is_floating_point()
        meaning = "logits" if scores and value.is_floating_point() and not shares else "custom"
    return Output(name=name, dtype=DTYPE_NAMES[value.dtype], shape=place.shape, meaning=meaning)


def _described(contract: Contract) -> list[str]:
    """Say what was found, a line for each input and output."""
    chunk = contract.chunk
    content = chunk.content
    kind = f"ids below {content.vocabulary}" if isinstance(content, Tokens) else "features"
    back = f", {chunk.lookback} past items in front" if chunk.lookback else ""
    back += f", {chunk.lookahead} items behind" if chunk.lookahead else ""
    lines = [
        f"chunk `{chunk.input}`: {_typed(chunk.dtype, chunk.shape)}, {kind}, "
        f"T = {', '.join(map(str, chunk.allowed_t))}{back}, tail {chunk.tail}"
    ]
    for output in contract.outputs:
        means = "" if output.meaning == "custom" else f", {output.meaning}"
        lines.append(
            f"output `{output.name}`: {_typed(output.dtype, output.shape)}, per {output.per}{means}"
        )
    for state in contract.state:
        init = state.init
        start = (
            f"{init.value:g} everywhere"
            if isinstance(init, Fill)
            else "the values of the example"
            if isinstance(init, Stored)
            else "zeros"
        )
        lines.append(f"state `{state.input}`: {_typed(state.dtype, state.shape)}, from {start}")
    return lines if contract.state else [*lines, "no state: nothing is carried between chunks"]


def _typed(dtype: str, shape: Shape) -> str:
    return f"{dtype} [{', '.join(map(str, shape))}]"
