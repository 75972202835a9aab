"""The runtime: bundles in, live streams out, on numpy and ONNX Runtime alone."""

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
from dst.runtime.execution.placement import GraphLoad, LoadReport, Share
from dst.runtime.generation import generate
from dst.runtime.golden import GoldenCheck, golden_tensors, relative_error, replay_golden
from dst.runtime.health import Health, HealthReport, Limits
from dst.runtime.pool import StreamPool
from dst.runtime.replay import replay
from dst.runtime.scoring import surprise_bits
from dst.runtime.session import Session
from dst.runtime.state.record import Saved, Snapshot
from dst.runtime.state.sampler import Sampler
from dst.runtime.store import StateStore
from dst.runtime.stream import Stream
from dst.runtime.tokenizer import TextTokenizer, decode_bytes, encode_bytes

__all__ = [
    "Bundle",
    "BundleError",
    "DstError",
    "GoldenCheck",
    "GraphLoad",
    "Health",
    "HealthReport",
    "Limits",
    "LoadReport",
    "Memory",
    "Sampler",
    "Saved",
    "Session",
    "SessionError",
    "Share",
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
    "shipped",
    "surprise_bits",
    "write_bundle",
]
