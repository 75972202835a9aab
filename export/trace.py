"""A step in, ONNX graphs out: fused with free B and T, portable with static shapes.

Both come from torch's dynamo exporter. Fused graphs hold ``com.microsoft`` operators and run
where ONNX Runtime has their kernels; portable graphs hold primitives of opset 18 only, B = 1 and
one T, and run anywhere.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx
import torch
from onnxscript import opset18, script
from onnxscript.onnx_types import FLOAT
from torch import Tensor, nn

from dst.export.check_branch import data_dependence
from dst.export.clean import cleaned
from dst.export.errors import LoweringError
from dst.export.step import Step, example_chunk
from dst.runtime.manifest import Contract

FUSED_OPSET, PORTABLE_OPSET = 23, 18
IR_VERSIONS = {FUSED_OPSET: 11, PORTABLE_OPSET: 8}
MIN_ORT = {PORTABLE_OPSET: "1.14", FUSED_OPSET: "1.23"}
"""First ONNX Runtime release that runs an opset's CPU kernels."""
MIN_ORT_CONTRIB = "1.31"
"""The release the fused operators were proved on."""


@dataclass(frozen=True, slots=True)
class Traced:
    """One graph: its file name, what it runs and the model."""

    file: str
    lowering: Literal["fused", "portable"]
    allowed_t: tuple[int, ...]
    batch: tuple[int, ...]  # empty for any
    model: onnx.ModelProto

    @property
    def opsets(self) -> dict[str, int]:
        """Imported operator-set versions by domain."""
        return {o.domain or "ai.onnx": o.version for o in self.model.opset_import}

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains its nodes use."""
        return tuple(sorted({n.domain or "ai.onnx" for n in self.model.graph.node}))

    @property
    def min_ort(self) -> str:
        """Oldest ONNX Runtime release that runs it."""
        contrib = "com.microsoft" in self.domains
        return MIN_ORT_CONTRIB if contrib else MIN_ORT[self.opsets["ai.onnx"]]


def trace_fused(step: Step) -> Traced:
    """Trace a step with free B and T into ``step.onnx``.

    Raises:
        LoweringError: torch cannot export the step, or it fixes B or T.
    """
    chunk = step.contract.chunk
    model = _trace(step.fused(), FUSED_OPSET, None)
    return Traced("step.onnx", "fused", chunk.allowed_t, (), model)


def trace_portable(step: Step, t: int) -> Traced:
    """Trace a step for B = 1 and T = ``t`` into ``step_t<t>.onnx``.

    Raises:
        LoweringError: torch cannot export the step, or a node is no plain ONNX operator.
    """
    model = _trace(step, PORTABLE_OPSET, t)
    traced = Traced(f"step_t{t}.onnx", "portable", (t,), (1,), model)
    if traced.domains != ("ai.onnx",):
        raise LoweringError(
            f"{traced.file}: a portable graph holds ai.onnx nodes only, this one has "
            f"{', '.join(traced.domains)}; write the step with plain torch operations"
        )
    return traced


class _Flat(nn.Module):
    """The step with its state as positional tensors, in the contract's order."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step

    def forward(self, chunk: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        contract = self.step.contract
        names = [s.input for s in contract.state]
        outputs, after = self.step(chunk, dict(zip(names, state, strict=True)))
        return (*(outputs[o.name] for o in contract.outputs), *(after[n] for n in names))


@script()
def _softplus(x: FLOAT, beta: float = 1.0, threshold: float = 20.0) -> FLOAT:
    """Softplus as the one operator it is: torch's own lowering adds Greater and Where."""
    return opset18.Softplus(x)


def _trace(step: Step, opset: int, t: int | None) -> onnx.ModelProto:
    contract = step.contract
    # two different sizes, neither 0 nor 1, so that the exporter keeps both axes free
    batch, items = (1, t) if t is not None else (2, min(5, max(contract.chunk.allowed_t)))
    state = step.initial_state(batch)
    args = (example_chunk(contract, batch, items), *(state[s.input] for s in contract.state))
    try:
        with torch.no_grad(), _quiet():
            free = _free_axes(contract) if t is None else None
            flat = _Flat(step).eval()
            captured = torch.export.export(flat, args, dynamic_shapes=free, strict=False)
            program = torch.onnx.export(
                captured,
                dynamo=True,
                opset_version=opset,
                custom_translation_table={torch.ops.aten.softplus.default: _softplus},
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever it likes
        if (fault := data_dependence(error)) is not None:
            raise fault from error
        raise LoweringError(f"torch could not export the step: {error}") from error
    if program is None:
        raise LoweringError("torch could not export the step, and did not say why")
    model = cleaned(
        program.model_proto,
        IR_VERSIONS[opset],
        [contract.chunk.input, *(s.input for s in contract.state)],
        [*(o.name for o in contract.outputs), *(s.output for s in contract.state)],
    )
    if t is None:
        _name_axes(model.graph, contract)
    return model


def _free_axes(contract: Contract) -> tuple[object, ...]:
    batch = torch.export.Dim("B", min=1, max=4096)
    chunk = contract.chunk
    free: dict[int, object] = {chunk.batch_axis: batch}
    if len(chunk.allowed_t) > 1:
        items = torch.export.Dim("T", min=1, max=max(chunk.allowed_t))
        free[chunk.time_axis] = items + chunk.lookback if chunk.lookback else items
    return (free, tuple({s.batch_axis: batch} for s in contract.state))


def _name_axes(graph: onnx.GraphProto, contract: Contract) -> None:
    """Call the free axes B and T; the exporter numbers them."""
    axes = graph.input[0].type.tensor_type.shape.dim
    names = {axes[contract.chunk.batch_axis].dim_param: "B"}
    if not contract.chunk.lookback:
        names[axes[contract.chunk.time_axis].dim_param] = "T"
    for value in (*graph.input, *graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = names.get(axis.dim_param, axis.dim_param)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter from the user; its errors still raise."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
