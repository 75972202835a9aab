"""Make a step with a contract of any torch module, by running it on an example.

Shape letters: ``B`` batch, ``T`` items per chunk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from dst.export.axes import Axes, Hints, OutputAxes, Prober, close, find_axes, find_outputs
from dst.export.errors import ExportError, StepContractError, StepFaultError
from dst.export.module import Caller, called, prepared, spelled, state_names, told
from dst.export.step import TORCH_DTYPES, Step
from dst.export.tree import taken
from dst.runtime.manifest import (
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
from dst.runtime.rules import check_contract

DTYPE_NAMES: dict[torch.dtype, DType] = {kind: name for name, kind in TORCH_DTYPES.items()}  # type: ignore[misc]
TOKEN_DTYPES = (torch.int64, torch.int32, torch.uint8)
_WINDOWS = re.compile(r"(^|[._])(cached?|keys?|k|values?|v|past|window|buffer|ring)([._]|$)")


@dataclass(frozen=True, slots=True)
class Known:
    """What a caller may say about a module; whatever is left out is found out.

    Attributes:
        t: The T to run; by default that of the example, and 1 where the cut does not matter.
        batch_axis: Which axis of the chunk counts the streams.
        time_axis: Which axis of the chunk counts the items.
        lookback: Past items that stand in front of each chunk; the example includes them.
        lookback_fill: What stands there before the first item.
        tail: What ``flush`` does with items that fill no chunk; ``exact`` where T = 1 runs.
        pad_value: What fills the last chunk, with the tail ``pad``.
        vocabulary: Number of token ids; by default that of the embedding that reads the chunk.
        tokenizer: ``bytes`` where an id is a byte.
        features: A name for each feature.
        sample_rate_hz: Items per second.
        meanings: Output name -> what it is, such as ``logits``.
    """

    t: tuple[int, ...] | None = None
    batch_axis: int | None = None
    time_axis: int | None = None
    lookback: int = 0
    lookback_fill: float = 0.0
    tail: Literal["exact", "pad", "refuse"] | None = None
    pad_value: float = 0.0
    vocabulary: int | None = None
    tokenizer: Literal["bytes", "none"] = "none"
    features: tuple[str, ...] = ()
    sample_rate_hz: float | None = None
    meanings: tuple[tuple[str, Literal["logits", "gaussian", "custom"]], ...] = ()


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
    """

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
        found = {}
        for name, (place, axes) in self._outputs.items():
            value = outputs[name]
            if axes.trim and axes.time is not None:
                value = value.narrow(axes.time, axes.trim, value.shape[axes.time] - axes.trim)
            found[name] = place.to_contract(value)
        return found, {
            s.input: place.to_contract(tensor)
            for s, place, tensor in zip(self.contract.state, self._state, after, strict=True)
        }


def infer(module: object, chunk: object, state: object, known: Known) -> Inferred:
    """Find the contract of a module from one example, by running it.

    Args:
        module: Takes ``(chunk, state)`` and gives ``(outputs, state)``; or ``chunk`` alone.
        chunk: An example chunk, as the module takes it.
        state: The state at the start of a stream, nested as the module has it; None where it
            makes its own.
        known: What the caller says about it.

    Raises:
        ExportError: the example does not fit, the module fails, or a question is open.
    """
    sizes = _sizes(known)
    own = prepared(module)
    example = _chunk(chunk, own, known.lookback)
    call = Caller(own)
    vocabulary = _vocabulary(own, call, example, state, known)
    start = _start(call, example, state)
    _check_run(call, example, start)
    hints = Hints(known.batch_axis, known.time_axis, sizes, known.lookback)
    probe = Prober(call, example, start, vocabulary)
    axes = find_axes(probe, hints)
    if not sizes:
        sizes = _own_sizes(probe, axes, known.lookback)
        hints = Hints(axes.batch, axes.time, sizes, known.lookback)
    outputs = find_outputs(probe, axes, hints)
    return _assembled(probe, axes, outputs, sizes, vocabulary, known)


def _sizes(known: Known) -> tuple[int, ...]:
    for t in known.t or ():
        if not isinstance(t, int) or isinstance(t, bool) or t < 1:
            raise ExportError(
                f"t is {list(known.t or ())}; expected numbers of items, such as (1, 16)"
            )
    if known.t is not None and not known.t:
        raise ExportError("t is empty; give the numbers of items that a chunk may have: (1, 16)")
    return tuple(sorted(set(known.t or ())))


def _chunk(chunk: object, module: nn.Module, lookback: int) -> Tensor:
    """Check the example chunk and bring it to the CPU."""
    if isinstance(chunk, np.ndarray) and chunk.dtype.kind in "fiub":
        chunk = torch.from_numpy(chunk.copy())
    if not isinstance(chunk, Tensor):
        came = "nothing" if chunk is None else told(chunk)
        raise ExportError(
            f"chunk is {came}; expected an example tensor as {called(module)} takes it, such as "
            "torch.randn(1, 16, 40) for 16 items of 40 features"
        )
    if chunk.dim() == 0 or not chunk.numel():
        raise ExportError(f"chunk is {spelled(chunk)}; expected at least one item")
    if max(chunk.shape) <= lookback:
        raise ExportError(
            f"chunk is {spelled(chunk)} with a lookback of {lookback}; expected lookback + T items "
            "along time"
        )
    _check_dtype("chunk", chunk)
    if not chunk.is_floating_point() and chunk.dtype not in TOKEN_DTYPES:
        raise ExportError(
            f"chunk is {spelled(chunk)}; expected float32 or float64 features, or token ids in "
            "int64, int32 or uint8; cast inside the module"
        )
    return chunk.detach().cpu().contiguous()


def _check_dtype(what: str, tensor: Tensor) -> None:
    if tensor.is_complex():
        raise ExportError(
            f"{what} is {spelled(tensor)}; a bundle holds no complex numbers: give real and "
            "imaginary parts as one more axis (torch.view_as_real), and join them in the module"
        )
    if tensor.dtype in (torch.bfloat16, torch.float16):
        raise ExportError(
            f"{what} is {spelled(tensor)}; give float32 and export `module.float()`: ONNX Runtime "
            "gains nothing from half precision on a CPU, and a bundle can be quantized"
        )
    if tensor.dtype not in DTYPE_NAMES:
        raise ExportError(f"{what} is {spelled(tensor)}; expected one of {', '.join(TORCH_DTYPES)}")


def _vocabulary(
    module: nn.Module, call: Caller, chunk: Tensor, state: object, known: Known
) -> int | None:
    """Return the number of token ids; None where the chunk holds features."""
    if chunk.is_floating_point():
        if known.vocabulary is not None:
            raise ExportError(
                f"vocabulary is given, but the chunk is {spelled(chunk)}; token ids are int64, "
                "int32 or uint8"
            )
        return None
    if known.vocabulary is not None:
        return known.vocabulary
    found: list[int] = []

    def look(table: nn.Module, arguments: tuple[object, ...]) -> None:
        ids = arguments[0] if arguments else None
        same = isinstance(ids, Tensor) and ids.numel() == chunk.numel()
        if same and isinstance(table, nn.Embedding):
            found.append(table.num_embeddings)

    tables = [part for part in module.modules() if isinstance(part, nn.Embedding)]
    handles = [table.register_forward_pre_hook(look) for table in tables]
    try:
        call.raw(chunk.clone(), state)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ExportError(
            f"the chunk is {spelled(chunk)}, token ids, and no nn.Embedding of "
            f"{called(module)} reads it; say how many ids there are: vocabulary=256",
            code="vocabulary-open",
        )
    return min(found)


def _start(call: Caller, chunk: Tensor, state: object) -> list[Tensor]:
    """Take the initial state apart, or find out what it is; tell the caller how it is nested."""
    own = call.module
    if isinstance(state, tuple | list | dict) and not state and not call.needs_state:
        call.takes_state = False
    if not call.takes_state:
        if state is not None and taken(state, "state")[1]:
            raise ExportError(
                f"state is given, but {called(own)}.forward takes ({call.chunk_name}) alone; "
                "expected (chunk, state)"
            )
        call.state = taken(None, "state")[0]
        return []
    if state is None and callable(getattr(own, "initial_state", None)):
        state = own.initial_state(1)
    if state is not None:
        tree, tensors = taken(state, "state")
        for name, tensor in zip(tree.names, tensors, strict=True):
            _check_dtype(f"state `{name}`" if name else "state", tensor)
        call.state = tree
        # each on its own: a tracer takes one tensor given twice for one input
        return [tensor.detach().cpu().clone().contiguous() for tensor in tensors]
    return _own_start(call, chunk)


def _own_start(call: Caller, chunk: Tensor) -> list[Tensor]:
    """Find the state that a module starts from where it is given none: zeros, or nothing known."""
    outputs, after = call.split(call.raw(chunk.clone(), None))
    tree, tensors = taken(after, "the returned state")
    if not tensors:
        call.takes_state = False
        call.state = tree
        return []
    call.state = tree
    zeros = [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]
    cure = (
        f"{called(call.module)} starts from another state than zeros where it is given none; "
        "give state= as it is before the first item"
    )
    try:
        same, next_state = call(chunk, zeros)
    except StepFaultError as error:
        raise StepFaultError(f"{cure} (with zeros: {error})", code="step-failed") from error
    pairs = [*((same[name], value) for name, value in outputs.items())]
    pairs += zip(next_state, tensors, strict=True)
    if not all(close(*pair) for pair in pairs):
        raise ExportError(cure, code="state-open")
    return zeros


def _check_run(call: Caller, chunk: Tensor, start: Sequence[Tensor]) -> None:
    """Step twice on the example: the state must keep shapes and dtypes.

    Raises:
        StepFaultError: it grows, or the module fails.
        StepContractError: it changes otherwise, or an output has a dtype that no bundle holds.
    """
    outputs, after = call(chunk, start)
    for name, tensor in outputs.items():
        _check_dtype(f"output `{name}`", tensor)
    assert call.state is not None
    for number, (name, before, now) in enumerate(
        zip(state_names(call.module, call.state), start, after, strict=True)
    ):
        if before.shape != now.shape:
            try:
                later = call(chunk, after)[1][number]
            except ExportError:
                later = now
            if later.shape != now.shape:
                raise StepFaultError(
                    f"state `{name}` grows: {list(before.shape)}, {list(now.shape)}, "
                    f"{list(later.shape)} after two chunks; a bundle holds states of fixed size: "
                    "keep the last n items only, in a buffer of n",
                    code="state-grows",
                )
            raise StepContractError(
                f"state `{name}` was given as {list(before.shape)} and came back as "
                f"{list(now.shape)}; give it in the shape in which it comes back",
                code="state-shape",
            )
        if before.dtype != now.dtype:
            raise StepContractError(
                f"state `{name}` was given as {spelled(before)} and came back as {spelled(now)}; "
                "give it in the dtype in which it comes back",
                code="state-dtype",
            )


def _own_sizes(probe: Prober, axes: Axes, lookback: int) -> tuple[int, ...]:
    """The T of the example, and 1 where single items give the same."""
    if axes.time is None:
        return (1,)
    whole = probe.chunk.shape[axes.time] - lookback
    if whole == 1:
        return (1,)
    batch = 1 if axes.any_batch else None
    chunk = probe.resized(axes, batch)
    state = probe.states(axes, batch)
    try:
        expected = probe.call(chunk, state)[1]
        for at in range(whole):
            _, state = probe.call(chunk.narrow(axes.time, at, lookback + 1), state)
    except ExportError:
        return (whole,)
    same = all(close(*pair) for pair in zip(state, expected, strict=True))
    return (1, whole) if same else (whole,)


def _assembled(
    probe: Prober,
    axes: Axes,
    found: dict[str, OutputAxes],
    sizes: tuple[int, ...],
    vocabulary: int | None,
    known: Known,
) -> Inferred:
    """Spell the contract and make the step."""
    call, example = probe.call, probe.chunk
    assert call.state is not None
    cell = axes.time is None
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
    tail = known.tail or ("exact" if 1 in sizes else "refuse")
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
            batch_axis=chunk_place.shape.index("B"),
            time_axis=chunk_place.shape.index("T"),
            nominal_t=sizes[-1],
            allowed_t=sizes,
            content=Features(names=known.features, sample_rate_hz=known.sample_rate_hz)
            if vocabulary is None
            else Tokens(vocabulary=vocabulary, tokenizer=known.tokenizer),
            lookback=known.lookback,
            lookback_fill=known.lookback_fill if known.lookback else None,
            tail=tail,
            pad_value=known.pad_value if tail == "pad" else None,
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
                batch_axis=place.shape.index("B"),
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
    time = place.shape.index("T") if "T" in place.shape else None
    meaning = dict(known.meanings).get(name)
    if meaning is None:
        scores = vocabulary is not None and place.shape[-1] == vocabulary and time is not None
        shares = bool((value >= 0).all()) and value.is_floating_point()
        meaning = "logits" if scores and value.is_floating_point() and not shares else "custom"
    return Output(
        name=name,
        dtype=DTYPE_NAMES[value.dtype],
        shape=place.shape,
        meaning=meaning,
        per="chunk" if time is None else "item",
        time_axis=time,
    )


def _described(contract: Contract) -> list[str]:
    """Say what was found, a line for each input and output."""
    chunk = contract.chunk
    content = chunk.content
    kind = f"ids below {content.vocabulary}" if isinstance(content, Tokens) else "features"
    back = f", {chunk.lookback} past items in front" if chunk.lookback else ""
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
