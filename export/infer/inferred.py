"""Spell the contract of a module whose axes are known, and make a step of the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dst.export.adopt.assemble import init_of, role_of
from dst.export.errors import ExportError
from dst.export.infer.axes import Axes, Known, Prober
from dst.export.infer.call import spelled
from dst.export.infer.module import Caller, called, state_names
from dst.export.infer.output_axes import OutputAxes
from dst.export.step import TORCH_DTYPES, Step
from dst.runtime.bundle import manifest as m
from dst.runtime.bundle.validation import check_contract

DTYPE_NAMES: dict[torch.dtype, m.DType] = {kind: name for name, kind in TORCH_DTYPES.items()}  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Place:
    """How a tensor of the module lies in the contract.

    With ``add_batch``, the module knows no batch axis, and the contract has one in front. ``time``
    is where the contract has a time axis that the module lacks.
    """

    shape: m.Shape
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
    """A module with the contract that was found for it, and ``notes`` on what was found.

    It is ``alone`` where the caller said that there is no state: each chunk is judged by itself.
    """

    alone = False

    def __init__(
        self,
        call: Caller,
        contract: m.Contract,
        chunk: Place,
        state: Sequence[tuple[Place, Tensor]],
        outputs: dict[str, tuple[Place, OutputAxes]],
        example: Tensor,
        notes: list[str],
    ) -> None:
        super().__init__()
        self.module = call.module
        self.contract = contract
        self.example = example
        self.notes = notes
        self._call, self._chunk, self._state, self._outputs = call, chunk, tuple(state), outputs

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """The example state, once for each row of a batch."""
        return {
            s.input: start.repeat_interleave(batch, s.batch_axis)
            for s, (_, start) in zip(self.contract.state, self._state, strict=True)
        }

    def forward(
        self, chunk: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Call the module in its own layout."""
        given = [
            place.to_module(state[s.input])
            for s, (place, _) in zip(self.contract.state, self._state, strict=True)
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
            for s, (place, _), tensor in zip(self.contract.state, self._state, after, strict=True)
        }


def assembled(
    probe: Prober, axes: Axes, found: dict[str, OutputAxes], vocabulary: int | None, known: Known
) -> Inferred:
    """Spell the contract and make the step."""
    call, example = probe.call, probe.chunk
    assert call.state is not None
    cell, sizes = axes.time is None, known.sizes
    names = [
        f"state.{name}" if name == call.chunk_name else name
        for name in state_names(call.module, call.state)
    ]
    base, _ = call(example, probe.state)
    lone = [n for n, axis in zip(names, axes.state, strict=True) if axis is None]
    lone += [n for n, output in found.items() if output.batch is None]
    any_batch = axes.any_batch and not lone
    notes: list[str] = []
    if not any_batch:
        what = f"`{lone[0]}` has no batch axis" if axes.any_batch else "the module takes B = 1 only"
        notes = [f"one stream at a time: {what}"]
    chunk_place = Place.of(example.shape, axes.batch, axes.time, cell)
    states: list[tuple[Place, Tensor]] = []
    for name, tensor, axis in zip(names, probe.state, axes.state, strict=True):
        row = tensor if axis is None else tensor.narrow(axis, 0, 1)
        if axis is not None and not torch.equal(row.expand_as(tensor), tensor):
            raise ExportError(
                f"state `{name}`: the rows of the example differ; the example is where every "
                "stream starts: give the same in each row, or a batch of one"
            )
        if not tensor.isfinite().all():
            raise ExportError(
                f"state `{name}` starts at a NaN or an infinity; give a finite value, such as "
                "-1e30 for minus infinity"
            )
        place = Place.of(tensor.shape, axis, None, False)
        states.append((place, place.to_contract(row.contiguous())))
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
    contract = m.Contract(
        chunk=m.Chunk(
            input=call.chunk_name,
            dtype=DTYPE_NAMES[example.dtype],
            shape=chunk_place.shape,
            nominal_t=sizes[-1],
            allowed_t=sizes,
            content=m.Features(names=known.features, sample_rate_hz=known.sample_rate_hz)
            if vocabulary is None
            else m.Tokens(vocabulary=vocabulary, tokenizer=known.tokenizer),
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
            m.State(
                input=name,
                output=f"next.{name}",
                dtype=DTYPE_NAMES[start.dtype],
                shape=place.shape,
                init=init_of(name, start.numpy()),
                role=role_of(name, DTYPE_NAMES[start.dtype]),
            )
            for name, (place, start) in zip(names, states, strict=True)
        ),
    )
    check_contract(contract)
    notes = [*_described(contract), *notes]
    step = Inferred(call, contract, chunk_place, states, output_places, example, notes)
    step.any_batch = any_batch
    call.named = False
    return step.eval()


def _output(
    name: str, value: Tensor, place: Place, vocabulary: int | None, known: Known
) -> m.Output:
    meaning = dict(known.meanings).get(name)
    if meaning is None:
        scores = vocabulary is not None and place.shape[-1] == vocabulary and "T" in place.shape
        shares = bool((value >= 0).all()) and value.is_floating_point()
        meaning = "logits" if scores and value.is_floating_point() and not shares else "custom"
    return m.Output(name=name, dtype=DTYPE_NAMES[value.dtype], shape=place.shape, meaning=meaning)


def _described(contract: m.Contract) -> list[str]:
    """Say what was found, a line for each input and output."""
    chunk = contract.chunk
    content = chunk.content
    kind = f"ids below {content.vocabulary}" if isinstance(content, m.Tokens) else "features"
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
            if isinstance(init, m.Fill)
            else "the values of the example"
            if isinstance(init, m.Stored)
            else "zeros"
        )
        lines.append(f"state `{state.input}`: {_typed(state.dtype, state.shape)}, from {start}")
    return lines if contract.state else [*lines, "no state: nothing is carried between chunks"]


def _typed(dtype: str, shape: m.Shape) -> str:
    return f"{dtype} [{', '.join(map(str, shape))}]"
