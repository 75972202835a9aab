"""Make a step with a contract of any torch module, by running it on an example."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from dst.export.errors import ExportError, StepFaultError
from dst.export.infer.axes import Axes, Known, Prober, close, find_axes
from dst.export.infer.call import Tensors, spelled
from dst.export.infer.inferred import DTYPE_NAMES, Inferred, assembled
from dst.export.infer.module import Caller, called, prepared, state_names, told
from dst.export.infer.output_axes import find_outputs
from dst.export.infer.probe import kept_randomness
from dst.export.infer.tree import Tree, taken
from dst.export.step import TORCH_DTYPES

TOKEN_DTYPES = (torch.int64, torch.int32, torch.uint8)


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
    with kept_randomness():
        known = replace(known, t=_sizes(known))
        own = prepared(module)
        example = _chunk(chunk, own, known.extra)
        call = Caller(own)
        try:
            start = _start(call, example, state)
        except StepFaultError as error:
            raise StepFaultError(f"{error}{_token_cure(call, example)}", code=error.code) from error
        vocabulary = _vocabulary(call, example, start, known)
        _check_run(call, example, start)
        probe = Prober(call, example, start, vocabulary)
        axes = find_axes(probe, known)
        if not known.sizes:
            known = replace(known, t=_own_sizes(probe, axes, known))
        outputs = find_outputs(probe, axes, known)
        step = assembled(probe, axes, outputs, vocabulary, known)
        step.alone = state is not None and not start
        return step


def _sizes(known: Known) -> tuple[int, ...]:
    for t in known.t or ():
        if not isinstance(t, int) or isinstance(t, bool) or t < 1:
            raise ExportError(
                f"t is {list(known.t or ())}; expected numbers of items, such as (1, 16)"
            )
    if known.t is not None and not known.t:
        raise ExportError("t is empty; give the numbers of items that a chunk may have: (1, 16)")
    return tuple(sorted(set(known.t or ())))


def _chunk(chunk: object, module: nn.Module, extra: int) -> Tensor:
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
    if max(chunk.shape) <= extra:
        raise ExportError(
            f"chunk is {spelled(chunk)}, and {extra} of its items are lookback and lookahead; "
            "expected lookback + T + lookahead items along time"
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


def _vocabulary(call: Caller, chunk: Tensor, start: Sequence[Tensor], known: Known) -> int | None:
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
    flat = chunk.flatten()

    def look(table: nn.Module, arguments: tuple[object, ...]) -> None:
        ids = arguments[0] if arguments else None
        same = isinstance(ids, Tensor) and torch.equal(ids.flatten().to(chunk.dtype), flat)
        if same and isinstance(table, nn.Embedding):  # positions have a table too, of other ids
            found.append(table.num_embeddings)

    with register_module_forward_pre_hook(look):
        call(chunk, start)
    if not found:
        raise ExportError(
            f"the chunk is {spelled(chunk)}, token ids, and no nn.Embedding of "
            f"{called(call.module)} reads it; say how many ids there are: vocabulary=256",
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
    initial = getattr(own, "initial_state", None)
    if state is None and callable(initial):
        state = initial(1)
    if state is not None:
        tree, tensors = taken(state, "state")
        for name, tensor in zip(tree.names, tensors, strict=True):
            _check_dtype(f"state `{name}`" if name else "state", tensor)
        call.state = tree
        # each on its own: a tracer takes one tensor given twice for one input
        return [tensor.detach().cpu().clone().contiguous() for tensor in tensors]
    return _own_start(call, chunk)


def _token_cure(call: Caller, chunk: Tensor) -> str:
    """Say so where a module that failed on features takes whole numbers."""
    if not chunk.is_floating_point() or call.needs_state:
        return ""
    try:
        call.raw(torch.zeros_like(chunk, dtype=torch.int64), None)
    except ExportError:
        return ""
    return (
        "; it takes token ids: give whole numbers, such as "
        f"torch.zeros({', '.join(map(str, chunk.shape))}, dtype=torch.int64) "
        "(`--chunk B,T:int64`)"
    )


def _own_start(call: Caller, chunk: Tensor) -> list[Tensor]:
    """Find the state that a module starts from where it is given none: zeros, or nothing known."""

    def alone(seed: int = 0) -> tuple[Tensors, Tree, list[Tensor]]:
        outputs, after = call.split(call.raw(chunk.clone(), None, seed))
        return outputs, *taken(after, "the returned state")

    outputs, call.state, tensors = alone()
    if not tensors:
        call.takes_state = False
        return []
    zeros = [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]
    cure = (
        f"{called(call.module)} starts from another state than zeros where it is given none; "
        "give state= as it is before the first item"
    )
    try:
        same, next_state = call(chunk, zeros)
    except StepFaultError as error:
        raise StepFaultError(f"{cure} (with zeros: {error})") from error
    again, _, after = alone()
    once = [*outputs.values(), *tensors]
    if not _all_close([*again.values(), *after], once):
        return zeros  # nothing is known of a module that does not repeat itself: the checks say why
    if not _all_close([*(same[name] for name in outputs), *next_state], once):
        if not _all_close(alone(seed=1)[2], tensors):
            raise StepFaultError(
                f"{called(call.module)} starts each stream from random numbers where it is given "
                "no state: two streams of the same items would answer otherwise. Start from "
                "`torch.zeros`, or from a buffer or a parameter, which keeps its value",
                code="random",
            )
        raise ExportError(cure, code="state-open")
    return zeros


def _all_close(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(close(*pair) for pair in zip(found, expected, strict=True))


def _check_run(call: Caller, chunk: Tensor, start: Sequence[Tensor]) -> None:
    """Step twice on the example: the state must keep its shapes and dtypes."""
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
            raise ExportError(
                f"state `{name}` was given as {list(before.shape)} and came back as "
                f"{list(now.shape)}; give it in the shape in which it comes back",
                code="state-shape",
            )
        if before.dtype != now.dtype:
            raise ExportError(
                f"state `{name}` was given as {spelled(before)} and came back as {spelled(now)}; "
                "give it in the dtype in which it comes back",
                code="state-dtype",
            )


def _own_sizes(probe: Prober, axes: Axes, known: Known) -> tuple[int, ...]:
    """The T of the example, and 1 where single items give the same."""
    whole = 1 if axes.time is None else probe.chunk.shape[axes.time] - known.extra
    if axes.time is None or whole == 1:
        return (1,)
    batch = 1 if axes.any_batch else None
    chunk = probe.resized(axes, batch)
    state = probe.states(axes, batch)
    try:
        expected = probe.call(chunk, state)[1]
        for at in range(whole):
            _, state = probe.call(chunk.narrow(axes.time, at, known.extra + 1), state)
    except ExportError:
        return (whole,)
    return (1, whole) if _all_close(state, expected) else (whole,)
