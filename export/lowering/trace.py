"""Trace a torch step into ONNX graphs with torch's dynamo exporter, and check each against torch.

Fused graphs keep B and T free where the step allows it; they may hold ``com.microsoft`` operators
and run where ONNX Runtime has their kernels. Portable graphs hold plain operators of opset 18
only, B = 1 and one T, and run anywhere.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from onnx import helper
from onnxscript import opset18, script
from onnxscript.onnx_types import FLOAT
from torch import Tensor
from torch.export import Dim
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from dst.export.checks.branch import Flat, data_dependence, quiet
from dst.export.errors import ExportError, LoweringError
from dst.export.lowering.recurrent import as_onnx_operators, has_recurrences
from dst.export.lowering.tied import read_by_rows
from dst.export.lowering.weights import names_of_weights, without_weights
from dst.export.step import ANSWERS, Step, example_chunk
from dst.graphs.strip import cleaned
from dst.graphs.versions import domains
from dst.graphs.weights import WeightsFile
from dst.runtime.bundle.manifest import Contract

FUSED_OPSET, PORTABLE_OPSET = 23, 18
MAX_BATCH = 4096
_OPERATOR = re.compile(r"call_function\[target=torch\.ops\.aten\.(\w+)")
"""The operator at which torch's exporter says that it stopped."""


@dataclass(frozen=True, slots=True)
class Traced:
    """One graph: its file name, what it runs and the model.

    The model's large weights lie in ``folder``.
    """

    file: str
    lowering: Literal["fused", "portable"]
    allowed_t: tuple[int, ...]
    batch: tuple[int, ...]  # empty for any
    model: onnx.ModelProto
    folder: Path
    answers: str | None = None  # the input that says which items are answered for


def trace_fused(
    step: Step, store: WeightsFile, t: int | None = None, *, automatic: bool = False
) -> Traced:
    """Trace a step with free B, and free T or one T.

    Args:
        step: What to trace.
        store: Where its large weights are written.
        t: The only T; None for all that the contract allows.
        automatic: Let torch find out what is free, where it refuses to be told.

    Raises:
        LoweringError: torch cannot export the step, or it fixes B or T.
    """
    allowed = step.contract.chunk.allowed_t
    if t is None and len(allowed) == 1:
        (t,) = allowed
    # two different sizes, neither 0 nor 1, so that the exporter keeps both axes free
    items = t or next(size for size in allowed if size > 1)
    batch = (3 if items == 2 else 2) if step.any_batch else 1
    free: dict[str, object] = {}
    if step.any_batch:
        free["B"] = Dim.AUTO if automatic else Dim("B", min=1, max=MAX_BATCH)
    if t is None:
        free["T"] = Dim.AUTO if automatic else Dim("T", min=1, max=max(allowed))
    fused = step.fused()
    model = _trace(fused, store, FUSED_OPSET, (batch, items), free)
    return Traced(
        "step.onnx" if t is None or len(allowed) == 1 else f"any_t{t}.onnx",
        "fused",
        allowed if t is None else (t,),
        () if step.any_batch else (1,),
        model,
        store.path.parent,
        ANSWERS if fused.answers else None,
    )


def trace_single(step: Step, single: Step, store: WeightsFile) -> Traced:
    """Trace the form of a step for T = 1, with free B, into ``any_t1.onnx``.

    Raises:
        LoweringError: torch cannot export it.
    """
    batch, free = (2, {"B": Dim("B", min=1, max=MAX_BATCH)}) if step.any_batch else (1, {})
    model = _trace(single, store, FUSED_OPSET, (batch, 1), free)
    batches = () if step.any_batch else (1,)
    return Traced("any_t1.onnx", "fused", (1,), batches, model, store.path.parent)


def trace_static(step: Step, store: WeightsFile, t: int) -> Traced:
    """Trace a step for B = 1 and T = ``t`` with whatever operators it takes.

    Raises:
        LoweringError: torch cannot export the step.
    """
    model = _trace(step.fused(), store, FUSED_OPSET, (1, t), {})
    return Traced(portable_file(t), "fused", (t,), (1,), model, store.path.parent)


def trace_portable(step: Step, store: WeightsFile, t: int) -> Traced:
    """Trace a step for B = 1 and T = ``t`` into ``step_t<t>.onnx``.

    Raises:
        LoweringError: torch cannot export the step, or a node is no plain ONNX operator.
    """
    model = _trace(step, store, PORTABLE_OPSET, (1, t), {})
    traced = Traced(portable_file(t), "portable", (t,), (1,), model, store.path.parent)
    if (held := domains(model)) != ("ai.onnx",):
        raise LoweringError(
            f"{traced.file}: a portable graph holds ai.onnx nodes only, this one has "
            f"{', '.join(held)}; write the step with plain torch operations"
        )
    return traced


def portable_file(t: int) -> str:
    """The name of the portable graph for one T."""
    return f"step_t{t}.onnx"


class _AsOnnxHas(TorchFunctionMode):
    """Spell what the exporter or ONNX Runtime's CPU kernels lack with what they have.

    Attention over three axes gets an axis of heads; a choice between booleans is made by logic.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func in (torch.where, Tensor.where) and len(args) == 3 and not kwargs:
            choice, yes, no = args if func is torch.where else (args[1], args[0], args[2])
            if all(_boolean(part) for part in args):
                return (choice & yes) | (~choice & no)
        return func(*args, **kwargs)


def _boolean(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *more: Any,
    **named: Any,
) -> Tensor:
    if query.dim() != 3 or key.dim() != 3 or value.dim() != 3:
        return scaled_dot_product_attention(query, key, value, attn_mask, *more, **named)
    if attn_mask is not None and attn_mask.dim() == 3:
        attn_mask = attn_mask[:, None]
    parts = (query[:, None], key[:, None], value[:, None])
    return scaled_dot_product_attention(*parts, attn_mask, *more, **named)[:, 0]


@script()
def _softplus(x: FLOAT, beta: float = 1.0, threshold: float = 20.0) -> FLOAT:
    """Softplus as the one operator it is: torch's own lowering adds Greater and Where."""
    return opset18.Softplus(x)


def _trace(
    step: Step, store: WeightsFile, opset: int, sizes: tuple[int, int], free: Mapping[str, object]
) -> onnx.ModelProto:
    """Trace at B and T, with the axes of ``free`` left open."""
    contract = step.contract
    batch, items = sizes
    state = step.initial_state(batch)
    # tensors of their own: what is given twice, the tracer takes for one input
    args = (
        example_chunk(contract, batch, items),
        *(state[s.input].clone(memory_format=torch.contiguous_format) for s in contract.state),
        *((torch.arange(items),) if step.answers else ()),
    )
    try:
        with torch.no_grad(), quiet(), as_onnx_operators(step) as tables, _AsOnnxHas():
            flat = Flat(step).eval()
            captured = torch.export.export(
                flat, args, dynamic_shapes=_free_axes(step, free), strict=False
            )
            _check_free(captured, contract, free)
            if has_recurrences(step):  # what is left of them, the exporter would get wrong
                captured = captured.run_decompositions()
            program = torch.onnx.export(
                captured,
                dynamo=True,
                opset_version=opset,
                custom_translation_table={torch.ops.aten.softplus.default: _softplus},
                verbose=False,
            )
    except ExportError:
        raise
    except Exception as error:  # the exporter raises whatever it likes
        if (fault := data_dependence(error)) is not None:
            raise fault from error
        raise LoweringError(f"torch could not export the step: {_reason(error)}") from error
    if program is None:
        raise LoweringError("torch could not export the step, and did not say why")
    names = names_of_weights(program.model, step, tables)
    model = cleaned(
        without_weights(program.model, store),
        helper.find_min_ir_version_for([helper.make_opsetid("", opset)]),
        [contract.chunk.input, *(s.input for s in contract.state), *[ANSWERS] * step.answers],
        [*(o.name for o in contract.outputs), *(s.output for s in contract.state)],
        names,
    )
    if opset == FUSED_OPSET:  # phones' own compilers read the plain product of portable graphs
        read_by_rows(model)
    _declare(model.graph, step, sizes, free)
    return model


def _reason(error: Exception) -> str:
    """The line of a tracer's error that tells most, without the places in its own code."""
    chain = [error]
    while isinstance(cause := chain[-1].__cause__, Exception):
        chain.append(cause)
    operator = next((o for e in chain if (o := _OPERATOR.search(str(e)))), None)
    inner = chain[-1] if operator else chain[min(1, len(chain) - 1)]
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    reason = (lines[0] if lines else type(inner).__name__)[:300]
    if operator is None:
        return reason
    if "complex" in reason:
        return (
            f"it cannot write complex numbers in ONNX (`{operator[1]}`); let the module calculate "
            "with real and imaginary parts as two real tensors"
        )
    return (
        f"it cannot write `{operator[1]}` in ONNX ({reason}); write that part of the module with "
        "other operations"
    )


_PIECES = {"split": 2, "chunk": 2, "unbind": 1}
"""Operators that cut an axis into a number of pieces that the tracer writes down -> which argument
is the axis."""


def _check_free(
    captured: torch.export.ExportedProgram, contract: Contract, free: Mapping[str, object]
) -> None:
    """Refuse early what the tracer has fixed without a word.

    Raises:
        LoweringError: an axis of the chunk that should be free has one size, or is cut into a
            fixed number of pieces.
    """
    (chunk,) = (
        node.meta["val"]
        for node in captured.graph.nodes
        if node.op == "placeholder" and node.name == captured.graph_signature.user_inputs[0]
    )
    for letter, axis in (("B", contract.chunk.batch_axis), ("T", contract.chunk.time_axis)):
        if letter in free and isinstance(chunk.shape[axis], int):
            raise LoweringError(
                "a loop over time, or a size that is written down"
                if letter == "T"
                else "torch fixes the batch size"
            )
    for node in captured.graph.nodes:
        package, _, operator = str(node.target).partition(".")
        at = _PIECES.get(operator.partition(".")[0]) if package == "aten" else None
        if at is None:
            continue
        value = node.args[0].meta["val"]
        axis = node.args[at] if len(node.args) > at else node.kwargs.get("dim", 0)
        if not isinstance(value.shape[axis], int):
            # as many pieces as the tracer saw: at another size ONNX Runtime gets empty ones, on
            # which its recurrent operators end the process
            raise LoweringError("a loop over the pieces of an axis whose size is free")


def _free_axes(step: Step, free: Mapping[str, object]) -> tuple[object, ...]:
    contract = step.contract
    chunk = contract.chunk
    axes: dict[int, object] = {}
    batch, items = free.get("B"), free.get("T")
    if batch is not None:
        axes[chunk.batch_axis] = batch
    if items is not None:
        more = chunk.lookback + chunk.lookahead
        axes[chunk.time_axis] = items + more if isinstance(items, Dim) and more else items
    others = [{s.batch_axis: batch} if batch is not None else {} for s in contract.state]
    if step.answers:
        others.append({0: Dim("A", min=1, max=max(chunk.allowed_t))})
    return (axes, tuple(others)) if others else (axes,)


def _declare(
    graph: onnx.GraphProto, step: Step, sizes: tuple[int, int], free: Mapping[str, object]
) -> None:
    """Give inputs and outputs the contract's shapes: the exporter leaves sizes it has seen."""
    batch, items = sizes
    contract = step.contract
    chunk = contract.chunk
    here: dict[str, int | str] = {
        "B": "B" if "B" in free else batch,
        "T": "T" if "T" in free else items,
    }
    more = chunk.lookback + chunk.lookahead
    long = "T_in" if "T" in free and more else here["T"]
    if isinstance(long, int):
        long += more
    shapes: list[Sequence[int | str]] = [
        [long if d == "T" else d for d in chunk.shape],
        *(s.shape for s in contract.state),
        *[("A",)] * step.answers,
    ]
    answers = [
        tuple("A" if d == "T" and step.answers else d for d in o.shape) for o in contract.outputs
    ]
    for values, wanted in (
        (graph.input, shapes),
        (graph.output, [*answers, *(s.shape for s in contract.state)]),
    ):
        for value, shape in zip(values, wanted, strict=True):
            tensor = value.type.tensor_type
            tensor.shape.ClearField("dim")
            for size in shape:
                size = here.get(size, size) if isinstance(size, str) else size
                axis = tensor.shape.dim.add()
                if isinstance(size, int):
                    axis.dim_value = size
                else:
                    axis.dim_param = size
