"""Describe what was packed for a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import msgspec

import dst
from dst.export.pack.triton import TritonModel
from dst.export.pack.usability import Usability
from dst.runtime.execution.memory import Memory
from dst.runtime.golden import GoldenCheck

Target = Literal["android", "ios", "desktop", "web", "triton"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, slots=True)
class Packed:
    """What was written for a target.

    Attributes:
        target: the platform.
        bundle: the name of the bundle.
        bundle_id: which bundle it is.
        onnxruntime: the release that made it.
        sizes: bytes of each file, by its path in the folder.
        memory: what one stream on the bundle's nominal T holds, apart from ONNX Runtime itself.
        providers: for each static graph, what providers of phones would take of it.
        models: what Triton will serve.
        checks: how the reduced graphs replayed the golden runs.
        notes: what the bundle lacks for this target, and what to do.
    """

    target: Target
    bundle: str
    bundle_id: str
    onnxruntime: str
    sizes: dict[str, int]
    memory: Memory
    providers: tuple[Usability, ...]
    models: tuple[TritonModel, ...]
    checks: tuple[GoldenCheck, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every golden run was reproduced."""
        return all(check.passed for check in self.checks)


def told(packed: Packed) -> dict[str, object]:
    """Return what JSON says of it; the nodes of each provider stand in a file of their own."""
    fields: dict[str, object] = msgspec.to_builtins(packed)
    short = ("graph", "provider", "nodes", "taken", "verdict")
    fields["providers"] = [{n: getattr(p, n) for n in short} for p in packed.providers]
    fields["models"] = [
        {"name": m.name, "graph": m.graph.file, "min_ort": m.graph.min_ort, "batch": m.batch}
        for m in packed.models
    ]
    return {"dst": dst.__version__, **fields, "passed": packed.passed}
