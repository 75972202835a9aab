"""Call a torch step so that whatever goes wrong has a name.

Every tensor that goes in and comes out is a copy: a step may write into the state it is given and
may keep what it returns.
"""

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dst.export.errors import ExportError, StepFaultError
from dst.export.step import TORCH_DTYPES, Step, example_chunk
from dst.runtime.bundle.layout import sized
from dst.runtime.bundle.manifest import Contract, Fill, Output, State, Stored

Tensors = dict[str, Tensor]
Answer = tuple[Tensors, Tensors]
"""The outputs and the next state of one call."""


def call_step(step: Step, chunk: Tensor, state: Mapping[str, Tensor], seed: int = 0) -> Answer:
    """Call a step on copies and return copies.

    Raises:
        StepFaultError: it raised; the message names T, B and every shape.
        ExportError: `step-contract`: it did not return two dicts of tensors.
    """
    seed_all(seed)
    try:
        with torch.no_grad():
            result = step(chunk.clone(), copied(state))
    except Exception as error:  # whatever the user's code raises
        if isinstance(error, ExportError) and error.code != "step-failed":
            raise
        told = isinstance(error, StepFaultError) and isinstance(error.__cause__, Exception)
        shapes = [f"`{step.contract.chunk.input}` {spelled(chunk)}"]
        shapes += [f"state `{name}` {spelled(value)}" for name, value in state.items()]
        raise StepFaultError(
            f"the module raised {first_line(error.__cause__ if told else error)} "
            f"{where(step.contract, chunk)}, with {', '.join(shapes)}; it must run at every T and "
            "B that the contract allows: mend the module, or leave that size out",
        ) from error
    if not (isinstance(result, tuple) and len(result) == 2):
        raise ExportError(
            f"expected the module to return (outputs, next state), came {type(result).__name__}",
            code="step-contract",
        )
    for what, part in zip(("outputs", "next state"), result, strict=True):
        tensors = isinstance(part, dict) and all(isinstance(v, Tensor) for v in part.values())
        if not tensors:
            raise ExportError(
                f"expected the {what} as a dict of tensors, came {type(part).__name__}",
                code="step-contract",
            )
    return copied(result[0]), copied(result[1])


def check_sizes(step: Step, chunk: Tensor, before: Mapping[str, Tensor], after: Tensors) -> None:
    """Refuse a state that comes back in another size and would go on changing (`state-grows`)."""
    changed = [n for n, v in after.items() if n in before and v.shape != before[n].shape]
    if not changed or set(after) != set(before):
        return
    sizes, name = [before, after], changed[0]
    try:
        later = call_step(step, chunk, after)[1]
    except ExportError:
        if after[name].numel() <= before[name].numel():
            return
    else:
        sizes.append(later)
        moving = [n for n in changed if later.get(n, after[n]).shape != after[n].shape]
        if not moving:  # it settles: another size than declared, which the contract check names
            return
        name = moving[0]
    told = " -> ".join(str(list(part[name].shape)) for part in sizes)
    raise StepFaultError(
        f"state `{name}` grows from step to step ({told} {where(step.contract, chunk)}): on an "
        "endless stream it would fill the memory, and a graph has states of one fixed size. Keep "
        "a fixed number of past items: start with zeros of the full size and a mask of what is "
        "filled, and return only the last ones (`torch.cat([old, new], 1)[:, -size:]`)",
        code="state-grows",
    )


def where(contract: Contract, chunk: Tensor) -> str:
    """Say at which T and B a call was made."""
    return f"at T = {items_of(contract, chunk)}, B = {chunk.shape[contract.chunk.batch_axis]}"


def items_of(contract: Contract, chunk: Tensor) -> int:
    """How many new items a chunk holds."""
    c = contract.chunk
    return int(chunk.shape[c.time_axis]) - c.lookback - c.lookahead


def seed_all(seed: int) -> None:
    """Seed the random numbers that a module may draw without a generator of its own."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed also asks for every device
    np.random.seed(seed)
    random.seed(seed)


def copied(tensors: Mapping[str, Tensor]) -> Tensors:
    """Copy every tensor, so that no one else holds it."""
    return {name: t.detach().clone().contiguous() for name, t in tensors.items()}


def first_line(error: BaseException | None) -> str:
    """Spell an exception in one line."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first.strip()}" if first else type(error).__name__


def spelled(tensor: Tensor) -> str:
    """The dtype and shape of a tensor, such as ``float32 [1, 16, 40]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def check_step(step: Step) -> None:
    """Run one step and hold what comes out against the contract.

    Raises:
        ExportError: `step-contract`: a tensor is missing, unknown, has another shape or dtype, or
            starts from other values; or the contract has constants.
    """
    contract = step.contract
    if contract.constants:
        raise ExportError(
            "the contract names constants; a torch step holds them as buffers of the module "
            "instead",
            code="step-contract",
        )
    t = contract.chunk.nominal_t
    state = step.initial_state(1)
    _compare("initial state", state, {s.input: s for s in contract.state}, t)
    for s in contract.state:
        if isinstance(s.init, Stored):
            continue
        start = s.init.value if isinstance(s.init, Fill) else 0.0
        if not bool((state[s.input] == start).all()):
            raise ExportError(
                f"initial state `{s.input}`: the contract says {start:g} everywhere, the module "
                "starts elsewhere; give it the init `Stored`",
                code="step-contract",
            )
    chunk = example_chunk(contract, 1, t)
    outputs, after = call_step(step, chunk, state)
    check_sizes(step, chunk, state, after)
    check_answer(contract, outputs, after, t)


def check_answer(
    contract: Contract, outputs: Tensors, after: Tensors, t: int, batch: int = 1
) -> None:
    """Hold what a step returned against the contract."""
    _compare("output", outputs, {o.name: o for o in contract.outputs}, t, batch)
    _compare("next state", after, {s.input: s for s in contract.state}, t, batch)


def _compare(
    what: str, came: Tensors, expected: Mapping[str, Output | State], t: int, batch: int = 1
) -> None:
    if set(came) != set(expected):
        raise ExportError(
            f"{what}: the contract names {sorted(expected)}, the module gave {sorted(came)}",
            code="step-contract",
        )
    for name, port in expected.items():
        sizes, tensor = sized(port.shape, t, batch), came[name]
        if tensor.dtype != TORCH_DTYPES[port.dtype] or tuple(tensor.shape) != sizes:
            raise ExportError(
                f"{what} `{name}` is {spelled(tensor)}, the contract says {port.dtype} "
                f"{list(sizes)} for B={batch}, T={t}",
                code="step-contract",
            )
