"""Run bundles as live streams, on numpy and ONNX Runtime alone.

A name is imported when it is first asked for, so that a program waits only for what it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dst.runtime.bundle.constants import model_id_with_constants
    from dst.runtime.bundle.reader import Bundle, open_bundle, shipped
    from dst.runtime.bundle.writer import write_bundle
    from dst.runtime.errors import (
        BundleError,
        DstError,
        SessionError,
        SlotError,
        StateError,
        StepError,
        StoreError,
    )
    from dst.runtime.execution.memory import Memory, predict, rss_bytes
    from dst.runtime.execution.placement import GraphLoad, LoadReport, ProviderShare
    from dst.runtime.generation import generate
    from dst.runtime.golden import GoldenCheck, golden_tensors, relative_error, replay_golden
    from dst.runtime.health import Health, HealthReport, Limits
    from dst.runtime.monitor.calendar import seconds_of, time_inputs
    from dst.runtime.monitor.monitor import JudgedLine, LineMonitor
    from dst.runtime.monitor.scorer import LineScore, LineScorer
    from dst.runtime.pool import StreamPool
    from dst.runtime.replaying import replay
    from dst.runtime.scoring import surprise_bits
    from dst.runtime.session import Session
    from dst.runtime.state.record import Saved, Snapshot
    from dst.runtime.state.sampler import Sampler
    from dst.runtime.store import StateStore
    from dst.runtime.stream import Stream
    from dst.runtime.tokenizer import TextTokenizer, decode_bytes, encode_bytes

_WHERE = {
    "bundle.constants": "model_id_with_constants",
    "bundle.reader": "Bundle open_bundle shipped",
    "bundle.writer": "write_bundle",
    "monitor.calendar": "seconds_of time_inputs",
    "errors": "BundleError DstError SessionError SlotError StateError StepError StoreError",
    "execution.memory": "Memory predict rss_bytes",
    "execution.placement": "GraphLoad LoadReport ProviderShare",
    "generation": "generate",
    "golden": "GoldenCheck golden_tensors relative_error replay_golden",
    "health": "Health HealthReport Limits",
    "monitor.scorer": "LineScore LineScorer",
    "monitor.monitor": "JudgedLine LineMonitor",
    "pool": "StreamPool",
    "replaying": "replay",
    "scoring": "surprise_bits",
    "session": "Session",
    "state.record": "Saved Snapshot",
    "state.sampler": "Sampler",
    "store": "StateStore",
    "stream": "Stream",
    "tokenizer": "TextTokenizer decode_bytes encode_bytes",
}
"""Each module with the public names that it defines: the same as above, for Python."""
_MODULES = {name: module for module, names in _WHERE.items() for name in names.split()}


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "Bundle",
    "BundleError",
    "DstError",
    "GoldenCheck",
    "GraphLoad",
    "Health",
    "HealthReport",
    "JudgedLine",
    "Limits",
    "LineMonitor",
    "LineScore",
    "LineScorer",
    "LoadReport",
    "Memory",
    "ProviderShare",
    "Sampler",
    "Saved",
    "Session",
    "SessionError",
    "SlotError",
    "Snapshot",
    "StateError",
    "StateStore",
    "StepError",
    "StoreError",
    "Stream",
    "StreamPool",
    "TextTokenizer",
    "decode_bytes",
    "encode_bytes",
    "generate",
    "golden_tensors",
    "model_id_with_constants",
    "open_bundle",
    "predict",
    "relative_error",
    "replay",
    "replay_golden",
    "rss_bytes",
    "seconds_of",
    "shipped",
    "surprise_bits",
    "time_inputs",
    "write_bundle",
]
